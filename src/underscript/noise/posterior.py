"""How likely each class is for a sample, given its noisy label."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..utils.distributed import Processes
from .estimate import SMALLEST, Noise

__all__ = ["came_from", "odds_of_labels", "posterior", "with_memory"]

# Largest addition to the log-odds from memorisation, and bisection steps to find it.
_MOST_REMEMBERED, _HALVINGS = 20.0, 30
# Samples that are processed at once.
_AT_ONCE = 4096


def came_from(noise: Noise) -> Tensor:
    """Return the chance of each given label (row) under each true one, float64 (K, K).

    Unless the noise depends on the class, the matrix spreads it evenly over the other classes,
    because the estimated matrix would hold little but errors. A little noise is added to the
    estimate, because its absence is never certain. A network that memorised a label favours it:
    the chance of the label under its own class is reduced by that much.
    """
    matrix = noise.transitions
    if not noise.by_class:
        matrix = np.full_like(matrix, noise.rate / max(1, noise.n_occurring - 1))
        np.fill_diagonal(matrix, 1 - noise.rate)
    chances = torch.from_numpy((1 - SMALLEST) * matrix.T + SMALLEST / noise.n_occurring)
    chances.diagonal().mul_(math.exp(-noise.remembered))
    return chances


def with_memory(
    odds: Float[Tensor, "n classes"], given: Int[Tensor, " n"], noise: Noise, processes: Processes
) -> Noise:
    """Return the noise with `remembered`: what memorisation adds to the given labels' log-odds.

    It is chosen so that the mean probability of a wrong label equals the estimated noise rate.

    Parameters
    ----------
    odds : Tensor, shape (n, K)
        Out-of-fold log-odds of this process's samples.
    given : Tensor of int64, shape (n,)
        The labels.
    noise : Noise
        The estimated label noise.
    processes : Processes
        Processes over whose samples to average.
    """
    chances = came_from(replace(noise, remembered=0.0))
    own, others = torch.zeros(2, len(given), dtype=torch.float64)
    for at in torch.split(torch.arange(len(given)), _AT_ONCE):
        joint = torch.softmax(odds[at].double(), 1) * chances[given[at]]
        own[at] = joint.gather(1, given[at, None])[:, 0]
        others[at] = joint.sum(1) - own[at]

    def wrong(remembered: float) -> float:
        reduced = own * math.exp(-remembered)
        share = 1 - reduced / (reduced + others).clamp(min=1e-300)
        sums = processes.total(torch.stack([share.sum(), torch.tensor(float(len(share))).double()]))
        return float(sums[0] / sums[1].clamp(min=1))

    low, high = 0.0, _MOST_REMEMBERED
    if noise.hopeless or wrong(low) >= noise.rate:
        return replace(noise, remembered=0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if wrong(middle) < noise.rate else (low, middle)
    return replace(noise, remembered=low)


def odds_of_labels(
    odds: Float[Tensor, "n classes"], given: Int[Tensor, " n"], chances: Float[Tensor, "k k"]
) -> Float[Tensor, " n"]:
    """Return the log-odds that given labels are right, float64 (n,).

    Parameters
    ----------
    odds : Tensor, shape (n, K)
        Out-of-fold log-odds of all classes.
    given : Tensor of int64, shape (n,)
        The labels.
    chances : Tensor of float64, shape (K, K)
        From `came_from`.
    """
    result = torch.empty(len(given), dtype=torch.float64)
    for at in torch.split(torch.arange(len(given)), _AT_ONCE):
        joint = torch.log_softmax(odds[at].double().cpu(), 1) + chances[given[at]].log()
        own = given[at, None]
        others = joint.scatter(1, own, -torch.inf).logsumexp(1)
        result[at] = joint.gather(1, own)[:, 0] - others
    return result


def posterior(
    odds: Float[Tensor, "n classes"],
    by_margins: Float[Tensor, " n"],
    given: Int[Tensor, " n"],
    noise: Noise,
) -> Float[Tensor, "n classes"]:
    """Return how likely each class is, from out-of-fold log-odds, margins and the given label.

    Bayes' rule: the probabilities of the log-odds times the chance of the given label under each
    class, and for its own class times what the network's margin says.

    Parameters
    ----------
    odds : Tensor, shape (n, K)
    by_margins : Tensor, shape (n,)
        What margins add to the log-odds that labels are right (see `evidence_of_margins`).
    given : Tensor of int64, shape (n,)
    noise : Noise
        The estimated label noise.

    Returns
    -------
    Tensor of float32, shape (n, K)
    """
    result = torch.empty(odds.shape)
    of_labels = came_from(noise)
    for at in torch.split(torch.arange(len(given)), _AT_ONCE):
        joint = torch.log_softmax(odds[at].double(), 1) + of_labels[given[at]].log()
        joint[torch.arange(len(at)), given[at]] += by_margins[at]
        result[at] = torch.softmax(joint, 1).float()
    return result
