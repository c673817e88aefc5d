"""Load a data set by its name."""

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np

from ...errors import DataError, OutputError, UnderscriptWarning
from .catalogue import (
    CATALOGUE,
    DIGITS,
    MOVED,
    DatasetFiles,
    check_name,
    default_root,
    find_folder,
    find_incomplete,
    find_pickled,
    missing_pieces,
    piece_path,
)
from .download import fetch, unpack
from .images import ImageData
from .moved import moved
from .readers import read_bytes, read_cifar, read_idx_pair, read_tiny_imagenet

_DIGITS_TEST_SHARE = 0.2
_DIGITS_SPLIT_SEED = 0
_CIFAR_LABELS = {
    "cifar10": {"label": 10},
    "cifar100": {"coarse label": 20, "fine label": 100},
}


def load_dataset(
    name: str, root: str | os.PathLike[str] | None = None, download: bool = True
) -> ImageData:
    """Find a data set on disk, or download it, and read it.

    ``digits`` comes with scikit-learn: 1,797 images of 8 × 8 pixels, whose values 0..16 are
    scaled to 0..255 and rounded. The split is always the same: 20 % of each class (360 images)
    are the test split, drawn with seed 0. ``moved-digits`` shows each of them three times at
    random places of 16 × 16 pixels; the places are always the same, and others in the test split.

    The other data sets are searched under `root` in torchvision's layouts (``MNIST/raw/``,
    ``FashionMNIST/raw/``, ``cifar-10-batches-bin/``, ``cifar-100-binary/``,
    ``tiny-imagenet-200/``), in ``root/<name>/`` and in `root` itself; then in the same way
    under ``./data``; then in the folder of Debian's package ``dataset-fashion-mnist``. Files
    may be plain or gzipped. CIFAR must be the binary version: pickled files are never read.
    The test split of ``tiny-imagenet`` is its validation images.

    Parameters
    ----------
    name : str
        One of `dataset_names()`.
    root : path, optional
        Where to search first and to download to. Default: `default_root()`.
    download : bool, default=True
        Whether to download the published files, checked by MD5 sum, if none are found.

    Returns
    -------
    ImageData
        The images and labels of both splits; its ``source`` names the files read.

    Raises
    ------
    DataError
        If the name is unknown, the files are neither found nor downloaded, or a file is
        truncated or garbled (`LabelError`, a kind of `DataError`, if it is the labels).
    OutputError
        If a download cannot be written.

    Warns
    -----
    UnderscriptWarning
        If the files and the published data set differ in their number of images.
    """
    check_name(name)
    if name == DIGITS:
        return _load_digits()
    if name == MOVED:
        return moved(_load_digits())
    files = CATALOGUE[name]
    base = default_root() if root is None else Path(root).expanduser()
    folder = find_folder(files, base)
    if folder is None:
        folder = _obtain(files, base, download)
    data = _read(files, folder.absolute())
    counts = (len(data.train_images), len(data.test_images))
    if counts != (files.n_train, files.n_test):
        warnings.warn(
            f"{folder}: the published {name} has {files.n_train:,} + {files.n_test:,} images, "
            f"these files hold {counts[0]:,} + {counts[1]:,}",
            UnderscriptWarning,
            stacklevel=2,
        )
    return data


def _load_digits() -> ImageData:
    # Imported here, as the other data sets do not need scikit-learn.
    import sklearn.datasets
    from sklearn.model_selection import train_test_split

    bunch = sklearn.datasets.load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images,
        labels,
        test_size=_DIGITS_TEST_SHARE,
        stratify=labels,
        random_state=_DIGITS_SPLIT_SEED,
    )
    folder = Path(sklearn.datasets.__file__).parent
    return ImageData(
        name=DIGITS,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=tuple("0123456789"),
        source=str(folder / "data" / "digits.csv.gz"),
    )


def _read(files: DatasetFiles, folder: Path) -> ImageData:
    paths = [piece_path(folder, piece) for piece in files.pieces]
    class_names = files.class_names
    if files.name in _CIFAR_LABELS:
        train = read_cifar(paths[:-1], _CIFAR_LABELS[files.name])
        test = read_cifar(paths[-1:], _CIFAR_LABELS[files.name])
    elif files.name == "tiny-imagenet":
        train, test, class_names = read_tiny_imagenet(folder)
    else:
        _refuse_twin(files, paths[1])
        train = read_idx_pair(paths[0], paths[1], (28, 28), len(class_names))
        test = read_idx_pair(paths[2], paths[3], (28, 28), len(class_names))
    return ImageData(files.name, *train, *test, class_names=class_names, source=str(folder))


def _refuse_twin(files: DatasetFiles, train_labels: Path) -> None:
    """Raise an error for MNIST's files under Fashion-MNIST's name, and the other way round."""
    md5 = hashlib.md5(read_bytes(train_labels), usedforsecurity=False).hexdigest()
    for other in CATALOGUE.values():
        if other.train_labels_md5 == md5 and other is not files:
            raise DataError(
                f"{train_labels}: expected the labels of {files.name}, found those of "
                f"{other.name}, whose files have the same names; put {files.name} into a "
                f"folder {files.folder}/"
            )


def _obtain(files: DatasetFiles, root: Path, download: bool) -> Path:
    """Download a data set that was not found; on failure, explain which files to put where."""
    if not download:
        raise DataError(_advice(files, root, "downloading was turned off"))
    try:
        return _download(files, root)
    except (DataError, OutputError) as error:
        raise type(error)(_advice(files, root, f"downloading failed ({error})")) from error


def _download(files: DatasetFiles, root: Path) -> Path:
    target = root / files.folder
    if files.folder.split("/")[-1] == "raw":
        for item, piece in zip(files.downloads, files.pieces, strict=True):
            if not piece_path(target, piece).exists():
                fetch(item, target)
        return target
    if target.is_dir() and any(target.iterdir()):
        missing = ", ".join(missing_pieces(files, target))
        raise DataError(f"{target} is there but lacks {missing}: complete it or move it away")
    (item,) = files.downloads
    brought_by_user = (root / item.file).exists()
    archive = fetch(item, root)
    unpack(archive, files.folder, root)
    if not brought_by_user:
        archive.unlink()
    return target


def _advice(files: DatasetFiles, root: Path, reason: str) -> str:
    parts = [f"{files.name}: no files found under {root}, and {reason}"]
    incomplete = find_incomplete(files, root)
    if incomplete:
        parts.append(f"{incomplete} lacks {', '.join(missing_pieces(files, incomplete))}")
    pickled = find_pickled(files, root)
    if pickled:
        parts.append(
            f"{pickled} holds the pickled version, which is never read: the binary version "
            f"({files.downloads[0].file}) is needed"
        )
    make = "run `make data`, or " if files.by_make_data else ""
    if len(files.downloads) > 1:
        what = f"{', '.join(files.pieces)} (plain or .gz) into {root / files.folder}"
    else:
        what = f"{files.downloads[0].file} into {root}, or its folder as {root / files.folder}"
    return "; ".join([*parts, f"{make}put {what}"])
