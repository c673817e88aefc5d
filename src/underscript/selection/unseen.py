"""What a decoder that has not seen a sample's label says of it, found again in a later pass."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._batches import Batch
from .._overlap import fingerprints

__all__ = ["Unseen"]


@dataclass
class Unseen:
    """Out-of-fold log-odds of this process's training samples.

    Attributes
    ----------
    values : Tensor of float32, shape (n, K)
        In the order in which they were read.
    index : ndarray of int64, shape (n,), or None
        The samples' places in the data set, where the data say so.
    prints : ndarray of uint64, shape (n,)
        Their inputs' fingerprints, in the order in which they were read.
    ordered : bool
        Whether every pass reads them in the same order.
    """

    values: Tensor
    index: NDArray[np.int64] | None
    prints: NDArray[np.uint64]
    ordered: bool

    def of(self, batch: Batch, start: int, otherwise: Callable[[], Tensor]) -> Tensor:
        """Return the log-odds of a batch, float32 (m, K).

        Parameters
        ----------
        batch : Batch
            Training samples.
        start : int
            So many were read before it in this pass.
        otherwise : callable
            Returns log-odds (m, K) for samples that were not read before: data may be drawn anew
            for each pass.
        """
        if self.ordered:
            return self.values[start : start + batch.size]
        known: NDArray[np.int64] | NDArray[np.uint64] = self.prints
        mine: NDArray[np.int64] | NDArray[np.uint64] = fingerprints(batch)
        if self.index is not None and batch.index is not None:
            known, mine = self.index, batch.index
        if len(mine) != batch.size:
            return otherwise()
        order = np.argsort(known, kind="stable")
        at = order[np.searchsorted(known[order], mine).clip(max=len(known) - 1)]
        found = torch.from_numpy(known[at] == mine)
        values = self.values[torch.from_numpy(at)]
        if bool(found.all()):
            return values
        return torch.where(found[:, None], values, otherwise().cpu().float())
