"""Second moments of a layer's rows for each class, added up batch by batch.

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
from .products import mirrored
from .rows import ClassRows, RowStore
from .second_moment import SecondMoment
from .spectra import Eigenproblem

# Bytes of rows, over all classes, that are buffered for one large product.
WAITING = 128 << 20
# Bytes of a block of rows that is converted to float64 at once.
_BLOCK = 24 << 20


class ClassStatistics(Protocol):
    """The statistics of a layer that a decoder needs: `ClassMoments` or `ClassRows`."""

    n_classes: int
    width: int
    device: torch.device
    path: str

    def update(self, rows: Tensor, labels: Tensor) -> None:
        """Add rows (n, width) with labels (n,); a label of −1 leaves its row out."""

    def counts(self) -> Tensor:
        """Return the number of samples of each class in this process, int64 (K,)."""

    def eigenproblem(self, classes: list[int], processes: Processes = ALONE) -> Eigenproblem | None:
        """Return one class per process, ``classes[r]`` in process r; None where r has none."""

    def eigenproblem_bytes(self, processes: Processes = ALONE) -> int:
        """Return the bytes of one eigenproblem, for a class of mean size."""


class ClassMoments:
    """Second moments of every class, added up batch by batch; takes K · width² float64.

    Parameters
    ----------
    n_classes : int
        Number of classes K; labels are 0 … K−1.
    width : int
        Number of values per row.
    device : torch.device, optional
        Where to keep the sums.
    waiting : int
        Bytes of rows, over all classes, to buffer for one large product; at least 16 rows of
        each class are buffered.
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
        # Made when a class's first sample comes; classes may be many and absent.
        self._moments: dict[int, SecondMoment] = {}
        self._buffer: list[Tensor] = []
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
            self._moment(k).update(rows, chosen.to(rows.device))

    def _moment(self, k: int) -> SecondMoment:
        if k not in self._moments:
            self._moments[k] = SecondMoment(
                self.width, self._room, self.device, sums=self._sums[k], buffer=self._buffer
            )
        return self._moments[k]

    def _second(self, k: int) -> Tensor | None:
        """Return the sum of class k, right on and above its diagonal; None without samples."""
        return self._moments[k].second() if k in self._moments else None

    def merge(self, other: "ClassMoments") -> "ClassMoments":
        """Return the moments of two parts of the data together.

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
            for k, moment in part._moments.items():
                both._moment(k).add(moment)
        return both

    def counts(self) -> Int[Tensor, " classes"]:
        """Return the number of samples of each class."""
        return self._counts.clone()

    def second(self, k: int) -> Float[Tensor, "width width"]:
        """Return ``S_k`` as a new symmetric matrix."""
        return self._moments[k].whole() if k in self._moments else self._empty()

    def eigenproblem(self, classes: list[int], processes: Processes = ALONE) -> Eigenproblem | None:
        """Return one class per process, ``classes[r]`` in process r; None where r has none.

        Every process calls this together; their sums for a class are added up.
        """
        own = {k: self._second(k) for k in classes}
        counts = processes.total(self._counts[classes]).tolist()
        sums = processes.total(self._sums[classes])
        # A class without samples needs no matrix; one that only others have adds zeros here.
        seconds = [
            self._empty() if count and own[k] is None else own[k]
            for k, count in zip(classes, counts, strict=True)
        ]
        second = processes.scattered_sum(seconds)
        with processes.together():
            if processes.rank >= len(classes):
                return None
            k, count = classes[processes.rank], counts[processes.rank]
            if second is not None:
                # No process uses the tiles below the diagonal, so filling them changes no sum.
                mirrored(second)
            return Eigenproblem(second, count, sums[processes.rank] / max(count, 1), f"class {k}")

    def eigenproblem_bytes(self, processes: Processes = ALONE) -> int:
        """Return the bytes of one eigenproblem."""
        return 8 * self.width**2

    def _empty(self) -> Tensor:
        return torch.zeros(self.width, self.width, dtype=torch.float64, device=self.device)


def budgets(
    n_classes: int, widths: Sequence[int], samples: int | None, memory: int, sets: int
) -> list[int]:
    """Divide a memory budget among layers: moments get what they need, rows share the rest.

    Parameters
    ----------
    widths : sequence of int
        Widths of the layers.
    memory : int
        Bytes for all of them together.
    sets : int
        Number of label sets for the rows of each layer.

    Returns
    -------
    list of int
        Bytes for each layer, to pass to `statistics_for`.
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

    Moments cost n·width² multiply-adds, K eigenproblems of size width, and K·width² numbers. Rows
    cost Σ n_k²·width, eigenproblems of size n_k, and n·width numbers that may go to a file. So
    rows are kept if the width exceeds the mean class size, or moments exceed the budget.

    Parameters
    ----------
    samples : int or None
        Number of rows to come, if known; otherwise layers up to 4,096 wide keep moments.
    memory : int
        Bytes that this layer may take; rows beyond it go to a temporary file.
    sets : int
        Number of label sets for the same rows.
    file : RowFile, optional
        The file to use; by default the layer gets its own.
    waiting : int
        Bytes of rows to buffer for moments.
    """
    cheaper = _rows_are_cheaper(n_classes, width, samples)
    if cheaper or _moments_bytes(n_classes, width, sets) > memory:
        return ClassRows(n_classes, RowStore(width, memory, file), device)
    return ClassMoments(n_classes, width, device, waiting)


def _rows_are_cheaper(n_classes: int, width: int, samples: int | None) -> bool:
    return width > (samples / n_classes if samples is not None else 4096)


def _moments_bytes(n_classes: int, width: int, sets: int) -> int:
    return 8 * n_classes * width**2 * sets
