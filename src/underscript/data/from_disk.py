"""Features and labels from .npy, .parquet and .csv files; nothing is unpickled."""

import difflib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import DataError, LabelError
from .tables import numbers_of

__all__ = ["is_data_file", "read_data"]

_TABLES = (".parquet", ".csv")
_SUFFIXES = (".npy", *_TABLES)


def is_data_file(spec: str) -> bool:
    """Say whether a command-line argument names files of data, not ``FILE.py:name``."""
    return any(_path(part).suffix in _SUFFIXES for part in spec.split(","))


def read_data(spec: str, what: str, *, column: bool = False) -> Any:
    """Read features and labels from data files.

    Parameters
    ----------
    spec : str
        ``features.npy,labels.npy``: a pair of arrays; the features are memory-mapped.
        ``array.npy``: one array. ``table.parquet:label`` or ``table.csv:label``: a pair; the
        named column holds the labels, the others the features (numbers, or one column of lists).
    what : str
        The option that named the files, for messages.
    column : bool
        Return only the named column of a table.

    Raises
    ------
    DataError
        If a file is missing or damaged, or holds anything but numbers (labels may be words).
    """
    parts = spec.split(",")
    if len(parts) == 2 and all(part.endswith(".npy") for part in parts):
        features, labels = (_read_npy(Path(part), what) for part in parts)
        return features, np.array(labels)
    if len(parts) == 1 and spec.endswith(".npy"):
        return _read_npy(Path(spec), what)
    if len(parts) > 1:
        raise DataError(f"{what}: expected FEATURES.npy,LABELS.npy; found {spec!r}")
    path = _path(spec)
    name = spec.removeprefix(str(path))[1:]
    table = _read_table(path, what, name)
    named: NDArray[Any] | None = None
    if name:
        if name not in table:
            close = difflib.get_close_matches(name, map(str, table.columns), n=3, cutoff=0.0)
            raise DataError(
                f"{what}: {path} has no column {name!r}; the closest are {', '.join(close)}"
            )
        named = _labels(table.pop(name), f"{what}: {path}")
    if column or table.shape[1] == 0:
        if named is None:
            raise DataError(
                f"{what}: expected {path}:COLUMN; {path} has {', '.join(map(str, table))}"
            )
        return named
    features = _features(table, path, what)
    return features if named is None else (features, named)


def _path(part: str) -> Path:
    """Return the file of ``FILE:column``."""
    name, colon, _column = part.rpartition(":")
    return Path(name if colon and Path(name).suffix in _TABLES else part)


def _read_npy(path: Path, what: str) -> NDArray[Any]:
    if not path.is_file():
        raise DataError(f"{what}: {path} is not a file")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"{what}: cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        if "pickle" in str(error) or "Python objects" in str(error):
            raise DataError(
                f"{what}: {path} holds Python objects or a pickle, which may run code; nothing in "
                "it was read. Save plain numbers: numpy.save(file, array, allow_pickle=False)"
            ) from error
        raise DataError(f"{what}: {path} is no .npy file, or is damaged") from error
    if array.dtype.kind not in "biufU":
        raise DataError(f"{what}: {path}: expected numbers; found dtype {array.dtype}")
    return array


def _read_table(path: Path, what: str, labels: str = "") -> pd.DataFrame:
    """Read a table; in a CSV file, read the column of labels as plain text."""
    if not path.is_file():
        raise DataError(f"{what}: {path} is not a file")
    try:
        if path.suffix == ".csv":
            table = pd.read_csv(path, dtype={labels: str} if labels else None)
            if labels in table:
                # Words that pandas reads as missing, such as NA, are names here.
                only = [str(name) == labels for name in table.columns].index(True)
                table[labels] = pd.read_csv(path, usecols=[only], dtype=str, keep_default_na=False)[
                    labels
                ]
            return table
        return pd.read_parquet(path)
    except ImportError as error:
        raise DataError(
            f"{what}: reading {path} needs pyarrow: pip install 'underscript[parquet]'"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise DataError(f"{what}: cannot read {path}: {reason}") from error
    except Exception as error:  # pandas and pyarrow raise many kinds for a damaged file
        raise DataError(
            f"{what}: {path} is no {path.suffix} file, or is damaged ({type(error).__name__})"
        ) from error


def _features(table: pd.DataFrame, path: Path, what: str) -> NDArray[Any]:
    if table.shape[1] == 1 and table.dtypes.iloc[0].kind == "O":
        return _lists(table.iloc[:, 0], path, what)
    return numbers_of(table, f"{what}: {path}")


def _labels(column: "pd.Series[Any]", what: str) -> NDArray[Any]:
    """Return labels as integers if all are written as integers, else as words.

    Raises
    ------
    LabelError
        If one is missing.
    """
    missing = np.flatnonzero(column.isna() | (column.astype(str) == ""))
    if len(missing):
        raise LabelError(
            f"{what}: column {column.name!r} is empty in {len(missing)} rows, the first at index "
            f"{missing[0]}; leave out samples without a label"
        )
    if column.dtype.kind in "iuf":
        return np.asarray(column)
    words = column.astype(str).to_numpy(str)
    # Only the canonical form is a number; 01, 1.0 and True are names.
    numbers = all(word.isdecimal() and str(int(word)) == word for word in words.tolist())
    return words.astype(np.int64) if numbers else words


def _lists(column: "pd.Series[Any]", path: Path, what: str) -> NDArray[Any]:
    """Return a column of equally long lists of numbers as rows."""
    try:
        rows = np.stack([np.asarray(row) for row in column])
    except ValueError:
        rows = np.empty(0)
    if rows.ndim != 2 or rows.dtype.kind not in "biuf":
        raise DataError(
            f"{what}: {path}: expected lists of numbers of one length in column {column.name!r}"
        )
    return rows
