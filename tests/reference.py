"""The paper's two decoders, written down as literally as its text, in float64 and without speed.

Nothing here is shared with the library, so that agreement with it means something: the negatives
are appended, the covariance is taken, and a sample's angle is that between it and its projection.
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Masc:
    """Minimum Angle Subspace Classifier: bases, ranks and answers."""

    classes: np.ndarray
    bases: list[np.ndarray]

    @property
    def ranks(self):
        return [basis.shape[1] for basis in self.bases]

    @property
    def projectors(self):
        return [basis @ basis.T for basis in self.bases]

    def angles(self, X):
        """Angles (n, K) between each row and its projection into each class subspace."""
        X = np.asarray(X, dtype=np.float64)
        columns = []
        for basis in self.bases:
            projected = X @ basis @ basis.T
            product = (X * projected).sum(1)
            lengths = np.linalg.norm(X, axis=1) * np.linalg.norm(projected, axis=1)
            cosine = np.divide(product, lengths, out=np.zeros(len(X)), where=lengths > 0)
            columns.append(np.arccos(np.clip(cosine, -1, 1)))
        return np.stack(columns, 1)

    def predict(self, X):
        return self.classes[self.angles(X).argmin(1)]

    def ties(self, X, within=1e-6):
        """Rows whose two smallest angles have cos² within `within` of each other."""
        best = np.sort(np.cos(self.angles(X)) ** 2, axis=1)
        return best[:, -1] - best[:, -2] <= within


def masc(X, y, variance=0.99, rank=None):
    """Fit MASC by the paper's text; `rank` replaces the rule of the variance share."""
    X, y = np.asarray(X, dtype=np.float64), np.asarray(y)
    bases = []
    for label in np.unique(y):
        values, vectors = principal_directions(X[y == label])
        r = rank
        if r is None:
            shares = np.cumsum(values) / values.sum()
            r = min(int((shares <= variance).sum()) + 1, X.shape[1])
        bases.append(vectors[:, :r])
    return Masc(np.unique(y), bases)


@dataclass
class Velpic:
    """One signed vector a class; the largest product wins."""

    classes: np.ndarray
    vectors: np.ndarray

    def scores(self, X):
        return np.asarray(X, dtype=np.float64) @ self.vectors.T

    def predict(self, X):
        return self.classes[self.scores(X).argmax(1)]


def velpic(X, y):
    """Fit VeLPIC: the first direction, towards the side where the class's samples are."""
    X, y = np.asarray(X, dtype=np.float64), np.asarray(y)
    vectors = []
    for label in np.unique(y):
        rows = X[y == label]
        vector = principal_directions(rows)[1][:, 0]
        vectors.append(vector if (rows @ vector).mean() > 0 else -vector)
    return Velpic(np.unique(y), np.stack(vectors))


def principal_directions(rows):
    """Eigenvalues, largest first, and eigenvectors of the covariance of the rows and −rows."""
    covariance = np.cov(np.concatenate([rows, -rows]), rowvar=False)
    values, vectors = np.linalg.eigh(np.atleast_2d(covariance))
    return np.clip(values[::-1], 0, None), vectors[:, ::-1]


def relu_rows(n, width, n_classes, seed=0, dtype=np.float64):
    """Rows as a hidden ReLU layer gives them: classes overlap, many entries are zero."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % n_classes)
    centres = rng.normal(size=(n_classes, 12))
    inputs = centres[y] + rng.normal(size=(n, 12))
    X = np.maximum(inputs @ rng.normal(size=(12, width)) + rng.normal(size=(n, width)), 0)
    return X.astype(dtype), y


DEAD, COPY = 3, 7


def split_rows(n, width, n_classes, seed=0, dtype=np.float64):
    X, y = relu_rows(2 * n, width, n_classes, seed, dtype)
    return X[:n], y[:n], X[n:], y[n:]


def singular_rows(n, width, n_classes, seed=0, dtype=np.float64):
    """Training and test rows with a feature that is dead in training, and one that repeats."""
    X, y, T, truth = split_rows(n, width, n_classes, seed, dtype)
    X[:, DEAD] = 0
    for rows in (X, T):
        rows[:, COPY] = 2 * rows[:, COPY + 1]
    return X, y, T, truth
