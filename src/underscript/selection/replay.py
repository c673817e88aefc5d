"""Rows of samples that were read before: the network does not run again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..activations.hooks import Tap
from ..activations.stream import Rows
from ..data.batches import Batch
from .unseen import Lookup

__all__ = ["Replay"]


class _Kept(Protocol):
    def again(
        self, places: NDArray[np.int64], layers: Sequence[str]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return rows of layers, and logits, of samples by their places."""


@dataclass
class Replay:
    """What a pass over some data gave, batch by batch in whatever order.

    Attributes
    ----------
    kept : KeptRows
        The rows.
    known : Lookup
        Whose rows they are.
    device : torch.device
        Where rows are wanted.
    """

    kept: _Kept
    known: Lookup
    device: torch.device

    def __call__(self, batch: Batch, taps: Sequence[Tap]) -> Rows | None:
        """Return a batch's rows, or None if one of its samples is not known."""
        at, found = self.known.of(batch)
        if not found.all():
            return None
        layers, logits = self.kept.again(at, [tap.name for tap in taps])
        layers = {name: rows.to(self.device) for name, rows in layers.items()}
        return Rows(batch, layers, logits.to(self.device))
