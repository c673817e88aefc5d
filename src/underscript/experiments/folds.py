"""Out-of-sample probabilities by retraining: what label-error tools ask for, and what it costs."""

import time
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from ..utils.files import write_tensors
from .architectures import build
from .checkpoints import State
from .presets import Preset
from .training import _lay_out, _matrix_precision, _optimiser, _own_randomness, _step, _train_epoch
from .work import Work

__all__ = ["run_folds"]

FOLDS = 5
# A fold's training ends when its agreement with the held-out labels has not risen for so long.
PATIENCE = 5


def run_folds(work: Work) -> dict[str, Any]:
    """Train the cell's architecture on four fifths of the data, five times, and keep the rest's.

    Each network is the one of the epoch that agrees best with the noisy labels of its own held-out
    fifth: trained to the end it would memorise, and its probabilities say much less.
    """
    data, preset = work.data.train, work.plan.recipe
    images, given = torch.from_numpy(data.images), torch.from_numpy(data.given)
    n_classes = work.data.n_classes
    chances = torch.empty(len(given), n_classes)
    epochs: list[dict[str, int]] = []
    began, began_cpu = time.perf_counter(), time.process_time()
    # The rarest class of few samples may have fewer than there are folds; it is spread as it goes.
    counts = np.bincount(data.given, minlength=n_classes)
    strata = np.where(counts[data.given] >= FOLDS, data.given, -1)
    split = StratifiedKFold(FOLDS, shuffle=True, random_state=work.cell.seed)
    for number, (inside, outside) in enumerate(split.split(strata, strata)):
        rest, held = torch.from_numpy(inside), torch.from_numpy(outside)
        model = build(
            work.plan.pair.arch,
            data.images.shape[1:],
            n_classes,
            work.cell.seed + 1000 * (number + 1),
        )
        chances[held], told = _held_out(
            model,
            images[rest],
            given[rest],
            images[held],
            given[held],
            preset,
            work.cell.seed,
            torch.device(work.plan.device),
        )
        epochs.append(told)
    write_tensors(work.folder / "folds.safetensors", {"pred_probs": chances})
    return {
        "folds": FOLDS,
        "patience": PATIENCE,
        "epochs": epochs,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - began_cpu,
        "accuracy": float((chances.argmax(1).numpy() == data.true).mean()),
    }


def _held_out(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    held_images: Tensor,
    held_labels: Tensor,
    preset: Preset,
    seed: int,
    device: torch.device,
) -> tuple[Tensor, dict[str, int]]:
    """Return probabilities of the held-out samples (n, K) at the best epoch, and the epochs."""
    precision = _matrix_precision(device) if preset.fast_products else torch.float32
    model.to(device)
    _lay_out(model, torch.channels_last)
    images, labels, held_images = images.to(device), labels.to(device), held_images.to(device)
    state = State(model, _optimiser(model, preset), torch.Generator().manual_seed(seed))
    step = _step(model, device, precision, compiled=False)
    best, found, at = -1.0, torch.empty(0), 0
    with _own_randomness(device, seed):
        while len(state.history) < preset.max_epochs and len(state.history) - at < PATIENCE:
            loss, state.fitted = _train_epoch(state, step, images, labels, preset)
            state.history.append({"loss": loss})
            model.eval()
            with torch.no_grad():
                parts = [model(part).float() for part in torch.split(held_images, 2048)]
            chances = torch.softmax(torch.cat(parts), 1).cpu()
            agreement = float((chances.argmax(1) == held_labels).double().mean())
            if agreement > best:
                best, found, at = agreement, chances, len(state.history)
    return found, {"best": at, "trained": len(state.history)}
