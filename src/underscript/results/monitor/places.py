"""A row for each sample's number, whatever the numbers are."""

import numpy as np
from numpy.typing import NDArray

from ...utils.labels import Labels

__all__ = ["Places"]

# Numbers from 0 to this are looked up in a table (64 MB at most), others in a dictionary.
_IN_TABLE = 1 << 24


class Places:
    """Rows of whole numbers, in the order in which these first come.

    Parameters
    ----------
    numbers : ndarray of int64, shape (n,)
        The first numbers, all different.
    """

    def __init__(self, numbers: Labels | None = None):
        self._numbers: Labels = np.zeros(0, np.int64)
        self._count = 0
        # The row plus one; 0 is no row.
        self._table = np.zeros(0, np.int32)
        self._others: dict[int, int] = {}
        if numbers is not None:
            self._add(numbers)

    def __len__(self) -> int:
        return self._count

    @property
    def numbers(self) -> Labels:
        """The number of each row, int64 (n,); not to be written to."""
        return self._numbers[: self._count]

    def rows_of(self, numbers: Labels) -> NDArray[np.int64]:
        """Return the rows of some numbers (n,); new ones get the next rows."""
        rows = self.find(numbers)
        unknown = rows < 0
        if unknown.any():
            new = numbers[unknown]
            _, first = np.unique(new, return_index=True)
            self._add(new[np.sort(first)])
            rows[unknown] = self.find(new)
        return rows

    def find(self, numbers: Labels) -> NDArray[np.int64]:
        """Return the rows of some numbers (n,); -1 for those that have none."""
        inside = (numbers >= 0) & (numbers < len(self._table))
        if inside.all():
            return self._table[numbers].astype(np.int64) - 1
        rows = np.full(len(numbers), -1, np.int64)
        rows[inside] = self._table[numbers[inside]].astype(np.int64) - 1
        rows[~inside] = [self._others.get(number, -1) for number in numbers[~inside].tolist()]
        return rows

    def _add(self, numbers: Labels) -> None:
        start, self._count = self._count, self._count + len(numbers)
        if self._count > len(self._numbers):
            longer = np.zeros(max(1024, 2 * self._count), np.int64)
            longer[:start] = self._numbers[:start]
            self._numbers = longer
        self._numbers[start : self._count] = numbers
        rows = np.arange(start, self._count)
        small = (numbers >= 0) & (numbers < _IN_TABLE)
        if small.any():
            top = int(numbers[small].max())
            if top >= len(self._table):
                table = np.zeros(min(_IN_TABLE, max(1024, 2 * (top + 1))), np.int32)
                table[: len(self._table)] = self._table
                self._table = table
            self._table[numbers[small]] = rows[small] + 1
        self._others.update(zip(numbers[~small].tolist(), rows[~small].tolist(), strict=True))
