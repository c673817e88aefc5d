"""A stand-in for the network when features are decoded as they are."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Features"]


class Features(nn.Module):
    """A network without layers: only its input can be decoded, and its logits are zero.

    Parameters
    ----------
    n_classes : int
        Number of classes.
    """

    def __init__(self, n_classes: int):
        super().__init__()
        self.n_classes = n_classes

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return zeros (n, K): no class is likelier than another."""
        x = next(value for value in [*args, *kwargs.values()] if isinstance(value, Tensor))
        return torch.zeros(len(x), self.n_classes, device=x.device)
