"""How a layer that gives several vectors a sample, one a token, becomes one row a sample."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import DataError, LayerError

if TYPE_CHECKING:
    from ._batches import Batch

# `flatten` keeps all values side by side; the others are of one token's width.
POOLS = ("flatten", "first", "mean", "last")
# How the input of a network that embeds words is read: which words there are, and how often.
WORDS = "words"
# So many words at most have a place of their own; of more, several share one.
_PLACES = 1024
# Under this name a batch says which tokens are words (1) and which are padding (0).
MASK = "attention_mask"

PoolChoice = str | Iterable[str] | None


def as_pools(pool: PoolChoice) -> tuple[str, ...] | None:
    """Return the pools that a choice names, each once; None is left to the data.

    Raises
    ------
    DataError
        If one is unknown, or there are none.
    """
    if pool is None:
        return None
    given = [pool] if isinstance(pool, str) else list(pool)
    names = [part.strip() for each in given for part in str(each).split(",") if part.strip()]
    if not names or not set(names) <= set(POOLS):
        raise DataError(f"pool: expected some of {', '.join(POOLS)}; found {pool!r}")
    return tuple(dict.fromkeys(names))


def can_pool(shape: tuple[int, ...], pool: str, tokens: int | None) -> bool:
    """Say whether a layer of this shape (of one sample) can be pooled so.

    Layers of tokens are (tokens, width), with as many tokens as the mask has where there is one;
    feature maps (channels, height, width) have a mean.

    Parameters
    ----------
    tokens : int or None
        Length of the batch's mask.
    """
    if len(shape) == 3:
        return pool == "mean" and tokens is None
    return pool != "flatten" and len(shape) == 2 and tokens in (None, shape[0])


def token_mask(batch: "Batch", where: str) -> Tensor | None:
    """Return which tokens of a batch are no padding, bool (n, tokens); None if it does not say.

    Raises
    ------
    DataError
        If there is a mask that does not say it, or a sample without any token.
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
    if torch.compiler.is_compiling():  # what follows looks at values
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
    """Return one vector a sample, (n, width), of tokens (n, tokens, width); see `can_pool`.

    Padding adds nothing: `first` and `last` are the first and the last token that the mask keeps,
    on whichever side the padding is.

    Raises
    ------
    LayerError
        If the value has no tokens, or others than the mask.
    """
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
        # Not a product: what stands in the padding may be infinite.
        kept = torch.where(mask[:, :, None], value, torch.zeros_like(value))
        return kept.sum(1) / mask.sum(1, keepdim=True)
    number = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    if pool == "first":
        number = number.flip(0)
    at = (mask * number).argmax(1)
    return value.gather(1, at[:, None, None].expand(-1, 1, value.shape[2]))[:, 0]


def places_for(vocabulary: int) -> int:
    """Return the width of a row of words, a power of two, for a vocabulary of this size."""
    return min(_PLACES, 1 << max(vocabulary - 1, 1).bit_length())


def words(numbers: Tensor, mask: Tensor | None, width: int) -> Tensor:
    """Return the shares of a text's words, float32 (n, width), of word numbers (n, tokens).

    A word's place is its number modulo `width`, where it counts as −1 every other time around: a
    count sketch, in which words that share a place cancel on average (Charikar, Chen and
    Farach-Colton 2002). Vocabularies number frequent words first, which so stay apart.
    """
    sign = 1.0 - 2.0 * (torch.div(numbers, width, rounding_mode="floor") % 2).float()
    kept = torch.ones_like(sign) if mask is None else mask.to(sign)
    rows = torch.zeros(numbers.shape[0], width, device=numbers.device)
    rows = rows.scatter_add(1, (numbers % width).long(), sign * kept)
    return rows / kept.sum(1, keepdim=True)
