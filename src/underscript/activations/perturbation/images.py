"""Shift images, each in its own direction, and flip them left to right."""

import math

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from ...data.batches import Batch
from ...data.samples import named_inputs, with_inputs
from ...utils.hashing import below, stream_of

__all__ = ["Shifts", "image_axes"]

# The farthest shift, as a share of the side.
_REACH = 1 / 8
# If that is fewer pixels, shifts are fractional: in an 8 × 8 digit a pixel is a stroke.
_WHOLE = 2.0
# Fractional steps in each direction.
_STEPS = 4
# Smallest side that can be shifted, and most channels that may be colours.
_SMALLEST, _COLOURS = 4, 4

Axes = tuple[int, int]


def image_axes(value: Tensor) -> Axes | None:
    """Return the height and width axes of images, or None if the values are no images.

    Images are (n, channels, height, width) with at most four channels, (n, height, width), or
    (n, height, width, channels).
    """
    axes: Axes | None = None
    if value.ndim == 4 and value.shape[1] <= _COLOURS:
        axes = (2, 3)
    elif value.ndim == 3 or (value.ndim == 4 and value.shape[3] <= _COLOURS):
        axes = (1, 2)
    # Three axes of whole numbers other than bytes may be anything.
    numbers = value.is_floating_point() or value.dtype == torch.uint8
    known = numbers or (value.ndim == 4 and value.dtype in (torch.int16, torch.int32, torch.int64))
    if axes is None or not known or min(value.shape[axis] for axis in axes) < _SMALLEST:
        return None
    return axes


class Shifts:
    """Moves each image by up to an eighth of its side, never by zero; borders are reflected.

    All images of one sample move alike.

    Parameters
    ----------
    axes : dict of str to tuple of int
        The inputs that are images, by name, and where their height and width are.
    flips : bool
        Whether half of the samples are also flipped left to right; `flipped` flips all of them.
    """

    fits = True

    def __init__(self, axes: dict[str, Axes], flips: bool = False, flipped: bool = False):
        self.axes, self.flips, self.flipped = axes, flips, flipped
        self.name = "shifts and flips" if flips or flipped else "shifts"

    def __call__(self, batch: Batch, numbers: Int[Tensor, "n"], strength: float) -> Batch:
        """Return the batch with its images moved."""
        flip = below(stream_of(numbers, 1), 2) == 1 if self.flips else None
        if self.flipped:
            flip = torch.ones_like(numbers, dtype=torch.bool)
        changed = {}
        for name, value in named_inputs(batch).items():
            if name in self.axes:
                down, right = self.axes[name]
                images = value.movedim((down, right), (-2, -1))
                flat = images if images.ndim == 4 else images[:, None]
                moved = moved_images(flat, stream_of(numbers, 0), strength, flip)
                moved = moved.reshape(images.shape).movedim((-2, -1), (down, right))
                changed[name] = moved.contiguous()
        return with_inputs(batch, changed)


def moved_images(
    images: Shaped[Tensor, "n channels height width"],
    numbers: Int[Tensor, "n"],
    strength: float = 1.0,
    flip: Bool[Tensor, "n"] | None = None,
) -> Shaped[Tensor, "n channels height width"]:
    """Return images moved by each sample's number, and flipped where `flip` is true."""
    n, channels, height, width = images.shape
    numbers = numbers.to(images.device)
    (step_down, down), (step_right, right) = (_steps(side, strength) for side in (height, width))
    across = 2 * right + 1
    cells = (2 * down + 1) * across
    # The middle cell is left out: it is no move.
    cell = below(numbers, cells - 1)
    cell = cell + (cell >= cells // 2)
    whole = isinstance(step_down, int) and isinstance(step_right, int)
    shift_down, shift_right = (
        (cell // across - down) * step_down,
        (cell % across - right) * step_right,
    )
    # Fractional shifts read one more pixel per axis and interpolate between neighbours.
    more = 0 if whole else 1
    rows = torch.arange(height + more, device=images.device) + _floor(shift_down)
    columns = torch.arange(width + more, device=images.device).expand(n, -1)
    if flip is not None:
        flip = flip.to(images.device)
        columns = torch.where(flip[:, None], columns.flip(1), columns)
    columns = columns + _floor(shift_right)
    places = _reflected(rows, height)[:, :, None] * width + _reflected(columns, width)[:, None]
    places = places.flatten(1)[:, None].expand(-1, channels, -1)
    pixels = images.flatten(2).gather(2, places)
    pixels = pixels.reshape(n, channels, height + more, width + more)
    if whole:
        return pixels
    share_down, share_right = shift_down % 1, shift_right % 1
    if flip is not None:
        share_right = torch.where(flip, 1 - share_right, share_right)
    values = pixels if pixels.dtype in (torch.float32, torch.float64) else pixels.float()
    values = torch.lerp(values[:, :, :-1], values[:, :, 1:], _weight(share_down, values))
    values = torch.lerp(values[..., :-1], values[..., 1:], _weight(share_right, values))
    return (values if images.is_floating_point() else values.round()).to(images.dtype)


def _steps(side: int, strength: float) -> tuple[int | float, int]:
    """Return the length of a step in pixels, and the number of steps in each direction."""
    reach = min(side * _REACH * strength, side - 1)
    if reach >= _WHOLE:
        return 1, math.floor(reach)
    return reach / _STEPS, _STEPS


def _floor(shift: Tensor) -> Int[Tensor, "n 1"]:
    return shift.floor().long()[:, None]


def _weight(share: Tensor, values: Tensor) -> Tensor:
    return share.to(values.dtype)[:, None, None, None]


def _reflected(places: Tensor, side: int) -> Tensor:
    """Return places with those beyond an image's borders reflected into it."""
    turn = side - 1
    return turn - (places % (2 * turn) - turn).abs()
