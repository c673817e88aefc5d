"""Which device to compute on, and how fast it is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import DataError


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters; the CPU for a model without parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def as_device(name: str | torch.device) -> torch.device:
    """Return the device with this name, if this machine has it.

    Raises
    ------
    DataError
        If torch does not know the name, or this machine has no such device.
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
    """Run the block with random states seeded on the device and the CPU; then restore them."""
    indices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=indices):
        # Not torch.manual_seed: it would also reseed devices whose state is not saved here.
        torch.default_generator.manual_seed(seed)
        for index in indices:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


def product_seconds(device: torch.device, dtype: torch.dtype, size: int = 256) -> float:
    """Return the seconds of one multiply-add: the best of a few products of square matrices."""
    left = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        left @ left
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best / size**3
