"""Training samples with (nearly) the same input but different labels: one label is wrong."""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..utils.labels import Labels
from .batches import Batch
from .samples import inputs_of

# Random projections per input: enough to tell a near duplicate from a neighbour.
_WIDTH = 16
# Inputs nearer than this share of the median distance count as nearly the same.
NEAR = 0.1
# Near duplicates are searched for this many flagged samples, the worst first.
SOUGHT = 50_000
_BLOCK = 1024
_PAIRS = 4096

Sketches = NDArray[np.float32]


def sketches(batch: Batch) -> Sketches:
    """Return random projections of each input, float32 (n, 16), that keep distances.

    (Johnson and Lindenstrauss, 1984; Achlioptas, 2003: random signs suffice.) The width is 0 if
    some input is not a quantity, such as token numbers; then only equal inputs can be found.
    """
    quantities, names = inputs_of(batch)
    if names or not quantities:
        return np.zeros((batch.size, 0), dtype=np.float32)
    rows = torch.cat([v.detach().reshape(len(v), -1).float() for v in quantities], 1)
    return np.asarray((rows @ _signs(rows.shape[1]).to(rows.device)).cpu().numpy())


@functools.lru_cache(maxsize=2)
def _signs(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (width, _WIDTH), generator=generator)
    scaled: Tensor = (2.0 * signs - 1) / _WIDTH**0.5
    return scaled


def conflicting(
    given: Labels,
    predicted: Labels,
    suspects: NDArray[np.int64],
    fingerprints: NDArray[np.uint64],
    drawn: Sketches,
) -> NDArray[np.int64]:
    """Return for each sample another one with (nearly) its input and a different given label.

    Equal inputs are found for all samples, by fingerprint. Near ones are found by sketch, only
    for the first suspects, and only among samples that the decoder predicts as the same class.

    Parameters
    ----------
    given, predicted : ndarray of int64, shape (n,)
        Classes.
    suspects : ndarray of int64
        Positions of flagged samples, the worst first.
    fingerprints : ndarray of uint64, shape (n,)
        From `fingerprints_of`.
    drawn : ndarray of float32, shape (n, 16) or (n, 0)
        From `sketches`.

    Returns
    -------
    ndarray of int64, shape (n,)
        Position of the other sample; −1 if there is none.
    """
    partners = _equal(given, fingerprints)
    limit = _limit(drawn)
    if limit == 0:
        return partners
    rows = torch.from_numpy(drawn - drawn.mean(0))
    labels = torch.from_numpy(given)
    left = suspects[:SOUGHT]
    left = left[partners[left] < 0]
    for k in np.unique(predicted[left]):
        bucket = torch.from_numpy(np.flatnonzero(predicted == k))
        others, theirs = rows[bucket], labels[bucket]
        half = others.square().sum(1) / 2
        for block in torch.split(torch.from_numpy(left[predicted[left] == k]), _BLOCK):
            distance = torch.addmm(half, rows[block], others.T, alpha=-1)
            distance[labels[block, None] == theirs] = torch.inf
            nearest, place = distance.min(1)
            squared = 2 * nearest + rows[block].square().sum(1)
            near = squared <= limit
            partners[block[near].numpy()] = bucket[place[near]].numpy()
    return partners


def _equal(given: Labels, fingerprints: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Find equal inputs with different labels."""
    order = np.lexsort((given, fingerprints))
    starts = np.flatnonzero(np.r_[True, np.diff(fingerprints[order]) != 0])
    sizes = np.diff(np.r_[starts, len(order)])
    # In each group, the samples with the smallest and the largest label.
    first = np.repeat(order[starts], sizes)
    last = np.repeat(order[starts + sizes - 1], sizes)
    partner = np.where(given[order] != given[first], first, last)
    partners = np.full(len(given), -1, dtype=np.int64)
    partners[order] = np.where(given[order] != given[partner], partner, -1)
    return partners


def _limit(drawn: Sketches) -> float:
    """Return the squared distance up to which inputs count as nearly the same; 0 for none."""
    n, width = drawn.shape
    if not width or n < 2:
        return 0.0
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, n, (2, _PAIRS))
    apart = np.square(drawn[first].astype(np.float64) - drawn[second]).sum(1)
    return NEAR**2 * float(np.median(apart[first != second]))
