"""k nearest neighbours: scikit-learn's search, and a vote for any labels."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from reference import split_rows
from underscript.errors import DataError
from underscript.probes.baselines import NearestNeighbours, vote


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 5, 12])
def test_neighbours_are_scikit_learns(dtype, k):
    X, y, T, _ = split_rows(1500, 60, 10, dtype=dtype)
    plain = KNeighborsClassifier(k, algorithm="brute").fit(X, y)
    probe = NearestNeighbours(k=k).fit(X, y)
    np.testing.assert_array_equal(probe.kneighbors(T), plain.kneighbors(T, return_distance=False))
    np.testing.assert_array_equal(probe.predict(T), plain.predict(T))


def test_neighbours_vote_with_any_labels():
    X, y, T, _ = split_rows(600, 20, 4)
    other = np.array(["a", "b", "c"])[np.random.default_rng(0).integers(0, 3, size=600)]
    probe = NearestNeighbours().fit(X, y)
    found = probe.kneighbors(T)
    for labels in (y, other):
        plain = KNeighborsClassifier(5, algorithm="brute").fit(X, labels)
        np.testing.assert_array_equal(vote(found, labels), plain.predict(T))
    np.testing.assert_array_equal(vote(found, y), probe.predict(T))


def test_of_equally_frequent_classes_the_first_wins():
    neighbours = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 3, 2]])
    assert vote(neighbours, ["b", "b", "a", "c"]).tolist() == ["b", "b", "a"]
    assert vote(neighbours[:2], ["b", "b", "a", "a"]).tolist() == ["a", "a"]


def test_fewer_rows_than_neighbours():
    with pytest.raises(DataError, match="n_samples = 3"):
        NearestNeighbours().fit(np.eye(3), [0, 1, 1])
