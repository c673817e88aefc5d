"""Pictures as letters of a terminal."""

import numpy as np
import torch
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

__all__ = ["DOTS", "thumbnail"]

# A letter of Braille has 2 × 4 dots; a half block two pixels, one above the other.
DOTS = (2, 4)
_BRAILLE = 0x2800
# The bit of each dot, by row and column.
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_UPPER_HALF = "▀"


def thumbnail(picture: NDArray[np.uint8], columns: int, rows: int) -> list[Text]:
    """Return a picture as lines of text.

    Parameters
    ----------
    picture : ndarray of uint8, shape (height, width) or (height, width, 3)
        Grey pictures become dots of Braille, bright on dark; others half blocks in colour.
    columns, rows : int
        Size in letters; a letter is twice as high as wide.

    Returns
    -------
    list of rich.text.Text
        `rows` lines of `columns` letters.
    """
    if picture.ndim == 2:
        return _in_dots(picture, columns, rows)
    pixels = _resized(picture, columns, 2 * rows).astype(int)
    lines = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        line = Text()
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            style = Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below))
            line.append(_UPPER_HALF, style)
        lines.append(line)
    return lines


def _in_dots(picture: NDArray[np.uint8], columns: int, rows: int) -> list[Text]:
    grey = _resized(picture, columns * DOTS[0], rows * DOTS[1])
    # What is brighter than the middle between the picture's dark and bright halves is a dot.
    threshold = (grey.min() + grey.max()) / 2
    dots = (grey > threshold).reshape(rows, DOTS[1], columns, DOTS[0])
    letters = _BRAILLE + np.einsum("rdcb,db->rc", dots.astype(int), _BITS)
    return [Text("".join(map(chr, line))) for line in letters.tolist()]


def _resized(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float32]:
    """Return the picture in another size: means of areas, or pixels repeated."""
    values = torch.from_numpy(picture.astype(np.float32))
    channels = values[None] if values.ndim == 2 else values.movedim(2, 0)
    resized = torch.nn.functional.adaptive_avg_pool2d(channels, (height, width))
    resized = resized[0] if values.ndim == 2 else resized.movedim(0, 2)
    return np.asarray(resized.numpy(), dtype=np.float32)
