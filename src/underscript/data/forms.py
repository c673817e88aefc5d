"""The forms in which users hold data in memory, brought into a few."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError
from .batches import is_mapping, is_table

__all__ = ["arranged", "is_array", "is_inputs", "is_pair"]


def arranged(data: Any, role: str) -> Any:
    """Return data with plain lists of numbers as arrays; refuse what cannot be read.

    Raises
    ------
    DataError
        If the rows of a list are of several lengths, or the data are text, one column or row of a
        table, or a sparse matrix; the message says what to give.
    """
    if isinstance(data, tuple) and len(data) == 2 and _is_rows(data[0]):
        return _rows(data[0], role), data[1]
    if _is_rows(data):
        return _rows(data, role)
    first = data[0] if isinstance(data, tuple | list) and len(data) else data
    for part in (data, first) if isinstance(data, tuple) else (data,):
        if hasattr(part, "toarray"):
            raise DataError(
                f"{role}: expected an array; found a sparse {type(part).__name__}; give "
                ".toarray() of it"
            )
    if isinstance(first, str | bytes):
        raise DataError(
            f"{role}: expected what the network takes; found text, {first[:30]!r}; give a "
            "tokenizer's output, a dict of tensors"
        )
    if hasattr(data, "to_frame") and not is_table(data):
        raise DataError(
            f"{role}: expected a table or an array; found a {type(data).__name__}; give one row as "
            "table.iloc[[0]], one column as table[[name]]"
        )
    return data


def is_array(data: Any) -> bool:
    """Say whether data are inputs in one array, or in a table."""
    return isinstance(data, Tensor | np.ndarray) or is_table(data)


def is_pair(data: Any) -> bool:
    """Say whether data are inputs and labels in two arrays."""
    return isinstance(data, tuple | list) and len(data) == 2 and hasattr(data[0], "shape")


def is_inputs(data: Any) -> bool:
    """Say whether data are several inputs of a network, and labels or None.

    The inputs are a mapping or a tuple of arrays. A list of two is two samples.
    """
    if not isinstance(data, tuple) or len(data) != 2:
        return False
    inputs, labels = data
    if isinstance(labels, tuple | Mapping):
        return False
    if is_mapping(inputs) and not isinstance(inputs, Dataset):
        return True
    several = isinstance(inputs, tuple | list) and len(inputs) > 0
    return several and all(len(getattr(part, "shape", ())) > 0 for part in inputs)


def _is_rows(data: Any) -> bool:
    """Say whether data are a list, or lists in lists, of numbers."""
    if not isinstance(data, list) or not data:
        return False
    first = data[0]
    return _is_rows(first) if isinstance(first, list) else isinstance(first, int | float)


def _rows(data: list[Any], role: str) -> Any:
    """Return lists of numbers as an array; floating numbers as torch makes them, float32."""
    try:
        rows = np.asarray(data)
    except ValueError:
        rows = np.asarray(None)
    if rows.dtype.kind not in "biuf":
        raise DataError(f"{role}: expected rows of numbers of one length; found others")
    return rows.astype(np.float32) if rows.dtype.kind == "f" else rows
