"""Per-class second moments of a layer's rows, and their eigenvectors.

For class k, ``S_k = Σ x xᵀ`` over the samples with that label. Moments add: over batches, over
parts of the data, over processes. Sums are float64 whatever the rows' type, because a projector's
error is the sum's error divided by an eigenvalue gap, and hidden layers have gaps of 1e-6 of λ₁.

A layer wider than its classes are large is kept as rows instead (`ClassRows`): the eigenvectors of
``S_k`` then come from the Gram matrix of the class, which is smaller, and no width × width matrix
is ever formed.
"""

import logging
import tempfile
import weakref
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .errors import DataError, LabelError, OutputError

logger = logging.getLogger(__name__)

# Rows of a class that wait until they are worth one large product.
_PENDING_ROWS = 512
# Columns of one tile of a symmetric product; tiles below the diagonal are never computed.
_TILE = 512
# Rows are kept in memory up to this size, then in a temporary file.
ROW_MEMORY = 2 << 30


@dataclass(frozen=True)
class ClassSpectrum:
    """The eigenvectors of one class's second moment, largest eigenvalue first.

    Attributes
    ----------
    count : int
        Samples of the class.
    values : Tensor of float64, shape (m,)
        The positive eigenvalues; m is the numerical rank: at most the width and `count`.
    vectors : Tensor of float64, shape (width, m) or (width, width)
        Orthonormal columns, of which the first m belong to `values`; the others, where they are
        known, span what the class never uses.
    mean : Tensor of float64, shape (width,)
        Mean row of the class; zeros for a class without samples.
    """

    count: int
    values: Float[Tensor, " m"]
    vectors: Float[Tensor, "width c"]
    mean: Float[Tensor, " width"]

    @property
    def width(self) -> int:
        """Number of values a row."""
        return int(self.vectors.shape[0])


class ClassStatistics(Protocol):
    """What a decoder needs of a layer: `ClassMoments` or `ClassRows`."""

    n_classes: int
    width: int

    def update(self, rows: Tensor, labels: Tensor) -> None:
        """Add rows (n, width) with labels (n,); a label of −1 leaves its row out."""

    def counts(self) -> Tensor:
        """Return the samples of each class, int64 (K,)."""

    def spectrum(self, k: int) -> ClassSpectrum:
        """Return the eigenvectors of class k's second moment."""


class ClassMoments:
    """Second moments of every class, added up batch by batch: memory K · width² float64.

    Parameters
    ----------
    n_classes : int
        Number of classes K; labels are 0 … K−1.
    width : int
        Number of values a row.
    device : torch.device, optional
        Where to keep the sums.
    """

    path = "moments"

    def __init__(self, n_classes: int, width: int, device: torch.device | str = "cpu"):
        self.n_classes, self.width = n_classes, width
        self.device = torch.device(device)
        self._counts = torch.zeros(n_classes, dtype=torch.int64)
        self._sums = torch.zeros(n_classes, width, dtype=torch.float64, device=self.device)
        # A class's matrix is made when its first sample comes; classes may be many and absent.
        self._seconds: dict[int, Tensor] = {}
        self._pending: dict[int, list[Tensor]] = {}
        self._waiting = [0] * n_classes

    def update(self, rows: Float[Tensor, "n width"], labels: Int[Tensor, " n"]) -> None:
        """Add rows with labels 0 … K−1; a label of −1 leaves its row out.

        Raises
        ------
        LabelError
            If a label is K or more.
        """
        labels = labels.cpu()
        if len(labels) and int(labels.max()) >= self.n_classes:
            raise LabelError(
                f"labels: expected classes 0 … {self.n_classes - 1} (−1 leaves a row out); "
                f"found {int(labels.max())}"
            )
        for k in torch.unique(labels[labels >= 0]).tolist():
            chosen = torch.nonzero(labels == k)[:, 0]
            part = rows.detach()[chosen.to(rows.device)].to(self.device)
            self._counts[k] += len(part)
            self._pending.setdefault(k, []).append(part)
            self._waiting[k] += len(part)
            if self._waiting[k] >= _PENDING_ROWS:
                self._flush(k)

    def merge(self, other: "ClassMoments") -> "ClassMoments":
        """Return the moments of both parts of the data together.

        Raises
        ------
        ValueError
            If the number of classes or the width differs.
        """
        if (self.n_classes, self.width) != (other.n_classes, other.width):
            raise ValueError(
                f"expected moments of {self.n_classes} classes × {self.width} values; "
                f"found {other.n_classes} × {other.width}"
            )
        both = ClassMoments(self.n_classes, self.width, self.device)
        both._counts = self._counts + other._counts
        for part in (self, other):
            for k in range(self.n_classes):
                part._flush(k)
            both._sums += part._sums.to(both.device)
            for k, second in part._seconds.items():
                if k in both._seconds:
                    both._seconds[k] += second.to(both.device)
                else:
                    both._seconds[k] = second.to(both.device, copy=True)
        return both

    def counts(self) -> Int[Tensor, " classes"]:
        """Return the samples of each class."""
        return self._counts.clone()

    def second(self, k: int) -> Float[Tensor, "width width"]:
        """Return ``S_k`` as a new symmetric matrix."""
        self._flush(k)
        if k not in self._seconds:
            return torch.zeros(self.width, self.width, dtype=torch.float64, device=self.device)
        upper = torch.triu(self._seconds[k])
        return upper + torch.triu(upper, 1).T

    def spectrum(self, k: int) -> ClassSpectrum:
        """Return the eigenvectors of ``S_k``."""
        count = int(self._counts[k])
        mean = self._mean(k)
        if not count:
            return _no_spectrum(0, mean)
        values, vectors = eigenvectors(self.second(k), f"class {k}")
        return ClassSpectrum(count, values[: numerical_rank(values, count)], vectors, mean)

    def _mean(self, k: int) -> Tensor:
        self._flush(k)
        return self._sums[k] / max(int(self._counts[k]), 1)

    def _flush(self, k: int) -> None:
        """Add what waits for class k: only tiles on and above the diagonal."""
        parts = self._pending.pop(k, None)
        self._waiting[k] = 0
        if not parts:
            return
        rows = torch.cat(parts).to(torch.float64)
        self._sums[k] += rows.sum(0)
        second = self._seconds.get(k)
        if second is None:
            second = torch.zeros(self.width, self.width, dtype=torch.float64, device=self.device)
            self._seconds[k] = second
        for start in range(0, self.width, _TILE):
            end = min(start + _TILE, self.width)
            second[start:end, start:].addmm_(rows[:, start:end].T, rows[:, start:])


def statistics_for(
    n_classes: int,
    width: int,
    samples: int | None,
    device: torch.device | str = "cpu",
    memory: int = ROW_MEMORY,
) -> "ClassMoments | ClassRows":
    """Return empty statistics of the cheaper kind for a layer.

    Moments cost n·width² multiply-adds and K eigenproblems of size width; rows cost Σ n_k²·width
    and eigenproblems of size n_k. So rows are kept where the width exceeds the mean class size.

    Parameters
    ----------
    samples : int or None
        Number of rows to come, where known; without it layers up to 4,096 wide keep moments.
    memory : int
        Bytes of rows to keep in memory before they go to a file.
    """
    wide = width > (samples / n_classes if samples is not None else 4096)
    if wide:
        return ClassRows(n_classes, RowStore(width, memory), device)
    return ClassMoments(n_classes, width, device)


class RowStore:
    """A layer's rows in the order in which they came: in memory, past a size in a temporary file.

    The file has no name, so nothing is left of it even if the process is killed.
    """

    def __init__(self, width: int, memory: int = ROW_MEMORY):
        self.width, self.memory = width, memory
        self.length = 0
        self._chunks: list[Tensor] = []
        self._held = 0
        self._file: Any = None
        self._dtype: torch.dtype | None = None
        self._whole: Tensor | None = None

    def append(self, rows: Float[Tensor, "n width"]) -> None:
        """Add rows: a copy, in the precision of the first ones (float64, else float32).

        Raises
        ------
        OutputError
            If the temporary file cannot be written (a full disk).
        """
        if self._dtype is None:
            self._dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        # A copy, because the caller may reuse its buffer.
        rows = rows.detach().to("cpu", self._dtype, copy=True).contiguous()
        self._whole = None
        self.length += len(rows)
        self._held += rows.nbytes
        self._chunks.append(rows)
        if self._held > self.memory:
            self._spill()

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def _spill(self) -> None:
        try:
            if self._file is None:
                logger.info("rows of %d values go to a temporary file", self.width)
                self._file = tempfile.TemporaryFile(prefix="underscript-rows-")  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            for chunk in self._chunks:
                self._file.write(chunk.contiguous().numpy().data)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"cannot keep {self._held:,} bytes of rows in {tempfile.gettempdir()}: "
                f"{error.strerror or error}; decode fewer or narrower layers, or set TMPDIR"
            ) from error
        self._chunks = []

    def take(self, positions: Int[Tensor, " n"]) -> Float[Tensor, "n width"]:
        """Return the rows at some positions."""
        if self._whole is None:
            if self._file is None:
                self._whole = torch.cat(self._chunks)
                self._chunks = [self._whole]
            else:
                dtype = np.float64 if self._dtype == torch.float64 else np.float32
                whole = np.memmap(self._file, dtype, "c", shape=(self.length, self.width))
                self._whole = torch.from_numpy(whole)
        return self._whole[positions]


class ClassRows:
    """A wide layer's rows by class: the eigenvectors come from n_k × n_k Gram matrices.

    Parameters
    ----------
    n_classes : int
        Number of classes K.
    store : RowStore
        Where the rows go.
    """

    path = "rows"

    def __init__(self, n_classes: int, store: RowStore, device: torch.device | str = "cpu"):
        self.n_classes, self.width = n_classes, store.width
        self.device = torch.device(device)
        self._store = store
        self._labels: list[Tensor] = [torch.zeros(0, dtype=torch.int64)]
        self._shares = False

    def sharing(self) -> "ClassRows":
        """Return statistics for another set of labels of the same rows, which are kept once.

        Its `update` takes the labels of rows that this one has been given, in the same order.
        """
        other = ClassRows(self.n_classes, self._store, self.device)
        other._shares = True
        return other

    def merge(self, other: "ClassRows") -> "ClassRows":
        """Return the statistics of two disjoint parts of the same rows together."""
        both = self.sharing()
        mine, theirs = torch.cat(self._labels), torch.cat(other._labels)
        both._labels = [torch.where(mine >= 0, mine, theirs)]
        return both

    def update(self, rows: Float[Tensor, "n width"], labels: Int[Tensor, " n"]) -> None:
        """Add rows with labels 0 … K−1; a label of −1 leaves its row out."""
        self._labels.append(labels.cpu())
        if not self._shares:
            self._store.append(rows)

    def counts(self) -> Int[Tensor, " classes"]:
        """Return the samples of each class."""
        labels = torch.cat(self._labels)
        return torch.bincount(labels[labels >= 0], minlength=self.n_classes)

    def spectrum(self, k: int) -> ClassSpectrum:
        """Return the eigenvectors of ``S_k``, from the Gram matrix of the class."""
        positions = torch.nonzero(torch.cat(self._labels) == k)[:, 0]
        rows = self._store.take(positions).to(self.device, torch.float64)
        count = len(rows)
        if not count:
            return _no_spectrum(0, torch.zeros(self.width, dtype=torch.float64, device=self.device))
        mean = rows.mean(0)
        if count >= self.width:
            values, vectors = eigenvectors(rows.T @ rows, f"class {k}")
            return ClassSpectrum(count, values[: numerical_rank(values, count)], vectors, mean)
        values, left = eigenvectors(rows @ rows.T, f"class {k}")
        m = numerical_rank(values, self.width)
        if not m:
            return _no_spectrum(count, mean)
        values = values[:m].clone()
        vectors = (rows.T @ left[:, :m]) / values.sqrt()
        if float(values[-1]) < 1e-8 * float(values[0]):
            # Directions with little energy come out of the Gram matrix not quite orthogonal.
            vectors, triangle = torch.linalg.qr(vectors)
            vectors = vectors * triangle.diagonal().sign()
        return ClassSpectrum(count, values, vectors, mean)


def eigenvectors(
    matrix: Float[Tensor, "d d"], what: str
) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Return eigenvalues, largest first, and eigenvectors of a symmetric float64 matrix.

    Raises
    ------
    DataError
        If the matrix is not finite: the features are too large to be squared.
    """
    if not bool(torch.isfinite(matrix).all()):
        raise DataError(f"{what}: the features overflow when squared; scale them down")
    # LAPACK works with squares of the entries too: keep the largest near one.
    scale = float(matrix.diagonal().max())
    if scale <= 0:
        return matrix.diagonal().clone(), torch.eye(len(matrix)).to(matrix)
    try:
        values, vectors = torch.linalg.eigh(matrix / scale)
    except RuntimeError:  # torch.linalg.LinAlgError is one
        # The divide-and-conquer solver can give up on repeated eigenvalues; QR iterations do not.
        logger.info("%s: using the slower eigensolver", what)
        found = scipy.linalg.eigh((matrix / scale).cpu().numpy(), driver="ev")
        values, vectors = (torch.from_numpy(part).to(matrix) for part in found)
    return values.flip(0) * scale, vectors.flip(1)


def numerical_rank(values: Float[Tensor, " d"], limit: int) -> int:
    """Return how many eigenvalues, largest first, stand above rounding; at most `limit`."""
    if not len(values) or float(values[0]) <= 0:
        return 0
    floor = float(values[0]) * len(values) * torch.finfo(torch.float64).eps
    return min(int((values > floor).sum()), limit)


def _no_spectrum(count: int, mean: Tensor) -> ClassSpectrum:
    return ClassSpectrum(count, mean.new_zeros(0), mean.new_zeros(len(mean), 0), mean)
