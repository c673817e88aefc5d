"""The readers against files of the true formats, whole and damaged in every way we thought of."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_files import (
    CIFAR10,
    CIFAR100,
    cifar_bytes,
    idx_bytes,
    one_line,
    some_images,
    write,
    write_jpeg,
    write_tiny,
)
from underscript.errors import DataError, LabelError
from underscript.experiments.datasets.readers import (
    read_bytes,
    read_cifar,
    read_idx,
    read_idx_pair,
    read_tiny_imagenet,
)

# Writers, built from the formats' published descriptions with struct and plain bytes.


# IDX


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    ending=st.sampled_from(["", ".gz"]),
    seed=st.integers(0, 99),
)
def test_idx_comes_back_as_written(tmp_path_factory, shape, ending, seed):
    array = some_images(*shape, seed=seed)
    path = write(tmp_path_factory.mktemp("idx") / f"file{ending}", idx_bytes(array))
    values = read_idx(path, (None,) * len(shape))
    assert values.dtype == np.uint8
    assert values.flags.writeable
    np.testing.assert_array_equal(values, array)


LABELS = idx_bytes(np.arange(10, dtype=np.uint8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (LABELS[:3], "00 00 08"),
        (b"\x00\x01" + LABELS[2:], "found 00 01 08 01"),  # the magic zeros
        (b"\x00\x00\x0d" + LABELS[3:], "found 00 00 0d 01"),  # float32, as the type code says
        (b"\x00\x00\x08\x03" + LABELS[4:], "found 00 00 08 03"),  # images in place of labels
        (LABELS[:6], "header of 8 bytes, found 6"),
        (LABELS[:-1], "expected 10 bytes after the header for shape (10), found 9"),
        (LABELS + b"\x00", "found 11"),
        (LABELS[:4] + b"\x00\x00\x00\x00", "shape (n), found (0)"),
        (LABELS[:4] + b"\xff\xff\xff\xff" + LABELS[8:], "expected 4,294,967,295 bytes"),
        (b"<!DOCTYPE html>", "found 3c 21 44 4f"),
    ],
)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_damaged_idx_is_refused(tmp_path, data, message, ending):
    path = write(tmp_path / f"train-labels-idx1-ubyte{ending}", data)
    with pytest.raises(DataError) as error:
        read_idx(path, (None,))
    one_line(error, path, "expected", message)


def test_idx_of_another_image_size_is_refused(tmp_path):
    path = write(tmp_path / "images", idx_bytes(some_images(3, 28, 27)))
    with pytest.raises(DataError) as error:
        read_idx(path, (None, 28, 28))
    one_line(error, path, "(n, 28, 28)", "(3, 28, 27)")


@pytest.mark.parametrize("damage", ["truncated", "garbled", "not gzip", "checksum"])
def test_bad_gzip_is_refused(tmp_path, damage):
    packed = bytearray(gzip.compress(some_images(4000).tobytes()))
    if damage == "truncated":
        packed = packed[:-100]
    elif damage == "garbled":
        packed[30:60] = bytes(30)
    elif damage == "not gzip":
        packed = bytearray(b"<html>404</html>")
    else:
        packed[-8] ^= 1
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(packed)
    with pytest.raises(DataError) as error:
        read_bytes(path)
    one_line(error, path, "expected a whole gzip file", f"{len(packed):,} bytes")


def test_unreadable_file_is_named(tmp_path):
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        read_bytes(tmp_path)  # a folder
    with pytest.raises(DataError, match="No such file"):
        read_bytes(tmp_path / "absent")


def pair(folder: Path, n_images: int, labels: list[int]) -> tuple[Path, Path]:
    return (
        write(folder / "images", idx_bytes(some_images(n_images, 28, 28))),
        write(folder / "labels", idx_bytes(np.array(labels, dtype=np.uint8))),
    )


def test_idx_pair(tmp_path):
    images, labels = read_idx_pair(*pair(tmp_path, 3, [9, 0, 4]), (28, 28), 10)
    assert images.shape == (3, 1, 28, 28)
    assert labels.dtype == np.int64
    assert labels.tolist() == [9, 0, 4]


def test_idx_pair_of_two_lengths_is_refused(tmp_path):
    with pytest.raises(LabelError) as error:
        read_idx_pair(*pair(tmp_path, 3, [9, 0]), (28, 28), 10)
    one_line(error, tmp_path / "labels", "expected 3 labels", "found 2")


def test_idx_label_out_of_range_is_refused(tmp_path):
    with pytest.raises(LabelError) as error:
        read_idx_pair(*pair(tmp_path, 3, [9, 10, 200]), (28, 28), 10)
    one_line(error, tmp_path / "labels", "0..9", "found 10 at record 1", "2 records")


# CIFAR


def test_cifar10_files_are_joined_in_order(tmp_path):
    data1, images1 = cifar_bytes([(3,), (9,)], seed=1)
    data2, images2 = cifar_bytes([(0,), (5,)], seed=2)
    paths = [write(tmp_path / "a.bin", data1), write(tmp_path / "b.bin.gz", data2)]
    images, labels = read_cifar(paths, CIFAR10)
    np.testing.assert_array_equal(images, np.concatenate([images1, images2]))
    assert labels.tolist() == [3, 9, 0, 5]
    # The format's own words: 1,024 red bytes come first, and the first 32 of them are a row.
    assert images[0, 0, 0].tobytes() == data1[1:33]
    assert images[0, 1, 0, 0] == data1[1 + 1024]
    assert images.flags.writeable


def test_cifar100_gives_the_fine_label(tmp_path):
    data, expected = cifar_bytes([(19, 99), (0, 42)])
    images, labels = read_cifar([write(tmp_path / "train.bin", data)], CIFAR100)
    assert labels.tolist() == [99, 42]
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(images, expected)


@pytest.mark.parametrize("cut", [1, 3073 + 7, 2 * 3073])
def test_truncated_cifar_is_refused(tmp_path, cut):
    whole, _ = cifar_bytes([(1,), (2,)])
    path = write(tmp_path / "data_batch_1.bin", whole[: len(whole) - cut])
    with pytest.raises(DataError) as error:
        read_cifar([path], CIFAR10)
    one_line(error, path, "records of 3,073 bytes", f"found {len(whole) - cut:,} bytes")


def test_cifar_cut_off_between_two_records_is_refused(tmp_path):
    whole, _ = cifar_bytes([(1,), (2,)])
    paths = [write(tmp_path / "1.bin", whole), write(tmp_path / "2.bin", whole[:3073])]
    with pytest.raises(DataError) as error:
        read_cifar(paths, CIFAR10)
    one_line(error, paths[1], "expected 2 records as in the other files", "found 1")


def test_cifar_label_out_of_range_is_refused(tmp_path):
    path = write(tmp_path / "test_batch.bin", cifar_bytes([(9,), (10,)])[0])
    with pytest.raises(LabelError) as error:
        read_cifar([path], CIFAR10)
    one_line(error, path, "labels 0..9", "found 10 at record 1")


@pytest.mark.parametrize(
    ("labels", "message"), [((20, 1), "coarse labels 0..19"), ((1, 100), "fine")]
)
def test_cifar100_label_out_of_range_is_refused(tmp_path, labels, message):
    path = write(tmp_path / "train.bin", cifar_bytes([labels])[0])
    with pytest.raises(LabelError) as error:
        read_cifar([path], CIFAR100)
    one_line(error, path, message)


# Tiny ImageNet


def test_tiny_imagenet(tmp_path):
    write_tiny(tmp_path)
    (train, train_labels), (test, test_labels), names = read_tiny_imagenet(tmp_path)
    assert names == ("toad", "goldfish, Carassius auratus", "bullfrog, frog")
    assert train.shape == (6, 3, 64, 64)
    assert train.dtype == np.uint8
    assert train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert test_labels.tolist() == [0, 1, 2]
    # JPEG may be off by a shade or two.
    assert np.abs(train[4].astype(int) - np.array([80, 100, 200])[:, None, None]).max() <= 2
    assert np.abs(test[1].astype(int) - np.array([40, 100, 200])[:, None, None]).max() <= 2
    # The grey image: three equal channels.
    assert (train[3] == 77).all()


def remove(path: Path) -> None:
    path.unlink()


def halve(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def garble(path: Path) -> None:
    path.write_bytes(b"\x00\xff" * 50)


def enlarge(path: Path) -> None:
    write_jpeg(path, (1, 2, 3), size=(64, 65))


@pytest.mark.parametrize(
    ("file", "damage", "parts"),
    [
        ("train/n01/images/n01_0.JPEG", halve, ["n01_0.JPEG", "whole JPEG"]),
        ("train/n01/images/n01_0.JPEG", garble, ["n01_0.JPEG", "whole JPEG", "100 bytes"]),
        ("train/n01/images/n01_0.JPEG", enlarge, ["n01_0.JPEG", "64 x 64", "found 64 x 65"]),
        ("train/n01/images/n01_0.JPEG", remove, ["n01/images", "the 2 images", "found 1", "n01_0"]),
        ("val/images/val_2.JPEG", remove, ["val/images", "the 3 images", "found 2", "val_2.JPEG"]),
        ("val/images/val_2.JPEG", garble, ["val_2.JPEG", "whole JPEG"]),
        ("val/val_annotations.txt", garble, ["val_annotations.txt", "expected text"]),
        ("wnids.txt", garble, ["wnids.txt", "expected text"]),
        ("words.txt", halve, ["words.txt", "missing"]),
    ],
)
def test_damaged_tiny_imagenet_is_refused(tmp_path, file, damage, parts):
    write_tiny(tmp_path)
    damage(tmp_path / file)
    with pytest.raises(DataError) as error:
        read_tiny_imagenet(tmp_path)
    one_line(error, tmp_path, "expected", *parts)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("val/val_annotations.txt", "val_0.JPEG\tn99\t0\t0\t1\t1\n", "line 1, found 'val_0.JPEG"),
        ("val/val_annotations.txt", "val_0.JPEG\n", "line 1"),
        ("val/val_annotations.txt", "val_0.JPEG\tn01\n", "expected the 1 images"),
        ("val/val_annotations.txt", "../../x.JPEG\tn01\n" * 3, "expected the 3 images"),
        ("wnids.txt", "n01\nn01\n", "2 lines with 1 ids"),
        ("wnids.txt", "", "0 lines"),
        ("wnids.txt", "n00\n", "n00/images: expected *.JPEG images of a class, found none"),
    ],
)
def test_garbled_tiny_imagenet_lists_are_refused(tmp_path, file, text, message):
    write_tiny(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError) as error:
        read_tiny_imagenet(tmp_path)
    one_line(error, tmp_path, message)
