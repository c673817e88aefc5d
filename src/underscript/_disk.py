"""Features and labels in files: .npy, .parquet and .csv; nothing is unpickled."""

import difflib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .errors import DataError

__all__ = ["is_data_file", "read_data"]

_TABLES = (".parquet", ".csv")
_SUFFIXES = (".npy", *_TABLES)


def is_data_file(spec: str) -> bool:
    """Say whether a command-line argument names files of data, not ``FILE.py:name``."""
    return any(_path(part).suffix in _SUFFIXES for part in spec.split(","))


def read_data(spec: str, what: str, *, column: bool = False) -> Any:
    """Return what files of data hold.

    Parameters
    ----------
    spec : str
        ``features.npy,labels.npy``: a pair of arrays, the features not read into memory at once;
        ``array.npy``: one array; ``table.parquet:label`` or ``table.csv:label``: a pair, that
        column the labels and all others the features (numbers, or one column of lists of them).
    what : str
        The option it comes from, for messages.
    column : bool
        Of a table, return the named column alone.

    Raises
    ------
    DataError
        If a file is not there, is damaged, or holds anything but numbers (labels: or words).
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
    table = _read_table(path, what)
    named: NDArray[Any] | None = None
    name = spec.removeprefix(str(path))[1:]
    if name:
        if name not in table:
            close = difflib.get_close_matches(name, map(str, table.columns), n=3, cutoff=0.0)
            raise DataError(
                f"{what}: {path} has no column {name!r}; the closest are {', '.join(close)}"
            )
        named = _plain(table.pop(name))
    if column or table.shape[1] == 0:
        if named is None:
            raise DataError(
                f"{what}: expected {path}:COLUMN; {path} has {', '.join(map(str, table))}"
            )
        return named
    found = _features(table, path, what)
    return found if named is None else (found, named)


def _path(part: str) -> Path:
    """Return the file that ``FILE:column`` names."""
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


def _read_table(path: Path, what: str) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{what}: {path} is not a file")
    try:
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
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
    words = [str(name) for name in table if table[name].dtype.kind not in "biuf"]
    if words:
        raise DataError(
            f"{what}: {path}: expected features that are numbers; found others in "
            f"{', '.join(words[:5])}{f' and {len(words) - 5} more' if len(words) > 5 else ''}"
        )
    single = all(kind == np.float32 for kind in table.dtypes)
    return table.to_numpy(dtype=np.float32 if single else np.float64)


def _plain(column: "pd.Series[Any]") -> NDArray[Any]:
    """Return labels as numbers or words, not as pandas' own kinds."""
    values = np.asarray(column)
    return values.astype(str) if values.dtype.kind == "O" and not column.isna().any() else values


def _lists(column: "pd.Series[Any]", path: Path, what: str) -> NDArray[Any]:
    """Return a column of lists of numbers, all of one length, as rows."""
    try:
        rows = np.stack([np.asarray(row) for row in column])
    except ValueError:
        rows = np.empty(0)
    if rows.ndim != 2 or rows.dtype.kind not in "biuf":
        raise DataError(
            f"{what}: {path}: expected lists of numbers of one length in column {column.name!r}"
        )
    return rows
