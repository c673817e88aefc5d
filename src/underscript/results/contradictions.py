"""What does not go together in what was given: said in the verdict, where nobody can miss it."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ..noise.estimate import Noise

__all__ = ["at_chance", "cleaner_holdout", "overlaps"]

# Standard errors beyond which agreement is no chance.
_BEYOND = 3.0

Prints = NDArray[np.uint64]


def at_chance(right: float, counts: NDArray[np.int64]) -> str | None:
    """Say so if a network predicts its training labels no oftener than their likeliest class would.

    Parameters
    ----------
    right : float
        The share of its training labels that it predicts.
    counts : ndarray of int64, shape (K,)
        Training labels of each class.
    """
    n = int(counts.sum())
    chance = float(counts.max()) / n
    if right > chance + _BEYOND * (chance * (1 - chance) / n) ** 0.5:
        return None
    return (
        f"the network predicts {right:.1%} of its training labels, no more than chance "
        f"({chance:.1%} are of one class): either it was not trained on these labels, or weights, "
        "order of classes and labels do not belong together"
    )


def cleaner_holdout(noise: Noise | None) -> str | None:
    """Say so if far fewer labels of the hold-out are wrong than of the training data."""
    if noise is None or noise.holdout_rate is None:
        return None
    return (
        f"the hold-out is far cleaner than the training data: {noise.holdout_rate:.1%} of its "
        f"labels are estimated to be wrong, of the training labels {noise.rate:.1%}"
    )


def overlaps(prints: Mapping[str, Prints]) -> tuple[list[str], list[str]]:
    """Return what is to be said of inputs that stand in two sources, and what is to be noted.

    To be said are so many that they could change an accuracy by more than its standard error.

    Parameters
    ----------
    prints : mapping of str to ndarray of uint64
        By role, ``"train"`` first, a number for each input; none where inputs have none.
    """
    said: list[str] = []
    noted: list[str] = []
    names = {"train": "training data", "holdout": "hold-out", "test": "test data"}
    for first, second in combinations(prints, 2):
        mine = prints[second]
        if not len(mine) or not len(prints[first]):
            continue
        shared = int(np.isin(mine, prints[first]).sum())
        if not shared:
            continue
        line = (
            f"{shared:,} of the {len(mine):,} inputs of the {names[second]} are in the "
            f"{names[first]} too"
        )
        if first == "train":
            line += ", where their labels were seen"
        (said if shared > len(mine) ** 0.5 / 2 else noted).append(line)
    return said, noted
