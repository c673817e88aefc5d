"""Data sets by name: found in every usual layout, checked, summed up."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from dataset_files import (
    TORCHVISION,
    WRITERS,
    one_line,
    write_cifar10,
    write_mnist,
)
from underscript.errors import DataError, LabelError, UnderscriptWarning
from underscript.experiments.datasets import (
    ImageData,
    catalogue,
    dataset_names,
    default_root,
    describe,
    load_dataset,
    to_float,
)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Let no data set of this machine be found, and take the small ones for the published."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDERSCRIPT_DATA", str(tmp_path / "default"))
    for name, (_, (n_train, n_test)) in WRITERS.items():
        small = dataclasses.replace(
            catalogue.CATALOGUE[name], n_train=n_train, n_test=n_test, places=()
        )
        monkeypatch.setitem(catalogue.CATALOGUE, name, small)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("layout", ["{torchvision}", "{name}", "{name}/{torchvision}", "."])
def test_found_in_the_usual_layouts(tmp_path, name, layout):
    write_files, counts = WRITERS[name]
    folder = tmp_path / "root" / layout.format(torchvision=TORCHVISION[name], name=name)
    write_files(folder)
    data = load_dataset(name, root=tmp_path / "root", download=False)
    assert (len(data.train_images), len(data.test_images)) == counts
    assert data.source == str(folder)
    assert data.name == name


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_gzipped_files_are_found_and_read_the_same(tmp_path, name):
    write_files, _ = WRITERS[name]
    write_files(tmp_path / "plain" / TORCHVISION[name])
    write_files(tmp_path / "gz" / TORCHVISION[name], ".gz")
    plain = load_dataset(name, root=str(tmp_path / "plain"), download=False)
    packed = load_dataset(name, root=str(tmp_path / "gz"), download=False)
    np.testing.assert_array_equal(plain.train_images, packed.train_images)
    np.testing.assert_array_equal(plain.test_labels, packed.test_labels)


def test_idx_names_with_a_dot_are_found(tmp_path):
    write_mnist(tmp_path / "mnist")
    for path in (tmp_path / "mnist").iterdir():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert load_dataset("mnist", tmp_path, download=False).source == str(tmp_path / "mnist")


def test_found_under_the_variable_then_in_data_then_in_places(tmp_path, monkeypatch):
    installed = tmp_path / "usr" / "fashion-mnist"
    files = dataclasses.replace(catalogue.CATALOGUE["fashion-mnist"], places=(installed,))
    monkeypatch.setitem(catalogue.CATALOGUE, "fashion-mnist", files)
    for folder in (
        installed,
        tmp_path / "data" / "FashionMNIST" / "raw",
        tmp_path / "default" / "FashionMNIST" / "raw",
    ):
        write_mnist(folder)
        assert load_dataset("fashion-mnist", download=False).source == str(folder)


def test_root_may_start_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_mnist(tmp_path / "sets" / "MNIST" / "raw")
    assert load_dataset("mnist", "~/sets", download=False).n_classes == 10
    monkeypatch.setenv("UNDERSCRIPT_DATA", "~/sets")
    assert default_root() == tmp_path / "sets"


def test_default_root_is_a_cache_folder(monkeypatch):
    monkeypatch.delenv("UNDERSCRIPT_DATA")
    assert default_root().is_absolute()
    assert "underscript" in default_root().parts
    monkeypatch.setenv("UNDERSCRIPT_DATA", "")
    assert "underscript" in default_root().parts


def test_arrays_are_as_promised(tmp_path):
    write_cifar10(tmp_path)
    data = load_dataset("cifar10", tmp_path, download=False)
    assert data.train_images.shape == (50, 3, 32, 32)
    assert data.train_images.dtype == data.test_images.dtype == np.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == np.int64
    assert data.class_names[3] == "cat"


def test_class_names():
    assert dataset_names() == ("digits", "moved-digits", *WRITERS)
    names = catalogue.CATALOGUE["cifar100"].class_names
    assert len(set(names)) == 100
    assert list(names) == sorted(names)
    assert len(catalogue.CATALOGUE["cifar10"].class_names) == 10
    assert len(catalogue.CATALOGUE["fashion-mnist"].class_names) == 10


# What is not there, not whole, or not what it is called


def test_unknown_name():
    with pytest.raises(DataError) as error:
        load_dataset("cifar-10")
    one_line(error, "'cifar-10'", "digits, mnist", "did you mean cifar10?")


@pytest.mark.parametrize("name", WRITERS)
def test_missing_files_are_named_with_their_place(tmp_path, name):
    with pytest.raises(DataError) as error:
        load_dataset(name, tmp_path / "nowhere", download=False)
    one_line(error, name, tmp_path / "nowhere", "put", TORCHVISION[name], "downloading was turned")
    assert ("make data" in str(error.value)) == (name in ("mnist", "fashion-mnist"))
    assert not (tmp_path / "nowhere").exists()


def test_incomplete_folder_is_named(tmp_path):
    write_mnist(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path, download=False)
    one_line(error, f"{tmp_path}/MNIST/raw lacks t10k-labels-idx1-ubyte;")


@pytest.mark.parametrize(
    ("name", "pickled"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")]
)
def test_pickled_cifar_is_never_read(tmp_path, name, pickled):
    folder = tmp_path / pickled
    folder.mkdir()
    for file in ("data_batch_1", "train", "test"):
        (folder / file).write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    with pytest.raises(DataError) as error:
        load_dataset(name, tmp_path, download=False)
    one_line(error, folder, "never read", "binary version")
    assert not Path("opened").exists()


def test_truncated_file_is_an_error_that_names_it(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    write_mnist(folder)
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path)
    one_line(error, path, "expected 15,680 bytes", "found 15,679")


def test_mnist_files_under_the_name_of_fashion_mnist(tmp_path, monkeypatch):
    write_mnist(tmp_path / "fashion-mnist")
    labels = (tmp_path / "fashion-mnist" / "train-labels-idx1-ubyte").read_bytes()
    import hashlib

    md5 = hashlib.md5(labels, usedforsecurity=False).hexdigest()
    known = dataclasses.replace(catalogue.CATALOGUE["mnist"], train_labels_md5=md5)
    monkeypatch.setitem(catalogue.CATALOGUE, "mnist", known)
    with pytest.raises(DataError) as error:
        load_dataset("fashion-mnist", tmp_path, download=False)
    one_line(error, "expected the labels of fashion-mnist, found those of mnist")


def test_another_number_of_images_is_warned_of(tmp_path):
    write_mnist(tmp_path / "MNIST" / "raw", n_train=30)
    with pytest.warns(UnderscriptWarning, match=r"20 \+ 10 images, these files hold 30 \+ 10"):
        data = load_dataset("mnist", tmp_path, download=False)
    assert len(data.train_images) == 30


# digits


def test_digits():
    data = load_dataset("digits")
    assert data.train_images.shape == (1437, 1, 8, 8)
    assert data.test_images.shape == (360, 1, 8, 8)
    assert Path(data.source).is_file()
    images = np.concatenate([data.train_images, data.test_images])
    # The 17 values 0..16, each rounded to the nearest of 0..255.
    values = np.unique(images)
    assert len(values) == 17
    assert np.abs(values - np.arange(17) * 255 / 16).max() <= 0.5
    # Stratified: each class has a fifth of its images in the test split, to within one image.
    summary = describe(data)
    for train, test in zip(summary["train_per_class"], summary["test_per_class"], strict=True):
        assert abs(test - (train + test) / 5) < 1


def test_digits_are_all_there_and_split_alike_each_time():
    from sklearn.datasets import load_digits

    data, again = load_dataset("digits"), load_dataset("digits")
    np.testing.assert_array_equal(data.test_images, again.test_images)
    np.testing.assert_array_equal(data.train_labels, again.train_labels)

    def rows(images, labels):
        flat = np.rint(images.reshape(len(images), 64))
        return sorted(map(tuple, np.column_stack([flat, labels]).astype(int).tolist()))

    ours = rows(
        np.concatenate([data.train_images, data.test_images]) * (16 / 255),
        np.concatenate([data.train_labels, data.test_labels]),
    )
    bunch = load_digits()
    assert ours == rows(bunch.images, bunch.target)


# ImageData, to_float, describe


def image_data(**changes):
    fields = {
        "name": "some",
        "train_images": np.zeros((3, 1, 2, 2), np.uint8),
        "train_labels": np.array([0, 1, 1]),
        "test_images": np.zeros((1, 1, 2, 2), np.uint8),
        "test_labels": np.array([2]),
        "class_names": ("a", "b", "c"),
        "source": "here",
    }
    return ImageData(**(fields | changes))


def test_describe_fits_into_json():
    assert json.loads(json.dumps(describe(image_data()))) == {
        "name": "some",
        "source": "here",
        "n_train": 3,
        "n_test": 1,
        "image_shape": [1, 2, 2],
        "n_classes": 3,
        "classes": ["a", "b", "c"],
        "train_per_class": [1, 2, 0],
        "test_per_class": [0, 0, 1],
    }


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"train_labels": np.array([0, 1])}, LabelError, "expected 3 int64 labels"),
        ({"train_labels": np.array([0, 1, 3])}, LabelError, "expected labels 0..2, found 0..3"),
        ({"test_labels": np.array([-1])}, LabelError, "found -1..-1"),
        ({"test_labels": np.array([1.0])}, LabelError, "found float64"),
        ({"test_images": np.zeros((1, 2, 2), np.uint8)}, DataError, "found uint8 of shape"),
        ({"train_images": np.zeros((3, 1, 2, 2))}, DataError, "found float64"),
        ({"test_images": np.zeros((1, 3, 2, 2), np.uint8)}, DataError, "of one shape"),
        (
            {"test_images": np.zeros((0, 1, 2, 2), np.uint8), "test_labels": np.zeros(0, int)},
            DataError,
            "n >= 1",
        ),
    ],
)
def test_image_data_refuses_what_does_not_fit(changes, kind, message):
    with pytest.raises(kind) as error:
        image_data(**changes)
    one_line(error, "here", message)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-3.0, 0.5)])
def test_to_float_is_linear_and_exact_at_the_ends(low, high):
    pixels = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8)
    scaled = to_float(pixels, low, high)
    assert scaled.dtype == np.float32
    assert scaled.shape == pixels.shape
    assert scaled.min() == np.float32(low)
    assert scaled.max() == np.float32(high)
    np.testing.assert_allclose(scaled, low + (high - low) * (pixels / 255.0), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "low", "high"),
    [
        (np.zeros(3), 0, 1),
        (np.zeros(3, np.uint8), 1, 0),
        (np.zeros(3, np.uint8), float("nan"), 0),
    ],
)
def test_to_float_refuses(images, low, high):
    with pytest.raises(DataError, match="to_float expects"):
        to_float(images, low, high)
