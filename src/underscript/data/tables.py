"""Tables of features: columns of numbers, without those that only number the rows."""

import re
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, UnderscriptWarning

__all__ = ["numbers_of", "without_counts"]

# Pandas' name for a column without a name, and pyarrow's for the index of a table.
_UNNAMED = re.compile(r"Unnamed: \d+|__index_level_\d+__|")
# In fewer rows, numbers may count up by chance or on purpose.
_FEW = 10


def without_counts(table: Any, what: str) -> Any:
    """Return a table without columns that only number its rows, such as pandas' index.

    Such a column holds consecutive integers, or it is the first column, has no name and holds a
    different integer in each row. Leaving it out gives a warning.
    """
    counts = [name for at, name in enumerate(table.columns) if _counts(table, name, at)]
    if not counts:
        return table
    warnings.warn(
        f"{what}: left out {', '.join(repr(str(name)) for name in counts)}: it numbers the rows, "
        "which is no feature; rename or scale it if it is one",
        UnderscriptWarning,
        stacklevel=2,
    )
    return table.drop(columns=counts)


def _counts(table: Any, name: Any, at: int) -> bool:
    column = table[name]
    if getattr(column, "ndim", 1) != 1 or column.dtype.kind not in "iu" or len(column) < _FEW:
        return False
    if column.isna().any():
        return False
    values = column.to_numpy(np.int64)
    if (np.diff(values) == 1).all():
        return True
    unnamed = at == 0 and _UNNAMED.fullmatch(str(name)) is not None
    return bool(unnamed and len(np.unique(values)) == len(values))


def numbers_of(table: Any, what: str) -> NDArray[Any]:
    """Return a table's features, float32 or float64 (n, columns); NaN where one is missing.

    Raises
    ------
    DataError
        If a column does not hold numbers.
    """
    table = without_counts(table, what)
    kinds = dict(zip(map(str, table.columns), table.dtypes, strict=True))
    words = [name for name, kind in kinds.items() if kind.kind not in "biuf"]
    if words:
        raise DataError(
            f"{what}: expected features that are numbers; found others in "
            f"{', '.join(words[:5])}{f' and {len(words) - 5} more' if len(words) > 5 else ''}"
        )
    single = all(str(kind).lower() == "float32" for kind in kinds.values())
    dtype = np.float32 if single else np.float64
    return np.asarray(table.to_numpy(dtype=dtype, na_value=np.nan))
