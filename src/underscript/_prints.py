"""A number for each sample's inputs, by which it is found in two data sets, or in two passes."""

import numpy as np
from numpy.typing import NDArray

from ._batches import Batch
from ._overlap import fingerprints_of
from .perturbation._samples import named_inputs, sample_numbers, word_mask

__all__ = ["prints_of"]


def prints_of(batch: Batch) -> NDArray[np.uint64]:
    """Return a number for each sample that tells inputs apart, uint64 (n,); empty without tensors.

    All inputs count, in whatever order their names come; the padding of words does not.
    """
    named = named_inputs(batch)
    if not named:
        return np.empty(0, dtype=np.uint64)
    if len(named) == 1 and word_mask(batch) is None:
        return fingerprints_of(next(iter(named.values())))
    return sample_numbers(batch, 0, 0).cpu().numpy().view(np.uint64)
