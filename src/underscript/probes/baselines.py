"""Baseline probes on the rows of one layer, to compare with the decoders (paper, experiment E6).

The paper uses k nearest neighbours, linear and quadratic discriminants, the nearest class mean by
cosine and logistic regression. The robust discriminant (RoG) and the alignment score (FINE) are
the closest published rivals. All are scikit-learn estimators.

Where scikit-learn has the same probe, predictions agree with it up to rounding; the docstrings
name the exceptions. Probes that use class moments can share them: compute
``moments = row_moments(X, y)`` once and call `fit_moments` instead of `fit`. Likewise, one
neighbour search serves any labels of the training rows (`vote`).
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

from ..errors import LabelError
from ..linalg.bases import unit_rows
from .baseline import Baseline, MomentBaseline, check_positive, check_positive_integer
from .classifier import as_tensor
from .discriminants import LinearDiscriminant, QuadraticDiscriminant, RobustDiscriminant
from .neighbours import NearestNeighbours, vote
from .row_moments import RowMoments, blocks_of, row_moments

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
        Class means of the rows, which are not scaled to unit length.
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
    r"""Multinomial logistic regression by scikit-learn (L-BFGS), on rescaled rows.

    All rows are divided by one number, the root mean square of their entries, so that `C` means
    the same for every layer. Features are not standardised one by one.

    Parameters
    ----------
    C : float, default=1.0
        Inverse of the strength of the penalty :math:`\|W\|^2 / 2`.
    max_iter : int, default=100
        Maximum number of iterations. For wide layers L-BFGS seldom converges in so few, but the
        accuracy hardly changes afterwards. `converged_` reports this instead of a warning.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes.
    coef_, intercept_ : ndarray
        As in scikit-learn, for rows that are not rescaled.
    scale_ : float
        The number that rows are divided by.
    n_iter_ : int
        Number of iterations.
    converged_ : bool
        Whether L-BFGS converged.
    n_features_in_ : int
        The width.
    """

    def __init__(self, *, C: float = 1.0, max_iter: int = 100):
        self.C = C
        self.max_iter = max_iter

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of each row, shape (n,)."""
        X = self._scaled(self._checked(X))
        return np.asarray(self._model.predict(X))

    def decision_function(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the scores, shape (n, K); for two classes their difference, shape (n,)."""
        X = self._scaled(self._checked(X))
        return np.asarray(self._model.decision_function(X))

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the probability of each class, shape (n, K)."""
        X = self._scaled(self._checked(X))
        return np.asarray(self._model.predict_proba(X))

    def _work(self, n: int, width: int, size: float) -> float:
        # Each iteration computes the scores and their gradient.
        return 4.0 * n * width * len(self.classes_) * self.n_iter_

    def _scaled(self, X: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(X / X.dtype.type(self.scale_))

    def _fit(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        squares = sum(float(block.square().sum()) for _, block in blocks_of(as_tensor(X)))
        self.scale_ = math.sqrt(squares / X.size) or 1.0
        self._model = linear_model.LogisticRegression(C=self.C, max_iter=self.max_iter)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            self._model.fit(self._scaled(X), y)
        self.converged_ = True
        for warning in caught:
            if issubclass(warning.category, ConvergenceWarning):
                self.converged_ = False
            else:
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )
        self.coef_ = self._model.coef_ / self.scale_
        self.intercept_ = self._model.intercept_
        self.n_iter_ = int(self._model.n_iter_.max())

    def _validate_parameters(self) -> None:
        check_positive("C", self.C)
        check_positive_integer("max_iter", self.max_iter)


class AlignmentClassifier(MomentBaseline):
    r"""Alignment of a row with each class's first principal vector (FINE).

    The score is :math:`(v_k^T x)^2 / \|x\|^2`, where :math:`v_k` is the first eigenvector of
    :math:`\sum x x^T` over class k, uncentred. FINE scores a given label by its class's alignment
    (`alignment`). Here `predict` also returns the class with the largest alignment; this is
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
        Principal vectors with arbitrary sign; zeros for a class of zero rows.
    n_features_in_ : int
        The width.

    Notes
    -----
    A zero row has alignment 0 with every class and goes to the first one. FINE then fits a
    mixture of two Gaussians to the scores of each class; this probe does not.

    References
    ----------
    T. Kim et al., "FINE Samples for Learning with Noisy Labels", NeurIPS 2021, arXiv 2102.11628.
    """

    def __init__(self, *, device: str = "cpu"):
        self.device = device

    def alignment(self, X: Any, y: Any) -> NDArray[np.float64]:
        """Return the alignment of each row with its label's class; it is low for wrong labels.

        Parameters
        ----------
        X : array-like, shape (n, width)
            Rows.
        y : array-like, shape (n,)
            One label per row, from the fitted classes.

        Returns
        -------
        ndarray of float64, shape (n,)
            From 0 to 1.

        Raises
        ------
        LabelError
            If a label is not among the classes, or there is not one label per row.
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
        # Moments only: the few products that give one eigenvector per class are not counted.
        return 1.0 * n * width * min(size, width)

    def _solve(self, moments: RowMoments) -> None:
        vectors = [moments.principal(k) for k in range(len(self.classes_))]
        self.vectors_ = torch.stack(vectors).cpu().numpy()

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
"""The baselines, by their names in tables."""
