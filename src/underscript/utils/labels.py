"""Labels as the library uses them: one integer class per sample."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import LabelError

Labels = NDArray[np.int64]


def as_labels(labels: Any, what: str, start: int = 0) -> Labels:
    """Return labels as a new int64 array of shape (n,).

    Raises
    ------
    LabelError
        If they are not one-dimensional integers, or one is negative.
    """
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu().numpy()
    try:
        array = np.asarray(labels)
    except ValueError:  # rows of several lengths
        raise LabelError(f"{what}: expected one label a sample, shape (n,)") from None
    if array.ndim != 1:
        raise LabelError(f"{what}: expected one label a sample, shape (n,); found {array.shape}")
    if array.size and array.dtype.kind in "Of":
        array = _without_gaps(array, what, start)
    if array.size and array.dtype.kind not in "iu":
        raise LabelError(
            f"{what}: expected integer classes 0 … K−1; found dtype {array.dtype}"
            + ("; convert them with .astype(int)" if array.dtype.kind in "bf" else "")
        )
    if len(array) and array.min() < 0:
        at = int(np.argmin(array))
        raise LabelError(
            f"{what}: expected classes 0 … K−1; found {array[at]} at index {start + at}"
        )
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise LabelError(f"{what}: expected classes that fit in int64; found {array.max()}")
    return array.astype(np.int64)


def _without_gaps(array: NDArray[Any], what: str, start: int) -> NDArray[Any]:
    """Check that no label is missing; return object arrays of integers as int64.

    Raises
    ------
    LabelError
        If one is missing: NaN or None.
    """
    for at, value in enumerate(array.tolist()):
        if value is None or type(value).__name__ == "NAType" or value != value:
            raise LabelError(
                f"{what}: the label at index {start + at} is missing; leave out samples without one"
            )
    if array.dtype.kind == "O" and all(type(value) is int for value in array.tolist()):
        return array.astype(np.int64)
    return array


def check_range(labels: Labels, n_classes: int, index: Labels | None, what: str) -> Labels:
    """Return the labels after checking that the model's read-out knows all of them.

    Raises
    ------
    LabelError
        If it does not; the message names the first by index.
    """
    if len(labels) and labels.max() >= n_classes:
        at = int(np.argmax(labels >= n_classes))
        place = int(index[at]) if index is not None else at
        raise LabelError(
            f"{what}: found label {labels[at]} at index {place}; the model's read-out knows "
            f"{n_classes} classes, 0 … {n_classes - 1}"
        )
    return labels


def check_different(indices: Sequence[Labels], what: str) -> None:
    """Check that no index stands for several samples: they could not be told apart.

    Raises
    ------
    LabelError
        If one does; the message names the first.
    """
    index = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *indices]))
    again = np.unique(index[1:][np.diff(index) == 0])
    if len(again):
        raise LabelError(
            f"{what}: index {again[0]} stands for several samples"
            + (f", as do {len(again) - 1:,} others" if len(again) > 1 else "")
            + "; expected each sample once, with its own place in the data set"
        )


def pick(labels: Labels, index: Labels, where: str) -> Labels:
    """Return the entries of separate labels that belong to a batch.

    Raises
    ------
    LabelError
        If an index is outside them.
    """
    outside = (index < 0) | (index >= len(labels))
    if outside.any():
        raise LabelError(
            f"{where}: expected an index within the {len(labels)} separate labels; "
            f"found {index[outside][0]}"
        )
    return labels[index]


def by_class(labels: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield each class present and the ascending positions of its labels; −1 is no class."""
    order = torch.argsort(labels, stable=True)
    classes, sizes = torch.unique_consecutive(labels[order], return_counts=True)
    for k, positions in zip(classes.tolist(), torch.split(order, sizes.tolist()), strict=True):
        if k >= 0:
            yield k, positions
