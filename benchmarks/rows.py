"""Rows as a hidden ReLU layer of a memorised network gives them, made batch by batch.

Inputs are a class centre plus noise with a falling spectrum, a fixed random layer widens them, and
a share of the labels is redrawn. `latent` and `decay` set how many directions a class needs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CORRUPTION = 0.4
_BATCH = 1000


@dataclass(frozen=True)
class RowSource:
    """n rows of a width, with labels of K classes; the same for the same settings."""

    n: int
    width: int
    n_classes: int
    latent: int
    decay: float
    bias: float = 0.0
    part: int = 0

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give float32 rows (1000, width) and their noisy labels."""
        scale, centres, weights = self._layer()
        for start in range(0, self.n, _BATCH):
            rng = torch.Generator().manual_seed(1_000_003 * self.part + start)
            count = min(_BATCH, self.n - start)
            truth = torch.randint(self.n_classes, (count,), generator=rng)
            inputs = centres[truth] + torch.randn(count, self.latent, generator=rng) * scale
            redrawn = torch.rand(count, generator=rng) < CORRUPTION
            drawn = torch.randint(self.n_classes, (count,), generator=rng)
            rows = torch.addmm(torch.full((self.width,), self.bias), inputs, weights).relu_()
            yield rows, torch.where(redrawn, drawn, truth)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all rows and labels at once."""
        rows = np.empty((self.n, self.width), dtype=np.float32)
        labels = np.empty(self.n, dtype=np.int64)
        at = 0
        for part, given in self.batches():
            rows[at : at + len(part)] = part.numpy()
            labels[at : at + len(part)] = given.numpy()
            at += len(part)
        return rows, labels

    def _layer(self) -> tuple[Tensor, Tensor, Tensor]:
        rng = torch.Generator().manual_seed(0)
        scale = torch.arange(1, self.latent + 1).float().pow(-self.decay)
        centres = torch.randn(self.n_classes, self.latent, generator=rng) * scale
        weights = torch.randn(self.latent, self.width, generator=rng) / scale.norm()
        return scale, centres, weights
