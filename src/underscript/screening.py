r"""What a bfloat16 product can be trusted for, row by row and class by class.

Let :math:`c = V^T x` for a unit row x, and ĉ what comes out of the product of x̂ and V̂, both
rounded to bfloat16. Then

.. math:: \|\hat c - c\| \le \|x - \hat x\| + \|V - \hat V\|_2 \|\hat x\| + 2^{-9} \|\hat c\| + a

The first term is measured for each row, the second bounded for each class from the rounding errors
themselves, the third is the rounding of the result, and `a` the error of adding up in float32:
:math:`8 \sqrt{d}\, u \sqrt{r}` with :math:`u = 2^{-24}`, which holds with overwhelming probability
(Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019).
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
# Columns whose rounding errors are bounded at once.
_CHUNK = 1024


@dataclass(frozen=True)
class RoundedColumns:
    """Bases in bfloat16.

    Attributes
    ----------
    matrix : Tensor of bfloat16, shape (width, columns)
        The bases of several classes, side by side.
    errors : dict of int to float
        By class: at least ‖V − V̂‖₂ of its columns.
    sums : dict of int to float
        By class: the error of adding up, see above.
    """

    matrix: Float[Tensor, "width columns"]
    errors: dict[int, float]
    sums: dict[int, float]

    @classmethod
    def of(
        cls, matrix: Float[Tensor, "width columns"], spans: Mapping[int, slice]
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
        return cls(low, errors, sums)


@dataclass(frozen=True)
class RoundedRows:
    """Unit rows in bfloat16 (n, width), and how far each is from what it was (n,)."""

    matrix: Float[Tensor, "n width"]
    errors: Float[Tensor, " n"]

    @classmethod
    def of(cls, unit: Float[Tensor, "n width"]) -> "RoundedRows":
        """Round rows of length one (or zero)."""
        low = unit.to(torch.bfloat16)
        return cls(low, torch.linalg.vector_norm(unit - low, dim=1))

    def slack(
        self, columns: RoundedColumns, k: int, norms: Float[Tensor, "n cuts"]
    ) -> Float[Tensor, "n cuts"]:
        """Return at least |‖ĉ‖ − ‖c‖| for each row and each cut of class k."""
        row = self.errors * (1 + columns.errors[k]) + columns.errors[k] + columns.sums[k]
        # One per cent for the rounding of the norms and bounds themselves.
        return 1.01 * (row[:, None] + _HALF_ULP * norms)


def largest_singular_value(matrix: Float[Tensor, "n m"]) -> float:
    """Return an upper bound of ‖E‖₂, a fifth above it at most for what rounding leaves.

    ‖M‖₂ ≤ ‖M⁸‖_F^⅛ for M = EᵀE: a bound whatever E is, and close for a flat spectrum.
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
