"""The rows of the training data, kept for a second pass: the network need not run again."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ._batches import Batch
from ._capture import Tap
from ._labels import Labels
from ._stream import Rows
from .rows import RowStore

__all__ = ["Kept"]


class Kept:
    """What the network gave for samples, to be asked for again by their places in the data set.

    Parameters
    ----------
    stores : mapping of str to RowStore
        By layer; somebody else adds the rows.
    """

    def __init__(self, stores: Mapping[str, RowStore]):
        self._stores = dict(stores)
        self._logits: list[Tensor] = []
        self._index: list[Labels] | None = []
        self._order: Labels | None = None

    def add(self, rows: Rows) -> None:
        """Take a batch's logits, and whose rows the stores are given."""
        self._logits.append(rows.logits)
        if rows.batch.index is None:
            self._index = None
        elif self._index is not None:
            self._index.append(rows.batch.index)

    def __call__(self, batch: Batch, taps: Sequence[Tap]) -> Rows | None:
        """Return a batch's rows, or None if one of its samples or a layer is not known."""
        if batch.index is None or not self._index or any(t.name not in self._stores for t in taps):
            return None
        if len(self._index) > 1:
            self._index, self._logits = [np.concatenate(self._index)], [torch.cat(self._logits)]
            self._order = np.argsort(self._index[0], kind="stable")
        order = np.arange(len(self._index[0])) if self._order is None else self._order
        known = self._index[0][order]
        near = np.searchsorted(known, batch.index).clip(max=len(known) - 1)
        if not np.array_equal(known[near], batch.index):
            return None
        # Stores give rows in the order in which they came.
        places = torch.from_numpy(order[near])
        ascending = torch.argsort(places)
        back = torch.argsort(ascending)
        layers = {t.name: self._stores[t.name].take(places[ascending])[back] for t in taps}
        return Rows(batch, layers, self._logits[0][places])
