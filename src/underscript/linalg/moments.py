"""Per-class second moments of a layer's rows, added up batch by batch.

For class k, ``S_k = Σ x xᵀ`` over the samples with that label. Moments add: over batches, over
parts of the data, over processes. Sums are float64 whatever the rows' type: products of float32
numbers are exact in it, and float32 sums would move the subspaces (see docs/engine.md).

A layer wider than its classes are large is kept as rows instead: see `rows`.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import LabelError
from ..utils.distributed import ALONE, Processes
from ..utils.labels import by_class
from ..utils.memory_size import MEMORY
from ..utils.row_file import RowFile
from .products import add_products, in_float64, mirrored
from .rows import ClassRows, RowStore
from .spectra import Eigenproblem

# Bytes of rows that wait until they are worth one large product, for all classes together.
WAITING = 128 << 20
# Bytes of a block of rows that is converted to float64 at once.
_BLOCK = 24 << 20


class ClassStatistics(Protocol):
    """What a decoder needs of a layer: `ClassMoments` or `ClassRows`."""

    n_classes: int
    width: int
    device: torch.device
    path: str

    def update(self, rows: Tensor, labels: Tensor) -> None:
        """Add rows (n, width) with labels (n,); a label of −1 leaves its row out."""

    def counts(self) -> Tensor:
        """Return the samples of each class in this process, int64 (K,)."""

    def eigenproblem(self, classes: list[int], processes: Processes = ALONE) -> Eigenproblem | None:
        """Return one class a process, ``classes[r]`` in process r; None where r has none."""

    def eigenproblem_bytes(self, processes: Processes = ALONE) -> int:
        """Return what one takes, for a class of the mean size."""


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
    waiting : int
        Bytes of rows that may wait until they are worth one large product, for all classes
        together; at least 16 rows of each class do.
    """

    path = "moments"

    def __init__(
        self,
        n_classes: int,
        width: int,
        device: torch.device | str = "cpu",
        waiting: int = WAITING,
    ):
        self.n_classes, self.width = n_classes, width
        self.device = torch.device(device)
        self._counts = torch.zeros(n_classes, dtype=torch.int64)
        self._sums = torch.zeros(n_classes, width, dtype=torch.float64, device=self.device)
        # A class's matrix is made when its first sample comes; classes may be many and absent.
        # Only the tiles on and above the diagonal are kept up to date.
        self._seconds: dict[int, Tensor] = {}
        self._waiting: dict[int, Tensor] = {}
        self._filled = [0] * n_classes
        self._scratch: list[Tensor] = []
        self._room = max(16, min(waiting // (4 * width * n_classes), _BLOCK // (8 * width)))

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
        rows = rows.detach().to(self.device)
        for k, chosen in by_class(labels):
            self._counts[k] += len(chosen)
            self._gather(k, rows, chosen.to(rows.device))

    def _gather(self, k: int, rows: Tensor, chosen: Tensor) -> None:
        """Put rows where the class's rows wait, and multiply whenever that is full."""
        waiting = self._waiting.get(k)
        if waiting is not None and waiting.dtype != rows.dtype:
            self._flush(k)
            waiting = None
        if waiting is None:
            waiting = torch.empty(self._room, self.width, dtype=rows.dtype, device=self.device)
            self._waiting[k] = waiting
        while len(chosen):
            filled = self._filled[k]
            part, chosen = chosen[: self._room - filled], chosen[self._room - filled :]
            torch.index_select(rows, 0, part, out=waiting[filled : filled + len(part)])
            self._filled[k] += len(part)
            if self._filled[k] == self._room:
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
            return self._empty()
        return mirrored(self._seconds[k].clone())

    def eigenproblem(self, classes: list[int], processes: Processes = ALONE) -> Eigenproblem | None:
        """Return one class a process, ``classes[r]`` in process r; None where r has none.

        Every process calls this together; their sums for a class are added up.
        """
        for k in classes:
            self._flush(k)
        counts = processes.total(self._counts[classes]).tolist()
        sums = processes.total(self._sums[classes])
        # A class that nobody has needs no matrix; of one that is elsewhere, zeros are the part.
        seconds = [
            self._seconds.get(k) if not count or k in self._seconds else self._empty()
            for k, count in zip(classes, counts, strict=True)
        ]
        second = processes.scattered_sum(seconds)
        with processes.together():
            if processes.rank >= len(classes):
                return None
            k, count = classes[processes.rank], counts[processes.rank]
            if second is not None:
                # Tiles below the diagonal are nobody's: filling them changes no sum.
                mirrored(second)
            return Eigenproblem(second, count, sums[processes.rank] / max(count, 1), f"class {k}")

    def eigenproblem_bytes(self, processes: Processes = ALONE) -> int:
        """Return what one takes."""
        return 8 * self.width**2

    def _empty(self) -> Tensor:
        return torch.zeros(self.width, self.width, dtype=torch.float64, device=self.device)

    def _flush(self, k: int) -> None:
        """Add what waits for class k."""
        filled, self._filled[k] = self._filled[k], 0
        if not filled:
            return
        rows = in_float64(self._waiting[k][:filled], self._scratch)
        self._sums[k] += rows.sum(0)
        first = k not in self._seconds
        if first:
            # Not zeros: to fill them costs a pass over memory.
            self._seconds[k] = self._sums.new_empty(self.width, self.width)
        add_products(self._seconds[k], rows, first)


def budgets(
    n_classes: int, widths: Sequence[int], samples: int | None, memory: int, sets: int
) -> list[int]:
    """Divide a budget among layers: moments get what they need, rows share what is left.

    Parameters
    ----------
    widths : sequence of int
        Of the layers.
    memory : int
        Bytes for all of them together.
    sets : int
        How many sets of labels each layer's rows are given.

    Returns
    -------
    list of int
        Bytes for each layer, to be given to `statistics_for`.
    """
    left = memory
    allowed = [0] * len(widths)
    kept_as_rows = []
    for layer in sorted(range(len(widths)), key=lambda layer: widths[layer]):
        needed = _moments_bytes(n_classes, widths[layer], sets)
        if _rows_are_cheaper(n_classes, widths[layer], samples) or needed > left:
            kept_as_rows.append(layer)
        else:
            allowed[layer] = needed
            left -= needed
    for layer in kept_as_rows:
        allowed[layer] = left // len(kept_as_rows)
    return allowed


def statistics_for(
    n_classes: int,
    width: int,
    samples: int | None,
    device: torch.device | str = "cpu",
    memory: int = MEMORY,
    sets: int = 1,
    file: RowFile | None = None,
    waiting: int = WAITING,
) -> ClassMoments | ClassRows:
    """Return empty statistics of the cheaper kind for a layer.

    Moments cost n·width² multiply-adds, K eigenproblems of size width and K·width² numbers; rows
    cost Σ n_k²·width, eigenproblems of size n_k, and n·width numbers that may go to a file. So
    rows are kept where the width exceeds the mean class size, or moments exceed the budget.

    Parameters
    ----------
    samples : int or None
        Number of rows to come, where known; without it layers up to 4,096 wide keep moments.
    memory : int
        Bytes that this layer may take; rows beyond it go to a temporary file.
    sets : int
        How many sets of labels the same rows are given.
    file : RowFile, optional
        Which file; by default one of the layer's own.
    waiting : int
        Bytes of rows that may wait for moments to be added up.
    """
    cheaper = _rows_are_cheaper(n_classes, width, samples)
    if cheaper or _moments_bytes(n_classes, width, sets) > memory:
        return ClassRows(n_classes, RowStore(width, memory, file), device)
    return ClassMoments(n_classes, width, device, waiting)


def _rows_are_cheaper(n_classes: int, width: int, samples: int | None) -> bool:
    return width > (samples / n_classes if samples is not None else 4096)


def _moments_bytes(n_classes: int, width: int, sets: int) -> int:
    return 8 * n_classes * width**2 * sets
