"""One batch through a network: where it lies in memory, and how much of it at once."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batches import Batch
from ..errors import ModelError
from .hooks import Tapped, extract_logits

__all__ = ["Runner", "at_once", "forward", "placed"]

# So many images at once stay in a processor's cache, with the maps that become of them.
_IMAGES = 64
# Samples that a network must answer alike in both layouts, and how alike, over its largest number.
_COMPARED, _ALIKE = 4, 1e-4


class Runner:
    """Runs a network over batches, and gives its layers' rows.

    A network with convolutions runs about twice as fast on a processor if images lie pixel by pixel
    (channels last), and if few are worked on at once. Whether it takes images that lie like that is
    tried on the first ones: what calls ``view`` may not.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    tapped : Tapped
        The taps that are on it.
    device : torch.device
        Where it is.
    divisible : bool
        Whether a batch may be run in parts.
    tries : bool
        Whether the first images may be run more than once; else all are run as they come.
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
        found = [
            self._once(batch.part(slice(start, start + size)), where, self._pixels)
            for start in range(0, batch.size, size)
        ]
        if len(found) == 1:
            return found[0]
        layers = {name: torch.cat([part[0][name] for part in found]) for name in found[0][0]}
        return layers, torch.cat([part[1] for part in found])

    def _once(self, batch: Batch, where: str, pixels: bool) -> tuple[dict[str, Tensor], Tensor]:
        self.tapped.see_input(batch, where)
        logits = forward(self.model, batch, self.device, where, pixels=pixels)
        # What is read off the input may be where the data are.
        layers = self.tapped.rows(batch, where)
        return {name: rows.to(self.device) for name, rows in layers.items()}, logits

    def _takes_pixels(self, batch: Batch, where: str) -> bool:
        """Say whether the network answers a few images alike if they lie pixel by pixel."""
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
    """Return how many samples of a batch a network is run over at once."""
    convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
    parts = divisible and convolves and device.type == "cpu" and _is_images(batch)
    return min(size, _IMAGES) if parts else size


def _is_images(batch: Batch) -> bool:
    """Say whether all that the network takes is one tensor of feature maps (n, C, H, W)."""
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
    """Run one batch and return its logits, shape (n, K); with `grad` they can be trained on.

    With `pixels` images lie in memory pixel by pixel (channels last).
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
    """Return the batch on the device, its floating inputs in the model's own precision."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def place(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        mine = dtype if value.is_floating_point() else value.dtype
        return value.to(device, mine, non_blocking=True, memory_format=layout)

    return replace(
        batch,
        args=tuple(place(value) for value in batch.args),
        kwargs={name: place(value) for name, value in batch.kwargs.items()},
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
