"""Where to compute, and how fast that is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import DataError


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's parameters are; the CPU for one that has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def as_device(name: str | torch.device) -> torch.device:
    """Return the device of that name, if this machine has it.

    Raises
    ------
    DataError
        If the name is none of torch's, or there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        # torch's own messages run over many lines.
        raise DataError(
            f"device: expected a device of this machine, such as cpu or cuda; {str(name)!r} is "
            "unknown or not available"
        ) from error
    return device


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Run the block with random numbers from a seed, there and on the CPU, and put them back."""
    indices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=indices):
        # Not torch.manual_seed: it would also reseed devices that are not set aside here.
        torch.default_generator.manual_seed(seed)
        for index in indices:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


def product_seconds(device: torch.device, dtype: torch.dtype, size: int = 256) -> float:
    """Return seconds of a multiply-add: the best of a few products of two square matrices."""
    left = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        left @ left
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best / size**3
