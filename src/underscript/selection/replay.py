"""Returns rows of samples that were read before, so that the network does not run again."""

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
from .log_odds_lookup import SampleLookup

__all__ = ["Replay"]


class _Kept(Protocol):
    def again(
        self, places: NDArray[np.int64], layers: Sequence[str]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return rows of layers, and logits, of samples by their places."""


@dataclass
class Replay:
    """Replays a pass over some data, batch by batch in any order.

    Attributes
    ----------
    kept : KeptRows
        The rows.
    known : SampleLookup
        The samples of these rows.
    device : torch.device
        Where rows are needed.
    """

    kept: _Kept
    known: SampleLookup
    device: torch.device

    def __call__(self, batch: Batch, taps: Sequence[Tap]) -> Rows | None:
        """Return a batch's rows, or None if one of its samples is not known."""
        at, is_known = self.known.of(batch)
        if not is_known.all():
            return None
        layers, logits = self.kept.again(at, [tap.name for tap in taps])
        layers = {name: rows.to(self.device) for name, rows in layers.items()}
        return Rows(batch, layers, logits.to(self.device))
