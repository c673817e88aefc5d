"""CIFAR-10N: the labels that people gave to CIFAR-10's training images."""

import os
from pathlib import Path

import numpy as np

from ...errors import DataError, LabelError
from ..catalogue import HUMAN_LABELS
from .catalogue import default_root
from .images import ImageData, Labels

__all__ = ["human_labels"]

FOLDER = "cifar-10n"
_TRUE = "clean_label"


def human_labels(
    images: ImageData, name: str, root: str | os.PathLike[str] | None = None
) -> Labels:
    """Read one set of human labels of CIFAR-10's training images.

    They are searched as ``cifar-10n/NAME.npy`` under `root` and under ``./data``: arrays of the
    same names as in the authors' file (Wei et al., ICLR 2022), which itself is a pickle and never
    read.

    Parameters
    ----------
    images : ImageData
        CIFAR-10.
    name : {"worse", "aggregate", "random1", "random2", "random3"}
        Which labels.
    root : path, optional
        Where to search first. Default: `default_root()`.

    Returns
    -------
    ndarray of int64, shape (50000,)

    Raises
    ------
    DataError
        If there is no such set of labels, or no file.
    LabelError
        If the file does not hold a class for each image, or belongs to images in another order.
    """
    if name not in HUMAN_LABELS:
        raise DataError(f"labels: expected one of {', '.join(HUMAN_LABELS)}; found {name!r}")
    base = default_root() if root is None else Path(root).expanduser()
    places = [base / FOLDER, base, Path("data") / FOLDER]
    file = f"{HUMAN_LABELS[name]}.npy"
    folder = next((place for place in places if (place / file).is_file()), None)
    if folder is None:
        raise DataError(
            f"labels: no file {FOLDER}/{file} under {base} or ./data; save that array of "
            "CIFAR-10N's CIFAR-10_human.pt with numpy.save and put it there"
        )
    found = _read(folder / file, images)
    true = folder / f"{_TRUE}.npy"
    if true.is_file() and not np.array_equal(_read(true, images), images.train_labels):
        raise LabelError(
            f"{true}: expected the true labels of {images.source}; the images have another order"
        )
    return found


def _read(path: Path, images: ImageData) -> Labels:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LabelError(f"{path}: expected an array of labels; {error}") from error
    n, classes = len(images.train_labels), images.n_classes
    if found.dtype.kind not in "iu" or found.shape != (n,):
        raise LabelError(
            f"{path}: expected {n:,} whole numbers; found {found.dtype} of shape {found.shape}"
        )
    if found.min() < 0 or found.max() >= classes:
        raise LabelError(
            f"{path}: expected classes 0 to {classes - 1}; found {found.min()} to {found.max()}"
        )
    labels: Labels = found.astype(np.int64)
    return labels
