"""Train a network on wrong labels, and decode what its layers still know."""

from os import PathLike
from typing import Any

import numpy as np
import torch

from .._decode import decode
from ..decoding import Decoding
from ..noise.corruption import corrupt_labels
from ..selection import held_out_tenth
from ..utils.device import as_device
from .architectures import build
from .catalogue import PROBED
from .datasets import load_dataset, to_float
from .presets import preset_for
from .training import train


def run_demo(
    data: str = "digits",
    arch: str = "mlp",
    corruption: float = 0.4,
    seed: int = 0,
    device: str | None = None,
    root: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Decoding:
    """Corrupt the labels of a real data set, train a network until it memorises them, decode it.

    A tenth of the training data, with equally noisy labels, is kept from the network and chooses
    the decoder. The test labels are clean and choose nothing.

    Parameters
    ----------
    data : {"digits", "mnist", "fashion-mnist"}
        Data set; see `underscript.datasets`.
    arch : {"mlp", "cnn"}
        One of the paper's architectures, trained with the ``quick`` preset.
    corruption : float
        Corruption degree c in [0, 1]: the share of training labels that are drawn anew from all
        classes.
    seed : int
        Seed of labels, split, weights, batch order and random twin.
    device : str, optional
        Where to train and decode; the CPU by default.
    root : path, optional
        Where the data set is.
    progress : bool
        Show progress bars on a terminal.

    Returns
    -------
    Decoding

    Raises
    ------
    DataError
        If the data set is not available, or `corruption` is out of range.
    ModelError
        If training diverges.
    """
    images = load_dataset(data, root)
    # 42 is the paper's corruption seed.
    label_seed = 42 + seed
    given = corrupt_labels(images.train_labels, corruption, images.n_classes, seed=label_seed)
    held = held_out_tenth(np.arange(len(given)), seed)
    inputs = torch.from_numpy(to_float(images.train_images))
    preset = preset_for("quick", arch)
    model = build(arch, inputs.shape[1:], images.n_classes, seed)
    place = as_device(device or "cpu")
    labels = torch.from_numpy(given)
    record = train(
        model, inputs[~held], labels[~held], preset, seed=seed, device=place, progress=progress
    )
    decoding = decode(
        model,
        (inputs[~held], given[~held]),
        test=(to_float(images.test_images), images.test_labels),
        holdout=(inputs[held], given[held]),
        layers=PROBED[arch],
        true_labels=images.train_labels[~held],
        controls="full",
        evaluate=("train", "test", "candidates"),
        seed=seed,
        progress=progress,
    )
    _describe(decoding, record, data=data, arch=arch, corruption=corruption, source=images.source)
    decoding.summary["seeds"].update(
        {"labels": label_seed, "weights": seed, "batches": seed, "split": seed}
    )
    if not record.reached:
        decoding.summary["warnings"].append(
            f"training stopped at {record.train_accuracy:.1%} of the given labels after "
            f"{record.epochs} epochs; the preset aims at {preset.stop_accuracy:.1%}"
        )
    return decoding


def _describe(decoding: Decoding, record: Any, **settings: Any) -> None:
    """Add the settings and the training of the demo to a decode run's summary."""
    decoding.summary["kind"] = "demo"
    decoding.summary["settings"] = {**settings, **decoding.summary["settings"]}
    decoding.summary["training"] = {
        "epochs": record.epochs,
        "train_accuracy": record.train_accuracy,
        "reached": record.reached,
        **record.settings,
    }
    decoding.summary["timing"] = {
        "training": round(record.seconds, 3),
        **decoding.summary["timing"],
    }
