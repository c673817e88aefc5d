"""Readers of the file formats: IDX, CIFAR's binary records, Tiny ImageNet's folders.

Each reader checks everything that its format allows. An error names the file, what was expected
and what was found. Nothing is ever unpickled.
"""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ...errors import DataError, LabelError
from .images import Images, Labels

CIFAR_SIDE = 32
TINY_SIDE = 64


def read_bytes(path: Path) -> bytes:
    """Read a whole file; unpack it if its name ends in ``.gz``.

    Raises
    ------
    DataError
        If the file cannot be read, or its name ends in ``.gz`` but it is no whole gzip file.
    """
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as stream:
            return stream.read()
    # Before OSError, of which BadGzipFile is a kind.
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        size = path.stat().st_size
        raise DataError(
            f"{path}: expected a whole gzip file, found {size:,} bytes that do not unpack "
            f"({error}); get the file again"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_idx(path: Path, shape: tuple[int | None, ...]) -> Images:
    """Read an IDX file of unsigned bytes, plain or gzipped.

    The format: two zero bytes, a type code (8: unsigned byte), the number of dimensions, each
    dimension as a big-endian 32-bit number, then the values, the last dimension fastest.

    Parameters
    ----------
    path : Path
        The file.
    shape : tuple of int or None
        The expected dimensions; None stands for any number above 0.

    Returns
    -------
    ndarray of uint8
        The values, in the shape that the file states.

    Raises
    ------
    DataError
        If the file cannot be read or is not exactly such a file.
    """
    data = read_bytes(path)
    n_dimensions = len(shape)
    start = bytes([0, 0, 8, n_dimensions])
    if data[:4] != start:
        raise DataError(
            f"{path}: expected an IDX file of unsigned bytes in {n_dimensions} dimensions "
            f"(it starts with {start.hex(' ')}), found {data[:4].hex(' ') or 'an empty file'}"
        )
    header = 4 + 4 * n_dimensions
    if len(data) < header:
        raise DataError(
            f"{path}: expected an IDX header of {header} bytes, found {len(data)} bytes; "
            "get the file again"
        )
    sizes = tuple(int(size) for size in np.frombuffer(data[4:header], dtype=">u4"))
    if any(size == 0 or want not in (None, size) for want, size in zip(shape, sizes, strict=True)):
        raise DataError(
            f"{path}: expected an IDX file of shape {_shape_text(shape)}, found "
            f"{_shape_text(sizes)}"
        )
    # Python's int, as the product of three garbled 32-bit numbers would overflow numpy's.
    n_values = 1
    for size in sizes:
        n_values *= size
    if len(data) - header != n_values:
        raise DataError(
            f"{path}: expected {n_values:,} bytes after the header for shape "
            f"{_shape_text(sizes)}, found {len(data) - header:,}; get the file again"
        )
    # A copy, as torch warns about the read-only array of frombuffer.
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(sizes).copy()


def _shape_text(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("n" if size is None else str(size) for size in shape) + ")"


def read_idx_pair(
    images_path: Path, labels_path: Path, side: tuple[int, int], n_classes: int
) -> tuple[Images, Labels]:
    """Read one split: a file of grey images and the file of its labels.

    Parameters
    ----------
    images_path, labels_path : Path
        IDX files of three and of one dimension.
    side : tuple of int
        Expected height and width of the images, in pixels.
    n_classes : int
        Labels must be below this.

    Returns
    -------
    images : ndarray of uint8, shape (n, 1, height, width)
    labels : ndarray of int64, shape (n,)

    Raises
    ------
    DataError
        If a file does not follow the format.
    LabelError
        If there are more or fewer labels than images, or one is out of range.
    """
    images = read_idx(images_path, (None, *side))[:, None]
    labels = read_idx(labels_path, (None,)).astype(np.int64)
    if len(labels) != len(images):
        raise LabelError(
            f"{labels_path}: expected {len(images):,} labels, one for each image in "
            f"{images_path.name}, found {len(labels):,}"
        )
    _check_range(labels, n_classes, labels_path)
    return images, labels


def _check_range(labels: Labels, n_classes: int, path: Path, kind: str = "label") -> None:
    wrong = np.flatnonzero(labels >= n_classes)
    if len(wrong):
        raise LabelError(
            f"{path}: expected {kind}s 0..{n_classes - 1}, found {labels[wrong[0]]} at record "
            f"{wrong[0]} ({len(wrong):,} records out of range)"
        )


def read_cifar(paths: Sequence[Path], label_counts: dict[str, int]) -> tuple[Images, Labels]:
    """Read files of CIFAR's binary format, one after the other.

    A file is a sequence of records: one byte for each kind of label, then 3 × 32 × 32 bytes of
    red, green and blue, row by row. All files of a split hold the same number of records, so a
    file cut off between two records is noticed.

    Parameters
    ----------
    paths : sequence of Path
        The files of one split, plain or gzipped.
    label_counts : dict of str to int
        The label bytes in the order of the file: name of the kind, number of classes. The last
        one is the label that is returned.

    Returns
    -------
    images : ndarray of uint8, shape (n, 3, 32, 32)
    labels : ndarray of int64, shape (n,)

    Raises
    ------
    DataError
        If a file cannot be read, is not a whole number of records, or is shorter than the others.
    LabelError
        If a label byte is out of range.
    """
    pixels = 3 * CIFAR_SIDE * CIFAR_SIDE
    n_labels = len(label_counts)
    record = n_labels + pixels
    parts = []
    for path in paths:
        data = np.frombuffer(read_bytes(path), dtype=np.uint8)
        if len(data) == 0 or len(data) % record:
            raise DataError(
                f"{path}: expected records of {record:,} bytes ({n_labels} label + {pixels:,} "
                f"pixel bytes), found {len(data):,} bytes: {len(data) // record:,} records and "
                f"{len(data) % record:,} bytes; get the file again"
            )
        part = data.reshape(-1, record)
        for column, (kind, n_classes) in enumerate(label_counts.items()):
            _check_range(part[:, column].astype(np.int64), n_classes, path, kind)
        parts.append(part)
    longest = max(len(part) for part in parts)
    for path, part in zip(paths, parts, strict=True):
        if len(part) != longest:
            raise DataError(
                f"{path}: expected {longest:,} records as in the other files, found "
                f"{len(part):,}; get the file again"
            )
    records = np.concatenate(parts)
    images = records[:, n_labels:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).copy()
    return images, records[:, n_labels - 1].astype(np.int64)


def read_tiny_imagenet(
    folder: Path,
) -> tuple[tuple[Images, Labels], tuple[Images, Labels], tuple[str, ...]]:
    """Read Tiny ImageNet's folder; the validation images serve as the test split.

    The published test images have no labels. Class numbers follow the order of ``wnids.txt``;
    grey images become three equal channels.

    Parameters
    ----------
    folder : Path
        The folder ``tiny-imagenet-200``.

    Returns
    -------
    train : tuple of ndarray
        Images of uint8, shape (n, 3, 64, 64), and labels of int64, shape (n,), class by class.
    test : tuple of ndarray
        The same for the validation images, in the order of ``val_annotations.txt``.
    class_names : tuple of str
        The words that ``words.txt`` has for each class.

    Raises
    ------
    DataError
        If a list is garbled, or an image is missing, garbled or of another size.
    LabelError
        If ``val_annotations.txt`` names a class that is not in ``wnids.txt``, or not one class
        for each image.
    """
    wnids = _read_lines(folder / "wnids.txt")
    if not wnids or len(set(wnids)) != len(wnids):
        raise DataError(
            f"{folder / 'wnids.txt'}: expected one class id a line, each once, found "
            f"{len(wnids)} lines with {len(set(wnids))} ids"
        )
    class_of = {wnid: number for number, wnid in enumerate(wnids)}
    names = _read_words(folder / "words.txt", wnids)

    train_paths: list[Path] = []
    train_labels: list[int] = []
    for wnid in wnids:
        paths = _train_images(folder / "train" / wnid)
        train_paths += paths
        train_labels += [class_of[wnid]] * len(paths)

    annotations = folder / "val" / "val_annotations.txt"
    listed: list[str] = []
    test_labels: list[int] = []
    for number, line in enumerate(_read_lines(annotations), start=1):
        # File name, class id, then a bounding box, which is not used.
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in class_of:
            raise LabelError(
                f"{annotations}: expected an image name, a tab and a class id of wnids.txt in "
                f"line {number}, found {line[:60]!r}"
            )
        listed.append(fields[0])
        test_labels.append(class_of[fields[1]])
    _check_same_names(folder / "val" / "images", listed, annotations.name)
    test_paths = [folder / "val" / "images" / name for name in listed]

    return (
        (_read_jpegs(train_paths, "train"), np.array(train_labels, dtype=np.int64)),
        (_read_jpegs(test_paths, "test"), np.array(test_labels, dtype=np.int64)),
        names,
    )


def _read_lines(path: Path) -> list[str]:
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text, found bytes that are no UTF-8") from error
    return [line for line in text.splitlines() if line.strip()]


def _read_words(path: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    words = {}
    for line in _read_lines(path):
        wnid, _, name = line.partition("\t")
        words[wnid] = name.strip()
    missing = [wnid for wnid in wnids if not words.get(wnid)]
    if missing:
        raise DataError(
            f"{path}: expected a line 'id<tab>words' for each class of wnids.txt, found none "
            f"for {missing[0]} ({len(missing)} missing)"
        )
    return tuple(words[wnid] for wnid in wnids)


def _train_images(folder: Path) -> list[Path]:
    """Return the training images of one class, sorted by name and checked by its list of boxes."""
    paths = sorted((folder / "images").glob("*.JPEG"))
    boxes = folder / f"{folder.name}_boxes.txt"
    if boxes.is_file():
        listed = [line.split("\t")[0] for line in _read_lines(boxes)]
        _check_same_names(folder / "images", listed, boxes.name)
    if not paths:
        raise DataError(f"{folder / 'images'}: expected *.JPEG images of a class, found none")
    return paths


def _check_same_names(folder: Path, listed: Sequence[str], list_name: str) -> None:
    there = {path.name for path in folder.glob("*.JPEG")}
    if len(listed) == len(there) and set(listed) == there:
        return
    odd = sorted(set(listed) ^ there) or sorted(name for name in listed if listed.count(name) > 1)
    raise LabelError(
        f"{folder}: expected the {len(listed):,} images that {list_name} lists, found "
        f"{len(there):,} (they differ in {odd[0]})"
    )


def _read_jpegs(paths: Sequence[Path], split: str) -> Images:
    # Imported here: pillow is slow to import, and only this data set needs it.
    from PIL import Image

    images = np.empty((len(paths), 3, TINY_SIDE, TINY_SIDE), dtype=np.uint8)
    # disable=None: no bar if stderr is not a terminal.
    for row, path in enumerate(tqdm(paths, f"reading {split} images", disable=None, leave=False)):
        try:
            with Image.open(path) as picture:
                size = picture.size
                if size == (TINY_SIDE, TINY_SIDE):
                    images[row] = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
        # pillow raises these on garbled files: mostly OSError, the others in its parsers.
        except (OSError, SyntaxError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{path}: expected a whole JPEG image, found {path.stat().st_size:,} bytes that "
                f"do not decode ({reason}); get the file again"
            ) from error
        if size != (TINY_SIDE, TINY_SIDE):
            raise DataError(
                f"{path}: expected an image of {TINY_SIDE} x {TINY_SIDE} pixels, found "
                f"{size[0]} x {size[1]}"
            )
    return images
