"""Numbers that tell inputs apart: two data sets may hold the same ones."""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Rows that are turned into 64-bit numbers at once.
_BLOCK = 64


def fingerprints_of(inputs: Tensor) -> NDArray[np.uint64]:
    """Return the fingerprint of each row of one tensor, uint64 (n,).

    The sum of its bytes, four at a time, with random weights and modulo 2⁶⁴: two rows have the same
    number with a probability of some 2⁻³².
    """
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
