"""A small training that another library runs, and what a monitor must have seen of it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import underscript as us

N, WIDTH, CLASSES = 120, 8, 4


def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Return inputs in four clusters and labels, a quarter of them wrong."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, CLASSES, N)
    x = rng.normal(size=(N, WIDTH)) + 3 * np.eye(CLASSES, WIDTH)[true]
    y = np.where(rng.random(N) < 0.25, rng.integers(0, CLASSES, N), true)
    return x.astype(np.float32), y


X, Y = clusters()
_NUMBER_OF = {row.tobytes(): number for number, row in enumerate(X)}


def monitor(kind: type[us.Monitor] = us.Monitor, **settings: Any) -> Any:
    """Return a monitor of all samples."""
    return kind((X, Y), n_probe=60, **settings)


class StopsAfterTwo(us.Monitor):
    """Says that training may stop once it has read two epochs."""

    @property
    def stop(self) -> Any:
        return "enough" if self._epoch == 2 else None


class Recording(nn.Module):
    """A network that keeps what it returned in training, with the numbers of the samples.

    Inputs tell their number, so this owes nothing to how the numbers reach a monitor.
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, CLASSES))
        self.seen: list[tuple[Tensor, np.ndarray]] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        if self.training:
            numbers = [_NUMBER_OF[row.tobytes()] for row in x.numpy()]
            self.seen.append((logits.detach().clone(), np.array(numbers)))
        return logits

    def weights(self) -> Tensor:
        """Return all weights, one after another."""
        return nn.utils.parameters_to_vector(self.parameters()).detach().clone()


def in_a_plain_loop(network: Recording, epochs: int) -> us.Monitor:
    """Return a monitor that a plain loop gave what a network recorded in so many epochs."""
    plain = monitor()
    each = len(network.seen) // epochs
    assert len(network.seen) == each * epochs
    for epoch in range(epochs):
        for logits, numbers in network.seen[epoch * each : (epoch + 1) * each]:
            plain.update(logits, Y[numbers], numbers)
        plain.end_epoch(network)
    return plain
