"""Wide rows made narrow: what a few thousand samples can tell needs no more numbers.

A discriminant of 2,048 numbers a sample, fitted to 1,000 samples, knows less than one of 512, and
costs fifteen times as much.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from ...activations.pooling import Axes, grid_of
from ...activations.trace import Place

__all__ = ["Narrowing"]

# Numbers of a row.
_MOST = 512


class Narrowing:
    """Takes the rows of one layer to at most 512 numbers, the same way at every epoch.

    Feature maps are averaged over a coarser grid. What is still wider is folded: numbers in random
    order, with random signs, are added up in 512 places. That keeps inner products on average
    (count sketch: Charikar, Chen, Farach-Colton 2002).

    Parameters
    ----------
    place : Place
        The layer.
    axes : Axes
        What identifies the network's axes.
    seed : int
        Seed of order and signs.
    """

    def __init__(self, place: Place, axes: Axes, seed: int):
        self._seed = seed
        self._map = _map_of(place, axes)
        self._grid = self._map[1:] if self._map is not None else (1, 1)
        if self._map is not None:
            while math.prod(self._grid) > 1 and self._map[0] * math.prod(self._grid) > _MOST:
                self._grid = (math.ceil(self._grid[0] / 2), math.ceil(self._grid[1] / 2))
        self._order: Tensor | None = None
        self._signs: Tensor | None = None

    def __call__(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n narrow"]:
        """Return narrow rows; those that are narrow are returned as they are."""
        if rows.shape[1] <= _MOST:
            return rows
        if self._map is not None and self._grid != self._map[1:]:
            rows = adaptive_avg_pool2d(rows.view(len(rows), *self._map), self._grid).flatten(1)
        if rows.shape[1] <= _MOST:
            return rows
        return self._folded(rows)

    def _folded(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n narrow"]:
        n, width = rows.shape
        if self._order is None or self._signs is None:
            generator = torch.Generator().manual_seed(self._seed)
            self._order = torch.randperm(width, generator=generator).to(rows.device)
            self._signs = (2 * torch.randint(2, (width,), generator=generator) - 1).to(rows)
        rows = rows[:, self._order] * self._signs
        return pad(rows, (0, -width % _MOST)).view(n, -1, _MOST).sum(1)


def _map_of(place: Place, axes: Axes) -> tuple[int, int, int] | None:
    """Return channels, height and width of the feature map that a layer's rows hold, if any."""
    grid = grid_of(place.tap.pool)
    if grid is not None:
        return place.width // math.prod(grid), *grid
    return axes.map_of(place.shape) if place.tap.pool == "flatten" else None
