"""Eigenvectors of second moments: once a class, and no more of them than are needed.

A decoder that keeps few directions needs the leading ones only (`leading`: block Lanczos, accepted
only with a proof that nothing was missed); one that keeps many needs them all (`eigenvectors`:
LAPACK). Everything is float64: a projector's error is the matrix's error divided by the gap
between two neighbouring eigenvalues, and hidden layers have gaps of 1e-6 of λ₁
(see docs/engine.md).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import scipy.linalg
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._products import all_finite
from .errors import DataError

logger = logging.getLogger(__name__)

# Below this width LAPACK finds all eigenvectors before Lanczos has begun.
_WIDE = 512
# Columns of a Lanczos block; the basis may reach this part (a third) of the width.
_BLOCK = 16
_MOST = 3
# Blocks between two looks at what the basis holds.
_LOOK = 4
_EPS = torch.finfo(torch.float64).eps
# Largest error of a projector, ‖P − P̂‖, that `leading` accepts; the rest is LAPACK's.
_PROJECTOR_ERROR = 1e-6


class Cut(NamedTuple):
    """Where a subspace ends: at a variance share τ in (0, 1], or at a rank if that is given."""

    share: float = 1.0
    rank: int | None = None

    def rank_of(self, values: Float[Tensor, " m"], total: float) -> int:
        """Return the rank, from the eigenvalues known so far and the sum of all.

        For a share it is r = #{j : (λ₁+…+λ_j)/Σλ ≤ τ} + 1, the paper's rule. m + 1 says that the
        known eigenvalues do not suffice.
        """
        if self.rank is not None:
            return self.rank
        return int((values.cumsum(0) / total <= self.share).sum()) + 1


@dataclass(frozen=True)
class ClassSpectrum:
    """The eigenvectors of one class's second moment, largest eigenvalue first.

    Attributes
    ----------
    count : int
        Samples of the class.
    values : Tensor of float64, shape (m,)
        Positive eigenvalues: all of them (m is then the numerical rank, at most the width and
        `count`), or the leading ones that were asked for.
    inner : Tensor of float64, shape (alive, c)
        Orthonormal columns in the order of `values`, as many as were asked for; with c = alive
        those after the first m span what the class never uses of its features.
    features : Tensor of int64, shape (alive,), or None
        The features that are ever other than zero in the class; None if all are.
    mean : Tensor of float64, shape (width,)
        Mean row of the class; zeros for a class without samples.
    total : float
        Sum of all eigenvalues: the trace of the second moment.
    """

    count: int
    values: Float[Tensor, " m"]
    inner: Float[Tensor, "alive c"]
    features: Int[Tensor, " alive"] | None
    mean: Float[Tensor, " width"]
    total: float

    @classmethod
    def empty(cls, count: int, mean: Float[Tensor, " width"]) -> "ClassSpectrum":
        """Return that of a class with no samples, or only zero rows."""
        return cls(count, mean.new_zeros(0), mean.new_zeros(len(mean), 0), None, mean, 0.0)

    @property
    def width(self) -> int:
        """Number of values a row."""
        return len(self.mean)

    @property
    def alive(self) -> int:
        """Number of features that are ever other than zero."""
        return len(self.inner)

    @property
    def whole(self) -> bool:
        """Whether the columns span all of the class's features."""
        return self.inner.shape[1] == self.alive

    @property
    def vectors(self) -> Float[Tensor, "width c"]:
        """The columns of `inner` among all features; where they are whole, the others follow."""
        vectors = self.widened(self.inner)
        if self.features is None or not self.whole:
            return vectors
        others = torch.eye(self.width).to(vectors)
        unused = torch.ones(self.width, dtype=torch.bool, device=vectors.device)
        unused[self.features] = False
        return torch.cat([vectors, others[:, unused]], 1)

    def widened(self, columns: Float[Tensor, "alive c"]) -> Float[Tensor, "width c"]:
        """Return columns over the class's features as columns over all of them."""
        if self.features is None:
            return columns
        wide = columns.new_zeros(self.width, columns.shape[1])
        return wide.index_copy_(0, self.features, columns)

    def ranks(self, cuts: Sequence[Cut]) -> list[int]:
        """Return the rank at each cut; at most the number of positive eigenvalues."""
        if not len(self.values):
            return [0] * len(cuts)
        known = len(self.values)
        return [min(cut.rank_of(self.values, self.total), known) for cut in cuts]


def spectrum_of(
    second: Float[Tensor, "d d"],
    count: int,
    mean: Float[Tensor, " d"],
    cuts: Sequence[Cut],
    what: str,
    likely_rank: int | None = None,
) -> ClassSpectrum:
    """Decompose a second moment as far as the cuts need it.

    Parameters
    ----------
    second : Tensor of float64, shape (d, d)
        The symmetric matrix.
    likely_rank : int, optional
        A guess at the largest rank, from a class before; it decides what is tried first and
        changes no result beyond rounding.

    Raises
    ------
    DataError
        If the matrix is not finite: the features are too large to be squared.
    """
    diagonal = second.diagonal()
    total = float(diagonal.sum())
    # What the class never uses has rows and columns of exact zeros; without them it is cheaper.
    features = torch.nonzero(diagonal != 0)[:, 0] if total > 0 else None
    if features is not None and len(features) <= 0.98 * len(second):
        second = second.index_select(0, features).index_select(1, features)
    else:
        features = None
    width = len(second)
    if width >= _WIDE and (likely_rank is None or likely_rank <= width // (2 * _MOST)):
        found = leading(second, cuts)
        if found is not None:
            return ClassSpectrum(count, *found, features, mean, total)
    values, vectors = eigenvectors(second, what)
    positive = values[: numerical_rank(values, count)]
    return ClassSpectrum(count, positive, vectors, features, mean, float(positive.sum()))


def eigenvectors(
    matrix: Float[Tensor, "d d"], what: str
) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Return eigenvalues, largest first, and eigenvectors of a symmetric float64 matrix.

    Raises
    ------
    DataError
        If the matrix is not finite: the features are too large to be squared.
    """
    if not all_finite(matrix):
        raise DataError(f"{what}: the features overflow when squared; scale them down")
    scale = float(matrix.diagonal().max())
    if scale <= 0:
        return matrix.diagonal().clone(), torch.eye(len(matrix)).to(matrix)
    # LAPACK works with squares of the entries too: keep the largest within reach.
    scale = 1.0 if 1e-100 < scale < 1e100 else scale
    matrix = matrix if scale == 1 else matrix / scale
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except RuntimeError:  # torch.linalg.LinAlgError is one
        # The divide-and-conquer solver can give up on repeated eigenvalues; QR iterations do not.
        logger.info("%s: using the slower eigensolver", what)
        found = scipy.linalg.eigh(matrix.cpu().numpy(), driver="ev")
        values, vectors = (torch.from_numpy(part).to(matrix) for part in found)
    return values.flip(0) * scale, vectors.flip(1)


def numerical_rank(values: Float[Tensor, " d"], limit: int) -> int:
    """Return how many eigenvalues, largest first, stand above rounding; at most `limit`."""
    if not len(values) or float(values[0]) <= 0:
        return 0
    floor = float(values[0]) * len(values) * _EPS
    return min(int((values > floor).sum()), limit)


def leading(
    matrix: Float[Tensor, "d d"], cuts: Sequence[Cut]
) -> tuple[Float[Tensor, " m"], Float[Tensor, "d m"]] | None:
    r"""Return the leading eigenpairs that some cuts need, or None where LAPACK does better.

    Block Lanczos with full reorthogonalisation (Golub and Underwood, 1977). A result is returned
    only if it is certified, for the largest rank r asked for:

    - every projector: :math:`\|\sin\Theta\|_F \le \|R\|_F / (\theta_r - \sigma)` (Davis and Kahan,
      1970) is at most 1e-6, where R are the residuals of the first r pairs and σ bounds the rest
      of the spectrum;
    - σ: the Cholesky factorisation of :math:`\sigma I - (S - V \Theta V^T)` exists, so no other
      eigenvalue reaches σ;
    - every rank: the retained share is measured against the exact trace, and no sum of eigenvalues
      lies within its error of the share.

    Parameters
    ----------
    matrix : Tensor of float64, shape (d, d)
        Symmetric and positive semi-definite, as second moments are.
    """
    width = len(matrix)
    most = width // _MOST // _BLOCK * _BLOCK
    total = float(matrix.diagonal().sum())
    # Squares of what is far from one would leave the range; LAPACK's path scales.
    if not 1e-100 < total < 1e100 or not all_finite(matrix):
        return None
    if any(cut.share >= 1 if cut.rank is None else 2 * cut.rank > most for cut in cuts):
        return None
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(width, _BLOCK, dtype=torch.float64, generator=generator).to(matrix.device)
    basis = matrix.new_empty(width, most)
    inner = matrix.new_zeros(most, most)
    block = torch.linalg.qr(start)[0]
    for begin in range(0, most, _BLOCK):
        end = begin + _BLOCK
        basis[:, begin:end] = block
        image = matrix @ block
        known = basis[:, :end]
        inner[:end, begin:end] = known.T @ image
        inner[begin:end, :end] = inner[:end, begin:end].T
        image -= known @ inner[:end, begin:end]
        image -= known @ (known.T @ image)
        block, rest = torch.linalg.qr(image)
        if (end // _BLOCK) % _LOOK and end < most:
            continue
        values, small = (part.flip(-1) for part in torch.linalg.eigh(inner[:end, :end]))
        ranks = [cut.rank_of(values, total) for cut in cuts]
        if max(ranks) >= end:
            if end >= 8 * _BLOCK and not _hopeful(values, total, cuts):
                return None
            continue
        residuals = torch.linalg.vector_norm(rest @ small[begin:end], dim=0)
        if _converged(values, residuals, ranks):
            vectors = known @ small[:, : max(ranks)]
            if _certified(matrix, values, vectors, ranks, total, cuts):
                return values[: max(ranks)], vectors
            return None
    return None


def _hopeful(values: Tensor, total: float, cuts: Sequence[Cut]) -> bool:
    """Say whether the missing share is so small that a basis in reach will hold it."""
    missing = 1 - float(values.sum()) / total
    return all(missing <= 3 * (1 - cut.share) for cut in cuts if cut.rank is None)


def _converged(values: Tensor, residuals: Tensor, ranks: list[int]) -> bool:
    """Say whether every projector asked for is within its error, by the Lanczos residuals."""
    floor = float(values[0]) * _EPS * len(values) ** 0.5
    for rank in ranks:
        gap = float(values[rank - 1] - values[rank])
        error = float(torch.linalg.vector_norm(residuals[:rank]))
        if error > max(_PROJECTOR_ERROR * gap / 4, floor):
            return False
    return True


def _certified(
    matrix: Tensor,
    values: Tensor,
    vectors: Tensor,
    ranks: list[int],
    total: float,
    cuts: Sequence[Cut],
) -> bool:
    """Say whether the eigenpairs are what `leading` promises; see there."""
    rank = max(ranks)
    found = values[:rank]
    residuals = matrix @ vectors - vectors * found
    sigma = float(values[rank - 1] + values[rank]) / 2
    for each in ranks:
        after = sigma if each == rank else float(values[each])
        error = float(torch.linalg.vector_norm(residuals[:, :each]))
        if error > _PROJECTOR_ERROR * (float(values[each - 1]) - after):
            return False
    shares = found.cumsum(0) / total
    slack = 4 * len(matrix) * _EPS
    asked = [cut.share for cut in cuts if cut.rank is None]
    if any(bool(((shares - share).abs() <= slack).any()) for share in asked):
        return False
    # What has to be seen is the gap: single precision, with its error of 1e-7 λ₁, if that is wide.
    dtype = torch.float32 if sigma - float(values[rank]) > 1e-6 * float(values[0]) else None
    rest = matrix.to(dtype or torch.float64, copy=True)
    rest.addmm_((vectors * found).to(rest), vectors.T.to(rest), alpha=-1)
    rest.neg_().diagonal().add_(sigma)
    return positive_definite(rest)


def positive_definite(matrix: Float[Tensor, "d d"], size: int = 128) -> bool:
    """Say whether the Cholesky factorisation of a symmetric matrix exists; it is overwritten.

    Block by block, so that most of the work is matrix products: several times as fast as LAPACK's.
    """
    width = len(matrix)
    for start in range(0, width, size):
        end = min(start + size, width)
        factor, failed = torch.linalg.cholesky_ex(matrix[start:end, start:end])
        if int(failed):
            return False
        rows = torch.linalg.solve_triangular(factor, matrix[start:end, end:], upper=False)
        for low in range(end, width, 4 * size):
            high = min(low + 4 * size, width)
            left = rows[:, low - end : high - end].T
            matrix[low:high, low:].addmm_(left, rows[:, low - end :], alpha=-1)
    return True
