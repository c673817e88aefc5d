"""Discriminants of Gaussian classes: linear, quadratic, and linear on each class's central part."""

import math

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..linalg.spectra import eigenvectors, numerical_rank, positive_definite
from .baseline import MomentBaseline, check_positive, check_positive_integer, check_share
from .row_moments import RowMoments

_EPS = torch.finfo(torch.float64).eps


class LinearBaseline(MomentBaseline):
    """A probe whose scores are linear in the row."""

    coef_: NDArray[np.float64]
    intercept_: NDArray[np.float64]

    def _scores(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        return torch.addmm(self._like(self.intercept_, rows), rows, self._like(self.coef_, rows).T)

    def _discriminate(self, coefficients: Tensor, means: Tensor, counts: Tensor) -> None:
        """Set the fitted attributes; `coefficients` holds Σ⁻¹ m_k, shape (width, K)."""
        priors = (counts.double() / counts.sum()).to(means)
        self.coef_ = coefficients.T.cpu().numpy()
        self.intercept_ = (priors.log() - (means * coefficients.T).sum(1) / 2).cpu().numpy()
        self.means_ = means.cpu().numpy()
        self.priors_ = priors.cpu().numpy()


class LinearDiscriminant(LinearBaseline):
    r"""Linear discriminant analysis: Gaussian classes with one covariance.

    The score is :math:`m_k^T \Sigma^+ x - m_k^T \Sigma^+ m_k / 2 + \log \pi_k` with class means
    :math:`m_k`, class frequencies :math:`\pi_k` and the pooled covariance within classes
    :math:`\Sigma`. Same as scikit-learn's
    ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)``, except for singular covariances
    (features that are dead or depend on others, as in a rectified layer). There, eigenvalues below
    width · ε of the largest count as zero. scikit-learn's limit is ε, and its scores become
    rounding noise of 10¹³. It is nearly as fast (``python -m benchmarks.baselines``), but for this
    reason it is not used here.

    Parameters
    ----------
    shrinkage : float, optional
        From 0 to 1: :math:`(1 - s) \Sigma + s \, \mathrm{tr}(\Sigma) / d \, I` replaces
        :math:`\Sigma`. scikit-learn's "auto" is not available: it needs more statistics.
    device : str, default="cpu"
        Where to compute.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes.
    coef_ : ndarray, shape (K, width)
        Coefficients; for two classes scikit-learn keeps their difference.
    intercept_ : ndarray, shape (K,)
        Intercepts.
    means_ : ndarray, shape (K, width)
        Class means.
    priors_ : ndarray, shape (K,)
        Class frequencies.
    n_features_in_ : int
        The width.
    """

    def __init__(self, *, shrinkage: float | None = None, device: str = "cpu"):
        self.shrinkage = shrinkage
        self.device = device

    def _work(self, n: int, width: int, size: float) -> float:
        # Half of a symmetric product, and two Cholesky factorisations.
        return n * width**2 + 2 * width**3 / 3

    def _solve(self, moments: RowMoments) -> None:
        covariance = moments.pooled() / len(moments.rows)
        if self.shrinkage is not None:
            amount = float(covariance.diagonal().mean()) * self.shrinkage
            covariance.mul_(1 - self.shrinkage).diagonal().add_(amount)
        coefficients = minimum_norm(covariance, moments.means.T)
        self._discriminate(coefficients, moments.means, moments.counts)

    def _validate_parameters(self) -> None:
        if self.shrinkage is not None:
            check_share("shrinkage", self.shrinkage)


class QuadraticDiscriminant(MomentBaseline):
    r"""Quadratic discriminant analysis: Gaussian classes, each with its own covariance.

    The score is :math:`-\frac12 (x - m_k)^T \Sigma_k^{-1} (x - m_k) - \frac12 \log \det \Sigma_k
    + \log \pi_k` with :math:`\Sigma_k = (1 - \rho) C_k + \rho I` and :math:`C_k` the class's
    covariance (divided by the number of rows, as in scikit-learn since 1.9; before, by one less).
    Same as ``QuadraticDiscriminantAnalysis(reg_param=ρ)`` if no :math:`\Sigma_k` is singular.

    scikit-learn refuses singular covariances (fewer rows than features, dead or dependent
    features). Here `ridge` times the mean variance within classes is then added to the diagonal of
    *every* class's covariance, so that a direction that no class uses favours none.

    Parameters
    ----------
    reg_param : float, default=0
        ρ, from 0 to 1; not relative to the features' scale.
    ridge : float, default=0.001
        Positive. For singular covariances only.
    device : str, default="cpu"
        Where to compute.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes.
    means_ : ndarray, shape (K, width)
        Class means.
    priors_ : ndarray, shape (K,)
        Class frequencies.
    added_ : float
        Amount added to the diagonals because of a singular covariance, or 0.
    n_features_in_ : int
        The width.

    Notes
    -----
    A class with more rows than features keeps a triangular factor of its covariance; one with
    fewer keeps as many vectors as rows. In total these are at most as many numbers as the rows
    had, in float64.
    """

    def __init__(self, *, reg_param: float = 0.0, ridge: float = 1e-3, device: str = "cpu"):
        self.reg_param = reg_param
        self.ridge = ridge
        self.device = device

    def _work(self, n: int, width: int, size: float) -> float:
        least = min(size, width)
        # The last term: the wide classes' vectors, or the other classes' second factorisation.
        more = least**2 * width if size < width else width**3 / 3
        return len(self.classes_) * (size * width * least + least**3 / 3 + more)

    def _work_for_each(self) -> float:
        # A square factor is triangular: only half of its entries count.
        return sum(f.numel() * (1.0 if len(f) == f.shape[1] else 2.0) for f in self._factors)

    def _solve(self, moments: RowMoments) -> None:
        self.means_ = moments.means.cpu().numpy()
        self.priors_ = (moments.counts.double() / moments.counts.sum()).numpy()
        self.added_ = 0.0
        if not self._decompose(moments):
            variance = float(moments.pooled().diagonal().mean()) / len(moments.rows)
            self.added_ = self.ridge * (variance or 1.0)
            self._decompose(moments)

    def _decompose(self, moments: RowMoments) -> bool:
        """Compute each class's factor and determinant; return whether all were regular."""
        width = moments.width
        level = self.reg_param + self.added_
        self._level = level
        self._factors: list[Tensor] = []
        self._log_determinants: list[float] = []
        for k, count in enumerate(moments.counts.tolist()):
            weight = (1 - self.reg_param) / count
            if not moments.wide(k):
                matrix = weight * moments.scatter(k)
                matrix.diagonal().add_(level)
                factor = torch.linalg.cholesky(matrix) if self.added_ else regular_factor(matrix)
                if factor is None:
                    return False
                determinant = 2 * float(factor.diagonal().log().sum())
            else:
                # Σ = w FᵀF + εI has the inverse (I − AᵀA) / ε, A = √w L⁻¹F, LLᵀ = w FFᵀ + εI.
                rows = moments.centred(k)
                inner = weight * (rows @ rows.T)
                if not self.added_ and level <= rounding_floor(width, float(inner.trace())):
                    return False
                inner.diagonal().add_(level)
                inner = torch.linalg.cholesky(inner)
                factor = torch.linalg.solve_triangular(inner, math.sqrt(weight) * rows, upper=False)
                determinant = (width - count) * math.log(level)
                determinant += 2 * float(inner.diagonal().log().sum())
            self._factors.append(factor)
            self._log_determinants.append(determinant)
        return True

    def _scores(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        scores = rows.new_empty(len(rows), len(self._factors))
        for k, (factor, mean) in enumerate(zip(self._factors, self.means_, strict=True)):
            away = rows - self._like(mean, rows)
            if len(factor) == rows.shape[1]:
                white = torch.linalg.solve_triangular(factor, away.T, upper=False)
                distances = white.square_().sum(0)
            else:
                within = (away @ factor.T).square_().sum(1)
                distances = (away.square_().sum(1) - within).clamp_(min=0) / self._level
            constant = math.log(self.priors_[k]) - self._log_determinants[k] / 2
            scores[:, k] = constant - distances / 2
        return scores

    def _validate_parameters(self) -> None:
        check_share("reg_param", self.reg_param)
        check_positive("ridge", self.ridge)


class RobustDiscriminant(LinearBaseline):
    r"""Linear discriminant analysis on the most central part of each class (RoG).

    Means and the covariance within classes come from the minimum covariance determinant. It leaves
    out rows that are far from their class, as mislabelled ones are. The steps are:

    1. start from all rows: class means :math:`m_k`, pooled covariance :math:`\Sigma` (divided by
       the number of rows), plus `ridge` times its mean variance on the diagonal;
    2. for each class keep the :math:`\lceil` `support` :math:`\cdot n_k \rceil` rows of smallest
       :math:`(x - m_k)^T \Sigma^{-1} (x - m_k)`; ties go to the first row;
    3. compute :math:`m_k` and :math:`\Sigma` from the kept rows, and repeat 2 until it keeps the
       same rows, or `max_iter` times.

    No step can raise the determinant of :math:`\Sigma` (except for the ridge), so this ends. The
    score is that of `LinearDiscriminant` with these means, this covariance and the class
    frequencies among all rows. The covariance of the central part is smaller than that of the
    class; it is not scaled up.

    Parameters
    ----------
    support : float, default=0.5
        Share of each class that is kept, in (0, 1].
    max_iter : int, default=1
        Maximum number of times to take step 2. The published method takes it once. More can drift
        to a part of the class that is merely dense; in a ReLU layer, to rows with zero features.
    ridge : float, default=1e-6
        Positive. Makes covariances with dead or dependent features regular.
    device : str, default="cpu"
        Where to compute.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes.
    coef_, intercept_, means_, priors_ : ndarray
        As in `LinearDiscriminant`; the means are those of the kept rows.
    support_ : ndarray of bool, shape (n,)
        The kept rows.
    n_iter_ : int
        How often step 2 was taken.
    converged_ : bool
        Whether the last step changed nothing.
    n_features_in_ : int
        The width.

    Notes
    -----
    The code of Lee et al. also measures distances with the pooled covariance. It starts from a
    random part of each class, takes one step and keeps 70 %. It also combines the predictions of
    several layers; this probe does not. For float32 rows the distances of step 2 are float32; the
    moments are float64.

    References
    ----------
    K. Lee et al., "Robust Inference via Generative Classifiers for Handling Noisy Labels", ICML
    2019, arXiv 1901.11300.
    P. Rousseeuw and K. Van Driessen, "A fast algorithm for the minimum covariance determinant
    estimator", 1999.
    """

    def __init__(
        self,
        *,
        support: float = 0.5,
        max_iter: int = 1,
        ridge: float = 1e-6,
        device: str = "cpu",
    ):
        self.support = support
        self.max_iter = max_iter
        self.ridge = ridge
        self.device = device

    def _work(self, n: int, width: int, size: float) -> float:
        # Moments of all rows; per step: distances, moments of the kept rows, a factorisation.
        products = n * (1 + self.n_iter_ * (1 + self.support))
        return width**2 * (products + (1 + self.n_iter_) * width / 3)

    def _solve(self, moments: RowMoments) -> None:
        kept, means, scatter = moments.positions, moments.means, moments.pooled()
        self.n_iter_, self.converged_ = 0, False
        while self.n_iter_ < self.max_iter and not self.converged_:
            factor = self._factor(scatter, kept).to(moments.rows.dtype)
            closest = [self._closest(moments, k, mean, factor) for k, mean in enumerate(means)]
            self.n_iter_ += 1
            self.converged_ = all(map(torch.equal, closest, kept))
            if not self.converged_:
                kept, means = closest, torch.stack([moments.mean(chosen) for chosen in closest])
                scatter = moments.products(kept, means)
        coefficients = torch.cholesky_solve(means.T, self._factor(scatter, kept))
        self._discriminate(coefficients, means, moments.counts)
        self.support_ = np.zeros(len(moments.rows), dtype=bool)
        self.support_[torch.cat(kept).cpu().numpy()] = True

    def _factor(self, scatter: Tensor, kept: list[Tensor]) -> Tensor:
        covariance = scatter / sum(map(len, kept))
        covariance.diagonal().add_(self.ridge * (float(covariance.diagonal().mean()) or 1.0))
        factor: Tensor = torch.linalg.cholesky(covariance)
        return factor

    def _closest(self, moments: RowMoments, k: int, mean: Tensor, factor: Tensor) -> Tensor:
        """Return the positions of a class's most central rows, ascending."""
        chosen = moments.positions[k]
        distances = [
            torch.linalg.solve_triangular(factor, block.to(factor.dtype).T, upper=False)
            .square_()
            .sum(0)
            for block in moments.about(chosen, mean)
        ]
        order = torch.argsort(torch.cat(distances), stable=True)
        return chosen[order[: math.ceil(self.support * len(chosen))].sort().values]

    def _validate_parameters(self) -> None:
        check_positive("ridge", self.ridge)
        check_positive("support", self.support)
        check_share("support", self.support)
        check_positive_integer("max_iter", self.max_iter)


def rounding_floor(width: int, trace: float) -> float:
    """Return the limit that a regular covariance's least eigenvalue exceeds despite rounding."""
    return 10 * width * _EPS * trace


def regular_factor(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"] | None:
    """Return the Cholesky factor of a covariance, or None where it is numerically singular."""
    rest = matrix.clone()
    rest.diagonal().sub_(rounding_floor(len(matrix), float(matrix.trace())))
    return torch.linalg.cholesky(matrix) if positive_definite(rest) else None


def minimum_norm(
    matrix: Float[Tensor, "d d"], columns: Float[Tensor, "d c"]
) -> Float[Tensor, "d c"]:
    """Return the shortest least-squares solution of ``matrix · Z = columns``.

    Parameters
    ----------
    matrix : Tensor of float64, shape (d, d)
        Symmetric and positive semi-definite, such as a covariance. Eigenvalues below d · ε of the
        largest count as zero. Features with so small a variance are left out first.
    columns : Tensor of float64, shape (d, c)
        The right-hand sides.
    """
    solution = torch.zeros_like(columns)
    variances = matrix.diagonal()
    features = torch.nonzero(variances > len(matrix) * _EPS * variances.max())[:, 0]
    inner = matrix.index_select(0, features).index_select(1, features)
    right = columns.index_select(0, features)
    factor = regular_factor(inner)
    if factor is not None:
        inner_solution = torch.cholesky_solve(right, factor)
    else:
        values, vectors = eigenvectors(inner, "covariance")
        rank = numerical_rank(values, len(values))
        vectors = vectors[:, :rank]
        inner_solution = vectors @ ((vectors.T @ right) / values[:rank, None])
    return solution.index_copy_(0, features, inner_solution)
