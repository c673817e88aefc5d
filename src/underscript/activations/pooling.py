"""Turn a layer's tokens or feature map into one row per sample."""

import functools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..data.samples import MASK
from ..errors import DataError, LayerError
from ..utils.options import POOL_CHOICES, POOLS

if TYPE_CHECKING:
    from ..data.batches import Batch

# Pools of tokens; feature maps have a mean too.
TOKENS = ("first", "mean", "last")
# By kind of layer: the mean of tokens if a mask is known, a grid of means for a feature map.
AUTO = "auto"
# The input of a network that embeds words: how often each word occurs.
WORDS = "words"
# Rows and columns of means: 4x4, 1x16.
_GRID = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")
# Sides of the grids of means to try for a feature map, and the most numbers that a grid may give.
# The input, which has few channels, takes the finest grid within that limit.
_SIDES, _MOST = (4, 2, 1), 2048
# Largest width of a row of words: in larger vocabularies several words share a place.
_PLACES = 1024

PoolChoice = str | Iterable[str] | None


def as_pools(pool: PoolChoice) -> tuple[str, ...] | None:
    """Return the pools that a choice names, without duplicates; None if the data decide.

    Raises
    ------
    DataError
        If one is unknown, or there are none.
    """
    if pool is None:
        return None
    given = [pool] if isinstance(pool, str) else list(pool)
    names = [part.strip() for text in given for part in str(text).split(",") if part.strip()]
    if names == [AUTO]:
        return None
    if not names or not all(is_pool(name) for name in names):
        raise DataError(f"pool: expected some of {POOL_CHOICES}; found {pool!r}")
    return tuple(dict.fromkeys(names))


def is_pool(name: str) -> bool:
    """Return whether this is the name of a pool."""
    return name in POOLS or _GRID.fullmatch(name) is not None


def grid_of(pool: str) -> tuple[int, int] | None:
    """Return the rows and columns of a grid of means, or None if the pool is no grid."""
    match = _GRID.fullmatch(pool)
    return (int(match[1]), int(match[2])) if match else None


def rank_of(pool: str) -> tuple[int, int, str]:
    """Return a key that sorts the pools of one layer."""
    names = [*POOLS, WORDS]
    rows, columns = grid_of(pool) or (0, 0)
    return (names.index(pool) if pool in names else len(names)), rows * columns, pool


@dataclass(frozen=True)
class Axes:
    """What identifies the axes of a network's layers.

    Attributes
    ----------
    tokens : int or None
        Length of the batch's mask, if it has one: attention weights are no feature maps.
    channels : frozenset of int
        Channel counts of 1-D convolutions, in a network where two axes cannot be tokens.
    normalised : frozenset of int
        Widths of layer norms: some networks put a map's channels last.
    """

    tokens: int | None = None
    channels: frozenset[int] = frozenset()
    normalised: frozenset[int] = frozenset()

    def map_of(self, shape: tuple[int, ...]) -> tuple[int, int, int] | None:
        """Return the channels, height and width of a feature map, or None if it is not one."""
        if len(shape) == 3 and (self.tokens is None or self.tokens not in shape[1:]):
            last = shape[0] == shape[1] != shape[2] and shape[2] in self.normalised
            return None if last else (shape[0], shape[1], shape[2])
        if len(shape) == 2 and self.tokens is None and shape[0] in self.channels:
            return shape[0], 1, shape[1]
        return None

    def can_pool(self, shape: tuple[int, ...], pool: str) -> bool:
        """Return whether a layer of this shape (of one sample) can be pooled this way.

        Layers of tokens are (tokens, width), with as many tokens as the mask, if there is one.
        Feature maps have a mean, and grids of means that are no finer than the map.
        """
        map_shape, grid = self.map_of(shape), grid_of(pool)
        if grid is not None:
            return map_shape is not None and grid[0] <= map_shape[1] and grid[1] <= map_shape[2]
        if len(shape) == 3:
            return pool == "mean" and map_shape is not None
        return pool != "flatten" and len(shape) == 2 and self.tokens in (None, shape[0])


def usual_grid(map_shape: tuple[int, int, int], finest: bool = False) -> str | None:
    """Return the grid of means that a feature map is read as, or None if it stays as it is.

    The grid is 4x4, 2x2 or 1x1: the first that gives few enough numbers, and never finer than the
    map. Along a single axis it has sixteen, four or one cells. With `finest`, it is the finest
    square grid allowed.
    """
    channels, height, width = map_shape
    if finest:
        if math.prod(map_shape) <= _MOST:
            return None
        many = max(_MOST // channels, 1)
    else:
        many = next((s**2 for s in _SIDES if s**2 * channels <= _MOST), 1)
    side = many if 1 in (height, width) else math.isqrt(many)
    grid = (min(side, height), min(side, width))
    return None if grid == (height, width) else f"{grid[0]}x{grid[1]}"


def token_mask(batch: "Batch", where: str) -> Tensor | None:
    """Return which tokens of a batch are not padding, bool (n, tokens); None without a mask.

    Raises
    ------
    DataError
        If the mask is invalid, or a sample has no token.
    """
    mask = batch.kwargs.get(MASK)
    if not isinstance(mask, Tensor):
        return None
    if mask.ndim != 2 or mask.shape[0] != batch.size:
        raise DataError(
            f"{where}: {MASK}: expected shape ({batch.size}, tokens); found {tuple(mask.shape)}. "
            'Give one, or choose pool="flatten"'
        )
    kept = mask != 0
    if torch.compiler.is_compiling():  # the checks below read values
        return kept
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise DataError(f"{where}: {MASK}: expected 1 for tokens and 0 for padding; found others")
    some = kept.any(1)
    if not bool(some.all()):
        at = int((~some).int().argmax())
        sample = int(batch.index[at]) if batch.index is not None else at
        raise DataError(
            f"{where}: {MASK}: the sample at index {sample} is nothing but padding; leave it out"
        )
    return kept


def pooled(value: Tensor, pool: str, mask: Tensor | None, name: str) -> Tensor:
    """Return one vector per sample, (n, width), of tokens or feature maps; see `Axes.can_pool`.

    Padding is ignored: `first` and `last` are the first and the last token that the mask keeps,
    whichever side the padding is on.

    Raises
    ------
    LayerError
        If the value has no tokens, or not as many as the mask.
    """
    grid = grid_of(pool)
    if grid is not None:
        return _grid_means(value, grid, name)
    if value.ndim == 4 and pool == "mean":
        return value.mean((2, 3))
    if value.ndim != 3 or (mask is not None and mask.shape[1] != value.shape[1]):
        expected = "tokens" if mask is None else f"{mask.shape[1]} tokens as {MASK} has"
        raise LayerError(
            f"layer {name!r}: expected {expected}, shape (n, tokens, width); "
            f"found {tuple(value.shape)}"
        )
    if mask is None:
        return value.mean(1) if pool == "mean" else value[:, 0 if pool == "first" else -1]
    mask = mask.to(value.device)
    if pool == "mean":
        # Not a product: values in the padding may be infinite.
        kept = torch.where(mask[:, :, None], value, torch.zeros_like(value))
        return kept.sum(1) / mask.sum(1, keepdim=True)
    number = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    if pool == "first":
        number = number.flip(0)
    at = (mask * number).argmax(1)
    return value.gather(1, at[:, None, None].expand(-1, 1, value.shape[2]))[:, 0]


def _grid_means(value: Tensor, grid: tuple[int, int], name: str) -> Float[Tensor, "n width"]:
    """Return the means of a feature map's cells, channel by channel and row by row."""
    if value.ndim == 3 and grid[0] == 1:
        value = value[:, :, None]
    if value.ndim != 4:
        raise LayerError(
            f"layer {name!r}: expected a feature map, shape (n, channels, height, width); "
            f"found {tuple(value.shape)}"
        )
    if not torch.compiler.is_compiling():
        # Unlike a product, it loses no precision where TF32 or autocast is allowed.
        return torch.nn.functional.adaptive_avg_pool2d(value, grid).flatten(1)
    # The same as two products: export has no pooling of sizes that do not divide evenly.
    down, across = (
        torch.tensor(_averages(size, cells), dtype=value.dtype, device=value.device)
        for size, cells in zip(value.shape[2:], grid, strict=True)
    )
    means = ((value @ across.T).transpose(2, 3) @ down.T).transpose(2, 3)
    return means.flatten(1)


@functools.lru_cache(maxsize=64)
def _averages(size: int, cells: int) -> tuple[tuple[float, ...], ...]:
    """Return the matrix (cells, size) that averages the neighbours in each cell."""
    rows = []
    for cell in range(cells):
        start, end = cell * size // cells, -(-(cell + 1) * size // cells)
        rows.append(tuple(1 / (end - start) if start <= n < end else 0.0 for n in range(size)))
    return tuple(rows)


def places_for(vocabulary: int) -> int:
    """Return the width of a row of words, a power of two, for a vocabulary of this size."""
    return min(_PLACES, 1 << max(vocabulary - 1, 1).bit_length())


def words(numbers: Tensor, mask: Tensor | None, width: int) -> Tensor:
    """Return each word's share of a text, float32 (n, width), from word numbers (n, tokens).

    A word's place is its number modulo `width`, and its sign flips every time around: a count
    sketch, in which words that share a place cancel on average (Charikar, Chen and Farach-Colton
    2002). Vocabularies number frequent words first, so frequent words stay apart.
    """
    sign = 1.0 - 2.0 * (torch.div(numbers, width, rounding_mode="floor") % 2).float()
    kept = torch.ones_like(sign) if mask is None else mask.to(sign)
    rows = torch.zeros(numbers.shape[0], width, device=numbers.device)
    rows = rows.scatter_add(1, (numbers % width).long(), sign * kept)
    return rows / kept.sum(1, keepdim=True)
