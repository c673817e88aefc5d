"""The sizes of a layer's class subspaces, and the angles between them."""

import math
from collections.abc import Collection, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from ..probes.subspace import MinimumAngleSubspaceClassifier

__all__ = ["COLUMNS", "MOST_CLASSES", "degrees_of", "effective_rank", "geometry"]

COLUMNS = ("layer", "class_a", "class_b", "rank", "effective_rank", "angle")
#: With more classes than this, pairs are left out: nobody could look at them all.
MOST_CLASSES = 100


def geometry(
    fitted: Mapping[str, MinimumAngleSubspaceClassifier], pairs_of: Collection[str]
) -> pd.DataFrame:
    r"""Return the sizes of class subspaces and the angles between them.

    Parameters
    ----------
    fitted : mapping of str to MinimumAngleSubspaceClassifier
        The class subspaces of each layer.
    pairs_of : collection of str
        The layers whose pairs of classes are compared too.

    Returns
    -------
    pandas.DataFrame
        One row for each layer and class (``class_a`` = ``class_b``) and, for the layers
        `pairs_of`, for each pair of classes a < b; classes without a direction are left out.
        `rank`: of a's subspace. `effective_rank`: of a's second moment within it,
        :math:`\exp(-\sum_j p_j \ln p_j)` with :math:`p_j = \lambda_j / \sum \lambda` (Roy and
        Vetterli, 2007). `angle`, in degrees: its squared cosine is the mean of the squared
        cosines of the principal angles, :math:`\|V_a^T V_b\|_F^2 / \min(r_a, r_b)` (Björck and
        Golub, 1973): 0 where one subspace lies within the other, 90 where they are orthogonal.
    """
    rows: list[dict[str, object]] = []
    for layer, estimator in fitted.items():
        ranks, values = estimator.ranks_.tolist(), estimator.eigenvalues_
        present = [k for k, rank in enumerate(ranks) if rank]
        for k in present:
            rows.append(
                {
                    "layer": layer,
                    "class_a": k,
                    "class_b": k,
                    "rank": ranks[k],
                    "effective_rank": effective_rank(values[k][: ranks[k]]),
                    "angle": 0.0,
                }
            )
        if layer in pairs_of and len(present) <= MOST_CLASSES:
            subspaces = estimator.projections()
            for a, b in combinations(present, 2):
                shared = _shared(*subspaces[a], *subspaces[b]) / min(ranks[a], ranks[b])
                angle = degrees_of(max(0.0, shared) ** 0.5)
                rows.append(
                    {"layer": layer, "class_a": a, "class_b": b, "rank": ranks[a], "angle": angle}
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def effective_rank(eigenvalues: NDArray[np.floating[Any]]) -> float:
    r"""Return :math:`\exp(-\sum_j p_j \ln p_j)`, p the eigenvalues' shares of their sum.

    O. Roy and M. Vetterli, "The effective rank", EUSIPCO 2007.
    """
    shares = eigenvalues / eigenvalues.sum()
    return math.exp(-float((shares * np.log(np.maximum(shares, 1e-300))).sum()))


def degrees_of(cosine: float) -> float:
    """Return the angle of a cosine, in degrees; a cosine that rounding made larger than 1 is 1."""
    return math.degrees(math.acos(min(1.0, cosine)))


def _shared(
    first: Tensor,
    first_is_rest: bool,
    first_used: Tensor,
    second: Tensor,
    second_is_rest: bool,
    second_used: Tensor,
) -> float:
    """Return tr(P_a P_b) of two projectors, each D − C Cᵀ or C Cᵀ, where D keeps the used features.

    So a subspace needs no basis if only its complement is kept.
    """
    both = float((first.T @ second).square().sum())
    if first_is_rest and second_is_rest:
        together = int((first_used & second_used).sum())
        return (
            together
            - float(first[second_used].square().sum())
            - float(second[first_used].square().sum())
            + both
        )
    if first_is_rest:
        return float(second[first_used].square().sum()) - both
    if second_is_rest:
        return float(first[second_used].square().sum()) - both
    return both
