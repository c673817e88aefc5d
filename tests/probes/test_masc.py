"""MASC against the paper's text, and under every change of the data that must not matter."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import reference
from reference import relu_rows
from underscript import MinimumAngleSubspaceClassifier as Masc
from underscript.errors import DataError
from underscript.experiments.datasets import load_dataset, to_float
from underscript.linalg import bases

few_examples = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X, y, test_size=0.4, random_state=0, stratify=y)


def projectors(decoder):
    return [basis.astype(np.float64) @ basis.T.astype(np.float64) for basis in decoder.bases_]


def assert_same_subspaces(one, other, atol=1e-7):
    np.testing.assert_array_equal(one.ranks_, other.ranks_)
    for mine, theirs in zip(projectors(one), projectors(other), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=atol)


def assert_agrees(decoder, plain, X):
    """Same answers as the reference on all but 0.1 % of the samples that are no ties."""
    clear = ~plain.ties(X)
    assert clear.mean() > 0.9
    assert (decoder.predict(X) == plain.predict(X))[clear].mean() >= 0.999


# --- the paper's text -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("variance", [0.5, 0.75, 0.99])
@pytest.mark.parametrize(("width", "n_classes", "n"), [(5, 2, 300), (40, 10, 1500), (300, 4, 500)])
def test_agrees_with_the_paper_on_relu_rows(dtype, variance, width, n_classes, n):
    X, y = relu_rows(2 * n, width, n_classes, seed=width, dtype=dtype)
    train, test = X[:n], X[n:]
    with warnings.catch_warnings():
        # Five dimensions are few: a class may be all of them, which is warned of and no error.
        warnings.filterwarnings("ignore", message=".*whole space.*")
        decoder = Masc(variance=variance).fit(train, y[:n])
    plain = reference.masc(train, y[:n], variance)
    assert decoder.ranks_.tolist() == plain.ranks
    exact = 1e-5 if dtype is np.float32 else 1e-9
    for mine, theirs in zip(projectors(decoder), plain.projectors, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=exact)
    share = np.cos(decoder.angles(test)) ** 2
    np.testing.assert_allclose(share, np.cos(plain.angles(test)) ** 2, atol=exact)
    assert_agrees(decoder, plain, test)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rank", [1, 7])
def test_agrees_with_the_paper_at_a_given_rank(dtype, rank, digits):
    train, test, y, _ = digits
    decoder = Masc(rank=rank).fit(train.astype(dtype), y)
    plain = reference.masc(train, y, rank=rank)
    assert decoder.ranks_.tolist() == [rank] * 10
    assert_agrees(decoder, plain, test.astype(dtype))


def test_agrees_with_the_paper_on_digits(digits):
    train, test, y, _ = digits
    decoder, plain = Masc().fit(train, y), reference.masc(train, y)
    assert decoder.ranks_.tolist() == plain.ranks
    np.testing.assert_allclose(decoder.angles(test), plain.angles(test), atol=1e-7)
    np.testing.assert_array_equal(decoder.predict(test), plain.predict(test))


def test_tells_digits_apart(digits):
    """In place of scikit-learn's score on two blobs in the plane, which no subspace can pass."""
    train, test, y, truth = digits
    assert Masc().fit(train, y).score(test, truth) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_agrees_with_the_paper_on_layers_of_a_real_network(name):
    try:
        data = load_dataset(name, download=False)
    except DataError as error:
        pytest.skip(str(error))
    images = torch.as_tensor(to_float(data.train_images)).flatten(1)
    labels = torch.as_tensor(data.train_labels).long()
    torch.manual_seed(0)
    wrong = torch.rand(len(labels)) < 0.4
    labels[wrong] = torch.randint(10, (int(wrong.sum()),))
    network = torch.nn.Sequential(
        *(torch.nn.Linear(784, 128), torch.nn.ReLU()),
        *(torch.nn.Linear(128, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10)),
    )
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for batch in torch.randperm(len(images)).split(128):
        loss = torch.nn.functional.cross_entropy(network(images[batch]), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    test = torch.as_tensor(to_float(data.test_images)).flatten(1)
    for depth in (2, 4):
        with torch.no_grad():
            train_rows, test_rows = network[:depth](images), network[:depth](test)
        for variance in (0.75, 0.99):
            decoder = Masc(variance=variance).fit(train_rows, labels)
            plain = reference.masc(train_rows.numpy(), labels.numpy(), variance)
            assert decoder.ranks_.tolist() == plain.ranks
            for mine, theirs in zip(projectors(decoder), plain.projectors, strict=True):
                np.testing.assert_allclose(mine, theirs, atol=1e-4)
            assert_agrees(decoder, plain, test_rows.numpy())


# --- how the data come does not matter ----------------------------------------------------------


@few_examples
@given(seed=seeds, cuts=st.lists(st.integers(1, 119), max_size=6, unique=True))
def test_any_split_into_batches_fits_the_same(seed, cuts):
    X, y = relu_rows(120, 15, 3, seed)
    whole = Masc(variance=0.9).fit(X, y)
    parts = Masc(variance=0.9)
    edges = [0, *sorted(cuts), len(X)]
    for start, end in pairwise(edges):
        parts.partial_fit(X[start:end], y[start:end], classes=[0, 1, 2])
    assert_same_subspaces(parts, whole)
    assert parts.class_count_.tolist() == whole.class_count_.tolist() == [40, 40, 40]


def test_batches_may_come_after_a_prediction():
    X, y = relu_rows(200, 15, 3)
    parts = Masc().partial_fit(X[:100], y[:100])
    before = parts.predict(X)
    parts.partial_fit(X[100:], y[100:])
    assert_same_subspaces(parts, Masc().fit(X, y))
    assert before.shape == (200,)


@pytest.mark.parametrize("width", [20, 5000])
def test_a_buffer_may_be_reused_between_batches(width):
    X, y = relu_rows(60, width, 3)
    parts, buffer = Masc(), np.empty((20, width))
    for start in range(0, 60, 20):
        buffer[:] = X[start : start + 20]
        parts.partial_fit(buffer, y[start : start + 20], classes=[0, 1, 2])
    buffer[:] = -1
    np.testing.assert_allclose(parts.angles(X), Masc().fit(X, y).angles(X), atol=1e-6)


def test_the_fitted_data_may_be_changed_afterwards():
    X, y = relu_rows(60, 100, 3)
    kept, other = X.copy(), Masc(rank=2)
    other.fit(X, y)
    X[:] = 0
    other.partial_fit(kept, y)
    expected = Masc(rank=2).fit(np.concatenate([kept, kept]), np.concatenate([y, y]))
    assert_same_subspaces(other, expected)


@few_examples
@given(seed=seeds)
def test_order_of_samples_does_not_matter(seed):
    X, y = relu_rows(120, 60, 3, seed)
    order = np.random.default_rng(seed).permutation(120)
    assert_same_subspaces(Masc(rank=3).fit(X[order], y[order]), Masc(rank=3).fit(X, y))


def test_every_sample_twice_changes_nothing():
    X, y = relu_rows(200, 30, 4)
    once = Masc().fit(X, y)
    twice = Masc().fit(np.concatenate([X, X]), np.concatenate([y, y]))
    assert_same_subspaces(twice, once)
    with_negatives = Masc().fit(np.concatenate([X, -X]), np.concatenate([y, y]))
    assert_same_subspaces(with_negatives, once)


def test_fit_forgets_what_came_before():
    X, y = relu_rows(100, 10, 2)
    again = Masc(rank=2).fit(X[:50] ** 2, y[:50]).fit(X, y)
    assert_same_subspaces(again, Masc(rank=2).fit(X, y))


# --- what angles do not see ---------------------------------------------------------------------


@few_examples
@given(seed=seeds)
def test_a_rotation_of_the_features_changes_no_angle(seed):
    X, y = relu_rows(150, 12, 3, seed)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    plain, turned = Masc(rank=4).fit(X, y), Masc(rank=4).fit(X @ rotation, y)
    np.testing.assert_allclose(turned.angles(X @ rotation), plain.angles(X), atol=1e-7)


@few_examples
@given(seed=seeds)
def test_the_length_and_sign_of_a_row_change_no_angle(seed):
    X, y = relu_rows(150, 12, 3, seed)
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(-20, 20, size=(150, 1)) * rng.choice([-1, 1], size=(150, 1))
    decoder = Masc(rank=4).fit(X, y)
    np.testing.assert_allclose(decoder.angles(X * scale), decoder.angles(X), atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 2.0**-100, 2.0**100, 1e30])
def test_tiny_and_huge_features_are_as_good_as_any(dtype, scale):
    X, y = relu_rows(300, 20, 3, dtype=dtype)
    scaled = (X * dtype(scale)).astype(dtype)
    assert np.isfinite(scaled).all()
    plain, other = Masc(variance=0.9).fit(X, y), Masc(variance=0.9).fit(scaled, y)
    atol = 1e-5 if dtype is np.float32 else 1e-9
    assert_same_subspaces(other, plain, atol)
    np.testing.assert_allclose(
        other.decision_function(scaled), plain.decision_function(X), atol=atol
    )
    np.testing.assert_allclose(other.decision_function(X), plain.decision_function(X), atol=atol)


def test_a_subnormal_row_still_has_a_direction():
    X = np.eye(4, dtype=np.float32).repeat(2, 0)
    decoder = Masc().fit(X, np.arange(8) // 2)
    assert decoder.predict(np.float32([[0, 0, 1e-42, 0]])).tolist() == [2]
    assert decoder.angles(np.float32([[0, 0, 1e-42, 0]]))[0, 2] == pytest.approx(0, abs=1e-7)


# --- hard data ----------------------------------------------------------------------------------


def test_badly_scaled_features_agree_with_a_singular_value_decomposition():
    X, y = relu_rows(400, 30, 2)
    X *= 10 ** np.linspace(-6, 6, 30)
    decoder = Masc(rank=3).fit(X, y)
    for k, projector in enumerate(projectors(decoder)):
        right = np.linalg.svd(X[y == k], full_matrices=False)[2][:3]
        np.testing.assert_allclose(projector, right.T @ right, atol=1e-9)


@pytest.mark.parametrize("n", [60, 600])
def test_duplicated_features_change_no_answer(n):
    X, y = relu_rows(n, 40, 3)
    double = np.concatenate([X, X], 1)
    one, two = Masc(variance=0.9).fit(X, y), Masc(variance=0.9).fit(double, y)
    assert one.ranks_.tolist() == two.ranks_.tolist()
    np.testing.assert_allclose(two.angles(double), one.angles(X), atol=1e-7)


@pytest.mark.parametrize("constant", [0.0, 1.0, -3.0])
def test_constant_features_agree_with_the_paper(constant):
    X, y = relu_rows(300, 20, 3)
    X[:, ::2] = constant
    decoder, plain = Masc(variance=0.9).fit(X, y), reference.masc(X, y, 0.9)
    assert decoder.ranks_.tolist() == plain.ranks
    np.testing.assert_allclose(decoder.angles(X), plain.angles(X), atol=1e-7)


def test_dead_features_are_never_used():
    X, y = relu_rows(300, 10, 3)
    padded = np.zeros((300, 25))
    padded[:, 5:15] = X
    decoder = Masc(variance=1.0).fit(padded, y)
    assert (decoder.ranks_ <= 10).all()
    for basis in decoder.bases_:
        np.testing.assert_allclose(np.delete(basis, np.s_[5:15], axis=0), 0, atol=1e-12)


def test_identical_rows_are_one_direction():
    X = np.repeat([[1.0, 2.0, 3.0], [3.0, -1.0, 0.5]], 50, axis=0)
    decoder = Masc(variance=1.0).fit(X, np.arange(100) // 50)
    assert decoder.ranks_.tolist() == [1, 1]
    np.testing.assert_allclose(decoder.angles(X)[:50, 0], 0, atol=1e-7)


# --- the same numbers in another form -----------------------------------------------------------


def forms(X):
    read_only = X.copy()
    read_only.setflags(write=False)
    spread = np.zeros((2 * len(X), 2 * X.shape[1]), X.dtype)
    spread[::2, ::2] = X
    return {
        "read-only": read_only,
        "strided": spread[::2, ::2],
        "reversed": X[::-1].copy()[::-1],
        "Fortran order": np.asfortranarray(X),
        "big endian": X.astype(X.dtype.newbyteorder(">")),
        "list": X.tolist(),
        "tensor": torch.from_numpy(X),
        "tensor with gradient": torch.from_numpy(X.copy()).requires_grad_(),
        "transposed tensor": torch.from_numpy(X.T.copy()).T,
    }


@pytest.mark.parametrize("form", forms(np.zeros((2, 2))))
@pytest.mark.parametrize("width", [10, 80])
def test_memory_layout_and_container_do_not_matter(form, width):
    X, y = relu_rows(120, width, 3)
    other = forms(X)[form]
    plain = Masc(rank=3).fit(X, y)
    np.testing.assert_array_equal(plain.predict(other), plain.predict(X))
    assert_same_subspaces(Masc(rank=3).fit(other, y), plain)
    assert_same_subspaces(Masc(rank=3).partial_fit(other, y), plain)


@pytest.mark.parametrize(
    "labels", [torch.from_numpy, np.ndarray.tolist, lambda y: y.astype(np.int8)]
)
def test_labels_may_be_a_tensor_a_list_or_small_integers(labels):
    X, y = relu_rows(90, 10, 3)
    np.testing.assert_array_equal(
        Masc(rank=2).fit(X, labels(y)).predict(X), Masc(rank=2).fit(X, y).predict(X)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_exactly(dtype):
    X, y = relu_rows(200, 20, 3)
    half = torch.from_numpy(X).to(dtype)
    expected = Masc(variance=0.9).fit(half.float(), y)
    decoder = Masc(variance=0.9).fit(half, y)
    assert_same_subspaces(decoder, expected)
    np.testing.assert_array_equal(decoder.predict(half), expected.predict(half.float()))
    if dtype is torch.float16:
        assert_same_subspaces(Masc(variance=0.9).fit(half.numpy(), y), expected)


@pytest.mark.parametrize(
    ("dtype", "kept"), [(np.float32, np.float32), (np.float64, np.float64), (np.int64, np.float64)]
)
def test_precision_of_the_bases_is_that_of_the_data(dtype, kept):
    X, y = relu_rows(90, 10, 3)
    decoder = Masc(rank=2).fit((10 * X).astype(dtype), y)
    assert {basis.dtype for basis in decoder.bases_} == {np.dtype(kept)}
    assert decoder.decision_function((10 * X).astype(dtype)).dtype == kept


@pytest.mark.parametrize("names", [["three", "one", "two"], [30, -1, 7], [2**40, 0, 5]])
def test_classes_may_be_anything_that_sorts(names):
    X, y = relu_rows(90, 10, 3)
    named = np.asarray(names)[y]
    decoder = Masc(rank=2).fit(X, named)
    assert decoder.classes_.tolist() == sorted(names)
    plain = Masc(rank=2).fit(X, y)
    np.testing.assert_array_equal(decoder.predict(X), np.asarray(names)[plain.predict(X)])


# --- short cuts give the same answers -----------------------------------------------------------


@few_examples
@given(seed=seeds, rank=st.integers(1, 11), width=st.sampled_from([11, 12]))
def test_the_complement_gives_the_same_as_the_basis(seed, rank, width):
    """Above half the width the decoder multiplies with what the class never uses."""
    X, y = relu_rows(200, width, 3, seed)
    X += np.random.default_rng(seed).random(X.shape)  # no dead feature, no row of zeros
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*whole space.*")
        decoder = Masc(rank=rank).fit(X, y)
    direct = np.stack([((X @ basis) ** 2).sum(1) for basis in decoder.bases_], 1)
    direct /= (X**2).sum(1, keepdims=True)
    kept = decoder.tensors()["columns"].tolist()
    assert kept == [min(rank, width - rank)] * 3
    np.testing.assert_allclose(decoder.decision_function(X), direct, atol=1e-12)


def test_bases_side_by_side_give_the_same_as_one_by_one(monkeypatch):
    X, y = relu_rows(400, 30, 7)
    together = Masc(variance=0.8).fit(X, y).decision_function(X)
    monkeypatch.setattr(bases, "_GROUP_COLUMNS", 1)
    monkeypatch.setattr(bases, "_BLOCK_VALUES", 64)
    np.testing.assert_allclose(
        Masc(variance=0.8).fit(X, y).decision_function(X), together, atol=1e-12
    )


def test_answers_do_not_depend_on_what_else_is_asked():
    X, y = relu_rows(200, 30, 4)
    decoder = Masc().fit(X, y)
    whole = decoder.decision_function(X)
    one_by_one = np.concatenate([decoder.decision_function(row[None]) for row in X])
    np.testing.assert_allclose(one_by_one, whole, atol=1e-12)


# --- saved tensors ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rank", [1, 10, 25])
def test_saved_tensors_predict_the_same(dtype, rank):
    X, y = relu_rows(300, 30, 4, dtype=dtype)
    decoder = Masc(rank=rank).fit(X, y)
    other = Masc().set_tensors({k: v.clone() for k, v in decoder.tensors().items()})
    np.testing.assert_array_equal(other.decision_function(X), decoder.decision_function(X))
    np.testing.assert_array_equal(other.angles(X), decoder.angles(X))
    assert_same_subspaces(other, decoder, atol=0)
    assert other.class_count_.tolist() == decoder.class_count_.tolist()
    for mine, theirs in zip(other.eigenvalues_, decoder.eigenvalues_, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert other.n_features_in_ == 30


@pytest.mark.parametrize(
    "name", ["vectors", "columns", "ranks", "counts", "values", "value_counts"]
)
def test_tensors_that_do_not_fit_are_refused(name):
    X, y = relu_rows(300, 30, 4)
    tensors = Masc(rank=3).fit(X, y).tensors()
    with pytest.raises(KeyError, match=name):
        Masc().set_tensors({k: v for k, v in tensors.items() if k != name})
    cut = tensors[name][:, 1:] if name == "vectors" else tensors[name][1:]
    with pytest.raises(ValueError, match="fit"):
        Masc().set_tensors({**tensors, name: cut})


def test_tensors_that_are_neither_a_basis_nor_the_whole_space_are_refused():
    X, y = relu_rows(300, 30, 4)
    tensors = Masc(rank=3).fit(X, y).tensors()
    with pytest.raises(ValueError, match="fit"):
        Masc().set_tensors({**tensors, "ranks": torch.tensor([2, 3, 3, 3])})
