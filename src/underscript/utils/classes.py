"""Names of classes, and which of them noise confuses."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

# A confusion stands out if it is likelier than the others by so many standard errors.
_CLEARLY = 3.0


class Pair(NamedTuple):
    """A true class whose samples were given another label, and how likely that is.

    `share` is the estimated probability of the given label for a sample of the true class, 0 to 1,
    and `error` its standard error; `clear` says whether it stands out from even noise.
    """

    true: int
    given: int
    share: float
    error: float
    clear: bool


def class_names(summary: Mapping[str, Any]) -> list[str]:
    """Return the name of each class: those of the run, or their numbers."""
    model = summary["model"]
    names = model.get("class_names") or summary.get("class_names")
    return [str(k) for k in range(model["n_classes"])] if names is None else [*map(str, names)]


def pairs(summary: Mapping[str, Any], most: int | None = None) -> list[Pair]:
    """Return the confusions that the noise was estimated to make, the likeliest first.

    Of many classes only the largest are known.

    One stands out if labels go wrong by class at all, as they are likelier so by more than the
    numbers that takes (`by_class`), and its share exceeds what the others have on average by 3
    standard errors. What the decoder confuses itself makes no difference to the first.

    Parameters
    ----------
    summary : mapping
        The results of a run, as in ``results.json``.
    most : int, optional
        So many of them.
    """
    noise = summary["noise"]
    if noise is None:
        return []
    by_class = bool(noise.get("by_class", True))
    if noise["transitions"] is None:
        even, largest = noise["mean_transition"], noise["largest_transitions"][:most]
        return [
            Pair(**each, clear=by_class and each["share"] - even > _CLEARLY * each["error"])
            for each in largest
        ]
    matrix = np.asarray(noise["transitions"], dtype=float)
    errors = np.asarray(noise["transitions_error"], dtype=float)
    n = len(matrix)
    places = [(a, b) for a in range(n) for b in range(n) if a != b]
    even = float(np.mean([matrix[place] for place in places]))
    places.sort(key=lambda place: -matrix[place])
    return [
        Pair(
            a,
            b,
            float(matrix[a, b]),
            float(errors[a, b]),
            by_class and bool(matrix[a, b] - even > _CLEARLY * errors[a, b]),
        )
        for a, b in places[:most]
    ]
