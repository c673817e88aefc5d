"""The network of the end-to-end case: the paper's MLP, trained until it memorised noisy MNIST."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from underscript import corrupt_labels
from underscript.experiments.architectures import build
from underscript.experiments.catalogue import PROBED as PROBED_BY
from underscript.experiments.datasets import default_root, load_dataset, to_float
from underscript.experiments.presets import preset_for
from underscript.experiments.training import train
from underscript.selection import held_out_tenth

CORRUPTION = 0.4
PROBED = PROBED_BY["mlp"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """A memorised network and its data; the hold-out was kept from it."""

    model: nn.Module
    train: Tensor
    given: np.ndarray
    truth: np.ndarray
    holdout: Tensor
    holdout_given: np.ndarray
    test: Tensor
    test_labels: np.ndarray


def load(checkpoint: str, small: bool = False) -> Network:
    """Return the network in evaluation mode with its data, from a file that `prepare` wrote."""
    images = load_dataset("digits" if small else "mnist")
    given = corrupt_labels(images.train_labels, CORRUPTION, images.n_classes, seed=42)
    held = held_out_tenth(np.arange(len(given)), 0)
    inputs = torch.from_numpy(to_float(images.train_images))
    model = build("mlp", inputs.shape[1:], images.n_classes, 0).eval()
    if Path(checkpoint).exists():
        model.load_state_dict(load_file(checkpoint))
    return Network(
        model,
        inputs[~held],
        given[~held],
        images.train_labels[~held],
        inputs[held],
        given[held],
        torch.from_numpy(to_float(images.test_images)),
        images.test_labels,
    )


def prepare(small: bool = False) -> str:
    """Train the network once, and return where its weights are kept."""
    name = "digits" if small else "mnist"
    path = default_root() / "benchmarks" / f"{name}-mlp-c{CORRUPTION}.safetensors"
    if not path.exists():
        logger.info("training the network of the end-to-end case (minutes, once)")
        net = load(str(path), small)
        labels = torch.from_numpy(net.given)
        train(net.model, net.train, labels, preset_for("quick", "mlp"), seed=0, device="cpu")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(net.model.state_dict(), path)
    return str(path)
