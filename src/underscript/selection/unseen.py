"""What a decoder that has not seen a sample's label says of it, found again in a later pass."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.batches import Batch
from ..data.fingerprints import prints_of

__all__ = ["Lookup", "Unseen"]


@dataclass
class Lookup:
    """Where samples stand among those that this process read before, in whatever order.

    Attributes
    ----------
    prints : ndarray of uint64, shape (n,)
        Fingerprints of the inputs, in the order in which they were read.
    index : ndarray of int64, shape (n,), or None
        The samples' places in the data set, where the data say so.
    """

    prints: NDArray[np.uint64]
    index: NDArray[np.int64] | None

    def of(self, batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return where a batch's samples stand, and which of them are known.

        Those whose input has changed since are known by their index.
        """
        at, found = np.zeros(batch.size, dtype=np.int64), np.zeros(batch.size, dtype=bool)
        prints = prints_of(batch)
        if len(prints) == batch.size:
            at, found = _looked_up(self._by_print, prints)
        if not found.all() and self._by_index is not None and batch.index is not None:
            other, known = _looked_up(self._by_index, batch.index)
            at, found = np.where(found, at, other), found | known
        return at, found

    @cached_property
    def _by_print(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        return _sorted(self.prints)

    @cached_property
    def _by_index(self) -> tuple[NDArray[Any], NDArray[np.int64]] | None:
        return None if self.index is None else _sorted(self.index)


@dataclass
class Unseen:
    """Out-of-fold log-odds of this process's training samples.

    Attributes
    ----------
    values : Tensor of float32, shape (n, K)
        In the order in which they were read.
    known : Lookup
        Which samples these are.
    """

    values: Tensor
    known: Lookup

    def of(self, batch: Batch, otherwise: Callable[[], Tensor]) -> Tensor:
        """Return the log-odds of a batch, float32 (m, K), in whatever order it is read now.

        Parameters
        ----------
        batch : Batch
            Training samples.
        otherwise : callable
            Returns log-odds (m, K) for samples that are not known.
        """
        at, found = self.known.of(batch)
        values = self.values[torch.from_numpy(at)]
        if found.all():
            return values
        return torch.where(torch.from_numpy(found)[:, None], values, otherwise().cpu().float())


def _sorted(names: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    order = np.argsort(names, kind="stable")
    return names[order], order


def _looked_up(
    known: tuple[NDArray[Any], NDArray[np.int64]], names: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return where names stand among those that are known, and whether they do."""
    ascending, order = known
    if not len(ascending):
        return np.zeros(len(names), dtype=np.int64), np.zeros(len(names), dtype=bool)
    near = np.searchsorted(ascending, names).clip(max=len(ascending) - 1)
    return order[near], np.asarray(ascending[near] == names)
