"""How much memory survives, by a hold-out, and how much a hold-out counts in the choice."""

from jaxtyping import Bool, Float
from torch import Tensor

from .memorisation import MOST, corrected

__all__ = ["survival_on_holdout", "weight_of_holdout"]

_GRID = 91


def survival_on_holdout(
    plain: Float[Tensor, " candidates"],
    moved: Float[Tensor, " candidates"],
    holdout: Float[Tensor, " candidates"],
) -> float:
    """Return the ρ with which A* of all candidates is closest to their agreement on a hold-out.

    A* and the agreement may differ by a constant: the hold-out's own error is common to all
    candidates, but for the samples on which they differ.

    Parameters
    ----------
    plain, moved : Tensor of float64, shape (C,)
        Agreement on training inputs as they are, and perturbed.
    holdout : Tensor of float64, shape (C,)
        Agreement on the hold-out.
    """
    shares = [MOST * step / (_GRID - 1) for step in range(_GRID)]
    return min(
        shares,
        key=lambda share: float((corrected(plain, moved, share) - holdout).var(correction=0)),
    )


def weight_of_holdout(
    plain: Bool[Tensor, "candidates n"],
    moved: Bool[Tensor, "candidates n"],
    holdout: Bool[Tensor, "candidates m"],
    survival: float,
) -> float:
    """Return the weight of a hold-out beside the corrected agreement: each by its precision.

    Only differences of sampling errors between candidates matter.

    Parameters
    ----------
    plain, moved, holdout : Tensor of bool, shapes (C, n) and (C, m)
        Which labels each candidate predicts.
    survival : float
        ρ.
    """
    errors = []
    for agrees in (corrected(plain.float(), moved.float(), survival), holdout.float()):
        apart = (agrees - agrees.mean(0)).var(1, correction=0)
        errors.append(float(apart.mean()) / agrees.shape[1])
    return errors[0] / sum(errors) if sum(errors) > 0 else 0.0
