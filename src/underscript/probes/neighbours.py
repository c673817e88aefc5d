"""k nearest neighbours: scikit-learn's search, which ignores labels, and the vote."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from ..errors import DataError
from .baseline import Baseline, check_positive_integer

__all__ = ["NearestNeighbours", "vote"]


class NearestNeighbours(Baseline):
    """Predict the most frequent class among the k nearest training rows (Euclidean).

    Same as scikit-learn's ``KNeighborsClassifier(k, algorithm="brute")``, whose search it uses.
    Ties go to the first class.

    Parameters
    ----------
    k : int, default=5
        Number of neighbours.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes.
    n_features_in_ : int
        The width.

    Examples
    --------
    >>> from underscript.baselines import NearestNeighbours, vote
    >>> knn = NearestNeighbours(k=1).fit([[0.0, 0.0], [4.0, 0.0]], ["given", "other"])
    >>> neighbours = knn.kneighbors([[3.0, 1.0]])
    >>> vote(neighbours, ["true", "wrong"]).tolist()
    ['wrong']
    """

    def __init__(self, *, k: int = 5):
        self.k = k

    def kneighbors(self, X: Any) -> NDArray[np.int64]:
        """Return the positions of the k nearest training rows, nearest first, shape (n, k).

        They do not depend on labels, so one search serves any labels of the same rows (see `vote`).
        """
        rows = self._checked(X)
        return np.asarray(self._search.kneighbors(rows, return_distance=False))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most frequent class among the neighbours of each row, shape (n,)."""
        return vote(self.kneighbors(X), self._labels)

    def _work(self, n: int, width: int, size: float) -> float:
        return 2.0 * n * width  # the rows' lengths

    def _work_for_each(self) -> float:
        return 2.0 * len(self._labels) * self.n_features_in_

    def _fit(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        if len(X) < self.k:
            raise DataError(f"k: expected at most the n_samples = {len(X)} rows; found {self.k}")
        self._labels = y
        self._search = NearestNeighbors(n_neighbors=int(self.k), algorithm="brute").fit(X)

    def _validate_parameters(self) -> None:
        check_positive_integer("k", self.k)


def vote(neighbours: NDArray[np.int64], labels: Any) -> NDArray[Any]:
    """Return the most frequent label of each row's neighbours; ties go to the first when sorted.

    Parameters
    ----------
    neighbours : ndarray of int64, shape (n, k)
        Positions of training rows, as `NearestNeighbours.kneighbors` returns them.
    labels : array-like, shape (n_train,)
        Labels of the training rows; they may differ from those used in `fit`.

    Returns
    -------
    ndarray, shape (n,)
        One label per row.
    """
    classes, places = np.unique(np.asarray(labels), return_inverse=True)
    votes = np.zeros((len(neighbours), len(classes)), dtype=np.int64)
    rows = np.arange(len(neighbours))
    for column in np.asarray(neighbours).T:
        votes[rows, places[column]] += 1
    return np.asarray(classes[votes.argmax(1)])
