r"""Error bounds of bfloat16 products, row by row and class by class.

Rows of a hidden layer have a large part in common: a few directions U, the first eigenvectors of
the classes. That part is removed and multiplied in full, :math:`V^T x = V^T p + (V^T U) a` with
:math:`a = U^T x` and :math:`p = x - U a`; only p is rounded. Let ĉ be the bfloat16 product of p̂
and V̂. Then

.. math:: \|\hat c - V^T p\| \le \|p - \hat p\| (1 + \sigma) + (\sigma + 2^{-9} + s) \|p\|

where the first norm is measured for each row; σ, a bound of ‖V − V̂‖₂, is computed from each
class's rounding errors; :math:`2^{-9}` is the rounding of the result; and s is the error of sums
in float32, :math:`8 \sqrt{d}\, u \sqrt{r}` with :math:`u = 2^{-24}`, which holds with
overwhelming probability (Higham and Mary, "A new approach to probabilistic rounding error
analysis", 2019).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# Half a unit in the last place of bfloat16's 8 bits, and of float32's 24.
_HALF_ULP = 2.0**-9
_HALF_ULP_32 = 2.0**-24
# Error of a norm in float32.
_SINGLE = 1e-6
# Columns whose rounding errors are bounded at once.
_CHUNK = 1024


@dataclass(frozen=True)
class RoundedColumns:
    """Bases of several classes, side by side, in bfloat16.

    Attributes
    ----------
    matrix : Tensor of bfloat16, shape (width, columns)
        V̂.
    common : Tensor, shape (q, columns)
        Uᵀ V in full precision; q = 0 if no common part is removed.
    errors : dict of int to float
        By class: an upper bound of ‖V − V̂‖₂ of its columns.
    sums : dict of int to float
        By class: the error s of sums.
    """

    matrix: Float[Tensor, "width columns"]
    common: Float[Tensor, "q columns"]
    errors: dict[int, float]
    sums: dict[int, float]

    @classmethod
    def of(
        cls,
        matrix: Float[Tensor, "width columns"],
        spans: Mapping[int, slice],
        common: Float[Tensor, "width q"],
    ) -> "RoundedColumns":
        """Round a matrix whose columns belong to classes."""
        low = matrix.to(torch.bfloat16)
        errors, sums = {}, {}
        for k, span in spans.items():
            full, rough = matrix[:, span], low[:, span]
            squares = [
                largest_singular_value(part - lower.to(part.dtype)) ** 2
                for part, lower in zip(
                    torch.split(full, _CHUNK, 1), torch.split(rough, _CHUNK, 1), strict=True
                )
            ]
            errors[k] = math.sqrt(sum(squares))
            sums[k] = 8 * _HALF_ULP_32 * math.sqrt(full.numel())
        return cls(low, common.T @ matrix, errors, sums)


@dataclass(frozen=True)
class RoundedRows:
    """Rows without their common part, in bfloat16.

    Attributes
    ----------
    matrix : Tensor of bfloat16, shape (n, width)
        p̂.
    common : Tensor, shape (n, q)
        a in full precision.
    lengths, errors : Tensor, shape (n,)
        ‖p‖ and ‖p − p̂‖.
    """

    matrix: Float[Tensor, "n width"]
    common: Float[Tensor, "n q"]
    lengths: Float[Tensor, " n"]
    errors: Float[Tensor, " n"]

    @classmethod
    def of(cls, unit: Float[Tensor, "n width"], common: Float[Tensor, "width q"]) -> "RoundedRows":
        """Round rows of length one (or zero)."""
        part = unit @ common
        rest = torch.addmm(unit, part, common.T, alpha=-1) if common.shape[1] else unit
        low = rest.to(torch.bfloat16)
        norm = torch.linalg.vector_norm
        return cls(low, part, norm(rest, dim=1), norm(rest - low, dim=1))

    def product(self, columns: RoundedColumns) -> Float[Tensor, "n columns"]:
        """Return ĉ plus the common part, which `slack` bounds; bfloat16 without a common part."""
        rough = self.matrix @ columns.matrix
        return (self.common @ columns.common).add_(rough) if len(columns.common) else rough

    def slack(self, columns: RoundedColumns, k: int) -> Float[Tensor, " n"]:
        """Return an upper bound of the error of ‖ĉ‖, for each row and the columns of class k."""
        sigma = columns.errors[k]
        rounding = sigma + _HALF_ULP + columns.sums[k]
        # One per cent, and a small constant, for the rounding of the norms and bounds.
        return 1.01 * (self.errors * (1 + sigma) + rounding * self.lengths) + _SINGLE


def largest_singular_value(matrix: Float[Tensor, "n m"]) -> float:
    """Return an upper bound of ‖E‖₂.

    ‖M‖₂ ≤ ‖M⁸‖_F^⅛ for M = EᵀE: it holds for any E, and is close for a flat spectrum.
    """
    product = matrix.T @ matrix
    exponent = 0.0
    for power in (1, 2, 4, 8):
        if power > 1:
            product = product @ product
            exponent *= 2
        norm = float(torch.linalg.vector_norm(product))
        if norm == 0:
            return 0.0
        exponent += math.log(norm)
        product = product / norm
    return 1.001 * math.exp(exponent / 16)
