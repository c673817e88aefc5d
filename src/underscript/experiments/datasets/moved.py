"""scikit-learn's digits, moved about on a larger canvas, so that raw pixels do not solve them."""

import numpy as np
from numpy.typing import NDArray

from .catalogue import MOVED
from .images import ImageData, Images

__all__ = ["moved"]

# Every drawing is shown so many times, each time at another place.
TIMES = 3
SIDE = 16
# The places are the same in every run: seeds of a run are for labels, weights and batches.
_TRAIN_SEED, _TEST_SEED = 1, 2


def moved(digits: ImageData) -> ImageData:
    """Return digits at random places of an empty canvas of 16 × 16 pixels.

    Parameters
    ----------
    digits : ImageData
        Images of at most 16 × 16 pixels.

    Returns
    -------
    ImageData
        Each image three times, at other places in the two splits; `train_drawings` numbers the
        original images, so that no drawing need be in two parts of the training data.
    """
    n = len(digits.train_images)
    return ImageData(
        name=MOVED,
        train_images=_at_random_places(digits.train_images, _TRAIN_SEED),
        train_labels=np.tile(digits.train_labels, TIMES),
        test_images=_at_random_places(digits.test_images, _TEST_SEED),
        test_labels=np.tile(digits.test_labels, TIMES),
        class_names=digits.class_names,
        source=digits.source,
        train_drawings=np.tile(np.arange(n), TIMES),
    )


def _at_random_places(images: Images, seed: int) -> Images:
    """Return every image `TIMES` times on a canvas, all of them once before any comes again."""
    generator = np.random.default_rng(seed)
    repeated: NDArray[np.uint8] = np.tile(images, (TIMES, 1, 1, 1))
    n, channels, height, width = repeated.shape
    canvas = np.zeros((n, channels, SIDE, SIDE), dtype=np.uint8)
    tops = generator.integers(0, SIDE - height + 1, n)
    lefts = generator.integers(0, SIDE - width + 1, n)
    for place, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        canvas[place, :, top : top + height, left : left + width] = repeated[place]
    return canvas
