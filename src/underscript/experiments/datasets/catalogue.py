"""The files of each data set, their usual folders and the addresses of the originals."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import pooch

from ...errors import DataError

ROOT_VARIABLE = "UNDERSCRIPT_DATA"


@dataclass(frozen=True)
class Download:
    """One published file: its name, its published MD5 sum, and mirrors to try in turn."""

    file: str
    md5: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one data set.

    Parameters
    ----------
    name : str
        Name for users.
    folder : str
        Folder under a root in which torchvision (and we) keep the files.
    pieces : tuple of str
        Names that must be in that folder, train images and labels first.
    n_train, n_test : int
        Published numbers of images.
    class_names : tuple of str
        Names in the order of the labels; empty if the files themselves hold them.
    downloads : tuple of Download
        The originals: the pieces one by one, or one archive that holds `folder`.
    places : tuple of Path
        Folders outside any root that may hold an installed copy.
    pickled_folder : str
        Folder of torchvision's pickled version of the same data, which is never read.
    train_labels_md5 : str
        MD5 sum of the unpacked training label file, if another data set has files of the same
        names and could be mistaken for this one.
    by_make_data : bool
        Whether ``make data`` brings it.
    """

    name: str
    folder: str
    pieces: tuple[str, ...]
    n_train: int
    n_test: int
    downloads: tuple[Download, ...]
    class_names: tuple[str, ...] = ()
    places: tuple[Path, ...] = ()
    pickled_folder: str = ""
    train_labels_md5: str = ""
    by_make_data: bool = False


_IDX_PIECES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _idx_downloads(mirrors: tuple[str, ...], md5s: tuple[str, ...]) -> tuple[Download, ...]:
    return tuple(
        Download(f"{piece}.gz", md5, tuple(f"{mirror}/{piece}.gz" for mirror in mirrors))
        for piece, md5 in zip(_IDX_PIECES, md5s, strict=True)
    )


# The MD5 sums come from the data sets' own pages and from torchvision.
_MNIST = DatasetFiles(
    name="mnist",
    folder="MNIST/raw",
    pieces=_IDX_PIECES,
    n_train=60_000,
    n_test=10_000,
    class_names=tuple("0123456789"),
    downloads=_idx_downloads(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "http://yann.lecun.com/exdb/mnist",
        ),
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    train_labels_md5="a25bea736e30d166cdddb491f175f624",
    by_make_data=True,
)

_FASHION_MNIST = DatasetFiles(
    name="fashion-mnist",
    folder="FashionMNIST/raw",
    pieces=_IDX_PIECES,
    n_train=60_000,
    n_test=10_000,
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    downloads=_idx_downloads(
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        ),
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
    # Debian's package dataset-fashion-mnist.
    places=(Path("/usr/share/datasets/fashion-mnist"),),
    train_labels_md5="9018921c3c673c538a1fc5bad174d6f9",
    by_make_data=True,
)

_CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach
couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster
house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket
rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
turtle wardrobe whale willow_tree wolf woman worm
"""

_CIFAR10 = DatasetFiles(
    name="cifar10",
    folder="cifar-10-batches-bin",
    pieces=(*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"),
    n_train=50_000,
    n_test=10_000,
    class_names=tuple(_CIFAR10_CLASSES.split()),
    downloads=(
        Download(
            "cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
        ),
    ),
    pickled_folder="cifar-10-batches-py",
)

_CIFAR100 = DatasetFiles(
    name="cifar100",
    folder="cifar-100-binary",
    pieces=("train.bin", "test.bin"),
    n_train=50_000,
    n_test=10_000,
    class_names=tuple(_CIFAR100_CLASSES.split()),
    downloads=(
        Download(
            "cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
            ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
        ),
    ),
    pickled_folder="cifar-100-python",
)

_TINY_IMAGENET = DatasetFiles(
    name="tiny-imagenet",
    folder="tiny-imagenet-200",
    pieces=("wnids.txt", "words.txt", "train", "val/val_annotations.txt", "val/images"),
    n_train=100_000,
    n_test=10_000,
    downloads=(
        Download(
            "tiny-imagenet-200.zip",
            "90528d7ca1a48142e341f4ef8d21d0de",
            ("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
        ),
    ),
)

CATALOGUE = {
    files.name: files for files in (_MNIST, _FASHION_MNIST, _CIFAR10, _CIFAR100, _TINY_IMAGENET)
}
DIGITS, MOVED = "digits", "moved-digits"


def dataset_names() -> tuple[str, ...]:
    """Return the names that `load_dataset` knows.

    Examples
    --------
    >>> dataset_names()
    ('digits', 'moved-digits', 'mnist', 'fashion-mnist', 'cifar10', 'cifar100', 'tiny-imagenet')
    """
    return (DIGITS, MOVED, *CATALOGUE)


def check_name(name: str) -> None:
    """Raise an error if no data set has this name.

    Raises
    ------
    DataError
        If `name` is not one of `dataset_names()`.
    """
    names = dataset_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise DataError(f"expected a data set out of {', '.join(names)}, found {name!r}{hint}")


def default_root() -> Path:
    """Return the folder for data sets if the caller names none.

    Returns
    -------
    Path
        ``$UNDERSCRIPT_DATA`` if that is set and not empty, else the user's cache folder for
        ``underscript`` (on Linux ``~/.cache/underscript``). It need not exist.
    """
    named = os.environ.get(ROOT_VARIABLE)
    return Path(named).expanduser() if named else Path(pooch.os_cache("underscript"))


def find_folder(files: DatasetFiles, root: Path) -> Path | None:
    """Look for a folder that holds every piece of a data set.

    Parameters
    ----------
    files : DatasetFiles
        What to look for.
    root : Path
        Searched first, then ``./data``, both in the usual layouts; then the places of installed
        copies.

    Returns
    -------
    Path or None
        The first such folder.
    """
    for folder in _candidates(files, root):
        if not missing_pieces(files, folder):
            return folder
    return None


def find_incomplete(files: DatasetFiles, root: Path) -> Path | None:
    """Look for a folder that holds some pieces of a data set but not all."""
    for folder in _candidates(files, root):
        if 0 < len(missing_pieces(files, folder)) < len(files.pieces):
            return folder
    return None


def find_pickled(files: DatasetFiles, root: Path) -> Path | None:
    """Look for the pickled version of a data set, to report that it cannot be used."""
    if not files.pickled_folder:
        return None
    for base in (root, root / files.name, Path("data")):
        if (base / files.pickled_folder).is_dir():
            return base / files.pickled_folder
    return None


def missing_pieces(files: DatasetFiles, folder: Path) -> list[str]:
    """List the pieces that are not in a folder, plain or gzipped."""
    return [piece for piece in files.pieces if not piece_path(folder, piece).exists()]


def piece_path(folder: Path, piece: str) -> Path:
    """Return the path of a piece in a folder: the plain file, else the gzipped one if that exists.

    Some programs unpack IDX files to names with a dot (``train-images.idx3-ubyte``).
    """
    for name in (piece, piece.replace("-idx", ".idx"), f"{piece}.gz"):
        if (folder / name).exists():
            return folder / name
    return folder / piece


def _candidates(files: DatasetFiles, root: Path) -> list[Path]:
    """Return folders to search, the most specific names first.

    `root` itself is the last of its layouts, as MNIST and Fashion-MNIST have the same file names.
    """
    folders = []
    for base in (root, Path("data")):
        top = Path(files.folder).parts[0]
        folders += [
            base / files.folder,
            base / top,
            base / files.name / files.folder,
            base / files.name,
            base,
        ]
    return [*folders, *files.places]
