"""Eigenvectors of second moments: once per class, and no more of them than needed.

The method depends on how many directions a decoder keeps. Few: `leading` (block Lanczos, accepted
only with a proof that nothing was missed). More, but not most: `tridiagonal`. Most:
`eigenvectors` (LAPACK). Everything is float64: a projector's error is the matrix's error divided
by the gap between two neighbouring eigenvalues, and hidden layers have gaps of 1e-6 of λ₁ (see
docs/engine.md).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import scipy.linalg
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DataError
from ..utils.threads import side_by_side
from .products import all_finite
from .tridiagonal import leading_eigenpairs

logger = logging.getLogger(__name__)

# Below this width LAPACK computes all eigenvectors before Lanczos has begun.
_WIDE = 512
# Below this width all eigenvectors take no longer than some.
_SOME = 256
# Lanczos is tried if this part (a sixteenth) of the directions is likely to suffice.
_FEW = 16
# Columns of a Lanczos block; the basis may reach this part (a third) of the width.
_BLOCK = 16
_MOST = 3
# Blocks between two checks of the basis.
_LOOK = 4
_EPS = torch.finfo(torch.float64).eps
# Largest error of a projector, ‖P − P̂‖, that `leading` accepts; otherwise LAPACK is used.
_PROJECTOR_ERROR = 1e-6


class Cut(NamedTuple):
    """Where a subspace ends: at a variance share τ in (0, 1], or at a rank if one is given."""

    share: float = 1.0
    rank: int | None = None

    def rank_of(self, values: Float[Tensor, " m"], total: float) -> int:
        """Return the rank, from the eigenvalues known so far and the sum of all.

        For a share it is r = #{j : (λ₁+…+λ_j)/Σλ ≤ τ} + 1, the paper's rule. m + 1 means that
        the known eigenvalues do not suffice.
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
        `count`), or the leading ones that were requested.
    inner : Tensor of float64, shape (alive, c)
        Orthonormal columns in the order of `values`, as many as requested; if c = alive, those
        after the first m span the directions that the class never uses within its features.
    features : Tensor of int64, shape (alive,), or None
        The features that are ever nonzero in the class; None if all are.
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
        """Return the spectrum of a class without samples, or with only zero rows."""
        return cls(count, mean.new_zeros(0), mean.new_zeros(len(mean), 0), None, mean, 0.0)

    @property
    def width(self) -> int:
        """Number of values per row."""
        return len(self.mean)

    @property
    def alive(self) -> int:
        """Number of features that are ever nonzero."""
        return len(self.inner)

    @property
    def whole(self) -> bool:
        """Whether the columns span all of the class's features."""
        return self.inner.shape[1] == self.alive

    @property
    def vectors(self) -> Float[Tensor, "width c"]:
        """The columns of `inner` over all features; if `whole`, unused features follow."""
        vectors = self.widened(self.inner)
        if self.features is None or not self.whole:
            return vectors
        others = torch.eye(self.width).to(vectors)
        unused = torch.ones(self.width, dtype=torch.bool, device=vectors.device)
        unused[self.features] = False
        return torch.cat([vectors, others[:, unused]], 1)

    def widened(self, columns: Float[Tensor, "alive c"]) -> Float[Tensor, "width c"]:
        """Extend columns over the class's features to all features, with zeros."""
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


@dataclass
class Eigenproblem:
    """A class's second moment, waiting to be decomposed.

    Attributes
    ----------
    matrix : Tensor of float64, shape (d, d), or None
        Symmetric and positive semi-definite; None for a class without samples. `solve` takes it.
    count : int
        Samples of the class.
    mean : Tensor of float64, shape (width,)
        Their mean.
    what : str
        Name of the class, for messages.
    features : Tensor of int64, shape (d,), or None
        The features of `matrix`, if the others are zero in the class; None if it has all.
    """

    matrix: Float[Tensor, "d d"] | None
    count: int
    mean: Float[Tensor, " width"]
    what: str
    features: Int[Tensor, " d"] | None = field(default=None, kw_only=True)

    def spectrum(self, of_matrix: ClassSpectrum, cuts: Sequence[Cut]) -> ClassSpectrum:
        """Return the class's spectrum, from that of `matrix`."""
        return of_matrix


def solve(
    problems: Sequence[Eigenproblem],
    cuts: Sequence[Cut] = (Cut(),),
    likely_rank: int | None = None,
) -> list[ClassSpectrum]:
    """Decompose second moments as far as the cuts need; one LAPACK call does the rest.

    Parameters
    ----------
    cuts : sequence of Cut
        They decide how many eigenvectors are needed; by default all.
    likely_rank : int, optional
        A guess at the largest rank, from an earlier class; it decides which method is tried
        first, and changes results only by rounding.

    Raises
    ------
    DataError
        If a matrix is not finite: the features are too large to be squared.
    """
    spectra: dict[int, ClassSpectrum] = {}
    left: dict[int, tuple[Tensor, Tensor | None]] = {}
    with side_by_side(len(problems)) as run:
        tried = list(run(lambda problem: _in_part(problem, cuts, likely_rank), problems))
    for place, result in enumerate(tried):
        if isinstance(result, ClassSpectrum):
            spectra[place] = result
        else:
            left[place] = result
    del tried
    solved = all_eigenvectors(
        [matrix for matrix, _ in left.values()], [problems[place].what for place in left]
    )
    for (place, (_, features)), (values, vectors) in zip(left.items(), solved, strict=True):
        count, mean = problems[place].count, problems[place].mean
        positive = values[: numerical_rank(values, count)]
        total = float(positive.sum())
        spectra[place] = ClassSpectrum(count, positive, vectors, features, mean, total)
    del left, solved
    return [problem.spectrum(spectra.pop(place), cuts) for place, problem in enumerate(problems)]


def _in_part(
    problem: Eigenproblem, cuts: Sequence[Cut], likely_rank: int | None
) -> ClassSpectrum | tuple[Tensor, Tensor | None]:
    """Return as much of a spectrum as the cuts need, or the matrix if they need all of it.

    The matrix is reduced to the features that the class uses, which are returned with it.
    """
    matrix, problem.matrix = problem.matrix, None
    if matrix is None:
        return ClassSpectrum.empty(problem.count, problem.mean)
    total = float(matrix.diagonal().sum())
    matrix, features = _in_use(matrix, total, problem.features)
    width = len(matrix)
    if width >= _WIDE and (likely_rank is None or likely_rank <= width // _FEW):
        pairs = leading(matrix, cuts)
        if pairs is not None:
            return ClassSpectrum(problem.count, *pairs, features, problem.mean, total)
    most = likely_rank is not None and 2 * likely_rank > width
    if width < _SOME or most or matrix.device.type != "cpu":
        return matrix, features
    scaled, scale = _in_range(matrix, problem.what)

    def needed(values: Tensor) -> int:
        """Return how many eigenvectors are needed; 0 if that is most of them."""
        positive = values[: numerical_rank(values, problem.count)]
        most = max((cut.rank_of(positive, float(positive.sum())) for cut in cuts), default=width)
        return most if 2 * most <= width else 0

    pairs = leading_eigenpairs(scaled, needed)
    if pairs is None:
        return matrix, features
    values, vectors = pairs
    positive = values[: numerical_rank(values, problem.count)] * scale
    total = float(positive.sum())
    return ClassSpectrum(problem.count, positive, vectors, features, problem.mean, total)


def _in_use(matrix: Tensor, total: float, features: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Reduce a second moment to the features that its class uses; return it and them.

    `features` are those of the given matrix, if it already lacks some.
    """
    # Unused features have rows and columns of exact zeros, which only cost time.
    used = torch.nonzero(matrix.diagonal() != 0)[:, 0] if total > 0 else None
    if used is None or len(used) > 0.98 * len(matrix):
        return matrix, features
    matrix = matrix.index_select(0, used).index_select(1, used)
    return matrix, used if features is None else features[used]


def all_eigenvectors(
    matrices: Sequence[Float[Tensor, "d d"]], whats: Sequence[str]
) -> list[tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]]:
    """Return the result of `eigenvectors` for each positive semi-definite matrix, in one call.

    Smaller matrices are padded with a negative diagonal. Its eigenvectors come last, and the
    others are zero there because the two blocks are separate.
    """
    large = max(map(len, matrices), default=0) >= _SOME and matrices[0].device.type == "cpu"
    if len(matrices) < 2 or large:
        return [eigenvectors(*pair) for pair in zip(matrices, whats, strict=True)]
    widths = [len(matrix) for matrix in matrices]
    scales = []
    stack = matrices[0].new_zeros(len(matrices), max(widths), max(widths))
    for place, (matrix, what, width) in enumerate(zip(matrices, whats, widths, strict=True)):
        scaled, scale = _in_range(matrix, what)
        scales.append(scale)
        stack[place, :width, :width] = scaled
        stack[place].diagonal()[width:] = -float(scaled.diagonal().max()) or -1.0
    try:
        values, vectors = torch.linalg.eigh(stack)
    except RuntimeError:
        del stack
        return [eigenvectors(*pair) for pair in zip(matrices, whats, strict=True)]
    return [
        (one.flip(0)[:width] * scale, columns.flip(1)[:width, :width])
        for one, columns, width, scale in zip(values, vectors, widths, scales, strict=True)
    ]


def _in_range(matrix: Tensor, what: str) -> tuple[Tensor, float]:
    """Return a matrix divided by a scale, and the scale."""
    if not all_finite(matrix):
        raise DataError(f"{what}: the features overflow when squared; scale them down")
    # LAPACK also squares the entries: keep the largest in range.
    scale = float(matrix.diagonal().max())
    if scale <= 0 or 1e-100 < scale < 1e100:
        return matrix, 1.0
    return matrix / scale, scale


def eigenvectors(
    matrix: Float[Tensor, "d d"], what: str
) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Return eigenvalues, largest first, and eigenvectors of a symmetric float64 matrix.

    Raises
    ------
    DataError
        If the matrix is not finite: the features are too large to be squared.
    """
    matrix, scale = _in_range(matrix, what)
    if not float(matrix.diagonal().max()) > 0:
        return matrix.diagonal().clone(), torch.eye(len(matrix)).to(matrix)
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except RuntimeError:  # includes torch.linalg.LinAlgError
        # The divide-and-conquer solver can fail on repeated eigenvalues; QR iterations do not.
        logger.info("%s: using the slower eigensolver", what)
        solution = scipy.linalg.eigh(matrix.cpu().numpy(), driver="ev")
        values, vectors = (torch.from_numpy(part).to(matrix) for part in solution)
    return values.flip(0) * scale, vectors.flip(1)


def numerical_rank(values: Float[Tensor, " d"], limit: int) -> int:
    """Return how many eigenvalues, largest first, exceed rounding errors; at most `limit`."""
    if not len(values) or float(values[0]) <= 0:
        return 0
    floor = float(values[0]) * len(values) * _EPS
    return min(int((values > floor).sum()), limit)


def leading(
    matrix: Float[Tensor, "d d"], cuts: Sequence[Cut]
) -> tuple[Float[Tensor, " m"], Float[Tensor, "d m"]] | None:
    r"""Return the leading eigenpairs that some cuts need, or None if LAPACK is the better choice.

    Block Lanczos with full reorthogonalisation (Golub and Underwood, 1977). A result is returned
    only if it is certified, for the largest requested rank r:

    - every projector: :math:`\|\sin\Theta\|_F \le \|R\|_F / (\theta_r - \sigma)` (Davis and Kahan,
      1970) is at most 1e-6, where R are the residuals of the first r pairs and σ bounds the rest
      of the spectrum;
    - σ: the Cholesky factorisation of :math:`\sigma I - (S - V \Theta V^T)` exists, so no other
      eigenvalue reaches σ;
    - every rank: the retained share is relative to the exact trace, and no sum of eigenvalues is
      within its error of the share.

    Parameters
    ----------
    matrix : Tensor of float64, shape (d, d)
        Symmetric and positive semi-definite, as second moments are.
    """
    width = len(matrix)
    most = width // _MOST // _BLOCK * _BLOCK
    total = float(matrix.diagonal().sum())
    # Squares of very large or small numbers leave the float range; LAPACK's path scales.
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
    """Say whether the missing share is small enough for a basis of allowed size."""
    missing = 1 - float(values.sum()) / total
    return all(missing <= 3 * (1 - cut.share) for cut in cuts if cut.rank is None)


def _converged(values: Tensor, residuals: Tensor, ranks: list[int]) -> bool:
    """Say whether every requested projector is accurate enough, by the Lanczos residuals."""
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
    """Say whether the eigenpairs pass the certificate of `leading`."""
    rank = max(ranks)
    kept = values[:rank]
    residuals = matrix @ vectors - vectors * kept
    sigma = float(values[rank - 1] + values[rank]) / 2
    for cut_rank in ranks:
        after = sigma if cut_rank == rank else float(values[cut_rank])
        error = float(torch.linalg.vector_norm(residuals[:, :cut_rank]))
        if error > _PROJECTOR_ERROR * (float(values[cut_rank - 1]) - after):
            return False
    shares = kept.cumsum(0) / total
    slack = 4 * len(matrix) * _EPS
    asked = [cut.share for cut in cuts if cut.rank is None]
    if any(bool(((shares - share).abs() <= slack).any()) for share in asked):
        return False
    # Only the gap must be resolved: single precision (error 1e-7 λ₁) suffices if it is wide.
    dtype = torch.float32 if sigma - float(values[rank]) > 1e-6 * float(values[0]) else None
    rest = matrix.to(dtype or torch.float64, copy=True)
    rest.addmm_((vectors * kept).to(rest), vectors.T.to(rest), alpha=-1)
    rest.neg_().diagonal().add_(sigma)
    return positive_definite(rest)


def positive_definite(matrix: Float[Tensor, "d d"], size: int = 128) -> bool:
    """Say whether the Cholesky factorisation of a symmetric matrix exists; it is overwritten.

    Works block by block, so most work is matrix products: several times as fast as LAPACK.
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
