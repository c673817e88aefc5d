"""Memory sizes, as numbers and as text."""

import re

from ..errors import DataError

# Default memory budget for the statistics of all layers.
MEMORY = 2 << 30
# That of the paper's tables, whose layers are whole: maps of 4,096 numbers and more.
WHOLE_LAYERS = 4 << 30


def as_bytes(size: int | str) -> int:
    """Return a size in bytes: a number, or text such as ``"4GB"``, ``"512 MB"`` or ``"2GiB"``.

    Raises
    ------
    DataError
        If it is not a positive size.
    """
    if isinstance(size, str):
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt])(i?)b?|b)?\s*", size.lower())
        if match:
            number, letter, binary = match.groups()
            power = "kmgt".index(letter) + 1 if letter else 0
            size = int(float(number) * (1024 if binary else 1000) ** power)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise DataError(f"memory: expected a size such as 4GB or 512MB; found {size!r}")
    return size
