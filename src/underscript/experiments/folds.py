"""Out-of-fold probabilities by retraining, which label-error tools need, and their cost."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch import Tensor, nn

from ..utils.files import write_tensors
from .architectures import build
from .checkpoints import State
from .presets import Preset
from .training import (
    lay_out,
    matrix_precision,
    optimiser_for,
    own_randomness,
    train_epoch,
    training_step,
)
from .work import Work

__all__ = ["FOLDS", "run_folds", "train_and_stop"]

FOLDS = 5
# Epochs without a better agreement with the held-out labels after which a fold's training ends.
PATIENCE = 5


def run_folds(work: Work) -> dict[str, Any]:
    """Train five networks, each on four fifths of the data, and keep probabilities for the rest.

    A network's probabilities come from the epoch that agrees best with the noisy labels of its
    held-out fifth. Trained to the end it would memorise, and they would say much less. Images of
    one drawing are in the same fifth.
    """
    data, preset = work.data.train, work.plan.recipe
    images, given = torch.from_numpy(data.images), torch.from_numpy(data.given)
    n_classes = work.data.n_classes
    chances = torch.empty(len(given), n_classes)
    epochs: list[dict[str, int]] = []
    began, began_cpu = time.perf_counter(), time.process_time()
    # Classes with fewer samples than folds cannot be stratified: they share one stratum.
    counts = np.bincount(data.given, minlength=n_classes)
    strata = np.where(counts[data.given] >= FOLDS, data.given, -1)
    kind = StratifiedKFold if data.drawings is None else StratifiedGroupKFold
    split = kind(FOLDS, shuffle=True, random_state=work.cell.seed)
    for number, (inside, outside) in enumerate(split.split(strata, strata, data.drawings)):
        rest, held = torch.from_numpy(inside), torch.from_numpy(outside)
        model = build(
            work.plan.pair.arch,
            data.images.shape[1:],
            n_classes,
            work.cell.seed + 1000 * (number + 1),
            preset.width,
        )
        (chances[held],), trained = train_and_stop(
            model,
            (images[rest], given[rest]),
            (images[held], given[held]),
            preset,
            work.cell.seed,
            torch.device(work.plan.device),
        )
        epochs.append(trained)
    write_tensors(work.folder / "folds.safetensors", {"pred_probs": chances})
    return {
        "folds": FOLDS,
        "patience": PATIENCE,
        "epochs": epochs,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - began_cpu,
        "accuracy": float((chances.argmax(1).numpy() == data.true).mean()),
    }


def train_and_stop(
    model: nn.Module,
    train: tuple[Tensor, Tensor],
    held: tuple[Tensor, Tensor],
    preset: Preset,
    seed: int,
    device: torch.device,
    others: Sequence[Tensor] = (),
) -> tuple[list[Tensor], dict[str, int]]:
    """Train until held-out labels are no longer predicted better, and predict as at the best epoch.

    Parameters
    ----------
    model : nn.Module
        It is trained in place, beyond the best epoch.
    train, held : pair of Tensor
        Inputs and noisy labels.
    preset : Preset
        The recipe; it ends after `PATIENCE` epochs without a better one.
    seed : int
        Seed of the order of the samples.
    device : torch.device
        Where to train.
    others : sequence of Tensor
        More inputs to predict.

    Returns
    -------
    list of Tensor, dict
        Probabilities (n, K) of the held-out inputs and of each of `others`; the `best` and the last
        (`trained`) epoch.
    """
    images, labels = (part.to(device) for part in train)
    precision = matrix_precision(device) if preset.fast_products else torch.float32
    model.to(device)
    lay_out(model, torch.channels_last)
    asked = [inputs.to(device) for inputs in (held[0], *others)]
    state = State(model, optimiser_for(model, preset), torch.Generator().manual_seed(seed))
    step = training_step(model, device, precision, compiled=False)
    best, best_chances, best_epoch = -1.0, list[Tensor](), 0
    with own_randomness(device, seed):
        while len(state.history) < min(preset.max_epochs, best_epoch + PATIENCE):
            loss, state.fitted = train_epoch(state, step, images, labels, preset)
            state.history.append({"loss": loss})
            model.eval()
            chances = [_chances(model, inputs) for inputs in asked]
            agreement = float((chances[0].argmax(1) == held[1]).double().mean())
            if agreement > best:
                best, best_chances, best_epoch = agreement, chances, len(state.history)
    return best_chances, {"best": best_epoch, "trained": len(state.history)}


def _chances(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        logits = [model(part).float() for part in torch.split(inputs, 2048)]
    return torch.softmax(torch.cat(logits), 1).cpu()
