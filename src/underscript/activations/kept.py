"""Keep the rows of the training data, so that a second pass need not run the network."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..data.batches import Batch
from ..linalg.rows import RowStore
from ..utils.labels import Labels
from .hooks import Tap
from .stream import Rows

__all__ = ["Kept"]


class Kept:
    """Logits and layer rows of samples, looked up by their index in the data set.

    Parameters
    ----------
    stores : mapping of str to RowStore
        Rows by layer; the caller adds them.
    """

    def __init__(self, stores: Mapping[str, RowStore]):
        self._stores = dict(stores)
        self._logits: list[Tensor] = []
        self._index: list[Labels] = []
        self._complete = True
        # Indices in ascending order, and the position at which each of these samples came.
        self._known: tuple[Labels, Labels] | None = None

    def add(self, rows: Rows) -> None:
        """Add a batch's logits and indices; the caller adds its rows to the stores."""
        self._known = None
        self._logits.append(rows.logits)
        if rows.batch.index is None:
            self._complete = False
        else:
            self._index.append(rows.batch.index)

    def __call__(self, batch: Batch, taps: Sequence[Tap]) -> Rows | None:
        """Return a batch's rows, or None if one of its samples or a layer is not known."""
        missing = any(tap.name not in self._stores for tap in taps)
        if batch.index is None or missing or not self._complete or not self._index:
            return None
        if self._known is None:
            index = np.concatenate(self._index)
            came = np.argsort(index, kind="stable")
            self._known = index[came], came
            self._logits = [torch.cat(self._logits)]
        known, came = self._known
        near = np.searchsorted(known, batch.index).clip(max=len(known) - 1)
        if not np.array_equal(known[near], batch.index):
            return None
        # Stores return rows in the order in which they were added.
        places = torch.from_numpy(came[near])
        ascending = torch.argsort(places)
        back = torch.argsort(ascending)
        layers = {tap.name: self._stores[tap.name].take(places[ascending])[back] for tap in taps}
        return Rows(batch, layers, self._logits[0][places])
