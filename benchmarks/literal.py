"""The paper's procedure, written as plainly as its text: the baseline to beat and to agree with.

Negatives appended, covariance in float64, all eigenvectors, then batches of 100 rows projected
into each class subspace and back, and the cosine read off the diagonal of a batch × batch product.
"""

import numpy as np


def fit(rows: np.ndarray, labels: np.ndarray, variance: float = 0.99) -> list[np.ndarray]:
    """Return each class's basis, (width, rank)."""
    bases = []
    for k in np.unique(labels):
        own = rows[labels == k]
        covariance = np.cov(np.concatenate([own, -own]), rowvar=False, dtype=np.float64)
        values, vectors = np.linalg.eigh(covariance)
        values, vectors = np.clip(values[::-1], 0, None), vectors[:, ::-1]
        shares = np.cumsum(values) / values.sum()
        rank = min(int((shares <= variance).sum()) + 1, len(values))
        bases.append(np.ascontiguousarray(vectors[:, :rank]))
    return bases


def cosines(rows: np.ndarray, bases: list[np.ndarray]) -> np.ndarray:
    """Return the cosine of the angle of each row to each class subspace, (n, K)."""
    found = np.zeros((len(rows), len(bases)))
    for start in range(0, len(rows), 100):
        batch = rows[start : start + 100]
        lengths = np.linalg.norm(batch, axis=1)
        for k, basis in enumerate(bases):
            projected = (batch @ basis) @ basis.T
            product = np.diag(batch @ projected.T)
            scale = lengths * np.linalg.norm(projected, axis=1)
            found[start : start + 100, k] = product / np.where(scale > 0, scale, 1)
    return found
