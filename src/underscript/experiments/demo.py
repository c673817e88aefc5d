"""Train a network on wrong labels, and decode what its layers still know."""

from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .._decode import decode
from ..decoding import Decoding
from ..errors import DataError
from ..noise.corruption import corrupt_labels
from ..repair.weights import write_weights
from ..selection import held_out_tenth
from ..utils.device import as_device
from ..utils.files import write_text
from .architectures import build
from .catalogue import DEMOS, PROBED
from .datasets import human_labels, load_dataset, to_float
from .presets import preset_for
from .training import TrainingRecord, train

__all__ = ["Demo", "DemoData", "demo_files", "demo_sources", "run_demo"]

# 42 is the paper's corruption seed.
LABEL_SEED = 42
SCRIPT, WEIGHTS = "demo.py", "network.safetensors"

Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DemoData:
    """The data of a demo: inputs (n, channels, height, width) in float32 and int64 labels.

    Attributes
    ----------
    train, holdout : pair of Tensor
        What the network was trained on, and a tenth that was kept from it; labels are noisy.
    test : pair of Tensor
        Test data with clean labels.
    true : Tensor
        The true labels of `train`.
    n_classes : int
        Number of classes.
    class_names : tuple of str
        Their names.
    source : str
        Where the images came from.
    """

    train: Split
    holdout: Split
    test: Split
    true: Tensor
    n_classes: int
    class_names: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Demo:
    """What a demo trains on what; the same settings give the same data and network.

    Parameters
    ----------
    data : {"moved-digits", "digits", "mnist", "fashion-mnist", "cifar10"}
        Data set; see `underscript.datasets`.
    arch : {"mlp", "cnn", "small-cnn"}, optional
        Architecture; by default the one that suits the data.
    corruption : float
        Corruption degree c in [0, 1]: the share of training labels that are drawn anew from all
        classes. Without meaning where `labels` are people's.
    labels : {"worse", "aggregate", "random1", "random2", "random3"}, optional
        With cifar10: the labels that people gave (CIFAR-10N), in place of corrupted ones.
    samples : int, optional
        At most so many training images; by default all, of cifar10 10,000.
    seed : int
        Seed of labels, split, weights, batch order and random twin.
    root : str, optional
        Where the data set is.

    Raises
    ------
    DataError
        If `labels` are asked for where there are none.
    """

    data: str = "moved-digits"
    arch: str | None = None
    corruption: float = 0.4
    labels: str | None = None
    samples: int | None = None
    seed: int = 0
    root: str | None = None

    def __post_init__(self) -> None:
        if self.labels is not None and self.data != "cifar10":
            raise DataError(
                f"labels: people's labels are known for cifar10; found {self.data} with "
                f"{self.labels!r}"
            )

    @property
    def architecture(self) -> str:
        """The architecture that is trained."""
        return self.arch or DEMOS[self.data]

    def load(self) -> DemoData:
        """Load the images, corrupt their labels, and split them.

        Raises
        ------
        DataError
            If the data set or the labels are not available, or `corruption` is out of range.
        """
        images = load_dataset(self.data, self.root)
        true = images.train_labels
        if self.labels is None:
            given = corrupt_labels(
                true, self.corruption, images.n_classes, seed=LABEL_SEED + self.seed
            )
        else:
            given = human_labels(images, self.labels, self.root)
        kept = np.arange(len(true))
        samples = self.samples or (10_000 if self.data == "cifar10" else None)
        if samples is not None and samples < len(true):
            kept = np.sort(np.random.default_rng(self.seed).permutation(len(true))[:samples])
        drawings = images.train_drawings
        held = held_out_tenth(kept if drawings is None else drawings[kept], self.seed)
        inputs = torch.from_numpy(to_float(images.train_images[kept]))
        labels = torch.from_numpy(given[kept])
        return DemoData(
            train=(inputs[~held], labels[~held]),
            holdout=(inputs[held], labels[held]),
            test=(
                torch.from_numpy(to_float(images.test_images)),
                torch.from_numpy(images.test_labels),
            ),
            true=torch.from_numpy(true[kept])[~held],
            n_classes=images.n_classes,
            class_names=images.class_names,
            source=images.source,
        )

    def build(self, data: DemoData) -> nn.Module:
        """Return the network before training."""
        arch, shape = self.architecture, data.train[0].shape[1:]
        return build(arch, shape, data.n_classes, self.seed, preset_for("quick", arch).width)


def run_demo(
    demo: Demo | None = None, *, device: str | None = None, progress: bool = True
) -> tuple[Decoding, nn.Module]:
    """Train a network until it has memorised wrong labels, and decode it.

    A tenth of the training data, with equally noisy labels, is kept from the network and chooses
    the decoder. The test labels are clean and choose nothing.

    Parameters
    ----------
    demo : Demo, optional
        What is trained on what.
    device : str, optional
        Where to train and decode; the CPU by default.
    progress : bool
        Show progress bars on a terminal.

    Returns
    -------
    Decoding, nn.Module
        The result, and the network.

    Raises
    ------
    DataError
        If the data set is not available, or `corruption` is out of range.
    ModelError
        If training diverges.
    """
    demo = Demo() if demo is None else demo
    data = demo.load()
    preset = preset_for("quick", demo.architecture)
    model = demo.build(data)
    place = as_device(device or "cpu")
    record = train(model, *data.train, preset, seed=demo.seed, device=place, progress=progress)
    names = None if data.class_names == tuple(map(str, range(data.n_classes))) else data.class_names
    decoding = decode(
        model,
        data.train,
        test=data.test,
        holdout=data.holdout,
        layers=PROBED[demo.architecture],
        true_labels=data.true,
        controls="full",
        evaluate=("train", "test", "candidates"),
        class_names=names,
        seed=demo.seed,
        progress=progress,
    )
    _describe(decoding, record, demo, data.source)
    if not record.reached:
        decoding.summary["warnings"].append(
            f"training stopped at {record.train_accuracy:.1%} of the given labels after "
            f"{record.epochs} epochs; the preset aims at {preset.stop_accuracy:.1%}"
        )
    return decoding, model


def _describe(decoding: Decoding, record: TrainingRecord, demo: Demo, source: str) -> None:
    """Add the settings and the training of the demo to a decode run's summary."""
    summary = decoding.summary
    settings = {**asdict(demo), "arch": demo.architecture, "source": source}
    summary["kind"] = "demo"
    summary["settings"] = {**settings, **summary["settings"]}
    summary["training"] = {
        "epochs": record.epochs,
        "train_accuracy": record.train_accuracy,
        "reached": record.reached,
        **record.settings,
    }
    summary["timing"] = {"training": round(record.seconds, 3), **summary["timing"]}
    seeds = {"weights": demo.seed, "batches": demo.seed, "split": demo.seed}
    if demo.labels is None:
        seeds["labels"] = LABEL_SEED + demo.seed
    summary["seeds"].update(seeds)


def demo_files(demo: Demo, model: nn.Module, work: Path) -> None:
    """Write the network and a script that gives it and its data to other commands.

    Parameters
    ----------
    demo : Demo
        What was trained on what.
    model : nn.Module
        The trained network.
    work : Path
        An existing folder.
    """
    write_weights(work / WEIGHTS, model)
    root = None if demo.root is None else str(Path(demo.root).absolute())
    write_text(work / SCRIPT, _SCRIPT.format(demo=replace(demo, root=root)))


def demo_sources(folder: str | PathLike[str]) -> dict[str, str]:
    """Return what the options of other commands are for the files of a demo."""
    script = str(Path(folder) / SCRIPT)
    return {
        "model": f"{script}:model",
        "weights": str(Path(folder) / WEIGHTS),
        **{name: f"{script}:{name}" for name in ("train", "holdout", "test")},
    }


_SCRIPT = '''"""The demo's network and data for commands, as in --model demo.py:model."""

from underscript.experiments.demo import Demo

demo = {demo!r}
data = demo.load()


def model():
    """Return the network; --weights network.safetensors makes it the trained one."""
    return demo.build(data)


train, holdout, test = data.train, data.holdout, data.test
'''
