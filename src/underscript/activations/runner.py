"""Run one batch through a network: its layout in memory, and how many samples at once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.batches import Batch
from ..data.samples import MASK, shortened, word_mask
from ..errors import ModelError, UnderscriptError
from .hooks import Tapped, extract_logits

__all__ = ["Runner", "at_once", "forward", "placed"]

# Images per run: so many stay in a processor's cache, with their feature maps.
_IMAGES = 64
# Texts per run, sorted by length, so that little of their padding is left.
_TEXTS = 64
# Samples compared in both layouts, and the allowed difference relative to the largest value.
_COMPARED, _ALIKE = 4, 1e-4


class Runner:
    """Runs a network over batches and returns its layers' rows.

    On a CPU, a network with convolutions runs about twice as fast if images are stored pixel by
    pixel (channels last) and few are processed at once. The first images show whether the network
    accepts that layout: one that calls ``view`` may not.

    Texts with a mask are run some at a time, sorted by length, without the padding that all of them
    have at their end. The first texts that have padding show whether the network gives the same
    values without it: one that averages over all places does not.

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
        Whether the first samples may be run more than once; otherwise all run as they come.
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
        self._words = tries and divisible
        self._ignores_padding: bool | None = None

    def __call__(self, batch: Batch, where: str) -> tuple[dict[str, Tensor], Tensor]:
        """Return rows (n, width) of each tapped layer, and logits (n, K), on the device."""
        images = self._images and _is_images(batch)
        if not images:
            cuts = self._words and self._ignores_padding is not False
            lengths = _lengths_of(batch) if cuts else None
            if lengths is None:
                return self._once(batch, where, False)
            return self._by_length(batch, lengths, where)
        if self._pixels is None:
            self._pixels = self._takes_pixels(batch, where)
        size = _IMAGES if self.divisible else batch.size
        parts = [
            self._once(batch.part(slice(start, start + size)), where, self._pixels)
            for start in range(0, batch.size, size)
        ]
        return _joined(parts)

    def _by_length(
        self, batch: Batch, lengths: NDArray[np.int64], where: str
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Run texts of similar length together, without the padding at their end."""
        order = np.argsort(lengths, kind="stable")
        width = batch.kwargs[MASK].shape[1]
        if self._ignores_padding is None:
            # A text without padding shows nothing.
            short = order[:_COMPARED][lengths[order[:_COMPARED]] < width]
            if len(short):
                self._ignores_padding = self._same_without_padding(batch, short, lengths, where)
        if not self._ignores_padding:
            return self._once(batch, where, False)
        parts = []
        for start in range(0, batch.size, _TEXTS):
            places = order[start : start + _TEXTS]
            some = shortened(batch.at(places), max(1, int(lengths[places[-1]])))
            parts.append(self._once(some, where, False))
        layers, logits = _joined(parts)
        back = torch.from_numpy(np.argsort(order, kind="stable")).to(self.device)
        return {name: rows[back] for name, rows in layers.items()}, logits[back]

    def _same_without_padding(
        self, batch: Batch, places: NDArray[np.int64], lengths: NDArray[np.int64], where: str
    ) -> bool:
        """Return whether the network gives the same values for some padded texts, cut."""
        some = batch.at(places)
        before = self._once(some, where, False)
        try:
            cut = shortened(some, max(1, int(lengths[places[-1]])))
            after = self._once(cut, where, False)
        except UnderscriptError:
            self.tapped.forget()
            return False
        return _alike(before, after)

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
        return _alike(before, after)


def _joined(
    parts: Sequence[tuple[dict[str, Tensor], Tensor]],
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the rows and logits of several runs as those of one."""
    if len(parts) == 1:
        return parts[0]
    layers = {name: torch.cat([part[0][name] for part in parts]) for name in parts[0][0]}
    return layers, torch.cat([part[1] for part in parts])


def _alike(
    before: tuple[dict[str, Tensor], Tensor], after: tuple[dict[str, Tensor], Tensor]
) -> bool:
    """Return whether two runs of the same samples gave the same rows and logits."""
    pairs = [(before[1], after[1]), *((before[0][name], after[0][name]) for name in before[0])]
    return all(
        a.shape == b.shape
        and torch.allclose(a, b, rtol=0, atol=_ALIKE * float(a.abs().max()), equal_nan=True)
        for a, b in pairs
        if a.numel() or b.numel()
    )


def _lengths_of(batch: Batch) -> NDArray[np.int64] | None:
    """Return each text's length up to its last word, int64 (n,); None if nothing tells it."""
    mask = word_mask(batch)
    if mask is None or not mask.numel():
        return None
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return np.asarray((mask * places).amax(1).cpu().numpy(), dtype=np.int64)


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
