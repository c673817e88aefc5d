"""Texts with some of their words masked out."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...data.batches import Batch
from ...data.samples import MASK, with_inputs, word_mask
from ...utils.hashing import mixed_tensor

__all__ = ["WordsDropped", "kept_words"]

# The share of a text's words that is masked out.
_SHARE = 1 / 5


class WordsDropped:
    """Masks out about a fifth of each text's words, never the first or the last one.

    At least half are kept; a text of more than two words loses at least one. Padding does not
    matter: a text loses the same words whichever side it is on.
    """

    name, fits = "words dropped", True

    def __call__(self, batch: Batch, numbers: Int[Tensor, "n"], strength: float) -> Batch:
        """Return the batch with zeros in its mask where words are dropped."""
        mask = word_mask(batch)
        if mask is None:
            return batch
        kept = kept_words(mask, numbers, strength)
        return with_inputs(batch, {MASK: kept.to(batch.kwargs[MASK].dtype)})


def kept_words(
    mask: Bool[Tensor, "n tokens"], numbers: Int[Tensor, "n"], strength: float = 1.0
) -> Bool[Tensor, "n tokens"]:
    """Return which words stay, drawn by each sample's number."""
    place = mask.cumsum(1)
    length = place[:, -1:]
    inner = mask & (place > 1) & (place < length)
    many = (length * (_SHARE * strength)).round().long().clamp(min=1)
    many = torch.minimum(many, torch.minimum(length // 2, (length - 2).clamp(min=0)))
    # Each word draws a number by its place in the text; those with the smallest are dropped.
    drawn = mixed_tensor(numbers.to(mask.device)[:, None] + place)
    drawn = torch.where(inner, drawn, torch.iinfo(torch.int64).max)
    smallest = drawn.sort(1).values.gather(1, (many - 1).clamp(min=0))
    return mask & ~(inner & (drawn <= smallest) & (many > 0))
