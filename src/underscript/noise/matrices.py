"""Matrices that label noise is made from, as a user gives them: checked, and then in float64."""

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..errors import LabelError

__all__ = ["Matrix", "as_features", "as_scores", "as_transition"]

Matrix = npt.NDArray[np.float64]

# How far from 1 a row of a transition matrix may sum.
_SUM_TOLERANCE = 1e-6


def as_transition(transition: Any, n_classes: int | None) -> Matrix:
    """Return a transition matrix as float64, shape (K, K), after checking it row by row."""
    matrix = _as_matrix(transition, "transition", "row")
    classes = len(matrix) if n_classes is None else n_classes
    if matrix.shape != (classes, classes):
        if matrix.shape[1] != classes:
            first = f"row 0 holds {matrix.shape[1]}"
        else:
            first = f"row {min(len(matrix), classes)} is {_more_or_less(len(matrix), classes)}"
        raise LabelError(
            f"transition: expected one row and one column a class, shape {(classes, classes)}; "
            f"found {matrix.shape}: {first}"
        )
    negative = matrix < 0
    if negative.any():
        row, column = (int(at) for at in np.argwhere(negative)[0])
        raise LabelError(
            f"transition: expected probabilities of at least 0; found {matrix[row, column]:g} in "
            f"row {row}, column {column}"
        )
    # Finite numbers may still sum to infinity.
    with np.errstate(over="ignore"):
        sums = matrix.sum(axis=1)
    bad = np.abs(sums - 1.0) > _SUM_TOLERANCE
    if bad.any():
        row = int(bad.argmax())
        raise LabelError(
            f"transition: expected rows that sum to 1; found {sums[row]:.9g} for row {row}"
        )
    return matrix


def as_scores(scores: Any, n: int, n_classes: int | None) -> Matrix:
    """Return scores as float64, shape (n, K)."""
    matrix = _as_matrix(scores, "scores", "sample")
    classes = matrix.shape[1] if n_classes is None else n_classes
    if matrix.shape != (n, classes) or not classes:
        if matrix.shape[1] != classes or not classes:
            first = f"sample 0 holds {matrix.shape[1]}"
        else:
            first = f"sample {min(len(matrix), n)} is {_more_or_less(len(matrix), n)}"
        raise LabelError(
            f"scores: expected one row a sample and one column a class, shape "
            f"{(n, max(1, classes))}; found {matrix.shape}: {first}"
        )
    return matrix


def as_features(features: Any, n: int) -> Matrix:
    """Return features as float64, shape (n, d)."""
    matrix = _as_matrix(features, "features", "sample")
    if len(matrix) != n or not matrix.shape[1]:
        raise LabelError(
            f"features: expected one row for each of {n} labels, and at least one column; found "
            f"shape {matrix.shape}"
        )
    return matrix


def _more_or_less(number: int, expected: int) -> str:
    return "missing" if number < expected else "one too many"


def _as_matrix(values: Any, what: str, row: str) -> Matrix:
    """Return finite numbers as a float64 array with two axes.

    Raises
    ------
    LabelError
        If they are not numbers, not in rows of one length, or not finite, naming the first row
        that is not.
    """
    if isinstance(values, Tensor):
        # NumPy has no bfloat16.
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()
    try:
        array = np.asarray(values)
    except ValueError:  # rows of several lengths
        raise LabelError(
            f"{what}: expected rows of one length; {row} {_first_odd(values)} is of another"
        ) from None
    if array.ndim != 2:
        raise LabelError(f"{what}: expected a matrix; found shape {array.shape}")
    if array.dtype.kind not in "iuf":
        raise LabelError(f"{what}: expected numbers; found dtype {array.dtype}")
    matrix = array.astype(np.float64)
    finite = np.isfinite(matrix)
    if not finite.all():
        at, column = (int(place) for place in np.argwhere(~finite)[0])
        raise LabelError(
            f"{what}: expected finite numbers; found {matrix[at, column]} in {row} {at}, "
            f"column {column}"
        )
    return matrix


def _first_odd(rows: Any) -> int:
    """Return the position of the first row whose shape differs from that of row 0."""
    shape = None
    for at, row in enumerate(rows):
        try:
            row_shape = np.shape(row)
        except ValueError:  # a row that is itself of several lengths
            return at
        if shape is not None and row_shape != shape:
            return at
        shape = row_shape
    return 0
