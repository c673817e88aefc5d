"""How likely each class is of a sample whose noisy label is known."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..utils.distributed import Processes
from .estimate import SMALLEST, Noise

__all__ = ["came_from", "posterior", "with_memory"]

# What memory adds to log-odds, at most, and how often the range of what it may be is halved.
_MOST_REMEMBERED, _HALVINGS = 20.0, 30
# Samples whose probabilities are worked on at once.
_AT_ONCE = 4096


def came_from(noise: Noise) -> Tensor:
    """Return for each given label (row) the chance of it under each true one, float64 (K, K).

    Labels count as redrawn from all other classes alike unless noise depends on the class: the
    estimated matrix then holds little but its own errors. A little noise is added to what was
    estimated, as none is never quite known. A label that is given is the likelier to be said the
    more of it is remembered: for so much less its own class is taken to be likely.
    """
    matrix = noise.transitions
    if not noise.by_class:
        matrix = np.full_like(matrix, noise.rate / max(1, noise.n_occurring - 1))
        np.fill_diagonal(matrix, 1 - noise.rate)
    found = torch.from_numpy((1 - SMALLEST) * matrix.T + SMALLEST / noise.n_occurring)
    found.diagonal().mul_(math.exp(-noise.remembered))
    return found


def with_memory(
    odds: Float[Tensor, "n classes"], given: Int[Tensor, " n"], noise: Noise, processes: Processes
) -> Noise:
    """Return the noise with what memory adds to the log-odds of training samples' labels.

    So much that the probabilities that labels are wrong add up to the estimated noise rate.

    Parameters
    ----------
    odds : Tensor, shape (n, K)
        Log-odds that have not seen the labels: this process's.
    given : Tensor of int64, shape (n,)
        The labels.
    noise : Noise
        What is known of the labels.
    processes : Processes
        Whose samples add up.
    """
    chances = came_from(replace(noise, remembered=0.0))
    own, others = torch.zeros(2, len(given), dtype=torch.float64)
    for at in torch.split(torch.arange(len(given)), _AT_ONCE):
        joint = torch.softmax(odds[at].double(), 1) * chances[given[at]]
        own[at] = joint.gather(1, given[at, None])[:, 0]
        others[at] = joint.sum(1) - own[at]

    def wrong(remembered: float) -> float:
        mine = own * math.exp(-remembered)
        share = 1 - mine / (mine + others).clamp(min=1e-300)
        found = processes.total(
            torch.stack([share.sum(), torch.tensor(float(len(share))).double()])
        )
        return float(found[0] / found[1].clamp(min=1))

    low, high = 0.0, _MOST_REMEMBERED
    if noise.hopeless or wrong(low) >= noise.rate:
        return replace(noise, remembered=0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if wrong(middle) < noise.rate else (low, middle)
    return replace(noise, remembered=low)


def posterior(
    odds: Float[Tensor, "n classes"], given: Int[Tensor, " n"], noise: Noise
) -> Float[Tensor, "n classes"]:
    """Return how likely each class is, by log-odds that have not seen a label, and by that label.

    Bayes' rule: the odds' probabilities times the chance of the given label under each class.

    Parameters
    ----------
    odds : Tensor, shape (n, K)
    given : Tensor of int64, shape (n,)
    noise : Noise
        What is known of the labels.

    Returns
    -------
    Tensor of float32, shape (n, K)
    """
    found = torch.empty(odds.shape)
    of_labels = came_from(noise)
    for at in torch.split(torch.arange(len(given)), _AT_ONCE):
        chances = torch.softmax(odds[at].double(), 1) * of_labels[given[at]]
        found[at] = (chances / chances.sum(1, keepdim=True).clamp(min=1e-300)).float()
    return found
