"""A batch's inputs, by name and by kind."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from .batches import Batch, per_sample

__all__ = [
    "MASK",
    "WORD_IDS",
    "inputs_of",
    "named_inputs",
    "shortened",
    "with_inputs",
    "word_mask",
]

# Tokenizers' names for the mask of words that are not padding, and for the words themselves.
MASK = "attention_mask"
WORD_IDS = "input_ids"
# Integer types that may stand for words or categories.
_NAMES = (torch.int64, torch.int32, torch.int16, torch.bool)


def named_inputs(batch: Batch) -> dict[str, Tensor]:
    """Return a batch's tensors with one row per sample, by name or by place."""
    named = {**{str(place): value for place, value in enumerate(batch.args)}, **batch.kwargs}
    return {name: value for name, value in named.items() if per_sample(value, batch.size)}


def with_inputs(batch: Batch, changed: Mapping[str, Tensor]) -> Batch:
    """Return a batch with some tensors replaced, by name or place."""
    args = tuple(changed.get(str(place), value) for place, value in enumerate(batch.args))
    kwargs = {name: changed.get(name, value) for name, value in batch.kwargs.items()}
    return replace(batch, args=args, kwargs=kwargs)


def word_mask(batch: Batch) -> Bool[Tensor, "n tokens"] | None:
    """Return which words of a batch are not padding; None without a mask of ones and zeros."""
    mask = batch.kwargs.get(MASK)
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[0] != batch.size:
        return None
    return mask != 0 if bool(((mask == 0) | (mask == 1)).all()) else None


def shortened(batch: Batch, length: int) -> Batch:
    """Return a batch of words of which only the first `length` places are left.

    Every tensor that has as many columns as the mask is cut.
    """
    width = batch.kwargs[MASK].shape[1]
    cut = {
        name: value[:, :length]
        for name, value in named_inputs(batch).items()
        if value.ndim > 1 and value.shape[1] == width
    }
    return with_inputs(batch, cut)


def inputs_of(batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Return a batch's tensors with one row per sample, except the mask: quantities and names.

    Names are integers that may stand for words or categories; word IDs come first.
    """
    ordered = [*batch.args, *(batch.kwargs[name] for name in sorted(batch.kwargs) if name != MASK)]
    words = batch.kwargs.get(WORD_IDS)
    if isinstance(words, Tensor):
        ordered = [words, *(value for value in ordered if value is not words)]
    rows = [v for v in ordered if isinstance(v, Tensor) and v.ndim and v.shape[0] == batch.size]
    names = [value.dtype in _NAMES for value in rows]
    return (
        [value for value, name in zip(rows, names, strict=True) if not name],
        [value for value, name in zip(rows, names, strict=True) if name],
    )
