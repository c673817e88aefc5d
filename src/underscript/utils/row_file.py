"""An unnamed temporary file for rows that are needed again and do not fit in memory."""

import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import OutputError

__all__ = ["RowFile", "check_room"]

logger = logging.getLogger(__name__)

_ADVICE = "decode fewer or narrower layers, allow more memory, or set TMPDIR to a larger disk"


class RowFile:
    """A temporary file to add rows to, and to read rows from in any order.

    It is made with the first rows. It has no name, so nothing is left of it even if the process
    is killed. Rows are read, not mapped: mapped pages would count as the process's own memory.
    """

    def __init__(self) -> None:
        self.size = 0
        self._file: Any = None

    def write(self, rows: Tensor) -> int:
        """Add rows and return the byte at which they begin.

        Raises
        ------
        OutputError
            If the file cannot be made or written (a full disk).
        """
        start, left = self.size, _bytes(rows.detach().cpu().contiguous())
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(  # noqa: SIM115 - lives as long as the rows
                    prefix="underscript-rows-", buffering=0
                )
                weakref.finalize(self, self._file.close)
            while len(left):
                written = self._file.write(left)
                left, self.size = left[written:], self.size + written
        except OSError as error:
            raise OutputError(
                f"cannot keep rows in {tempfile.gettempdir()}: {error.strerror or error}; {_ADVICE}"
            ) from error
        return start

    def read(self, start: int, rows: Tensor) -> None:
        """Fill a tensor with what was written from byte `start` on."""
        left = _bytes(rows)
        while len(left):
            got = os.preadv(self._file.fileno(), [left], start)
            if not got:
                raise OutputError("the temporary file of rows is shorter than what was written")
            left, start = left[got:], start + got

    def take(
        self, written: Sequence[tuple[int, int]], places: NDArray[np.int64], rows: Tensor
    ) -> None:
        """Fill a tensor with some of the rows that were written in pieces.

        Parameters
        ----------
        written : sequence of (int, int)
            The first byte of each piece, and its number of rows.
        places : ndarray of int64, shape (m,)
            Which rows, in any order; neighbours are read together.
        rows : Tensor, shape (m, width)
            The tensor to fill.
        """
        ends = np.cumsum([length for _, length in written])
        piece = np.searchsorted(ends, places, side="right")
        breaks = (np.diff(places) != 1) | (np.diff(piece) != 0)
        row_bytes = rows.element_size() * rows.shape[1]
        for stretch in np.split(np.arange(len(places)), np.flatnonzero(breaks) + 1):
            if not len(stretch):
                continue
            start, length = written[piece[stretch[0]]]
            row = places[stretch[0]] - (ends[piece[stretch[0]]] - length)
            self.read(start + row_bytes * int(row), rows[stretch[0] : stretch[-1] + 1])


def check_room(size: int) -> None:
    """Fail early if the disk of the temporary file has too little room.

    Raises
    ------
    OutputError
        If the disk has fewer than `size` free bytes, or there is no temporary folder.
    """
    if size <= 0:
        return
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OutputError(
            f"cannot keep rows in a temporary file: {error.strerror or error}; {_ADVICE}"
        ) from error
    logger.info("up to %s bytes of rows go to a temporary file in %s", f"{size:,}", folder)
    if free < size:
        raise OutputError(
            f"cannot keep {size:,} bytes of rows in {folder}: it has room for {free:,}; {_ADVICE}"
        )


def _bytes(rows: Tensor) -> memoryview:
    """Return a view of a contiguous tensor's memory; changing one changes the other."""
    return memoryview(rows.numpy().view("B").reshape(-1))  # type: ignore[arg-type]
