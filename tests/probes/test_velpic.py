"""VeLPIC against the sequel's text: one signed vector a class, and a linear decision."""

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
from underscript import MinimumAngleSubspaceClassifier, UnderscriptWarning
from underscript import PrincipalVectorClassifier as Velpic

few_examples = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("width", "n_classes", "n"), [(5, 2, 300), (40, 10, 1500), (300, 4, 500)])
def test_agrees_with_the_paper(dtype, width, n_classes, n):
    X, y = relu_rows(2 * n, width, n_classes, seed=width, dtype=dtype)
    decoder, plain = Velpic().fit(X[:n], y[:n]), reference.velpic(X[:n], y[:n])
    exact = 1e-5 if dtype is np.float32 else 1e-9
    # Signed vectors of unit length, so they can be compared themselves.
    np.testing.assert_allclose(decoder.vectors_, plain.vectors, atol=exact)
    best = np.sort(plain.scores(X[n:]), axis=1)
    clear = best[:, -1] - best[:, -2] > 1e-6 * np.linalg.norm(X[n:], axis=1)
    assert clear.mean() > 0.9
    assert (decoder.predict(X[n:]) == plain.predict(X[n:]))[clear].mean() >= 0.999


def test_tells_digits_apart():
    X, y = load_digits(return_X_y=True)
    train, test, given, truth = train_test_split(X, y, test_size=0.4, random_state=0, stratify=y)
    decoder = Velpic().fit(train, given)
    assert decoder.score(test, truth) >= 0.85
    np.testing.assert_array_equal(
        decoder.predict(test), reference.velpic(train, given).predict(test)
    )


@few_examples
@given(seed=seeds)
def test_every_vector_points_to_its_class(seed):
    X, y = relu_rows(150, 12, 3, seed)
    X -= np.random.default_rng(seed).uniform(0, 2, size=12)
    decoder = Velpic().fit(X, y)
    np.testing.assert_allclose(np.linalg.norm(decoder.vectors_, axis=1), 1)
    for k in range(3):
        assert (X[y == k] @ decoder.vectors_[k]).mean() > 0


@few_examples
@given(seed=seeds, cuts=st.lists(st.integers(1, 119), max_size=6, unique=True))
def test_any_split_into_batches_fits_the_same(seed, cuts):
    X, y = relu_rows(120, 15, 3, seed)
    parts = Velpic()
    edges = [0, *sorted(cuts), len(X)]
    for start, end in pairwise(edges):
        parts.partial_fit(X[start:end], y[start:end], classes=[0, 1, 2])
    np.testing.assert_allclose(parts.vectors_, Velpic().fit(X, y).vectors_, atol=1e-9)


def test_order_and_duplicates_of_samples_do_not_matter():
    X, y = relu_rows(120, 60, 3)
    order = np.random.default_rng(0).permutation(240) % 120
    np.testing.assert_allclose(
        Velpic().fit(X[order], y[order]).vectors_, Velpic().fit(X, y).vectors_, atol=1e-9
    )


def test_a_rotation_changes_no_score_and_a_scale_only_scales():
    X, y = relu_rows(150, 12, 3)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0]
    plain, turned = Velpic().fit(X, y), Velpic().fit(X @ rotation, y)
    scores = plain.decision_function(X)
    np.testing.assert_allclose(turned.decision_function(X @ rotation), scores, atol=1e-9)
    np.testing.assert_allclose(plain.decision_function(3 * X), 3 * scores)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_tiny_and_huge_features_are_as_good_as_any(dtype, scale):
    X, y = relu_rows(300, 20, 3, dtype=dtype)
    scaled = X * dtype(scale)
    plain, other = Velpic().fit(X, y), Velpic().fit(scaled, y)
    np.testing.assert_allclose(other.vectors_, plain.vectors_, atol=1e-6)
    np.testing.assert_allclose(
        other.decision_function(scaled) / dtype(scale),
        plain.decision_function(X),
        rtol=1e-4,
        atol=1e-5,
    )
    np.testing.assert_allclose(other.angles(scaled), plain.angles(X), atol=1e-5)


def test_the_vector_is_the_first_of_mascs_basis():
    X, y = relu_rows(200, 20, 3)
    line = MinimumAngleSubspaceClassifier(rank=1).fit(X, y)
    for basis, vector in zip(line.bases_, Velpic().fit(X, y).vectors_, strict=True):
        np.testing.assert_allclose(basis @ basis.T, np.outer(vector, vector), atol=1e-12)


def test_angles_go_all_the_way_round():
    decoder = Velpic().fit(np.eye(3), [0, 1, 2])
    found = np.degrees(decoder.angles([[2.0, 0, 0], [-1.0, 0, 0], [0, 0, 0], [1.0, 1.0, 0]]))
    expected = [[0, 90, 90], [180, 90, 90], [90, 90, 90], [45, 45, 90]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_a_side_the_largest_entry_is_positive():
    rows = np.array([[1.0, -4.0, 2.0], [-1.0, 4.0, -2.0], [0.0, 0, 1], [0, 0, 2]])
    decoder = Velpic().fit(rows, [0, 0, 1, 1])
    np.testing.assert_allclose(decoder.vectors_[0], np.array([-1, 4, -2]) / np.sqrt(21), atol=1e-12)


def test_a_class_without_a_direction_is_never_predicted():
    X = np.array([[-1.0, 0.0], [-2.0, 0.0], [0.0, -1.0], [0.0, 0.0]])
    decoder = Velpic().partial_fit(X, [1, 1, 2, 3], classes=[0, 1, 2, 3])
    with pytest.warns(UnderscriptWarning, match="class 0, 3 has no samples, or only zero rows"):
        scores = decoder.decision_function([[1.0, 1.0], [0.0, 0.0]])
    assert np.isneginf(scores[:, [0, 3]]).all()
    np.testing.assert_allclose(scores[:, 1:3], [[-1, -1], [0, 0]])
    # Every other score is negative or zero, and exact ties go to the first that has a direction.
    assert decoder.predict([[1.0, 1.0], [0.0, 0.0]]).tolist() == [1, 1]
    assert decoder.ranks_.tolist() == [0, 1, 1, 0]
    np.testing.assert_allclose(decoder.angles([[1.0, 1.0]])[:, [0, 3]], np.pi / 2)


def test_closeness_runs_from_the_opposite_to_the_same_direction():
    decoder = Velpic().fit(np.eye(3), [0, 1, 2])
    rows = torch.tensor([[5.0, 0, 0], [-5.0, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(decoder.closeness(rows)[:, 0], [1, 0, 0.5], atol=1e-7)


def test_two_classes_give_one_signed_score():
    X, y = relu_rows(100, 10, 2)
    decoder = Velpic().fit(X, y)
    scores = decoder.decision_function(X)
    assert scores.shape == (100,)
    clear = np.abs(scores) > 1e-9
    np.testing.assert_array_equal(decoder.predict(X)[clear], (scores > 0)[clear])


def test_string_labels():
    X, y = relu_rows(90, 10, 3)
    names = np.array(["three", "one", "two"])
    decoder = Velpic().fit(X, names[y])
    assert decoder.classes_.tolist() == ["one", "three", "two"]
    np.testing.assert_array_equal(decoder.predict(X), names[Velpic().fit(X, y).predict(X)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_exactly(dtype):
    X, y = relu_rows(200, 20, 3)
    half = torch.from_numpy(X).to(dtype)
    np.testing.assert_array_equal(
        Velpic().fit(half, y).vectors_, Velpic().fit(half.float(), y).vectors_
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_saved_tensors_predict_the_same(dtype):
    X, y = relu_rows(300, 30, 4, dtype=dtype)
    decoder = Velpic().fit(X, y)
    other = Velpic().set_tensors({k: v.clone() for k, v in decoder.tensors().items()})
    np.testing.assert_array_equal(other.decision_function(X), decoder.decision_function(X))
    np.testing.assert_array_equal(other.vectors_, decoder.vectors_)
    assert other.n_features_in_ == 30


def test_tensors_that_do_not_fit_are_refused():
    X, y = relu_rows(300, 30, 4)
    tensors = Velpic().fit(X, y).tensors()
    for name in ("principal", "present", "counts"):
        with pytest.raises(KeyError, match=name):
            Velpic().set_tensors({k: v for k, v in tensors.items() if k != name})
        with pytest.raises(ValueError, match="fit"):
            Velpic().set_tensors({**tensors, name: tensors[name][1:]})
