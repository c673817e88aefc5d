"""Contradictions in the given data: the verdict states them, where nobody can miss them."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ..noise.estimate import Noise
from ..selection.memorisation import Memory

__all__ = ["at_chance", "cleaner_holdout", "overlaps", "surviving_memory"]

# Agreement so many standard errors above chance is not chance.
_BEYOND = 3.0

Prints = NDArray[np.uint64]


def at_chance(right: float, counts: NDArray[np.int64]) -> str | None:
    """Return a warning if a network fits its training labels no better than chance.

    Parameters
    ----------
    right : float
        Share of the training labels that the network predicts.
    counts : ndarray of int64, shape (K,)
        Number of training labels of each class.
    """
    n = int(counts.sum())
    chance = float(counts.max()) / n
    if right > chance + _BEYOND * (chance * (1 - chance) / n) ** 0.5:
        return None
    return (
        f"the network predicts {right:.1%} of its training labels, no better than chance (the "
        f"largest class has {chance:.1%}); either it was not trained on these labels, or its "
        "weights, the order of classes and the labels do not belong together"
    )


def cleaner_holdout(noise: Noise | None) -> str | None:
    """Return a warning if the hold-out has far fewer wrong labels than the training data."""
    if noise is None or noise.holdout_rate is None:
        return None
    return (
        f"the hold-out is far cleaner than the training data: about {noise.holdout_rate:.1%} of "
        f"its labels look wrong, against {noise.rate:.1%} of the training labels"
    )


def surviving_memory(memory: Memory | None, perturbation: str | None) -> str | None:
    """Return a warning if memory cannot be told from knowledge."""
    if memory is None or not memory.survives:
        return None
    return (
        f"at least {memory.of_network:.0%} of what the network memorised survives "
        f"{perturbation}, so memory can hardly be told from knowledge: neither "
        "the noise rate nor the accuracy that is estimated is to be relied on. Give a hold-out, or "
        "a perturbation that training did not use (perturb)"
    )


def overlaps(fingerprints: Mapping[str, Prints]) -> tuple[list[str], list[str]]:
    """Return warnings and notes about inputs that are in two parts of the data.

    Overlaps are a warning if they could change an accuracy by more than its standard error.

    Parameters
    ----------
    fingerprints : mapping of str to ndarray of uint64
        By role, ``"train"`` first, a fingerprint of each input; empty where there are none.
    """
    warnings: list[str] = []
    notes: list[str] = []
    names = {"train": "training data", "holdout": "hold-out", "test": "test data"}
    for first, second in combinations(fingerprints, 2):
        inputs = fingerprints[second]
        if not len(inputs) or not len(fingerprints[first]):
            continue
        shared = int(np.isin(inputs, fingerprints[first]).sum())
        if not shared:
            continue
        line = (
            f"{shared:,} of the {len(inputs):,} inputs of the {names[second]} are also in the "
            f"{names[first]}"
        )
        if first == "train":
            line += ", so they are not new"
        (warnings if shared > len(inputs) ** 0.5 / 2 else notes).append(line)
    return warnings, notes
