"""Small files in the formats of the data sets."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from underscript.errors import DataError

CIFAR10 = {"label": 10}


CIFAR100 = {"coarse label": 20, "fine label": 100}


def idx_bytes(array: np.ndarray) -> bytes:
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    return head + b"".join(struct.pack(">I", size) for size in array.shape) + array.tobytes()


def write(path: Path, data: bytes) -> Path:
    """Write a file, gzipped if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def some_images(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def write_mnist(folder: Path, ending: str = "", n_train: int = 20, n_test: int = 10) -> None:
    for part, n in (("train", n_train), ("t10k", n_test)):
        images = some_images(n, 28, 28, seed=n)
        labels = np.arange(n, dtype=np.uint8) % 10
        write(folder / f"{part}-images-idx3-ubyte{ending}", idx_bytes(images))
        write(folder / f"{part}-labels-idx1-ubyte{ending}", idx_bytes(labels))


def cifar_bytes(labels: list[tuple[int, ...]], seed: int = 0) -> tuple[bytes, np.ndarray]:
    images = some_images(len(labels), 3, 32, 32, seed=seed)
    records = [bytes(row) + image.tobytes() for row, image in zip(labels, images, strict=True)]
    return b"".join(records), images


def write_cifar10(folder: Path, ending: str = "") -> None:
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for seed, name in enumerate(names):
        write(folder / f"{name}{ending}", cifar_bytes([(i,) for i in range(10)], seed)[0])


def write_cifar100(folder: Path, ending: str = "") -> None:
    labels = [(fine // 5, fine) for fine in range(100)]
    write(folder / f"train.bin{ending}", cifar_bytes(labels, 1)[0])
    write(folder / f"test.bin{ending}", cifar_bytes(labels[::-1], 2)[0])


WNIDS = ("n02", "n01", "n03")


def write_tiny(folder: Path) -> None:
    """Write three classes with two training and one validation image each; one image is grey."""
    words = "n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\ttoad\nn03\tbullfrog, frog\n"
    write(folder / "wnids.txt", "\n".join(WNIDS).encode() + b"\n")
    write(folder / "words.txt", words.encode())
    annotations = ""
    for number, wnid in enumerate(WNIDS):
        names = [f"{wnid}_{i}.JPEG" for i in range(2)]
        boxes = "".join(f"{name}\t0\t10\t63\t58\n" for name in names)
        write(folder / "train" / wnid / f"{wnid}_boxes.txt", boxes.encode())
        for name in names:
            write_jpeg(folder / "train" / wnid / "images" / name, (40 * number, 100, 200))
        write_jpeg(folder / "val" / "images" / f"val_{number}.JPEG", (40 * number, 100, 200))
        annotations += f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n"
    write(folder / "val" / "val_annotations.txt", annotations.encode())
    write_jpeg(folder / "train" / "n01" / "images" / "n01_1.JPEG", 77, mode="L")


def write_jpeg(
    path: Path, colour: int | tuple[int, ...], mode: str = "RGB", size: tuple[int, int] = (64, 64)
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, format="JPEG", quality=100)


def one_line(error: pytest.ExceptionInfo[DataError], *parts: object) -> None:
    """Assert that the message is one line that holds every part."""
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text


WRITERS = {
    "mnist": (write_mnist, (20, 10)),
    "fashion-mnist": (write_mnist, (20, 10)),
    "cifar10": (write_cifar10, (50, 10)),
    "cifar100": (write_cifar100, (100, 100)),
    "tiny-imagenet": (lambda folder: write_tiny(folder), (6, 3)),
}


TORCHVISION = {
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-bin",
    "cifar100": "cifar-100-binary",
    "tiny-imagenet": "tiny-imagenet-200",
}
