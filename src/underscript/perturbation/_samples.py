"""A batch's inputs by name, and numbers that look drawn by chance, of what a sample is."""

import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .._batches import Batch, per_sample
from .._mixing import mixed_tensor, stream_of
from .._overlap import fingerprints_of
from .._pooling import MASK

__all__ = ["named_inputs", "number_of", "sample_numbers", "with_inputs", "word_mask"]


def sample_numbers(batch: Batch, seed: int, view: int) -> Int[Tensor, "n"]:
    """Return a number for each sample, int64, that depends on its inputs, a seed and a view alone.

    Neither the samples beside it nor the padding of its words matter, nor the order of a dict.
    """
    mask = word_mask(batch)
    total: Tensor | None = None
    for name, value in named_inputs(batch).items():
        if mask is not None and value.ndim > 1 and value.shape[1] == mask.shape[1]:
            mine = _of_words(value, mask)
        else:
            mine = _of_rows(value)
        mine = stream_of(mine, number_of(name))
        total = mine if total is None else total + mine.to(total.device)
    if total is None:
        total = torch.zeros(batch.size, dtype=torch.int64)
    return stream_of(stream_of(total, seed), view)


def named_inputs(batch: Batch) -> dict[str, Tensor]:
    """Return a batch's tensors with a row for each sample, by name or by place."""
    named = {**{str(place): value for place, value in enumerate(batch.args)}, **batch.kwargs}
    return {name: value for name, value in named.items() if per_sample(value, batch.size)}


def with_inputs(batch: Batch, changed: Mapping[str, Tensor]) -> Batch:
    """Return a batch with other tensors, by name or place; all else is as it was."""
    args = tuple(changed.get(str(place), value) for place, value in enumerate(batch.args))
    kwargs = {name: changed.get(name, value) for name, value in batch.kwargs.items()}
    return replace(batch, args=args, kwargs=kwargs)


def word_mask(batch: Batch) -> Bool[Tensor, "n tokens"] | None:
    """Return which words of a batch are no padding, if it has a mask of ones and zeros."""
    mask = batch.kwargs.get(MASK)
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[0] != batch.size:
        return None
    return mask != 0 if bool(((mask == 0) | (mask == 1)).all()) else None


def number_of(name: str) -> int:
    """Return a number for an input's name, the same in every process."""
    return zlib.crc32(name.encode())


def _of_rows(value: Tensor) -> Tensor:
    found = fingerprints_of(value).view(np.int64)
    return torch.from_numpy(found).to(value.device)


def _of_words(value: Tensor, mask: Tensor) -> Tensor:
    """Return a number for the words that are kept and their order."""
    mask = mask.to(value.device)
    if value.ndim == 2 and not value.is_floating_point():
        words = value.to(torch.int64)
    else:
        words = _of_rows(value.flatten(0, 1)).reshape(mask.shape)
    place = mask.cumsum(1)
    return (mixed_tensor(stream_of(words, 0) + place) * mask).sum(1)
