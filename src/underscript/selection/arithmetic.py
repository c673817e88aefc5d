"""Sums, factors and products for fits of discriminants."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DataError
from ..probes.discriminant import Linear

__all__ = [
    "add_by_class",
    "as_dtype",
    "class_means",
    "factor",
    "from_centre",
    "kept_of",
    "picked",
    "turned",
]

# With at most this many classes, one product with indicators gives the sums.
_FEW = 64


def picked(rows: Tensor, places: Int[Tensor, " m"]) -> Float[Tensor, "m width"]:
    """Return some rows; as fast for features, which are stored column by column."""
    if rows.stride(0) == 1 and rows.ndim == 2:
        return rows.T.index_select(1, places).T
    return rows[places]


def kept_of(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows as they are, the first perturbed ones, and the sum of all perturbed ones.

    Without a perturbed view the second are the rows as they are, and the third is 0.
    """
    if len(parts) == 1:
        return parts[0], parts[0], parts[0].new_zeros(1, 1)
    if len(parts) == 2:
        return parts[0], parts[1], parts[1]
    total = parts[1] + parts[2]
    for part in parts[3:]:
        total += part
    return parts[0], parts[1], total


def as_dtype(
    dtype: torch.dtype, rows: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows in another precision; tensors that are the same object stay so."""
    plain = rows[0].to(dtype)
    first = plain if rows[1] is rows[0] else rows[1].to(dtype)
    return plain, first, first if rows[2] is rows[1] else rows[2].to(dtype)


def turned(views: Sequence[Tensor], turns: Int[Tensor, " n"]) -> Float[Tensor, "n width"]:
    """Return each sample's row of one view: the view number is its turn, modulo their number."""
    selected = views[0].clone()
    for number, rows in enumerate(views[1:], 1):
        at = torch.nonzero(turns % len(views) == number)[:, 0].to(rows.device)
        selected[at] = rows[at]
    return selected


def from_centre(linear: Linear, centre: Tensor, scale: Tensor | None) -> Linear:
    """Turn a discriminant of centred and scaled rows into one of the rows themselves."""
    weights = linear.coefficients if scale is None else linear.coefficients / scale
    return Linear(weights, linear.intercepts - weights @ centre)


def class_means(total: Tensor, counts: Tensor) -> Float[Tensor, "classes width"]:
    """Return class means; NaN for a class without rows."""
    counts = counts.to(total.device)
    mean = total / counts.clamp(min=1)[:, None]
    return mean.masked_fill((counts == 0)[:, None], torch.nan)


def add_by_class(sums: Tensor, rows: Tensor, labels: Int[Tensor, "n ..."]) -> None:
    """Add each row in place to the sum of its class, or to those of several classes."""
    if labels.ndim == 1:
        labels = labels[:, None]
    n_classes = len(sums) // labels.shape[1]
    if n_classes > _FEW:
        for of_one in labels.T:
            sums.index_add_(0, of_one, rows)
        return
    indicators = rows.new_zeros(len(rows), len(sums)).scatter_(1, labels, 1.0)
    sums.addmm_(indicators.T, rows)


def factor(matrix: Tensor) -> Tensor:
    """Return the Cholesky factor, computed in float64 where float32 does not suffice.

    If rows are nearly the same, rounding may make eigenvalues negative. Then more is added to the
    diagonal until the factor exists.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    more = 1e-7
    while int(info):
        precise = matrix.double()
        mean = float(precise.diagonal().abs().mean())
        precise.diagonal().add_(more * mean if mean > 0 else 1.0)
        precise_factor, info = torch.linalg.cholesky_ex(precise)
        factor, more = precise_factor.float(), 100 * more
        if more > 1e7:
            raise DataError("the rows of a layer are too large or too small to be added up")
    return factor
