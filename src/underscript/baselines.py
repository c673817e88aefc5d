"""Other probes for the rows of one layer, to compare the decoders with (the paper's experiment E6).

k nearest neighbours, linear and quadratic discriminants, the nearest class mean by cosine and
logistic regression are those of the paper; the robust discriminant (RoG) and the alignment score
(FINE) are the closest published rivals. All are scikit-learn estimators.

Where scikit-learn has a probe the answers are its own, up to rounding; the exceptions are said.
Probes that are made of class moments can share them: compute ``moments = row_moments(X, y)`` once
and call `fit_moments` in place of `fit`. Likewise the neighbours of a row, once found, can
`vote` with any labels of the training rows.
"""

import math
import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn import linear_model
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from torch import Tensor

from ._classifier import _as_tensor
from ._device import as_device
from ._probe_parts import (
    Baseline,
    LinearBaseline,
    MomentBaseline,
    NeighbourSearch,
    RowMoments,
    Subset,
    blocks_of,
    check_positive,
    check_positive_integer,
    check_share,
    minimum_norm,
    regular,
    regular_factor,
    row_moments,
    vote,
)
from .bases import unit_rows
from .errors import DataError, LabelError
from .spectra import Cut, solve

__all__ = [
    "BASELINES",
    "AlignmentClassifier",
    "Baseline",
    "LinearDiscriminant",
    "LogisticRegression",
    "MomentBaseline",
    "NearestClassMean",
    "NearestNeighbours",
    "QuadraticDiscriminant",
    "RobustDiscriminant",
    "RowMoments",
    "row_moments",
    "vote",
]


class NearestNeighbours(Baseline):
    """Predict the most frequent class among the k nearest training rows (Euclidean).

    As ``KNeighborsClassifier(k, algorithm="brute")`` of scikit-learn: of classes that are equally
    frequent the first wins. Equal distances come in the order of the training rows (as a rule:
    see `kneighbors`); scikit-learn does not say which comes first.

    Parameters
    ----------
    k : int, default=5
        Number of neighbours.
    device : str, default="cpu"
        Where to search.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes.
    n_features_in_ : int
        The width.

    Examples
    --------
    >>> from underscript.baselines import NearestNeighbours, vote
    >>> knn = NearestNeighbours(k=1).fit([[0.0, 0.0], [4.0, 0.0]], ["given", "other"])
    >>> found = knn.kneighbors([[3.0, 1.0]])
    >>> vote(found, ["true", "wrong"]).tolist()
    ['wrong']
    """

    def __init__(self, *, k: int = 5, device: str = "cpu"):
        self.k = k
        self.device = device

    def kneighbors(self, X: Any) -> NDArray[np.int64]:
        """Return the positions of the k nearest training rows, nearest first, shape (n, k).

        They do not depend on labels: with `vote` one search serves any labels of the same rows.
        Equal distances come in the order of the rows, unless several hundred are equal: then any
        of these rows.
        """
        rows = _as_tensor(self._checked(X))
        return np.asarray(self._search.nearest(rows, int(self.k)).cpu().numpy())

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most frequent class among the neighbours of each row, shape (n,)."""
        return vote(self.kneighbors(X), self._labels)

    def _work(self, n: int, width: int, size: float) -> float:
        return 4.0 * n * width  # the mean, and lengths

    def _work_for_each(self) -> float:
        return 2.0 * len(self._labels) * self.n_features_in_

    def _fit(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        if len(X) < self.k:
            raise DataError(f"k: expected at most the n_samples = {len(X)} rows; found {self.k}")
        self._labels = y
        self._search = NeighbourSearch(_as_tensor(X).to(as_device(self.device)))

    def _validate_parameters(self) -> None:
        check_positive_integer("k", self.k)


class LinearDiscriminant(LinearBaseline):
    r"""Linear discriminant analysis: Gaussian classes with one covariance.

    The score is :math:`m_k^T \Sigma^+ x - m_k^T \Sigma^+ m_k / 2 + \log \pi_k` with class means
    :math:`m_k`, class frequencies :math:`\pi_k` and the pooled covariance within classes
    :math:`\Sigma`. As ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)`` of scikit-learn,
    the minimum-norm solution included where the covariance is singular (features that are dead or
    depend on others), except in what counts as zero: eigenvalues below width · ε of the largest,
    where scikit-learn takes ε.

    Parameters
    ----------
    shrinkage : float, optional
        From 0 to 1: :math:`(1 - s) \Sigma + s \, \mathrm{tr}(\Sigma) / d \, I` takes the place of
        :math:`\Sigma`. scikit-learn's "auto" is not offered: it needs statistics of its own.
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
        # Half of a symmetric product, and one Cholesky factorisation.
        return n * width**2 + width**3 / 3

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
    covariance (divided by the number of rows, as in scikit-learn from 1.9 on; before, by one less).
    As ``QuadraticDiscriminantAnalysis(reg_param=ρ)``, as long as no :math:`\Sigma_k` is singular.

    If one is (fewer rows than features, dead or dependent features), which scikit-learn refuses,
    `ridge` times the mean variance within classes is added to the diagonal of *every* class's
    covariance: what no class uses then favours none.

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
        What was added to the diagonals because of a singular covariance, or 0.
    n_features_in_ : int
        The width.

    Notes
    -----
    A class with more rows than features keeps a triangular factor of its covariance; one with
    fewer keeps as many vectors as rows. Together these are at most as many numbers as the rows
    had, in float64.
    """

    def __init__(self, *, reg_param: float = 0.0, ridge: float = 1e-3, device: str = "cpu"):
        self.reg_param = reg_param
        self.ridge = ridge
        self.device = device

    def _work(self, n: int, width: int, size: float) -> float:
        least = min(size, width)
        vectors = least**2 * width if size < width else 0.0
        return len(self.classes_) * (size * width * least + least**3 / 3 + vectors)

    def _work_for_each(self) -> float:
        # A square factor is a triangle: half of its entries.
        return sum(f.numel() * (1.0 if len(f) == f.shape[1] else 2.0) for f in self._factors)

    def _solve(self, moments: RowMoments) -> None:
        means = moments.means
        self._factors: list[Tensor] = []
        self.means_ = means.cpu().numpy()
        self.priors_ = (moments.counts.double() / moments.counts.sum()).numpy()
        self.added_ = 0.0
        if not self._decompose(moments):
            variance = float(moments.pooled().diagonal().mean()) / len(moments.rows)
            self.added_ = self.ridge * (variance or 1.0)
            self._decompose(moments)

    def _decompose(self, moments: RowMoments) -> bool:
        """Find each class's factor and determinant; say whether all were regular."""
        width = moments.width
        level = self.reg_param + self.added_
        self._level = level
        self._factors, self._log_determinants = [], []
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
                if not self.added_ and not regular(level, width, float(inner.trace())):
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


class NearestClassMean(MomentBaseline):
    """Predict the class whose mean makes the smallest angle with a row (the largest cosine).

    A zero row has cosine 0 with every class and goes to the first one; a class whose mean is zero
    has cosine 0 with every row.

    Parameters
    ----------
    device : str, default="cpu"
        Where to compute.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes.
    means_ : ndarray, shape (K, width)
        Class means of the rows as they are, not of rows of length one.
    n_features_in_ : int
        The width.
    """

    def __init__(self, *, device: str = "cpu"):
        self.device = device

    def _work(self, n: int, width: int, size: float) -> float:
        return 1.0 * n * width

    def _solve(self, moments: RowMoments) -> None:
        self.means_ = moments.means.cpu().numpy()

    def _scores(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        return unit_rows(rows)[0] @ unit_rows(self._like(self.means_, rows))[0].T

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # Directions alone cannot tell two blobs in the plane apart; the tests use digits.
        tags.classifier_tags.poor_score = True
        return tags


class LogisticRegression(Baseline):
    r"""Multinomial logistic regression: scikit-learn's own (L-BFGS), on rows of a common scale.

    All rows are divided by one number, the root of their mean square entry, so that `C` means the
    same for every layer; features are not standardised one by one.

    Parameters
    ----------
    C : float, default=1.0
        Inverse of the strength of the penalty :math:`\|W\|^2 / 2`.
    max_iter : int, default=100
        Most iterations. With wide layers it is seldom enough for L-BFGS to converge; the accuracy
        hardly moves then, and `converged_` says so in place of a warning.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes.
    coef_, intercept_ : ndarray
        As in scikit-learn, for rows as they come.
    scale_ : float
        What rows are divided by.
    n_iter_ : int
        Iterations.
    converged_ : bool
        Whether these were enough.
    n_features_in_ : int
        The width.
    """

    def __init__(self, *, C: float = 1.0, max_iter: int = 100):
        self.C = C
        self.max_iter = max_iter

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of each row, shape (n,)."""
        X = self._checked(X)
        return np.asarray(self._model.predict(X / X.dtype.type(self.scale_)))

    def decision_function(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the scores, shape (n, K); for two classes their difference, shape (n,)."""
        X = self._checked(X)
        return np.asarray(self._model.decision_function(X / X.dtype.type(self.scale_)))

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the probability of each class, shape (n, K)."""
        X = self._checked(X)
        return np.asarray(self._model.predict_proba(X / X.dtype.type(self.scale_)))

    def _work(self, n: int, width: int, size: float) -> float:
        # The scores and their gradient, in each of the iterations that it took.
        return 4.0 * n * width * len(self.classes_) * self.n_iter_

    def _fit(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        squares = sum(float(block.square().sum()) for _, block in blocks_of(_as_tensor(X)))
        self.scale_ = math.sqrt(squares / X.size) or 1.0
        self._model = linear_model.LogisticRegression(C=self.C, max_iter=self.max_iter)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            self._model.fit(X / X.dtype.type(self.scale_), y)
        self.converged_ = True
        for each in caught:
            if issubclass(each.category, ConvergenceWarning):
                self.converged_ = False
            else:
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
        self.coef_ = self._model.coef_ / self.scale_
        self.intercept_ = self._model.intercept_
        self.n_iter_ = int(self._model.n_iter_.max())

    def _validate_parameters(self) -> None:
        check_positive("C", self.C)
        check_positive_integer("max_iter", self.max_iter)


class RobustDiscriminant(LinearBaseline):
    r"""Linear discriminant analysis on the most central part of each class (RoG).

    Means and the covariance within classes come from the minimum covariance determinant, which
    leaves out rows that lie far from their class, as mislabelled ones do. Precisely:

    1. start from all rows: class means :math:`m_k`, pooled covariance :math:`\Sigma` (divided by
       the number of rows), plus `ridge` times its mean variance on the diagonal;
    2. for each class keep the :math:`\lceil` `support` :math:`\cdot n_k \rceil` rows of smallest
       :math:`(x - m_k)^T \Sigma^{-1} (x - m_k)`; of equal ones the first;
    3. take :math:`m_k` and :math:`\Sigma` of the kept rows, and go on with 2 until it keeps the
       same rows, or `max_iter` times.

    No step can raise the determinant of :math:`\Sigma` (but for the ridge), so this ends. The
    score is that of `LinearDiscriminant` with these means and this covariance, and the frequencies
    of classes among all rows. The covariance of the central part is smaller than that of the
    class; it is not scaled up.

    Parameters
    ----------
    support : float, default=0.5
        Share of each class that is kept, in (0, 1].
    max_iter : int, default=1
        How often step 2 is taken at most. One is what was published. More can drift to a part of
        the class that is merely dense; of a ReLU layer's rows, to those where features are zero.
    ridge : float, default=1e-6
        Positive: what makes covariances with dead or dependent features regular.
    device : str, default="cpu"
        Where to compute.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes.
    coef_, intercept_, means_, priors_ : ndarray
        As in `LinearDiscriminant`; means of the rows that are kept.
    support_ : ndarray of bool, shape (n,)
        The rows that are kept.
    n_iter_ : int
        How often step 2 was taken.
    converged_ : bool
        Whether the last one changed nothing.
    n_features_in_ : int
        The width.

    Notes
    -----
    In their code Lee et al. measure distances with the pooled covariance too. It starts from a
    random part of each class, takes one step and keeps 70 %; the answers of several layers are
    combined, which is not done here. For float32 rows the distances of step 2 are float32; the
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
        # Moments of all rows and of the kept ones; distances, and a factorisation for each step.
        products = n * (1 + self.support + self.n_iter_)
        return width**2 * (products + (1 + self.n_iter_) * width / 3)

    def _solve(self, moments: RowMoments) -> None:
        kept = moments.positions
        subset = Subset(moments, kept, moments.means, moments.pooled())
        self.n_iter_, self.converged_ = 0, False
        while self.n_iter_ < self.max_iter and not self.converged_:
            factor = self._factor(subset).to(moments.rows.dtype)
            closest = [self._closest(moments, k, subset.means[k], factor) for k in range(len(kept))]
            self.n_iter_ += 1
            self.converged_ = all(map(torch.equal, closest, subset.kept))
            if not self.converged_:
                subset = subset.changed_to(closest)
        coefficients = torch.cholesky_solve(subset.means.T, self._factor(subset))
        self._discriminate(coefficients, subset.means, moments.counts)
        self.support_ = np.zeros(len(moments.rows), dtype=bool)
        self.support_[torch.cat(subset.kept).cpu().numpy()] = True

    def _factor(self, subset: Subset) -> Tensor:
        covariance = subset.scatter / sum(map(len, subset.kept))
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


class AlignmentClassifier(MomentBaseline):
    r"""Alignment of a row with each class's first principal vector (FINE).

    With :math:`v_k` the first eigenvector of :math:`\sum x x^T` over class k, uncentred, the score
    is :math:`(v_k^T x)^2 / \|x\|^2`. FINE takes that of a row's given label to judge the label
    (`alignment`); here the largest also decides (`predict`), which is
    `MinimumAngleSubspaceClassifier` of rank 1. `PrincipalVectorClassifier` has the same vectors,
    with a sign.

    Parameters
    ----------
    device : str, default="cpu"
        Where to compute.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes.
    vectors_ : ndarray, shape (K, width)
        Principal vectors, of no particular sign; zeros for a class of zero rows.
    n_features_in_ : int
        The width.

    Notes
    -----
    A zero row has alignment 0 with every class and goes to the first one. FINE goes on to fit a
    mixture of two Gaussians to the scores of each class, which is not done here.

    References
    ----------
    T. Kim et al., "FINE Samples for Learning with Noisy Labels", NeurIPS 2021, arXiv 2102.11628.
    """

    def __init__(self, *, device: str = "cpu"):
        self.device = device

    def alignment(self, X: Any, y: Any) -> NDArray[np.float64]:
        """Return the alignment of each row with the class of its label: low where that is wrong.

        Parameters
        ----------
        X : array-like, shape (n, width)
            Rows.
        y : array-like, shape (n,)
            A label each, of the fitted classes.

        Returns
        -------
        ndarray of float64, shape (n,)
            From 0 to 1.

        Raises
        ------
        LabelError
            If a label is none of the classes, or there is not one a row.
        """
        scores = self._all_scores(X)
        labels = np.asarray(y)
        if labels.shape != (len(scores),):
            raise LabelError(f"y: expected {len(scores)} labels, one a row; found {labels.shape}")
        unknown = labels[~np.isin(labels, self.classes_)].tolist()
        if unknown:
            raise LabelError(f"y: expected classes {self.classes_.tolist()}; found {unknown[0]!r}")
        return scores[np.arange(len(scores)), np.searchsorted(self.classes_, labels)]

    def _work(self, n: int, width: int, size: float) -> float:
        # Moments; the few products that find one eigenvector of each are not counted.
        return 1.0 * n * width * min(size, width)

    def _solve(self, moments: RowMoments) -> None:
        vectors = np.zeros((len(self.classes_), moments.width))
        for k in range(len(vectors)):
            [found] = solve([moments.eigenproblem(k)], [Cut(rank=1)])
            if not len(found.values):
                continue
            vector = found.widened(found.inner[:, :1])[:, 0]
            if moments.wide(k):
                vector = moments.combined(k, vector)
            vectors[k] = (vector / torch.linalg.vector_norm(vector)).cpu().numpy()
        self.vectors_ = vectors

    def _scores(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        return (unit_rows(rows)[0] @ self._like(self.vectors_, rows).T).square_()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # As for MASC: directions alone cannot tell two blobs in the plane apart.
        tags.classifier_tags.poor_score = True
        return tags


BASELINES: dict[str, type[Baseline]] = {
    "knn": NearestNeighbours,
    "lda": LinearDiscriminant,
    "qda": QuadraticDiscriminant,
    "ncm": NearestClassMean,
    "logistic": LogisticRegression,
    "rog": RobustDiscriminant,
    "fine": AlignmentClassifier,
}
"""The probes by the names that tables give them."""
