"""Inputs that stand in two data sets: a hold-out that the network was trained on is none."""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._batches import Batch, per_sample
from ._pooling import MASK

# Rows that are turned into 64-bit numbers at once.
_BLOCK = 64


def fingerprints(batch: Batch) -> NDArray[np.uint64]:
    """Return a number for each sample's input that differs for different inputs, uint64 (n,).

    The sum of its bytes, four at a time, with random weights and modulo 2⁶⁴: two inputs have the
    same number with a probability of some 2⁻³². Padding, as a mask says it, does not count, on
    whichever side it is.
    """
    inputs = inputs_of(batch)
    mask = batch.kwargs.get(MASK)
    if inputs is not None and isinstance(mask, Tensor) and mask.shape == inputs.shape:
        # The tokens that are kept first, in their order; then zeros, which add nothing.
        mask = mask.to(inputs.device) != 0
        order = (~mask).int().argsort(dim=1, stable=True)
        inputs = torch.where(mask.gather(1, order), inputs.gather(1, order), 0)
    return np.empty(0, dtype=np.uint64) if inputs is None else fingerprints_of(inputs)


def inputs_of(batch: Batch) -> Tensor | None:
    """Return a batch's first tensor with a row for each sample."""
    values = [*batch.args, *batch.kwargs.values()]
    return next((value for value in values if per_sample(value, batch.size)), None)


def fingerprints_of(inputs: Tensor) -> NDArray[np.uint64]:
    """Return the fingerprint of each row of one tensor, uint64 (n,)."""
    rows = inputs.detach().flatten(1) if inputs.ndim > 1 else inputs.detach()[:, None]
    # In one form whatever the precision: data sets may be stored in different ones.
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
