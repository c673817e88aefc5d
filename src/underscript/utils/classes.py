"""Names of classes, and which classes label noise confuses."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

# A confusion is clear if it exceeds the average one by this many standard errors.
_CLEARLY = 3.0


class Pair(NamedTuple):
    """A true class, a wrong label that its samples were given, and how likely that is.

    `share` is the estimated probability of the given label for a sample of the true class, 0 to 1.
    `error` is its standard error. `clear` says whether the pair stands out from even noise.
    """

    true: int
    given: int
    share: float
    error: float
    clear: bool


def class_names(summary: Mapping[str, Any]) -> list[str]:
    """Return the name of each class: from the run, or else its number."""
    model = summary["model"]
    names = model.get("class_names") or summary.get("class_names")
    return [str(k) for k in range(model["n_classes"])] if names is None else [*map(str, names)]


def pairs(summary: Mapping[str, Any], most: int | None = None) -> list[Pair]:
    """Return the estimated confusions of the label noise, the likeliest first.

    With many classes, only the largest confusions are known.

    A confusion is clear if two things hold. The noise depends on the class (`by_class`): that
    model makes the labels likelier by more than its extra parameters. And the share exceeds the
    average confusion by 3 standard errors. The decoder's own confusions do not affect `by_class`.

    Parameters
    ----------
    summary : mapping
        The results of a run, as in ``results.json``.
    most : int, optional
        Return at most this many.
    """
    noise = summary["noise"]
    if noise is None:
        return []
    by_class = bool(noise.get("by_class", True))
    if noise["transitions"] is None:
        even, largest = noise["mean_transition"], noise["largest_transitions"][:most]
        return [
            Pair(**entry, clear=by_class and entry["share"] - even > _CLEARLY * entry["error"])
            for entry in largest
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
