import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from underscript.corruption import corrupt_labels
from underscript.errors import LabelError

labels = st.lists(st.integers(0, 6), max_size=60).map(lambda y: np.array(y, dtype=np.int64))


@pytest.mark.parametrize("degree", [0.2, 0.4, 0.8, 1.0])
@pytest.mark.parametrize("n_classes", [2, 10])
def test_share_of_wrong_labels_is_that_of_the_paper(degree, n_classes):
    true = np.arange(60_000) % n_classes
    given_labels = corrupt_labels(true, degree, n_classes, seed=42)
    expected = degree * (n_classes - 1) / n_classes
    deviation = np.sqrt(expected * (1 - expected) / len(true))
    assert abs((given_labels != true).mean() - expected) < 4 * deviation


def test_redrawn_labels_are_uniform_over_all_classes():
    given_labels = corrupt_labels(np.full(50_000, 3), 1.0, 5, seed=1)
    counts = np.bincount(given_labels, minlength=5)
    assert np.abs(counts - 10_000).max() < 4 * np.sqrt(50_000 * 0.2 * 0.8)


@given(labels, st.floats(0, 1), st.integers(0, 2**32))
def test_any_labels_stay_labels(y, degree, seed):
    before = y.copy()
    given_labels = corrupt_labels(y, degree, 7, seed=seed)
    assert given_labels.dtype == np.int64
    assert given_labels.shape == y.shape
    assert ((given_labels >= 0) & (given_labels < 7)).all()
    assert (y == before).all()
    assert (given_labels == corrupt_labels(y, degree, 7, seed=seed)).all()


@given(labels, st.integers(0, 1000))
def test_degree_zero_changes_nothing_and_gives_a_copy(y, seed):
    given_labels = corrupt_labels(y, 0, seed=seed)
    assert (given_labels == y).all()
    assert not np.shares_memory(given_labels, y)


@given(labels, st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000))
def test_a_label_changed_at_a_low_degree_is_changed_alike_at_a_higher_one(y, a, b, seed):
    less, more = (corrupt_labels(y, degree, 7, seed=seed) for degree in sorted((a, b)))
    assert (more[less != y] == less[less != y]).all()


def test_seeds_differ_and_the_global_random_state_is_left_alone():
    true = np.arange(1000) % 10
    before = np.random.get_state()[1].copy()  # noqa: NPY002 (the state that must not change)
    first, second = corrupt_labels(true, 0.5, seed=0), corrupt_labels(true, 0.5, seed=1)
    assert (first != second).any()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_tensors_and_lists_are_labels_too():
    true = np.arange(100) % 10
    expected = corrupt_labels(true, 0.5)
    for same in (torch.from_numpy(true), true.tolist(), true.astype(np.uint8)):
        assert (corrupt_labels(same, 0.5) == expected).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 1]], 0.5), r"expected one label a sample, shape \(n,\); found \(1, 2\)"),
        (([0.0, 1.0], 0.5), "integer classes .* found dtype float64"),
        (([True, False], 0.5), "integer classes .* found dtype bool"),
        (([0, -1], 0.5), "found -1 at index 1"),
        (([0, 3], 0.5, 3), "from 0 to 2 for n_classes=3, found 3 at position 1"),
        (([0, 1], 0.5, 0), "n_classes must be"),
        (([0, 1], 0.5, 2.5), "n_classes must be"),
        (([0, 1], 1.1), "degree must be .* found 1.1"),
        (([0, 1], -0.1), "degree must be"),
        (([0, 1], float("nan")), "degree must be"),
        (([0, 1], float("inf")), "degree must be"),
        (([0, 1], "half"), "degree must be"),
        (([0, 1], 0.5, 2, "pairwise"), r"'pairwise'; choose one of \['symmetric'\]"),
        (([0, 1], 0.5, 2, "symmetric", -1), "seed must be"),
        (([0, 1], 0.5, 2, "symmetric", None), "seed must be"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message):
    with pytest.raises(LabelError, match=message) as caught:
        corrupt_labels(*arguments)
    assert "\n" not in str(caught.value)
