r"""Random features of a Gaussian kernel, and structured directions that make them fast.

Dense directions need a product of every row with every direction. For wide rows this is most of
the cost of a decode. Structured directions are :math:`\sqrt d\, H D_1 H D_2 H D_3` (Yu et al.,
"Orthogonal Random Features", NeurIPS 2016, section 4): H is the orthogonal Hadamard matrix of size
d, a power of two, and the D are diagonals of random signs. They are orthogonal, which estimates the
kernel better than independent directions. A product costs d log d, or d √d as two small matrix
products.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["FourierFeatures", "precise", "standardised", "units_in"]

_TINY = 1e-12
# Up to this width a dense product is as fast, and the random signs would be too few.
_DENSE = 256
# Rows to multiply at once, few enough to stay in the processor's cache.
_ROWS = 256


@cache
def _hadamard(size: int) -> Tensor:
    """Return Sylvester's Hadamard matrix of ±1, whose size is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


@dataclass(frozen=True)
class _Structured:
    """Blocks of structured directions.

    Attributes
    ----------
    signs : Tensor of float32, shape (3, blocks, d, 1)
        The diagonals of random signs.
    length : float
        The kernel's length; directions are divided by it.
    n_features : int
        Number of directions, at most blocks · d.
    """

    signs: Tensor
    length: float
    n_features: int

    @classmethod
    def drawn(cls, width: int, n_features: int, length: float, generator: torch.Generator) -> Self:
        size = 1 << (width - 1).bit_length()
        shape = 3, -(-n_features // size), size, 1
        signs = 2.0 * torch.randint(0, 2, shape, generator=generator) - 1
        return cls(signs, length, n_features)

    def __call__(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "features n"]:
        """Return the rows' products with all directions, transposed."""
        _, blocks, size, _ = self.signs.shape
        products = rows.new_empty(blocks, size, len(rows))
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            padded = rows.new_zeros(size, len(part))
            # √d times three orthogonal H is 1/d times three Hadamard matrices of ±1.
            padded[: rows.shape[1]] = part.T / (size * self.length)
            for block in range(blocks):
                turned = padded
                for signs in self.signs[:, block]:
                    turned = _transformed(signs * turned)
                products[block, :, start : start + _ROWS] = turned
        return products.view(blocks * size, -1)[: self.n_features]


def _transformed(columns: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
    """Return the Hadamard matrix of ±1, a Kronecker product of two smaller ones, times columns."""
    size, n = columns.shape
    bits = size.bit_length() - 1
    outer, inner = _hadamard(1 << bits // 2), _hadamard(1 << (bits - bits // 2))
    turned = (outer @ columns.view(len(outer), -1)).view(len(outer), len(inner), n)
    return torch.matmul(inner, turned).view(size, n)


@dataclass(frozen=True)
class FourierFeatures:
    r"""Random features whose products approximate a Gaussian kernel between unit rows.

    :math:`\cos(W^T x / \lVert x \rVert + b)` with random W and uniform b (Rahimi and Recht,
    "Random Features for Large-Scale Kernel Machines", NeurIPS 2007); a factor is left out,
    because it makes no difference to discriminants.

    Attributes
    ----------
    directions : Tensor of float32, shape (width, n_features)
        W, divided by the kernel's length: normal numbers, or structured directions for wide rows.
    phases : Tensor of float32, shape (n_features,)
        b, in radians.
    units : Tensor of float32, shape (2, width), or None
        What to subtract from each column, and what to divide it by afterwards. Columns in
        different units need this: they share neither a zero nor a length.
    structured : callable or None
        Computes the same products faster on a CPU; None if only the numbers are known.
    """

    directions: Tensor
    phases: Tensor
    units: Tensor | None = None
    structured: _Structured | None = None

    @classmethod
    def drawn(
        cls,
        rows: Float[Tensor, "n width"],
        n_features: int,
        seed: int,
        units: Float[Tensor, "2 width"] | None = None,
    ) -> Self:
        """Draw features; the kernel's length is the median distance of these rows."""
        return cls.of_length(cls.length_of(rows, units), rows, n_features, seed, units)

    @staticmethod
    def length_of(
        rows: Float[Tensor, "n width"], units: Float[Tensor, "2 width"] | None = None
    ) -> float:
        """Return the median distance of unit rows, a suitable kernel length."""
        unit = _unit(standardised(rows.float(), units))
        half = len(unit) // 2
        apart = (unit[:half] - unit[half : 2 * half]).norm(dim=1)
        apart = apart[apart > 0]
        return float(apart.median()) if len(apart) else 1.0

    @classmethod
    def of_length(
        cls,
        length: float,
        rows: Float[Tensor, "n width"],
        n_features: int,
        seed: int,
        units: Float[Tensor, "2 width"] | None = None,
    ) -> Self:
        """Draw features of a kernel of known length, for rows of this width."""
        generator, width = torch.Generator().manual_seed(seed), rows.shape[1]
        structured = None
        if width > _DENSE:
            structured = _Structured.drawn(width, n_features, length, generator)
            directions = structured(torch.eye(width)).T.contiguous()
        else:
            directions = torch.randn(width, n_features, generator=generator) / length
        phases = torch.rand(n_features, generator=generator) * (2 * torch.pi)
        return cls(directions.to(rows.device), phases.to(rows.device), units, structured)

    @classmethod
    def restored(
        cls, seed: int, directions: Tensor, phases: Tensor, units: Tensor | None, length: float
    ) -> "FourierFeatures":
        """Return saved features; they are fast again if this seed and length reproduce them."""
        if directions.ndim == 2 and directions.shape[0] > _DENSE:
            drawn = cls.of_length(length, directions.T, directions.shape[1], seed, units)
            if torch.equal(drawn.directions, directions) and torch.equal(drawn.phases, phases):
                return drawn
        return cls(directions, phases, units)

    def to(self, device: torch.device) -> "FourierFeatures":
        """Return these features on a device."""
        units = None if self.units is None else self.units.to(device)
        directions, phases = self.directions.to(device), self.phases.to(device)
        return FourierFeatures(directions, phases, units, self.structured)

    def __call__(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n features"]:
        """Return the features of rows: float64 for float64 rows, else float32."""
        rows = precise(rows)
        unit = _unit(standardised(rows, self.units))
        fast = self.structured
        if fast is not None and rows.dtype == torch.float32 and rows.device.type == "cpu":
            return fast(unit).add_(self.phases.to(unit)[:, None]).cos_().T
        projected: Tensor = torch.addmm(self.phases.to(unit), unit, self.directions.to(unit))
        return projected.cos_()


def precise(rows: Tensor) -> Tensor:
    """Return float64 rows unchanged, others in float32."""
    return rows if rows.dtype == torch.float64 else rows.float()


def standardised(rows: Tensor, units: Tensor | None) -> Tensor:
    """Return rows with the units applied: each column is shifted, then divided."""
    if units is None:
        return rows
    middle, spread = units.to(rows)
    scaled: Tensor = (rows - middle) / spread
    return scaled


def units_in(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return the units among saved tensors; older files have only the divisor (`scale`)."""
    scale = tensors.get("scale")
    if scale is not None and scale.ndim == 1:
        return torch.stack([torch.zeros_like(scale), scale])
    return tensors.get("units")


def _unit(rows: Tensor) -> Tensor:
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=_TINY)
    return unit
