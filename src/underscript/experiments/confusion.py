"""The weak model that instance-dependent label noise is made from.

Noise that depends on the sample needs to know which samples are hard and which classes they
resemble. In experiments this comes from a linear classifier of the inputs, fitted to the *true*
labels. Its scores only make noise; no decoder or network ever sees them.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve
from scipy.optimize import brentq
from scipy.special import softmax

from ..errors import DataError, LabelError
from ..utils.labels import Labels, as_labels

__all__ = ["weak_scores"]

Features = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

RIDGE = 0.01
"""The ridge, as a share of the mean eigenvalue (trace / width) of the centred second moment."""

MOST_FEATURES = 4096
"""Inputs with more features are average-pooled: the width bounds time (cubic) and memory."""

LARGEST_FACTOR = 2.0**20
"""Classes that even this factor cannot separate are tied up to rounding."""

BLOCK = 4096
"""Rows held in float64 at a time."""


def weak_scores(inputs: Features, labels: Any, n_classes: int, seed: int) -> Matrix:
    r"""Score every sample with a linear classifier fitted without it.

    The samples are split at random into two halves, and the model of one half scores the other, so
    no model scores a sample whose label it has seen. With :math:`X` the flattened inputs of a half
    minus their mean, :math:`Y` its one-hot labels and :math:`\bar Y` their mean, the model is ridge
    regression with an intercept,

    .. math:: W = (X^T X + \rho I)^{-1} X^T (Y - \bar Y), \qquad
              \rho = 0.01\, \mathrm{trace}(X^T X) / \mathrm{width},

    and the scores of a sample x, minus the same mean, are :math:`\beta (x W + \bar Y)`. One
    temperature :math:`1/\beta` for all samples makes the model weak by a stated amount: under a
    softmax of the scores, the mean probability of the true class is halfway between chance, 1/K,
    and the share of samples whose true class scores highest. So samples differ in how hard they
    are, but few are nearly certain.

    Parameters
    ----------
    inputs : ndarray of shape (n, ...), float32
        The inputs, n at least 2. While a sample has more than 4096 features, neighbours along its
        longest axis are averaged in pairs (a last one without a neighbour stays): an image loses
        resolution, but keeps its layout.
    labels : array-like or torch.Tensor of shape (n,)
        The *true* labels, integers in 0 .. n_classes - 1.
    n_classes : int
        Number of classes K, at least 1.
    seed : int
        Seed of the split.

    Returns
    -------
    ndarray of shape (n, K), float64
        The scores, as `corrupt_labels` takes them for its kind "instance". All zero if the model
        is no better than chance.

    Raises
    ------
    DataError
        If the inputs are fewer than two, not of shape (n, ...) or not finite.
    LabelError
        If the labels are not one integer from 0 to n_classes - 1 for each input, or the number of
        classes or the seed is not usable.
    """
    inputs, true = _checked(inputs, labels, n_classes, seed)
    features = _pooled(inputs).reshape(len(inputs), -1)
    halves = np.array_split(np.random.default_rng(seed).permutation(len(features)), 2)
    scores = np.empty((len(features), n_classes))
    for fitted, scored in (halves, halves[::-1]):
        mean, weights, intercept = _fit(features, true, fitted, n_classes)
        for rows in _blocks(scored):
            scores[rows] = (features[rows] - mean) @ weights + intercept
    return scores * _inverse_temperature(scores, true)


def _fit(features: Features, true: Labels, rows: Labels, n_classes: int) -> tuple[Matrix, ...]:
    """Return mean (width,), weights (width, K) and intercept (K,) of the model of some rows."""
    mean = sum(features[block].sum(axis=0, dtype=np.float64) for block in _blocks(rows)) / len(rows)
    intercept = np.bincount(true[rows], minlength=n_classes) / len(rows)
    moment = np.zeros((len(mean), len(mean)))
    towards = np.zeros((len(mean), n_classes))
    for block in _blocks(rows):
        centred = features[block] - mean
        moment += centred.T @ centred
        towards += centred.T @ (np.eye(n_classes)[true[block]] - intercept)
    ridge = RIDGE * np.trace(moment) / len(mean)
    if not ridge:  # All inputs of this half are equal: only the intercept can be learnt.
        return mean, towards, intercept
    moment[np.diag_indices_from(moment)] += ridge
    return mean, solve(moment, towards, assume_a="pos", overwrite_a=True), intercept


def _inverse_temperature(scores: Matrix, true: Labels) -> float:
    """Find the factor that puts the true class's mean probability halfway from chance to its best.

    At factor 0 that mean is 1/K. It tends to the share of samples whose true class scores highest
    (a tie counts by its share), so every value in between has a factor.
    """
    n_classes: int = scores.shape[1]
    rows = np.arange(len(scores))
    highest = scores == scores.max(axis=1, keepdims=True)
    best = float((highest[rows, true] / highest.sum(axis=1)).mean())
    goal = (1.0 / n_classes + best) / 2.0
    if best <= 1.0 / n_classes:
        return 0.0

    def beyond(factor: float) -> float:
        probabilities: Matrix = softmax(factor * scores, axis=1)
        return float(probabilities[rows, true].mean()) - goal

    upper = 1.0
    while beyond(upper) < 0.0:
        if upper >= LARGEST_FACTOR:
            return upper
        upper *= 2.0
    return float(brentq(beyond, 0.0, upper, rtol=1e-6))


def _pooled(inputs: Features) -> Features:
    """Average neighbours in pairs along the longest axis until the features are few enough."""
    while inputs[0].size > MOST_FEATURES:
        axis = 1 + int(np.argmax(inputs.shape[1:]))
        starts = np.arange(0, inputs.shape[axis], 2)
        shape = [1] * inputs.ndim
        shape[axis] = len(starts)
        sizes = np.diff(starts, append=inputs.shape[axis]).astype(np.float32).reshape(shape)
        inputs = np.divide(np.add.reduceat(inputs, starts, axis=axis), sizes, dtype=np.float32)
    return inputs


def _blocks(rows: Labels) -> list[Labels]:
    return [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]


def _checked(inputs: Any, labels: Any, n_classes: int, seed: int) -> tuple[Features, Labels]:
    inputs = np.asarray(inputs, dtype=np.float32)
    if inputs.ndim < 2 or len(inputs) < 2 or not inputs[0].size:
        raise DataError(f"inputs: expected shape (n, ...) with n at least 2; found {inputs.shape}")
    for start in range(0, len(inputs), BLOCK):
        finite = np.isfinite(inputs[start : start + BLOCK]).reshape(-1, inputs[0].size).all(axis=1)
        if not finite.all():
            raise DataError(
                "inputs: expected finite values; found one that is not in sample "
                f"{start + int(finite.argmin())}"
            )
    for name, value, least in (("n_classes", n_classes, 1), ("seed", seed, 0)):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < least:
            raise LabelError(f"{name} must be an integer of at least {least}, found {value!r}")
    true = as_labels(labels, "labels")
    if len(true) != len(inputs):
        raise LabelError(
            f"labels: expected one for each of {len(inputs)} inputs; found {len(true)}"
        )
    if true.max() >= n_classes:
        at = int(np.argmax(true >= n_classes))
        raise LabelError(
            f"labels: expected classes 0 … {n_classes - 1}; found {true[at]} at index {at}"
        )
    return inputs, true
