"""Images with labels, the form in which every data set is loaded."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, LabelError

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


# eq=False, as == of arrays returns an array, not the bool that dataclasses need.
@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set of labelled images, in memory.

    Parameters
    ----------
    name : str
        The data set's name, one of `dataset_names()`.
    train_images : ndarray of uint8, shape (n_train, channels, height, width)
        Pixel values 0..255. One channel is grey; three are red, green and blue.
    train_labels : ndarray of int64, shape (n_train,)
        Class numbers, 0 to ``n_classes - 1``, in the order of the images.
    test_images : ndarray of uint8, shape (n_test, channels, height, width)
        The images of the test split.
    test_labels : ndarray of int64, shape (n_test,)
        The class numbers of the test split.
    class_names : tuple of str
        One name for each class number.
    source : str
        The file or folder that the images were read from.
    train_drawings : ndarray of int64, shape (n_train,), optional
        The number of the drawing that a training image shows, where one drawing is in several
        images. All images of a drawing belong into the same part of a split.

    Raises
    ------
    DataError
        If a split is empty, or images are not uint8 or differ in shape between the splits.
    LabelError
        If labels are not int64, not as many as the images, or out of range.
    """

    name: str
    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    class_names: tuple[str, ...]
    source: str
    train_drawings: Labels | None = None

    def __post_init__(self) -> None:
        for split, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            where = f"{self.source}: {split} split of {self.name}"
            if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
                raise DataError(
                    f"{where}: expected uint8 images of shape (n >= 1, C, H, W), "
                    f"found {images.dtype} of shape {images.shape}"
                )
            if labels.dtype != np.int64 or labels.shape != (len(images),):
                raise LabelError(
                    f"{where}: expected {len(images)} int64 labels, one for each image, "
                    f"found {labels.dtype} of shape {labels.shape}"
                )
            if labels.min() < 0 or labels.max() >= self.n_classes:
                raise LabelError(
                    f"{where}: expected labels 0..{self.n_classes - 1}, "
                    f"found {labels.min()}..{labels.max()}"
                )
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise DataError(
                f"{self.source}: expected train and test images of one shape, found "
                f"{self.train_images.shape[1:]} and {self.test_images.shape[1:]}"
            )

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def to_float(images: Images, low: float = -1.0, high: float = 1.0) -> NDArray[np.float32]:
    """Scale pixel values 0..255 linearly to `low`..`high`.

    Parameters
    ----------
    images : ndarray of uint8, any shape
        Pixel values.
    low, high : float
        Values of pixels 0 and 255, exact in float32.

    Returns
    -------
    ndarray of float32
        Scaled values, in the shape of `images`.

    Raises
    ------
    DataError
        If `images` is not uint8 or ``low < high`` does not hold.

    Examples
    --------
    >>> to_float(np.array([0, 51, 255], dtype=np.uint8), low=0.0)
    array([0. , 0.2, 1. ], dtype=float32)
    """
    if images.dtype != np.uint8:
        raise DataError(f"to_float expects uint8 pixel values, found {images.dtype}")
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise DataError(f"to_float expects finite low < high, found low={low}, high={high}")
    # Looking up 256 values is as exact as float64, without a float64 copy of the images.
    table = np.linspace(low, high, 256).astype(np.float32)
    return table[images]


def describe(data: ImageData) -> dict[str, Any]:
    """Summarise a data set in values that JSON can hold.

    Parameters
    ----------
    data : ImageData
        Any loaded data set.

    Returns
    -------
    dict
        ``name``, ``source`` (str), ``n_train``, ``n_test``, ``n_classes`` (int),
        ``image_shape`` (``[channels, height, width]``), ``classes`` (list of str) and, in the
        order of ``classes``, ``train_per_class`` and ``test_per_class`` (lists of int).
    """
    return {
        "name": data.name,
        "source": data.source,
        "n_train": len(data.train_images),
        "n_test": len(data.test_images),
        "image_shape": [int(size) for size in data.train_images.shape[1:]],
        "n_classes": data.n_classes,
        "classes": list(data.class_names),
        "train_per_class": np.bincount(data.train_labels, minlength=data.n_classes).tolist(),
        "test_per_class": np.bincount(data.test_labels, minlength=data.n_classes).tolist(),
    }
