"""Where to compute, and in how much memory."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .errors import DataError


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


def as_bytes(size: int | str) -> int:
    """Return a size in bytes: a number, or text such as ``"4GB"``, ``"512 MB"`` or ``"2GiB"``.

    Raises
    ------
    DataError
        If it is not a positive size.
    """
    if isinstance(size, str):
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt])(i?)b?|b)?\s*", size.lower())
        if found:
            number, letter, binary = found.groups()
            power = "kmgt".index(letter) + 1 if letter else 0
            size = int(float(number) * (1024 if binary else 1000) ** power)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise DataError(f"memory: expected a size such as 4GB or 512MB; found {size!r}")
    return size
