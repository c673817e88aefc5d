"""Label noise that depends on the sample: which labels change, how likely, and to which class.

Each kind of `corrupt_labels` that needs scores or features has a function here. The notes of
`corrupt_labels` have the formulas and the sources.
"""

from collections.abc import Callable

import numpy as np

from ..utils.labels import Labels
from .matrices import Matrix

__all__ = [
    "SAMPLES_PER_CENTRE",
    "STAYING",
    "capped_shares",
    "change_by_margin",
    "change_clusters",
    "cumulative",
    "doubt_and_confusion",
]

STAYING: dict[str, Callable[[Matrix], Matrix]] = {
    "pmd-1": lambda margin: (1 + margin**2) / 2,
    "pmd-2": lambda margin: margin**3,
    "pmd-3": lambda margin: (margin + margin**2 + margin**3) / 3,
}
"""What the probability of keeping a label is proportional to, by kind: 1 − τ of the margin."""

SAMPLES_PER_CENTRE = 88
"""Cluster noise was published with 57 centres in the 5,000 images of a class of CIFAR-10."""


def doubt_and_confusion(scores: Matrix, true: Labels, chance: Matrix) -> tuple[Matrix, Labels]:
    """Return how much the scores doubt each true class, shape (n,), and a wrong class drawn.

    The doubt is one minus the probability of the true class. The wrong class is drawn with the
    probabilities of the others.
    """
    weights, doubt = _others(scores, true)
    drawn = (cumulative(weights) <= chance[:, None]).sum(axis=1, dtype=np.int64)
    return doubt, drawn


def change_by_margin(
    scores: Matrix, true: Labels, kind: str, degree: float
) -> tuple[Matrix, Labels]:
    """Return each label's probability to change, shape (n,), and the likeliest other class."""
    weights, doubt = _others(scores, true)
    rival = weights.argmax(axis=1)
    # The rival's probability is the share of the doubt that the weights give it.
    margin = (1.0 - doubt) - doubt / weights.sum(axis=1)
    # A sample that the scores put into another class is not farther than the boundary.
    stays = STAYING[kind](np.maximum(margin, 0.0))
    if degree == 0.0:  # Rounding must not change a label.
        return np.zeros(true.size), rival
    return 1.0 - capped_shares(stays, 1.0 - degree), rival


def change_clusters(
    features: Matrix,
    true: Labels,
    degree: float,
    clusters: int | None,
    generator: np.random.Generator,
) -> tuple[Matrix, Labels]:
    """Return 1 for each label to change and 0 for the others, shape (n,), and the new classes.

    The new class of a sample is the other class whose mean is nearest to it.
    """
    from scipy.spatial.distance import cdist  # takes a tenth of a second to import

    present = np.unique(true)
    changes, nearest = np.zeros(true.size), true.copy()
    if len(present) < 2:
        return changes, nearest
    # The scale of distances does not matter; so sums and squares cannot overflow.
    features = features / (np.abs(features).max() or 1.0)
    away = np.empty(true.size)
    means = np.stack([features[true == k].mean(axis=0) for k in present])
    for at, k in enumerate(present):
        rows = np.flatnonzero(true == k)
        count = clusters or -(-len(rows) // SAMPLES_PER_CENTRE)
        centres = features[generator.permutation(rows)[:count]]
        away[rows] = cdist(features[rows], centres).min(axis=1)
        others = np.delete(np.arange(len(present)), at)
        closest = cdist(features[rows], means[others]).argmin(axis=1)
        nearest[rows] = present[others[closest]]
    # One radius around every centre: the smallest that holds as many samples as are to change.
    changes[np.argsort(away, kind="stable")[: round(degree * true.size)]] = 1.0
    return changes, nearest


def capped_shares(weights: Matrix, mean: float) -> Matrix:
    """Return min(1, weight / level), shape (n,), with the level at which its mean is as given.

    If the m largest weights are at 1, the others must make up the rest of the sum, so the level
    is (sum of the others) / (n mean - m). The right m is the smallest for which none of the others
    exceeds the level; sorting finds it.
    """
    n = weights.size
    if mean == 0.0 or not n:
        return np.zeros(n)
    # Without a minimum weight, samples of weight 0 could not reach a high mean.
    weights = np.maximum(weights, np.finfo(np.float64).tiny)
    largest_first = np.sort(weights)[::-1]
    rest = np.cumsum(largest_first[::-1])[::-1]
    left = n * mean - np.arange(n)
    certain = int(np.argmax(left * largest_first <= rest))
    # A mean near 0 can have an infinite level: then all shares are 0.
    with np.errstate(over="ignore"):
        level = rest[certain] / left[certain]
    shares: Matrix = np.minimum(1.0, weights / level)
    return shares


def cumulative(weights: Matrix) -> Matrix:
    """Return cumulative probabilities along the last axis, exactly 1 from the last weight on.

    The first one above a number from [0, 1) never belongs to a weight of 0.
    """
    sums: Matrix = np.cumsum(weights, axis=-1)
    shares: Matrix = sums / sums[..., -1:]
    return shares


def _others(scores: Matrix, true: Labels) -> tuple[Matrix, Matrix]:
    """Return weights of the wrong classes, shape (n, K), and the doubt of the true ones, (n,).

    Weights are relative to the likeliest *other* class, which has 1, so that they never all vanish,
    however sure the scores are of the true class. Its own weight is 0.
    """
    from scipy.special import expit  # takes half a second to import

    rows = np.arange(true.size)
    others = scores.copy()
    others[rows, true] = -np.inf
    likeliest = others.max(axis=1)
    # Differences of scores may overflow: then a probability is 0 or 1, as it should be.
    with np.errstate(over="ignore"):
        others -= likeliest[:, None]
        weights = np.exp(others, out=others)
        # 1 - softmax[true], without the rounding that loses small ones.
        doubt: Matrix = expit(likeliest - scores[rows, true] + np.log(weights.sum(axis=1)))
    return weights, doubt
