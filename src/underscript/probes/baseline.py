"""The base classes of the baselines: they check input and count operations."""

import math
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ..utils.device import as_device
from .classifier import as_array, as_tensor
from .row_moments import RowMoments, blocks_of, classes_of, row_moments


class Baseline(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Base class of the probes: checks input and labels, and counts operations."""

    classes_: NDArray[Any]
    n_features_in_: int

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the probe.

        Parameters
        ----------
        X : array-like, shape (n, width)
            Rows. float32 stays float32; everything else becomes float64.
        y : array-like, shape (n,)
            Labels: integers or strings, of at least two classes.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `X` is empty, not finite or of another length than `y`, `y` has one class only, or
            a hyper-parameter is out of range.
        """
        self._validate_parameters()
        X, y = validate_data(self, as_array(X), y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_ = classes_of(y)
        self._fit(X, y)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class of each row, shape (n,)."""
        raise NotImplementedError

    def fit_flops(self, n: int) -> float:
        """Return roughly how many floating-point operations a fit to n rows takes.

        Counts the leading terms, for the fitted width and for classes of equal size. A
        multiply-add counts as two.
        """
        check_is_fitted(self, "classes_")
        return self._work(n, self.n_features_in_, n / len(self.classes_))

    def predict_flops(self, n: int) -> float:
        """Return roughly how many floating-point operations it takes to predict n rows."""
        check_is_fitted(self, "classes_")
        return self._work_for_each() * n

    def _work(self, n: int, width: int, size: float) -> float:
        """Return the operations of a fit to n rows, `size` of each class; NaN if not counted."""
        return math.nan

    def _work_for_each(self) -> float:
        """Return the operations to predict one row; by default, one product per class."""
        return 2.0 * len(self.classes_) * self.n_features_in_

    def _fit(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        raise NotImplementedError

    def _validate_parameters(self) -> None:
        """Raise ValueError for hyper-parameters out of range."""

    def _checked(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self, "classes_")
        return np.asarray(
            validate_data(self, as_array(X), reset=False, dtype=[np.float64, np.float32])
        )


class MomentBaseline(Baseline):
    """A probe that is computed from class moments and gives each class a float64 score."""

    device: str

    def fit_moments(self, moments: RowMoments) -> Self:
        """Fit to the rows that the moments were computed from.

        Parameters
        ----------
        moments : RowMoments
            From `row_moments`. Several probes can share them.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a hyper-parameter is out of range.
        """
        self._validate_parameters()
        self.classes_ = moments.classes
        self.n_features_in_ = moments.width
        self._solve(moments)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class with the largest score, shape (n,); ties go to the first class."""
        best = self._all_scores(X).argmax(1)  # also checks that the probe is fitted
        return np.asarray(self.classes_[best])

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return the scores, shape (n, K); for two classes their difference, shape (n,)."""
        scores = self._all_scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def _fit(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        self._solve(row_moments(X, y, device=self.device))

    def _solve(self, moments: RowMoments) -> None:
        raise NotImplementedError

    def _all_scores(self, X: Any) -> NDArray[np.float64]:
        rows = as_tensor(self._checked(X)).to(as_device(self.device))
        scores = np.empty((len(rows), len(self.classes_)))
        for part, block in blocks_of(rows):
            scores[part] = self._scores(block).cpu().numpy()
        return scores

    def _scores(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        """Return the score of each class for float64 rows, without changing the rows."""
        raise NotImplementedError

    def _like(self, values: NDArray[np.float64], rows: Tensor) -> Tensor:
        return torch.tensor(values).to(rows)


def check_share(name: str, value: Any) -> None:
    """Raise ValueError unless a parameter is a share in [0, 1]."""
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"{name}: expected a share in [0, 1]; found {value!r}")


def check_positive(name: str, value: Any) -> None:
    """Raise ValueError unless a parameter is a positive number."""
    if not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name}: expected a positive number; found {value!r}")


def check_positive_integer(name: str, value: Any) -> None:
    """Raise ValueError unless a parameter is an integer of at least 1."""
    if not isinstance(value, Integral) or int(value) < 1:
        raise ValueError(f"{name}: expected an integer ≥ 1; found {value!r}")
