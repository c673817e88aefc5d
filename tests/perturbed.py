"""Batches that are perturbed, and networks that answer them."""

import numpy as np
import torch
from torch import Tensor, nn

from underscript.activations.perturbation import choose_perturbation
from underscript.data.batches import Batch
from underscript.utils.notes import Notes

CPU = torch.device("cpu")


def batch_of(*args: Tensor, **kwargs: Tensor) -> Batch:
    size = len([*args, *kwargs.values()][0])
    index = np.arange(size)
    return Batch(args, dict(kwargs), index % 3, index, size)


def images(n: int = 40, channels: int = 3, height: int = 16, width: int = 16, seed: int = 0):
    made = np.random.default_rng(seed).random((n, channels, height, width), dtype=np.float32)
    return torch.from_numpy(made)


def blobs(axis: int, n: int = 200) -> Tensor:
    """Return images with one bright band, down (2) or across (3)."""
    x = images(n, 1) * 0.5
    for number in range(n):
        x[number].narrow(axis - 1, 4 * (number % 4), 4).add_(1.0)
    return x


def texts(n: int = 40, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 50, rng.integers(1, 25)).tolist() for _ in range(n)]


def padded(written: list[list[int]], length: int = 24, side: str = "right", pad: int = 7) -> Batch:
    ids, mask = [], []
    for text in written:
        rest = length - len(text)
        ids.append(text + [pad] * rest if side == "right" else [pad] * rest + text)
        ones, none = [1] * len(text), [0] * rest
        mask.append(ones + none if side == "right" else none + ones)
    return batch_of(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))


def rows(n: int = 100, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32))


class ByRows(nn.Module):
    """The band of rows that is brightest: a mirror image means the same."""

    def __init__(self, axis: int = 3) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        rows = x.float().mean((1, self.axis))
        return torch.stack([part.sum(1) for part in rows.chunk(4, 1)], 1)


class Wrapped(nn.Module):
    """A function as a network that has some modules."""

    def __init__(self, function, *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


class Adds(nn.Module):
    """Answers by the sum of its inputs, however they come."""

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        total = sum(value.float().flatten(1) for value in [*args, *kwargs.values()])
        return total[:, :4]


def chosen(network, batch, choice="auto", seed=0):
    notes = Notes()
    return choose_perturbation(choice, network, batch, CPU, seed, notes), notes.messages
