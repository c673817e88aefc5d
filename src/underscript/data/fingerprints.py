"""Hash each sample's inputs, to recognise it in another data set or another pass."""

import functools
import zlib

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from ..utils.hashing import mixed_tensor, stream_of
from .batches import Batch
from .samples import named_inputs, word_mask

__all__ = ["fingerprints_of", "fingerprints_of_tensor", "number_of", "sample_numbers"]

# Rows that are converted to 64-bit numbers at once.
_BLOCK = 64


def fingerprints_of(batch: Batch) -> NDArray[np.uint64]:
    """Return a fingerprint of each sample's inputs, uint64 (n,); empty without tensors.

    All inputs count, whatever the order of their names; the padding of words does not.
    """
    named = named_inputs(batch)
    if not named:
        return np.empty(0, dtype=np.uint64)
    if len(named) == 1 and word_mask(batch) is None:
        return fingerprints_of_tensor(next(iter(named.values())))
    return sample_numbers(batch, 0, 0).cpu().numpy().view(np.uint64)


def sample_numbers(batch: Batch, seed: int, view: int) -> Int[Tensor, "n"]:
    """Return an int64 number for each sample that depends only on its inputs, a seed and a view.

    The other samples, the padding of words and the order of a dict do not matter.
    """
    mask = word_mask(batch)
    total: Tensor | None = None
    for name, value in named_inputs(batch).items():
        if mask is not None and value.ndim > 1 and value.shape[1] == mask.shape[1]:
            numbers = _of_words(value, mask)
        else:
            numbers = _of_rows(value)
        numbers = stream_of(numbers, number_of(name))
        total = numbers if total is None else total + numbers.to(total.device)
    if total is None:
        total = torch.zeros(batch.size, dtype=torch.int64)
    return stream_of(stream_of(total, seed), view)


def number_of(name: str) -> int:
    """Return a number for an input's name, the same in every process."""
    return zlib.crc32(name.encode())


def fingerprints_of_tensor(inputs: Tensor) -> NDArray[np.uint64]:
    """Return the fingerprint of each row of one tensor, uint64 (n,).

    The sum of its bytes, four at a time, with random weights and modulo 2⁶⁴. Two different rows
    have the same fingerprint with a probability of about 2⁻³².
    """
    rows = inputs.detach().flatten(1) if inputs.ndim > 1 else inputs.detach()[:, None]
    # Convert to one precision: data sets may be stored in different ones.
    rows = rows.to(torch.float32) if rows.is_floating_point() else rows.to(torch.int32)
    values = rows.cpu().contiguous().numpy().view(np.uint32)
    weights = _weights(values.shape[1])
    parts = [
        values[start : start + _BLOCK].astype(np.uint64) @ weights
        for start in range(0, len(values), _BLOCK)
    ]
    return np.concatenate([np.empty(0, dtype=np.uint64), *parts])


@functools.lru_cache(maxsize=4)
def _weights(width: int) -> NDArray[np.uint64]:
    odd = np.random.default_rng(0).integers(0, 2**63, width, dtype=np.uint64) * 2 + 1
    return odd.astype(np.uint64)


def _of_rows(value: Tensor) -> Tensor:
    numbers = fingerprints_of_tensor(value).view(np.int64)
    return torch.from_numpy(numbers).to(value.device)


def _of_words(value: Tensor, mask: Tensor) -> Tensor:
    """Return a number for each sample's unmasked words and their order."""
    mask = mask.to(value.device)
    if value.ndim == 2 and not value.is_floating_point():
        words = value.to(torch.int64)
    else:
        words = _of_rows(value.flatten(0, 1)).reshape(mask.shape)
    place = mask.cumsum(1)
    return (mixed_tensor(stream_of(words, 0) + place) * mask).sum(1)
