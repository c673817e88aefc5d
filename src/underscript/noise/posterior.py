"""How likely each class is for a sample, given its noisy label."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..utils.distributed import Processes
from .estimate import SMALLEST, Noise

__all__ = ["came_from", "odds_of_labels", "posterior", "shift_to", "with_memory"]

# Largest addition to log-odds, and bisection steps to find it.
_MOST_SHIFTED, _HALVINGS = 20.0, 40
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
    result, chances = torch.empty(len(given), dtype=torch.float64), chances.log()
    for at in torch.split(torch.arange(len(given)), _AT_ONCE):
        joint, own = odds[at].double().cpu() + chances[given[at]], given[at, None]
        others = joint.scatter(1, own, -torch.inf).logsumexp(1)
        result[at] = joint.gather(1, own)[:, 0] - others
    return result


def shift_to(right: float, of_labels: Float[Tensor, " n"], processes: Processes) -> float:
    """Return what to add to log-odds so that they expect a number of labels to be right.

    Parameters
    ----------
    right : float
        The number, of all processes' labels.
    of_labels : Tensor, shape (n,)
        Log-odds that this process's labels are right.
    processes : Processes
        Processes over whose labels to sum.
    """
    low, high = -_MOST_SHIFTED, _MOST_SHIFTED
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = float(processes.total(torch.sigmoid(of_labels + middle).sum()))
        low, high = (middle, high) if found < right else (low, middle)
    return (low + high) / 2


def with_memory(of_labels: Float[Tensor, " n"], noise: Noise, processes: Processes) -> Noise:
    """Return the noise with `remembered`: what memorisation adds to the given labels' log-odds.

    It is chosen so that the mean probability of a wrong label equals the estimated noise rate; it
    is 0 if that is reached already.

    Parameters
    ----------
    of_labels : Tensor, shape (n,)
        Log-odds that this process's labels are right, memory in them.
    noise : Noise
        The estimated label noise.
    processes : Processes
        Processes over whose samples to average.
    """
    if noise.hopeless:
        return replace(noise, remembered=0.0)
    n = float(processes.total(torch.tensor(float(len(of_labels)), dtype=torch.float64)))
    shift = shift_to((1 - noise.rate) * n, of_labels, processes)
    return replace(noise, remembered=max(0.0, -shift))


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
    chances = came_from(noise).log()
    for at in torch.split(torch.arange(len(given)), _AT_ONCE):
        joint = odds[at].double() + chances[given[at]]
        joint[torch.arange(len(at)), given[at]] += by_margins[at]
        result[at] = torch.softmax(joint, 1).float()
    return result
