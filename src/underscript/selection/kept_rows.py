"""A layer's rows of every view of the training data, read from the network once and kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..utils.hashing import mixed
from ..utils.row_file import RowFile

__all__ = ["FOLDS", "KeptRows", "Part"]

# Parts that the training data are cut into: the fit that scores a sample has not seen its label.
FOLDS = 3
# Rows and bytes of a block. The system allocates pieces of 32 MB and more anew, page by page, each
# time; smaller ones are used again.
BLOCK_ROWS, BLOCK_BYTES = 2048, 16 << 20
# The name that logits are kept by, beside the layers.
_LOGITS = "(logits)"


@dataclass
class Part:
    """Labels and fingerprints of the samples of one fold, in the order in which they came.

    Attributes
    ----------
    labels : Tensor of int64, shape (n,)
        Given labels.
    places : Tensor of int64, shape (n,)
        Each sample's place among all that this process read.
    fingerprints : ndarray of uint64, shape (n,)
        Fingerprints of the inputs.
    """

    labels: Tensor
    places: Tensor
    fingerprints: NDArray[np.uint64]


@dataclass
class _Column:
    """Rows of one layer, view and fold: in memory, or in the file that all columns share."""

    width: int
    chunks: list[Tensor] = field(default_factory=list)
    file: RowFile | None = None
    written: list[tuple[int, int]] = field(default_factory=list)

    def append(self, rows: Tensor) -> None:
        if not len(rows):
            return
        if self.file is None:
            self.chunks.append(rows.clone())
        else:
            self.written.append((self.file.write(rows), len(rows)))

    def at(self, places: NDArray[np.int64]) -> Tensor:
        """Return some rows, float32 (m, width); on the CPU if they are in a file."""
        if self.file is None:
            if len(self.chunks) > 1:
                self.chunks = [torch.cat(self.chunks)]
            (rows,) = self.chunks
            return rows[torch.from_numpy(places).to(rows.device)]
        taken = torch.empty(len(places), self.width)
        self.file.take(self.written, places, taken)
        return taken

    def spill(self, file: RowFile) -> None:
        """Move the rows to a file; later ones go there too."""
        self.file = file
        chunks, self.chunks = self.chunks, []
        for rows in chunks:
            self.append(rows)

    def blocks(self, size: int) -> Iterator[Tensor]:
        if self.file is None:
            if len(self.chunks) > 1:
                self.chunks = [torch.cat(self.chunks)]
            yield from (part for rows in self.chunks for part in torch.split(rows, size))
            return
        rows, filled = torch.empty(size, self.width), 0
        for start, length in self.written:
            done = 0
            while done < length:
                n = min(length - done, size - filled)
                self.file.read(start + 4 * self.width * done, rows[filled : filled + n])
                filled, done = filled + n, done + n
                if filled == size:
                    yield rows
                    rows, filled = torch.empty(size, self.width), 0
        if filled:
            yield rows[:filled]


class KeptRows:
    """Rows of all layers and views, by fold; beyond a budget they go to a temporary file.

    Parameters
    ----------
    views : int
        How many there are, with the inputs as they are (view 0).
    memory : int
        Bytes of memory that rows may take.
    folds : int
        Parts that the samples are kept in; a single one keeps the order of arrival.
    file : RowFile, optional
        The file; by default a new one.
    """

    def __init__(self, views: int, memory: int, folds: int = FOLDS, file: RowFile | None = None):
        self.views, self.memory, self.folds = views, memory, folds
        self.file = file or RowFile()
        self.spilled = False
        self.widths: dict[str, int] = {}
        self._columns: dict[tuple[str, int, int], _Column] = {}
        self._labels: list[list[Tensor]] = [[] for _ in range(folds)]
        self._places: list[list[Tensor]] = [[] for _ in range(folds)]
        self._prints: list[list[NDArray[np.uint64]]] = [[] for _ in range(folds)]
        self._index: list[NDArray[np.int64] | None] = []
        self._margins: list[Tensor | None] = []
        self.n = self._bytes = 0
        # Whether the kept rows can stand in for another pass over the data.
        self.replays = True
        # Whether all prints come from the inputs themselves.
        self.has_fingerprints = True
        self._fold_and_row = np.empty((0, 2), dtype=np.int64)

    def add(
        self,
        views: Sequence[dict[str, Tensor]],
        labels: Tensor,
        fingerprints: NDArray[np.uint64],
        index: NDArray[np.int64] | None = None,
        logits: Tensor | None = None,
        margins: Tensor | None = None,
    ) -> None:
        """Add a batch: for each view the rows (n, width) of each layer; labels and fingerprints.

        Equal inputs go into one fold, whatever the order of the data. `index`: the samples' places
        in the data set, if known. With `logits` (n, K) of the inputs as they are, `again` returns
        rows later. `margins` (n,): how firmly the network holds the labels for perturbed inputs.
        """
        if len(fingerprints) != len(labels):
            # Inputs without a tensor are identified by place, so no two count as equal.
            places = np.arange(self.n, self.n + len(labels)) if index is None else index
            fingerprints, self.has_fingerprints = places.astype(np.uint64), False
        folds = torch.from_numpy((mixed(fingerprints) % np.uint64(self.folds)).astype(np.int64))
        here = [torch.nonzero(folds == fold)[:, 0] for fold in range(self.folds)]
        for view, layers in enumerate(views):
            for name, rows in layers.items():
                self.widths[name] = rows.shape[1]
                self._keep(name, view, rows, here)
        self.replays &= logits is not None and logits.dtype != torch.float64
        if logits is not None:
            self._keep(_LOGITS, 0, logits, here)
        for fold, at in enumerate(here):
            self._labels[fold].append(labels[at])
            self._places[fold].append(at + self.n)
            self._prints[fold].append(fingerprints[at.numpy()])
        self._index.append(index)
        self._margins.append(margins)
        self.n += len(labels)
        if self._bytes > self.memory and not self.spilled:
            self.spilled = True
            for column in self._columns.values():
                column.spill(self.file)

    @property
    def in_memory(self) -> int:
        """Bytes of rows that are not in the file."""
        return 0 if self.spilled else self._bytes

    def _keep(self, name: str, view: int, rows: Tensor, here: Sequence[Tensor]) -> None:
        for fold, at in enumerate(here):
            column = self._columns.get((name, view, fold))
            if column is None:
                column = self._columns[name, view, fold] = _Column(rows.shape[1])
                if self.spilled:
                    column.spill(self.file)
            column.append(rows[at.to(rows.device)].float())
        self._bytes += 4 * rows.numel()

    def again(
        self, places: NDArray[np.int64], layers: Sequence[str]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return unperturbed rows of some samples, by their places in the order of arrival.

        Returns
        -------
        dict of str to Tensor of float32, shape (m, width)
            The layers' rows.
        Tensor of float32, shape (m, K)
            The network's logits.
        """
        if len(self._fold_and_row) != self.n:
            self._fold_and_row = np.empty((self.n, 2), dtype=np.int64)
            for fold in range(self.folds):
                in_fold = self.part(fold).places.numpy()
                self._fold_and_row[in_fold, 0] = fold
                self._fold_and_row[in_fold, 1] = np.arange(len(in_fold))
        stand = self._fold_and_row[places]
        some = [np.flatnonzero(stand[:, 0] == fold) for fold in range(self.folds)]
        order = torch.from_numpy(np.argsort(np.concatenate(some), kind="stable"))
        by_layer = {}
        for name in (*layers, _LOGITS):
            parts = [
                self._columns[name, 0, fold].at(stand[at, 1])
                for fold, at in enumerate(some)
                if len(at)
            ]
            rows = torch.cat(parts)
            by_layer[name] = rows[order.to(rows.device)]
        return {name: by_layer[name] for name in layers}, by_layer[_LOGITS]

    @property
    def index(self) -> NDArray[np.int64] | None:
        """The samples' places in the data set, in the order in which they came, if known."""
        known = [part for part in self._index if part is not None]
        return np.concatenate(known) if known and len(known) == len(self._index) else None

    @property
    def margins(self) -> Tensor | None:
        """The margins of the labels, (n,), in the order in which they came, if there are any."""
        known = [part for part in self._margins if part is not None]
        return torch.cat(known) if known and len(known) == len(self._margins) else None

    @property
    def fingerprints(self) -> NDArray[np.uint64]:
        """The fingerprints of all samples, in the order in which they came."""
        all_prints = np.empty(self.n, dtype=np.uint64)
        for fold in range(self.folds):
            part = self.part(fold)
            all_prints[part.places.numpy()] = part.fingerprints
        return all_prints

    @property
    def labels(self) -> Tensor:
        """The given labels of all samples, int64 (n,), in the order in which they came."""
        all_labels = torch.empty(self.n, dtype=torch.int64)
        for fold in range(self.folds):
            part = self.part(fold)
            all_labels[part.places] = part.labels
        return all_labels

    def part(self, fold: int) -> Part:
        """Return labels and fingerprints of a fold's samples."""
        empty = torch.empty(0, dtype=torch.int64)
        return Part(
            torch.cat([empty, *self._labels[fold]]),
            torch.cat([empty, *self._places[fold]]),
            np.concatenate([np.empty(0, dtype=np.uint64), *self._prints[fold]]),
        )

    def blocks(
        self, layer: str, fold: int, views: Sequence[int], size: int = BLOCK_ROWS
    ) -> Iterator[list[Tensor]]:
        """Yield a fold's rows of some views, float32 (n, width) each, block by block."""
        columns = [self._columns.get((layer, view, fold)) for view in views]
        size = min(size, max(1, BLOCK_BYTES // (4 * max(1, self.widths.get(layer, 1)))))
        if any(column is None for column in columns):
            return
        yield from map(
            list, zip(*(column.blocks(size) for column in columns if column), strict=True)
        )

    def some(self, layer: str, size: int) -> tuple[NDArray[np.uint64], Tensor]:
        """Return fingerprints and unperturbed rows of a layer: the smallest prints, in order.

        So the samples are the same whatever the order of the data.
        """
        fingerprints = [mixed(self.part(fold).fingerprints) for fold in range(self.folds)]
        all_prints = np.sort(np.concatenate(fingerprints))
        last = all_prints[min(size, len(all_prints)) - 1] if len(all_prints) else np.uint64(0)
        some_rows, some_prints = [], []
        for fold, fold_prints in enumerate(fingerprints):
            start = 0
            for (rows,) in self.blocks(layer, fold, [0]):
                at = np.flatnonzero(fold_prints[start : start + len(rows)] <= last)
                some_rows.append(rows[torch.from_numpy(at).to(rows.device)])
                some_prints.append(fold_prints[start : start + len(rows)][at])
                start += len(rows)
        if not some_rows:
            return np.empty(0, np.uint64), torch.empty(0, self.widths.get(layer, 0))
        order = np.argsort(np.concatenate(some_prints), kind="stable")[:size]
        rows = torch.cat(some_rows)
        return np.concatenate(some_prints)[order], rows[torch.from_numpy(order).to(rows.device)]
