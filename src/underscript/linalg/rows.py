"""A wide layer's rows, kept by class; their Gram matrices replace second moments.

The n_k × n_k matrix ``X_k X_kᵀ`` has the positive eigenvalues of ``S_k = X_kᵀ X_k``, and its
eigenvectors give those of ``S_k`` by one product. A width × width matrix is formed only if a
class has at least as many samples as the layer is wide.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..utils.distributed import ALONE, Processes
from ..utils.memory_size import MEMORY
from ..utils.row_file import RowFile
from .products import add_products, in_float64, mirrored
from .spectra import ClassSpectrum, Cut, Eigenproblem

logger = logging.getLogger(__name__)

# Bytes of a block of rows that is converted to float64 at once.
_BLOCK = 24 << 20
# Bytes of row sums that are kept for another set of labels.
_WAITING = 512 << 20


class RowStore:
    """A layer's rows in the order of arrival: in memory or, past a size, in a temporary file.

    Parameters
    ----------
    width : int
        Number of values per row.
    memory : int
        Bytes to hold in memory before everything goes to the file.
    file : RowFile, optional
        The file to use; by default the store gets its own.
    """

    def __init__(self, width: int, memory: int = MEMORY, file: RowFile | None = None):
        self.width, self.memory = width, memory
        self.length = 0
        self.dtype: torch.dtype | None = None
        self._chunks: list[Tensor] = []
        self._starts: list[int] = []
        self._file = file or RowFile()
        self._written: list[tuple[int, int]] = []
        self._used: Tensor | None = None

    @property
    def used(self) -> Int[Tensor, " features"]:
        """The features that some row uses; all if none is used, or if rows are in a file."""
        if self._used is None:
            seen = torch.full((self.width,), self.on_disk)
            for chunk in self._chunks:
                seen |= (chunk != 0).any(0)
            self._used = torch.nonzero(seen | ~seen.any())[:, 0]
        return self._used

    @property
    def on_disk(self) -> bool:
        """Whether the rows went to a file."""
        return len(self._written) > 0

    def append(self, rows: Float[Tensor, "n width"]) -> None:
        """Add rows: a copy, in the precision of the first ones (float64, else float32).

        Raises
        ------
        OutputError
            If the temporary file cannot be written (a full disk).
        """
        if self.dtype is None:
            self.dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        # Copy, because the caller may reuse its buffer.
        rows = rows.detach().to("cpu", self.dtype, copy=True).contiguous()
        self._used = None
        self._starts.append(self.length)
        self.length += len(rows)
        self._chunks.append(rows)
        row_bytes = self.width * (8 if self.dtype == torch.float64 else 4)
        if self.on_disk or self.length * row_bytes > self.memory:
            self._spill()

    def _spill(self) -> None:
        if not self.on_disk:
            logger.info("rows of %d values go to a temporary file", self.width)
        self._written += [(self._file.write(chunk), len(chunk)) for chunk in self._chunks]
        self._chunks = []

    def take(self, positions: Int[Tensor, " n"]) -> Float[Tensor, "n width"]:
        """Return a copy of the rows at some ascending positions."""
        rows = torch.empty(len(positions), self.width, dtype=self.dtype or torch.float32)
        if self.on_disk:
            self._file.take(self._written, positions.numpy(), rows)
            return rows
        starts = torch.tensor([*self._starts, self.length])
        bounds = torch.searchsorted(positions, starts).tolist()
        for chunk, start, low, high in zip(
            self._chunks, self._starts, bounds, bounds[1:], strict=False
        ):
            if high > low:
                torch.index_select(chunk, 0, positions[low:high] - start, out=rows[low:high])
        return rows


class ClassRows:
    """A wide layer's rows by class: the eigenvectors come from n_k × n_k Gram matrices.

    Parameters
    ----------
    n_classes : int
        Number of classes K.
    store : RowStore
        Where the rows go.
    device : torch.device, optional
        Where to decompose; the rows themselves stay on the CPU or on disk.
    """

    path = "rows"

    def __init__(self, n_classes: int, store: RowStore, device: torch.device | str = "cpu"):
        self.n_classes, self.width = n_classes, store.width
        self.device = torch.device(device)
        self.store = store
        self._labels: list[Tensor] = [torch.zeros(0, dtype=torch.int64)]
        self._shares = False
        # Label sets that are decomposed later; and, by class, what an earlier set added up:
        # positions of rows, the sum of their products, and the sum of the rows.
        self._later: list[ClassRows] = []
        self._begun: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def sharing(self) -> "ClassRows":
        """Return statistics for another set of labels of the same rows, which are stored once.

        Its `update` takes the labels of the rows that this one received, in the same order.
        """
        other = ClassRows(self.n_classes, self.store, self.device)
        other._shares = True
        return other

    def merge(self, other: "ClassRows") -> "ClassRows":
        """Return the statistics of two disjoint parts of the same rows together."""
        both = self.sharing()
        own, theirs = torch.cat(self._labels), torch.cat(other._labels)
        both._labels = [torch.where(own >= 0, own, theirs)]
        return both

    def update(self, rows: Float[Tensor, "n width"], labels: Int[Tensor, " n"]) -> None:
        """Add rows with labels 0 … K−1; a label of −1 leaves its row out."""
        self._labels.append(labels.cpu())
        if not self._shares:
            self.store.append(rows)

    def counts(self) -> Int[Tensor, " classes"]:
        """Return the number of samples of each class."""
        labels = self._all_labels()
        return torch.bincount(labels[labels >= 0], minlength=self.n_classes)

    def before(self, *others: "ClassRows") -> None:
        """Set which label sets of the same rows are decomposed after this one.

        They reuse what this one has added up.
        """
        self._later = list(others)

    def eigenproblem(self, classes: list[int], processes: Processes = ALONE) -> Eigenproblem | None:
        """Return one class per process, ``classes[r]`` in process r; None where r has none.

        Every process calls this together; the rows of a class go to its process.
        """
        labels = self._all_labels()
        if processes.size == 1 and self.device.type == "cpu":
            positions = torch.nonzero(labels == classes[0])[:, 0]
            if len(positions) >= self.width:
                return self._added_up(classes[0], positions)
        held = [self.store.take(torch.nonzero(labels == k)[:, 0]) for k in classes]
        if processes.size > 1:
            # A process without a sample does not know the precision.
            dtypes = [dtype for dtype in processes.gather(self.store.dtype) if dtype is not None]
            held = [part.to(dtypes[0] if dtypes else torch.float32) for part in held]
            held += [held[0][:0]] * (processes.size - len(held))
            rows = torch.cat(processes.exchange(held))
        else:
            rows = held[0]
        del held
        with processes.together():
            if processes.rank >= len(classes):
                return None
            return _eigenproblem(rows.to(self.device), f"class {classes[processes.rank]}")

    def _added_up(self, k: int, positions: Tensor) -> Eigenproblem:
        """Return the second moment of a class larger than the layer is wide."""
        features = self.store.used
        known, product, total = self._begun.pop(k, (positions[:0], None, None))
        if product is None or total is None:
            product = torch.zeros(len(features), len(features), dtype=torch.float64)
            total = torch.zeros(len(features), dtype=torch.float64)
        room: list[Tensor] = []
        # First the parts in common with later label sets, smallest first.
        room_for = _WAITING // (8 * len(features) ** 2 * self.n_classes)
        shared = [
            (_both(positions, theirs), other)
            for other in self._later[:room_for]
            if len(theirs := other._positions(k)) >= self.width
        ]
        for part, other in [*sorted(shared, key=lambda pair: len(pair[0])), (positions, None)]:
            rest = _without(part, known)
            if len(known) + len(rest) > len(part):
                continue  # the sum so far holds rows that are not in this part
            for block in torch.split(rest, max(1, _BLOCK // (8 * self.width))):
                exact = in_float64(self.store.take(block).index_select(1, features), room)
                total += exact.sum(0)
                add_products(product, exact)
            known = part
            if other is not None and k not in other._begun and 3 * len(part) > len(positions):
                other._begun[k] = part, product.clone(), total.clone()
        mean = torch.zeros(self.width, dtype=torch.float64)
        mean[features] = total / len(positions)
        return Eigenproblem(
            mirrored(product),
            len(positions),
            mean,
            f"class {k}",
            features=features if len(features) < self.width else None,
        )

    def _positions(self, k: int) -> Tensor:
        return torch.nonzero(self._all_labels() == k)[:, 0]

    def eigenproblem_bytes(self, processes: Processes = ALONE) -> int:
        """Return the bytes of one eigenproblem, for a class of mean size."""
        count = int(processes.total(self.counts()).sum()) // self.n_classes
        return 8 * min(count, self.width) ** 2 + 8 * count * self.width

    def _all_labels(self) -> Tensor:
        if len(self._labels) > 1:
            self._labels = [torch.cat(self._labels)]
        return self._labels[0]


def _eigenproblem(rows: Tensor, what: str) -> Eigenproblem:
    """Return the smaller of the two products of a class's rows."""
    count, width = rows.shape
    mean = rows.new_zeros(width, dtype=torch.float64)
    if not count:
        return Eigenproblem(None, 0, mean, what)
    room: list[Tensor] = []
    product = torch.zeros(min(rows.shape), min(rows.shape), dtype=torch.float64, device=rows.device)
    if count >= width:
        for block in torch.split(rows, max(1, _BLOCK // (8 * width))):
            exact = in_float64(block, room)
            mean += exact.sum(0)
            add_products(product, exact)
        return Eigenproblem(mirrored(product), count, mean / count, what)
    step = _step(count)
    for start in range(0, width, step):
        exact = in_float64(rows[:, start : start + step].T, room)
        mean[start : start + step] = exact.mean(1)
        add_products(product, exact)
    return _GramProblem(mirrored(product), count, mean.new_zeros(count), what, rows, mean)


@dataclass
class _GramProblem(Eigenproblem):
    """The Gram matrix of rows (count, width) with mean `center`, instead of their second moment."""

    rows: Tensor
    center: Tensor

    def spectrum(self, of_matrix: ClassSpectrum, cuts: Sequence[Cut]) -> ClassSpectrum:
        """Return the class's spectrum, from that of the Gram matrix."""
        m = max(of_matrix.ranks(cuts))
        values = of_matrix.values
        if not m:
            return ClassSpectrum.empty(self.count, self.center)
        left = of_matrix.widened(of_matrix.inner[:, :m] / values[:m].sqrt())
        width, step = self.rows.shape[1], _step(self.count)
        vectors = left.new_empty(width, m)
        room: list[Tensor] = []
        for start in range(0, width, step):
            exact = in_float64(self.rows[:, start : start + step].T, room)
            torch.mm(exact, left, out=vectors[start : start + step])
        if float(values[m - 1]) < 1e-8 * float(values[0]):
            # Directions with little energy from the Gram matrix are not quite orthogonal.
            vectors, triangle = torch.linalg.qr(vectors)
            vectors = vectors * triangle.diagonal().sign()
        return ClassSpectrum(self.count, values, vectors, None, self.center, of_matrix.total)


def _both(some: Tensor, others: Tensor) -> Tensor:
    """Return the common positions of two ascending sets."""
    return some[torch.isin(some, others, assume_unique=True)]


def _without(some: Tensor, others: Tensor) -> Tensor:
    """Return the positions in `some` that are not in `others`."""
    return some[torch.isin(some, others, assume_unique=True, invert=True)]


def _step(count: int) -> int:
    """Return how many columns of rows are converted to float64 at once."""
    return max(1, _BLOCK // (8 * count))
