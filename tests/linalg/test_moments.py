"""Second moments add up, rows spill, and both give the same eigenvectors."""

import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import relu_rows
from underscript import ClassMoments
from underscript.errors import DataError
from underscript.linalg import products as _products
from underscript.linalg.moments import statistics_for
from underscript.linalg.rows import MEMORY, ClassRows, RowStore
from underscript.linalg.spectra import eigenvectors, numerical_rank, solve
from underscript.probes.classifier import fit_together
from underscript.probes.subspace import MinimumAngleSubspaceClassifier, PrincipalVectorClassifier

few_examples = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def tensors(n, width, n_classes, seed=0, dtype=np.float64):
    X, y = relu_rows(n, width, n_classes, seed, dtype)
    return torch.from_numpy(X), torch.from_numpy(y)


def moments_of(rows, labels, n_classes):
    made = ClassMoments(n_classes, rows.shape[1])
    made.update(rows, labels)
    return made


def rows_of(rows, labels, n_classes, memory=MEMORY):
    made = ClassRows(n_classes, RowStore(rows.shape[1], memory))
    made.update(rows, labels)
    return made


def spectrum(made, k):
    """Return all eigenvectors of class k."""
    return solve([made.eigenproblem([k])])[0]


def assert_same_spectra(one, other, n_classes, rtol=1e-9, gap=1e-3):
    """Equal eigenvalues; and equal projectors wherever neighbouring eigenvalues are apart."""
    assert one.counts().tolist() == other.counts().tolist()
    for k in range(n_classes):
        mine, theirs = spectrum(one, k), spectrum(other, k)
        assert mine.count == theirs.count
        np.testing.assert_allclose(mine.mean, theirs.mean, atol=1e-12)
        assert len(mine.values) == len(theirs.values)
        if not len(mine.values):
            continue
        top = float(mine.values[0])
        np.testing.assert_allclose(mine.values, theirs.values, atol=rtol * top)
        for r in range(1, len(mine.values)):
            if float(mine.values[r - 1] - mine.values[r]) > gap * top:
                a, b = mine.vectors[:, :r], theirs.vectors[:, :r]
                np.testing.assert_allclose(a @ a.T, b @ b.T, atol=rtol / gap)


# --- moments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("width", [3, 16, 40])
def test_moments_are_the_sum_of_outer_products(dtype, width, monkeypatch):
    monkeypatch.setattr(_products, "_TILE", 16)
    rows, labels = tensors(260, width, 2)
    rows = rows.to(dtype)
    made = ClassMoments(2, width, waiting=0)  # 16 rows at once
    for start in range(0, 260, 70):
        made.update(rows[start : start + 70], labels[start : start + 70])
    for k in range(2):
        part = rows[labels == k].double()
        np.testing.assert_allclose(made.second(k), part.T @ part, rtol=1e-12)
        np.testing.assert_allclose(spectrum(made, k).mean, part.mean(0), rtol=1e-12)
    assert made.counts().tolist() == [130, 130]


def test_a_label_of_minus_one_leaves_its_row_out():
    rows, labels = tensors(60, 8, 3)
    left_out = torch.arange(60) % 4 == 0
    masked = torch.where(left_out, -1, labels)
    for make in (moments_of, rows_of):
        assert_same_spectra(
            make(rows, masked, 3), moments_of(rows[~left_out], labels[~left_out], 3), 3
        )


@few_examples
@given(seed=seeds, n_parts=st.integers(1, 5))
def test_moments_of_the_parts_merge_into_those_of_the_whole(seed, n_parts):
    rows, labels = tensors(200, 10, 3, seed)
    owner = torch.from_numpy(np.random.default_rng(seed).integers(n_parts, size=200))
    merged = ClassMoments(3, 10)
    for part in range(n_parts):
        merged = merged.merge(moments_of(rows[owner == part], labels[owner == part], 3))
    whole = moments_of(rows, labels, 3)
    for k in range(3):
        np.testing.assert_allclose(merged.second(k), whole.second(k), rtol=1e-12)
    assert_same_spectra(merged, whole, 3)


def test_merging_leaves_both_parts_as_they_were():
    rows, labels = tensors(90, 6, 3)
    first, second = moments_of(rows[:45], labels[:45], 3), moments_of(rows[45:], labels[45:], 3)
    before = first.second(0), second.second(0)
    both = first.merge(second)
    both.update(rows, labels)
    assert torch.equal(first.second(0), before[0])
    assert torch.equal(second.second(0), before[1])
    np.testing.assert_allclose(both.second(0), 2 * (before[0] + before[1]))
    # And a merge of disjoint classes takes each from where it is.
    one = moments_of(rows, labels.where(labels == 0, -1), 3)
    other = moments_of(rows, labels.where(labels != 0, -1), 3)
    assert_same_spectra(one.merge(other), moments_of(rows, labels, 3), 3)


def test_moments_of_another_shape_do_not_merge():
    for other in (ClassMoments(3, 5), ClassMoments(2, 4)):
        with pytest.raises(ValueError, match=r"expected moments of 3 classes × 4 values; found"):
            ClassMoments(3, 4).merge(other)


def test_what_is_returned_is_a_copy():
    rows, labels = tensors(30, 4, 3)
    made = moments_of(rows, labels, 3)
    made.counts().zero_()
    made.second(0).zero_()
    spectrum(made, 0).mean.zero_()
    assert_same_spectra(made, moments_of(rows, labels, 3), 3)


def test_a_buffer_may_be_reused_between_updates():
    rows, labels = tensors(60, 80, 3)
    for make in (lambda: ClassMoments(3, 80), lambda: ClassRows(3, RowStore(80))):
        made, buffer = make(), torch.empty(20, 80, dtype=rows.dtype)
        for start in range(0, 60, 20):
            buffer.copy_(rows[start : start + 20])
            made.update(buffer, labels[start : start + 20])
        buffer.zero_()
        assert_same_spectra(made, moments_of(rows, labels, 3), 3)


def test_rows_that_carry_a_gradient_are_only_read():
    rows, labels = tensors(30, 50, 3)
    for make in (moments_of, rows_of):
        found = spectrum(make(rows.clone().requires_grad_(), labels, 3), 0)
        assert not found.vectors.requires_grad
        assert not found.mean.requires_grad


# --- rows ---------------------------------------------------------------------------------------


@few_examples
@given(seed=seeds, width=st.integers(2, 60), n=st.integers(6, 90))
def test_rows_and_moments_have_the_same_spectra(seed, width, n):
    rows, labels = tensors(n, width, 3, seed)
    assert_same_spectra(rows_of(rows, labels, 3), moments_of(rows, labels, 3), 3)


def test_wide_rows_give_the_singular_values_and_orthonormal_vectors():
    """Energies from 1 down to 1e-12 of the first: the Gram matrix alone would lose the last."""
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    right = np.linalg.qr(rng.normal(size=(300, 20)))[0]
    sizes = np.logspace(0, -6, 20)
    rows = torch.from_numpy(left * sizes @ right.T)
    labels = torch.zeros(20, dtype=torch.int64)
    found = spectrum(rows_of(rows, labels, 2), 0)
    assert found.vectors.shape == (300, 20)
    np.testing.assert_allclose(found.values, sizes**2, rtol=1e-3)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(20), atol=1e-7)
    for r in (1, 10, 20):
        projector = found.vectors[:, :r] @ found.vectors[:, :r].T
        np.testing.assert_allclose(projector, right[:, :r] @ right[:, :r].T, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("memory", [0, 20_000, MEMORY])
def test_spilled_rows_are_the_rows_and_leave_no_file(dtype, memory, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows, _ = tensors(300, 40, 3, dtype=dtype)
    store = RowStore(40, memory)
    chosen = torch.from_numpy(np.flatnonzero(np.random.default_rng(0).random(300) < 0.6))
    for start in range(0, 300, 70):
        store.append(rows[start : start + 70])
        # Read in between too: a later part of the file must still be found.
        assert torch.equal(store.take(torch.tensor([start])), rows[start : start + 1])
    assert store.on_disk == (memory < MEMORY)
    assert store.length == 300
    taken = store.take(chosen)
    assert taken.dtype == rows.dtype
    assert torch.equal(taken, rows[chosen])
    assert list(tmp_path.iterdir()) == []


def test_spilled_and_kept_rows_fit_the_same():
    rows, labels = tensors(120, 200, 3)
    kept, spilled = rows_of(rows, labels, 3), rows_of(rows, labels, 3, memory=0)
    for k in range(3):
        assert torch.equal(spectrum(kept, k).values, spectrum(spilled, k).values)
        assert torch.equal(spectrum(kept, k).vectors, spectrum(spilled, k).vectors)


def test_rows_of_any_memory_layout_spill():
    rows, _ = tensors(60, 40, 3)
    columns = rows.T.contiguous().T
    store = RowStore(40, memory=40 * 30 * 8)
    for start in range(0, 60, 20):
        store.append(columns[start : start + 20])
    assert store.on_disk
    assert torch.equal(store.take(torch.arange(60)), rows)


@pytest.mark.parametrize("memory", [0, MEMORY])
def test_rows_of_several_precisions_are_kept_together(memory):
    rows, _ = tensors(60, 40, 3, dtype=np.float32)
    store = RowStore(40, memory)
    store.append(rows[:20].double())
    store.append(rows[20:40])
    store.append(rows[40:].double())
    np.testing.assert_array_equal(store.take(torch.arange(60)).float(), rows)


@pytest.mark.parametrize("memory", [0, MEMORY])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_of_half_precision_are_kept(memory, dtype):
    rows = tensors(20, 40, 2)[0].to(dtype)
    store = RowStore(40, memory)
    store.append(rows)
    np.testing.assert_array_equal(store.take(torch.arange(20)).float(), rows.float())


def test_label_sets_share_the_rows():
    rows, labels = tensors(90, 100, 3)
    other = torch.from_numpy(np.random.default_rng(1).integers(3, size=90))
    given = ClassRows(3, RowStore(100))
    true = given.sharing()
    for start in range(0, 90, 30):
        part = slice(start, start + 30)
        given.update(rows[part], labels[part])
        true.update(rows[part], other[part])
    assert given.store.length == 90
    assert_same_spectra(given, moments_of(rows, labels, 3), 3)
    assert_same_spectra(true, moments_of(rows, other, 3), 3)


def test_disjoint_parts_of_shared_rows_merge():
    rows, labels = tensors(90, 100, 3)
    held = torch.arange(90) % 10 == 0
    kept = ClassRows(3, RowStore(100))
    rest = kept.sharing()
    kept.update(rows, labels.where(~held, -1))
    rest.update(rows, labels.where(held, -1))
    assert_same_spectra(kept.merge(rest), moments_of(rows, labels, 3), 3)
    assert_same_spectra(kept, moments_of(rows[~held], labels[~held], 3), 3)


@pytest.mark.parametrize(
    ("width", "samples", "path"),
    [(100, 999, "rows"), (100, 1000, "moments"), (4096, None, "moments"), (4097, None, "rows")],
)
def test_the_cheaper_statistics_are_taken(width, samples, path):
    assert statistics_for(10, width, samples).path == path


# --- eigenvectors -------------------------------------------------------------------------------


def test_eigenvectors_come_largest_first_and_rebuild_the_matrix():
    rows, _ = tensors(100, 20, 2)
    matrix = rows.T @ rows
    values, vectors = eigenvectors(matrix, "here")
    assert (values.diff() <= 0).all()
    np.testing.assert_allclose(vectors @ torch.diag(values) @ vectors.T, matrix, atol=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_matrix_that_is_not_finite_is_an_error_that_says_where(bad):
    with pytest.raises(DataError, match="class 7: the features overflow when squared"):
        eigenvectors(torch.eye(3, dtype=torch.float64) * bad, "class 7")


def test_the_slower_solver_steps_in(monkeypatch):
    def give_up(matrix):
        raise torch.linalg.LinAlgError("failed to converge")

    rows, _ = tensors(100, 20, 2)
    expected = eigenvectors(rows.T @ rows, "here")
    monkeypatch.setattr(torch.linalg, "eigh", give_up)
    values, vectors = eigenvectors(rows.T @ rows, "here")
    np.testing.assert_allclose(values, expected[0], rtol=1e-9)
    np.testing.assert_allclose(
        vectors[:, :3] @ vectors[:, :3].T, expected[1][:, :3] @ expected[1][:, :3].T, atol=1e-9
    )


def test_numerical_rank_is_what_stands_above_rounding():
    values = torch.tensor([1.0, 1e-3, 1e-18, -1e-17], dtype=torch.float64)
    assert numerical_rank(values, 4) == 2
    assert numerical_rank(values * 1e-200, 4) == 2
    assert numerical_rank(values, 1) == 1
    assert numerical_rank(torch.zeros(3, dtype=torch.float64), 3) == 0
    assert numerical_rank(torch.zeros(0, dtype=torch.float64), 3) == 0


# --- decoders from the same statistics ----------------------------------------------------------


def test_several_decoders_come_from_one_decomposition():
    rows, labels = tensors(200, 20, 4)
    statistics = moments_of(rows, labels, 4)
    seen = []
    taken = statistics.eigenproblem
    statistics.eigenproblem = lambda classes, *rest: seen.extend(classes) or taken(classes, *rest)
    decoders = [
        MinimumAngleSubspaceClassifier(variance=0.5),
        MinimumAngleSubspaceClassifier(rank=3),
        PrincipalVectorClassifier(),
    ]
    fit_together(statistics, decoders, dtype=torch.float64)
    assert seen == [0, 1, 2, 3]
    for decoder in decoders:
        alone = type(decoder)(**decoder.get_params()).fit(rows, labels)
        np.testing.assert_allclose(
            decoder.decision_function(rows), alone.decision_function(rows), atol=1e-9
        )
        assert decoder.classes_.tolist() == [0, 1, 2, 3]


# --- shapes -------------------------------------------------------------------------------------

SHAPES_CHECKED = """
import sys, warnings
from beartype import beartype
from beartype.roar import BeartypeDecorHintException
from jaxtyping import TypeCheckError, install_import_hook

unchecked = set()

def checked(function):
    try:
        return beartype(function)
    except BeartypeDecorHintException:  # `Self` outside a checked class, and plain protocols
        unchecked.add(function.__name__)
        return function

with install_import_hook(
    ["underscript." + name for name in (
        "linalg.moments", "linalg.second_moment", "linalg.rows", "linalg.spectra",
        "linalg.screening", "linalg.bases", "probes.classifier", "probes.subspace",
    )],
    "__main__.checked",
):
    import underscript.probes.subspace
assert unchecked == {"fit", "partial_fit", "set_tensors", "fit_together", "_decompose"}, unchecked
import numpy as np
import torch
from underscript import MinimumAngleSubspaceClassifier, PrincipalVectorClassifier
from underscript.linalg.bases import unit_rows
from underscript.linalg.moments import ClassMoments

try:
    unit_rows(torch.zeros(3))
except TypeCheckError:
    pass
else:
    sys.exit("the annotations were not checked")
try:
    ClassMoments(2, 4).update(torch.zeros(5, 4), torch.zeros(3, dtype=torch.int64))
except TypeCheckError:
    pass
else:
    sys.exit("five rows with three labels were not noticed")

rng = np.random.default_rng(0)
y = np.arange(40) % 4
for width in (3, 9, 30):
    X = rng.random((40, width))
    for decoder in (
        MinimumAngleSubspaceClassifier(),
        MinimumAngleSubspaceClassifier(rank=2),
        PrincipalVectorClassifier(),
    ):
        for dtype in (np.float32, np.float64):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*whole space.*")
                decoder.fit(X.astype(dtype), y).predict(X.astype(dtype))
            decoder.angles(X), decoder.decision_function(X), decoder.score(X, y)
            decoder.closeness(torch.from_numpy(X))
            type(decoder)().set_tensors(decoder.tensors()).predict(X)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(no samples|fewer directions).*")
        parts = MinimumAngleSubspaceClassifier(rank=2)
        parts.partial_fit(X[:9], y[:9] % 3, classes=range(4))
        parts.partial_fit(X[9:10], y[9:10] % 3).predict(X)
first = ClassMoments(4, 9)
first.update(torch.rand(8, 9), torch.arange(8) % 4 - 1)
first.merge(first).eigenproblem([3])
first.second(0)
"""


@pytest.mark.slow
def test_the_shapes_in_the_annotations_are_true():
    """Runs the numerics with every array annotation checked, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SHAPES_CHECKED], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
