"""Class moments for the baselines: counts, means and second moments, in float64.

Second moments are about the class means, which a first pass computes, so that rows far from the
origin lose no digits.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError, LabelError
from ..linalg.products import add_products, in_float64, mirrored
from ..linalg.spectra import Cut, Eigenproblem, solve
from ..utils.device import as_device
from ..utils.labels import by_class
from .classifier import as_array, as_tensor

# Bytes of a block of rows that is converted to float64 in one step.
BLOCK = 24 << 20


def blocks_of(rows: Float[Tensor, "n width"]) -> Iterator[tuple[slice, Float[Tensor, "m width"]]]:
    """Yield the rows in float64, block by block; the next block reuses the memory."""
    room: list[Tensor] = []
    step = max(1, BLOCK // (8 * rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        yield part, in_float64(rows[part], room)


class RowMoments:
    """Counts, means and second moments about the mean of each class, computed on demand.

    Several probes fitted to the same rows and labels can share one instance: see `row_moments`. It
    refers to the rows, and keeps at most as many numbers as they have.

    Parameters
    ----------
    rows : Tensor, shape (n, width)
        Finite float32 or float64.
    places : Tensor of int64, shape (n,)
        The position of each row's class in `classes`.
    classes : ndarray, shape (K,)
        The classes; each has at least one row.

    Attributes
    ----------
    rows, classes
        As given.
    positions : list of K tensors of int64
        Each class's rows, ascending.
    counts : Tensor of int64, shape (K,)
        Rows of each class.
    means : Tensor of float64, shape (K, width)
        Means of each class.
    """

    def __init__(
        self,
        rows: Float[Tensor, "n width"],
        places: Int[Tensor, " n"],
        classes: NDArray[Any],
    ):
        self.rows, self.classes = rows, classes
        self.positions = [chosen.to(rows.device) for _, chosen in by_class(places.cpu())]
        self.counts = torch.tensor([len(chosen) for chosen in self.positions])
        self.means = torch.stack([self.mean(chosen) for chosen in self.positions])
        self._scatters: dict[int, Tensor] = {}
        self._pooled: Tensor | None = None

    @property
    def width(self) -> int:
        """Number of values a row."""
        return int(self.rows.shape[1])

    def about(
        self, chosen: Int[Tensor, " m"], center: Float[Tensor, " width"]
    ) -> Iterator[Float[Tensor, "b width"]]:
        """Yield chosen rows minus a center, in float64, block by block in the same memory."""
        room: list[Tensor] = []
        for part in torch.split(chosen, max(1, BLOCK // (8 * self.width))):
            yield in_float64(self.rows.index_select(0, part), room).sub_(center)

    def mean(self, chosen: Int[Tensor, " m"]) -> Float[Tensor, " width"]:
        """Return the mean of chosen rows, in float64."""
        total = self.rows.new_zeros(self.width, dtype=torch.float64)
        for block in self.about(chosen, torch.zeros_like(total)):
            total += block.sum(0)
        return total / len(chosen)

    def products(
        self, chosen: list[Tensor], centers: Float[Tensor, "groups width"]
    ) -> Float[Tensor, "width width"]:
        """Return ``Σ (x − c)(x − c)ᵀ`` over groups of chosen rows, each about its center."""
        total = self.means.new_zeros(self.width, self.width)
        for positions, center in zip(chosen, centers, strict=True):
            for block in self.about(positions, center):
                add_products(total, block)
        return mirrored(total)

    def wide(self, k: int) -> bool:
        """Return whether a class has fewer rows than features; its rows take less room then."""
        return len(self.positions[k]) < self.width

    def centred(self, k: int) -> Float[Tensor, "m width"]:
        """Return the rows of class k minus their mean, in float64."""
        return self._rows_of(k).sub_(self.means[k])

    def scatter(self, k: int) -> Float[Tensor, "width width"]:
        """Return ``Σ (x − m_k)(x − m_k)ᵀ`` of class k; it may be cached, so do not change it."""
        if k in self._scatters:
            return self._scatters[k]
        scatter = self.products([self.positions[k]], self.means[k : k + 1])
        if not self.wide(k):
            self._scatters[k] = scatter
        return scatter

    def pooled(self) -> Float[Tensor, "width width"]:
        """Return the sum of all classes' `scatter`; it is cached, so do not change it."""
        if self._pooled is None:
            wide = [k for k in range(len(self.classes)) if self.wide(k)]
            self._pooled = self.products([self.positions[k] for k in wide], self.means[wide])
            for k in range(len(self.classes)):
                if k not in wide:
                    self._pooled += self.scatter(k)
        return self._pooled

    def principal(self, k: int) -> Float[Tensor, " width"]:
        """Return the first eigenvector of ``Σ x xᵀ`` over class k; zeros for zero rows."""
        count, mean, what = int(self.counts[k]), self.means[k], f"class {self.classes[k]}"
        rows = self._rows_of(k) if self.wide(k) else None
        if rows is not None:  # from the Gram matrix, which is smaller
            problem = Eigenproblem(rows @ rows.T, count, rows.new_zeros(count), what)
        else:
            second = torch.addr(self.scatter(k), mean, mean, alpha=count)
            problem = Eigenproblem(second, count, mean, what)
        [spectrum] = solve([problem], [Cut(rank=1)])
        if not len(spectrum.values):
            return torch.zeros_like(mean)
        vector: Tensor = spectrum.widened(spectrum.inner[:, :1])[:, 0]
        if rows is not None:
            vector = vector @ rows
        vector /= torch.linalg.vector_norm(vector)
        return vector

    def _rows_of(self, k: int) -> Float[Tensor, "m width"]:
        return self.rows.index_select(0, self.positions[k]).double()


def row_moments(X: Any, y: Any, *, device: str = "cpu") -> RowMoments:
    """Return counts, means and second moments of each class, for several probes to share.

    Second moments are computed when a probe first asks for them, in float64, and kept.

    Parameters
    ----------
    X : array-like, shape (n, width)
        Finite rows; float32 and float64 rows are not copied.
    y : array-like, shape (n,)
        Labels of at least two classes.
    device : str, default="cpu"
        Where to compute and keep them.

    Raises
    ------
    DataError
        If `X` is not a matrix of finite numbers.
    LabelError
        If there is not one label per row, or only one class.

    Examples
    --------
    >>> from underscript.baselines import LinearDiscriminant, NearestClassMean, row_moments
    >>> X, y = [[0.0, 1.0], [1.0, 2.0], [3.0, 0.0], [4.0, 2.0]], [0, 0, 1, 1]
    >>> moments = row_moments(X, y)
    >>> LinearDiscriminant().fit_moments(moments).predict(X).tolist()
    [0, 0, 1, 1]
    >>> NearestClassMean().fit_moments(moments).means_.tolist()
    [[0.5, 1.5], [3.5, 1.0]]
    """
    X, labels = np.asarray(as_array(X)), np.asarray(y)
    if X.dtype not in (np.float32, np.float64):
        X = X.astype(np.float64)
    if X.ndim != 2 or not X.size or not np.isfinite(X).all():
        raise DataError(f"X: expected finite rows, shape (n, width); found shape {X.shape}")
    if labels.shape != (len(X),):
        raise LabelError(f"y: expected {len(X)} labels, one a row; found shape {labels.shape}")
    classes = classes_of(labels)
    places = torch.from_numpy(np.searchsorted(classes, labels))
    return RowMoments(as_tensor(X).to(as_device(device)), places, classes)


def classes_of(y: NDArray[Any]) -> NDArray[Any]:
    """Return the classes that occur, sorted; at least two.

    Raises
    ------
    LabelError
        If there is only one.
    """
    classes = np.unique(y)
    if len(classes) < 2:
        raise LabelError(f"y: expected at least 2 classes; found one class, {classes.tolist()}")
    return classes
