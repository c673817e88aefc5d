"""Run one batch through a network: its layout in memory, and how many samples at once."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batches import Batch
from ..errors import ModelError
from .hooks import Tapped, extract_logits

__all__ = ["Runner", "at_once", "forward", "placed"]

# Images per run: so many stay in a processor's cache, with their feature maps.
_IMAGES = 64
# Samples compared in both layouts, and the allowed difference relative to the largest value.
_COMPARED, _ALIKE = 4, 1e-4


class Runner:
    """Runs a network over batches and returns its layers' rows.

    On a CPU, a network with convolutions runs about twice as fast if images are stored pixel by
    pixel (channels last) and few are processed at once. The first images show whether the network
    accepts that layout: one that calls ``view`` may not.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    tapped : Tapped
        The taps on the network.
    device : torch.device
        The network's device.
    divisible : bool
        Whether a batch may be run in parts.
    tries : bool
        Whether the first images may be run more than once; otherwise all run as they come.
    """

    def __init__(
        self,
        model: nn.Module,
        tapped: Tapped,
        device: torch.device,
        *,
        divisible: bool,
        tries: bool = True,
    ):
        self.model, self.tapped, self.device = model, tapped, device
        self.divisible = divisible
        convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
        self._images = tries and device.type == "cpu" and convolves
        self._pixels: bool | None = None

    def __call__(self, batch: Batch, where: str) -> tuple[dict[str, Tensor], Tensor]:
        """Return rows (n, width) of each tapped layer, and logits (n, K), on the device."""
        images = self._images and _is_images(batch)
        if not images:
            return self._once(batch, where, False)
        if self._pixels is None:
            self._pixels = self._takes_pixels(batch, where)
        size = _IMAGES if self.divisible else batch.size
        parts = [
            self._once(batch.part(slice(start, start + size)), where, self._pixels)
            for start in range(0, batch.size, size)
        ]
        if len(parts) == 1:
            return parts[0]
        layers = {name: torch.cat([part[0][name] for part in parts]) for name in parts[0][0]}
        return layers, torch.cat([part[1] for part in parts])

    def _once(self, batch: Batch, where: str, pixels: bool) -> tuple[dict[str, Tensor], Tensor]:
        self.tapped.see_input(batch, where)
        logits = forward(self.model, batch, self.device, where, pixels=pixels)
        # Rows of the input may still be on the data's device.
        layers = self.tapped.rows(batch, where)
        return {name: rows.to(self.device) for name, rows in layers.items()}, logits

    def _takes_pixels(self, batch: Batch, where: str) -> bool:
        """Return whether the network gives the same values for images stored channels last."""
        # Copies: the network may work in place.
        some = np.arange(batch.size) < _COMPARED
        before = self._once(batch.take(some), where, False)
        try:
            after = self._once(batch.take(some), where, True)
        except ModelError:
            self.tapped.forget()
            return False
        pairs = [(before[1], after[1]), *((before[0][name], after[0][name]) for name in before[0])]
        return all(
            torch.allclose(a, b, rtol=0, atol=_ALIKE * float(a.abs().max()), equal_nan=True)
            for a, b in pairs
            if a.numel()
        )


def at_once(
    model: nn.Module, batch: Batch, device: torch.device, size: int, divisible: bool
) -> int:
    """Return how many samples of a batch a network processes at once."""
    convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
    parts = divisible and convolves and device.type == "cpu" and _is_images(batch)
    return min(size, _IMAGES) if parts else size


def _is_images(batch: Batch) -> bool:
    """Return whether the network's only input is a tensor of images (n, C, H, W)."""
    values = [*batch.args, *batch.kwargs.values()]
    return (
        len(values) == 1
        and isinstance(values[0], Tensor)
        and values[0].ndim == 4
        and values[0].is_floating_point()
    )


def forward(
    model: nn.Module,
    batch: Batch,
    device: torch.device,
    where: str,
    *,
    grad: bool = False,
    pixels: bool = False,
) -> Tensor:
    """Run one batch and return its logits, shape (n, K); with `grad` they carry gradients.

    With `pixels` images are stored pixel by pixel (channels last).
    """
    layout = torch.channels_last if pixels else torch.preserve_format
    batch = placed(model, batch, device, layout)
    args, kwargs = batch.args, batch.kwargs
    try:
        with torch.set_grad_enabled(grad):
            output = model(*args, **kwargs)
    except Exception as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        shapes = ", ".join(_describe(value) for value in [*args, *kwargs.values()])
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(
            f"{where}: the model raised {type(error).__name__} on {shapes}: {reason}"
        ) from error
    return extract_logits(output, batch.size, where)


def placed(
    model: nn.Module,
    batch: Batch,
    device: torch.device,
    layout: torch.memory_format = torch.preserve_format,
) -> Batch:
    """Return the batch on the device, with floating inputs in the model's own precision."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def place(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        precision = dtype if value.is_floating_point() else value.dtype
        return value.to(device, precision, non_blocking=True, memory_format=layout)

    return replace(
        batch,
        args=tuple(place(value) for value in batch.args),
        kwargs={name: place(value) for name, value in batch.kwargs.items()},
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
