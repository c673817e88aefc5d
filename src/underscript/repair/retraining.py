"""Train a network for a few more epochs on cleaned labels; noisy labels decide when to stop."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..activations.copies import copied
from ..activations.given_model import as_module
from ..activations.hooks import plain_torch
from ..activations.runner import forward
from ..data.batches import Batch
from ..data.source import Source
from ..errors import DataError, LabelError, ModelError
from ..selection import held_out_tenth
from ..utils.class_names import as_classes, as_names
from ..utils.device import as_device, device_of, seeded
from ..utils.hints import RETRAIN_ARGUMENTS
from ..utils.labels import Labels, as_labels
from ..utils.near_names import with_argument_hints
from ..utils.progress import Progress
from ..utils.versions import versions
from .weights import write_weights

__all__ = ["Retrained", "retrain"]

# Samples per batch when accuracies are measured.
_MEASURED = 512
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Retrained:
    """The result of `retrain`.

    Attributes
    ----------
    model : torch.nn.Module
        The retrained copy of the model; each module in its previous mode.
    history : pandas.DataFrame
        One row per epoch, 0 being before training: `epoch`, `loss`, `choice_accuracy` (decides when
        to stop), `test_accuracy` (if test data were given; it decides nothing) and `chosen`.
    summary : dict
        Accuracies before and after, the chosen epoch and its criterion, settings, seed, versions.
    """

    model: nn.Module
    history: pd.DataFrame
    summary: dict[str, Any]

    @property
    def verdict(self) -> str:
        """One sentence with its numbers."""
        return str(self.summary["verdict"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as safetensors, whole or not at all, the summary as metadata.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        summary = json.dumps(self.summary, ensure_ascii=False, allow_nan=False)
        write_weights(Path(path), self.model, {"underscript": summary})


@runtime_checkable
class Decoded(Protocol):
    """A decoding: `decode`'s result."""

    best: Any
    summary: dict[str, Any]

    def relabel(self) -> pd.DataFrame:
        """Return cleaned labels by index."""

    def soft_labels(self) -> NDArray[np.float32]:
        """Return how likely each class is, float32 (n, K)."""


@with_argument_hints(RETRAIN_ARGUMENTS)
@plain_torch(grad=True)
def retrain(
    model: nn.Module,
    train: Any,
    labels: Decoded | pd.DataFrame | Any,
    holdout: Any = None,
    test: Any = None,
    *,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    patience: int = 3,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
    class_names: Sequence[str] | None = None,
) -> Retrained:
    """Train a copy of a network for a few more epochs on cleaned labels.

    If `labels` is a decoding that perturbed the inputs, they are perturbed here too, differently in
    each epoch: what is never seen twice is not memorised. If the decoding kept its `soft_labels`,
    the probability of each class, they are the labels; otherwise each sample is weighted by the
    confidence of its label. The optimiser is Adam; its rate falls to zero over the epochs. The
    chosen epoch predicts most of the hold-out's noisy labels; it may be 0, no training at all.

    Parameters
    ----------
    model : torch.nn.Module
        It stays as it is.
    train : Dataset or pair of arrays, or DataLoader over a Dataset
        Its training data; read in a new order.
    labels : Decoding, DataFrame or array-like of int, shape (n,)
        Cleaned labels: a decoding of these data, what its `relabel` gives (by index: `label` and,
        if there, `confidence`), or labels by index.
    holdout : Dataset, DataLoader or pair of arrays, optional
        Data with noisy labels that the network was not trained on. Without it, a tenth of the
        training data is set aside, and its cleaned labels decide when to stop: these are the
        decoder's, so the choice rests on the decoder alone.
    test : Dataset, DataLoader or pair of arrays, optional
        Its accuracy is reported before and after; it decides nothing.
    epochs, patience : int
        Most epochs; training ends after `patience` epochs without a better one.
    learning_rate : float
        At the start: as large as in the original training.
    batch_size : int
        Samples per step.
    seed : int
        Of the order of samples and of dropout; the same seed gives the same weights on the same
        machine.
    device : torch.device or str, optional
        Where to train; by default where the model is.
    progress : bool
        Show progress on a terminal or in a notebook.
    class_names : sequence of str, optional
        Names of all classes in the order of the model's read-out, to read labels that are text; by
        default those of the decoding.

    Returns
    -------
    Retrained

    Raises
    ------
    ArgumentError
        If it has no argument of a name that is given; it is a TypeError too.
    DataError, LabelError, ModelError
        If the data, the labels or the model cannot be used; the message says what to do.
    """
    for name, value, least in (
        ("epochs", epochs, 1),
        ("batch_size", batch_size, 1),
        ("patience", patience, 1),
    ):
        if value < least:
            raise DataError(f"{name}: expected at least {least}; found {value}")
    if not 0 < learning_rate < math.inf:
        raise DataError(f"learning_rate: expected a positive number; found {learning_rate}")
    model = as_module(model)
    names = as_names(class_names)
    if names is None and isinstance(labels, Decoded):
        names = as_names(labels.summary["model"]["class_names"])
    # Its own labels are those that were cleaned.
    source = Source(train, "train", batch_size=_MEASURED, labelled=False)
    cleaned = _Cleaned.of(labels, names)
    perturbation = labels.best.perturbation if isinstance(labels, Decoded) else None
    if perturbation is not None and not perturbation.fits:
        perturbation = None
    places = source.places
    criterion, n_choice = "noisy labels of a hold-out", 0
    if holdout is not None:
        choice = Source(holdout, "holdout", batch_size=_MEASURED, class_names=names)
        kept_out = None
    else:
        kept_out = held_out_tenth(places, seed)
        if not kept_out.any() or kept_out.all():
            raise DataError(
                f"train: {len(places)} samples are too few to keep a tenth from; give a holdout"
            )
        places, chosen_places = places[~kept_out], places[kept_out]
        criterion = "cleaned labels of a tenth of the training data that was not trained on"
    tests = None
    if test is not None:
        tests = Source(test, "test", batch_size=_MEASURED, class_names=names)
    place = as_device(device) if device is not None else device_of(model)
    network = copied(model).to(place)
    kinds = {name: value.dtype for name, value in network.state_dict().items()}
    half = any(kind in _HALF for kind in kinds.values())
    if half:
        # Adam's steps are too small for half precision.
        network.float()

    def measured(batches: Iterator[Batch], targets: "_Cleaned | None") -> tuple[float, int]:
        return _measure(network, batches, place, targets)

    def choosing() -> tuple[float, int]:
        if holdout is not None:
            return measured(choice.batches(), None)
        return measured(source.reordered(chosen_places, _MEASURED), cleaned)

    modes = [(module, module.training) for module in network.modules()]
    rows: list[dict[str, Any]] = []
    with seeded(seed, place):
        network.eval()
        accuracy, n_choice = choosing()
        rows.append({"epoch": 0, "loss": None, "choice_accuracy": accuracy})
        if tests is not None:
            rows[0]["test_accuracy"] = measured(tests.batches(), None)[0]
        best = _state(network)
        trained = [p for p in network.parameters() if p.requires_grad]
        if not trained:
            raise ModelError(f"{type(model).__name__}: no parameter requires a gradient")
        optimiser = torch.optim.Adam(trained, learning_rate)
        steps = epochs * math.ceil(len(places) / batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
        order = np.random.default_rng(seed)
        with Progress.of_one("retraining", progress) as bar:
            bar.begin("retraining", epochs * len(places))
            for epoch in range(1, epochs + 1):
                _train_mode(network, modes)
                losses = 0.0
                shuffled = places[order.permutation(len(places))]
                for batch in source.reordered(shuffled, batch_size):
                    # Batch norm has no statistics of one sample.
                    if batch.size > 1 or len(places) == 1:
                        seen = batch if perturbation is None else perturbation(batch, epoch)
                        loss = _step(network, seen, cleaned, place, optimiser)
                        losses += loss * batch.size
                    schedule.step()
                    bar.advance(batch.size)
                network.eval()
                row = {"epoch": epoch, "loss": losses / len(places)}
                row["choice_accuracy"] = choosing()[0]
                if tests is not None:
                    row["test_accuracy"] = measured(tests.batches(), None)[0]
                bar.note(f"choice {row['choice_accuracy']:.1%}")
                if row["choice_accuracy"] > max(earlier["choice_accuracy"] for earlier in rows):
                    best = _state(network)
                rows.append(row)
                top = max(range(len(rows)), key=lambda at: rows[at]["choice_accuracy"])
                if epoch - top >= patience:
                    break
    network.load_state_dict(best)
    network.to(device_of(model))
    if half:
        _as_before(network, kinds)
    for module, mode in modes:
        module.training = mode
    history = pd.DataFrame(rows)
    history["chosen"] = history["epoch"] == top
    summary = {
        "epoch": top,
        "criterion": criterion,
        "n": n_choice,
        "before": _numbers(rows[0]),
        "after": _numbers(rows[top]),
        "history": [_numbers(row) for row in rows],
        "labels_changed": cleaned.changed,
        "settings": {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "patience": patience,
            "device": str(place),
            "optimiser": "Adam",
            "perturb": None if perturbation is None else perturbation.name,
        },
        "seed": seed,
        "versions": versions(),
        "verdict": _verdict(rows[0], rows[top], criterion, n_choice),
    }
    return Retrained(network, history, summary)


def _train_mode(network: nn.Module, modes: Sequence[tuple[nn.Module, bool]]) -> None:
    """Put a network into training mode by its own `train`, except what is frozen.

    Frozen are running statistics of modules without trained parameters, and modules in evaluation
    mode inside a network in training mode.
    """
    network.train()
    inside = network.training and modes[0][1]
    for module, mode in modes:
        own = list(module.parameters(recurse=False))
        fixed = bool(own) and not any(parameter.requires_grad for parameter in own)
        if (fixed and hasattr(module, "running_mean")) or (inside and not mode):
            module.training = False


def _as_before(network: nn.Module, kinds: Mapping[str, torch.dtype]) -> None:
    """Restore the previous precision of parameters and buffers."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, value in tensors.items():
        value.data = value.data.to(kinds.get(name, value.dtype))


@dataclass(frozen=True)
class _Cleaned:
    """Labels and weights of samples, sorted by index; or how likely each class is."""

    index: Labels
    labels: Labels
    weights: NDArray[np.float32]
    changed: int | None
    chances: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, given: Any, names: Sequence[str] | None) -> "_Cleaned":
        soft: NDArray[np.float32] | None = None
        if isinstance(given, Decoded):
            with contextlib.suppress(DataError):
                soft = given.soft_labels()
            given = given.relabel()
        if not isinstance(given, pd.DataFrame):
            labels = as_labels(as_classes(given, names, "labels"), "labels")
            return cls(np.arange(len(labels)), labels, np.ones(len(labels), np.float32), None)
        if "label" not in given:
            raise LabelError(
                f"labels: expected a column label, as relabel() gives; found "
                f"{', '.join(map(str, given.columns))}"
            )
        index = as_labels(given.index.to_numpy(), "labels: the index")
        if len(np.unique(index)) < len(index):
            raise LabelError("labels: expected an index in which each sample stands once")
        sure = given["confidence"] if "confidence" in given else pd.Series(1.0, given.index)
        weights = sure.to_numpy(np.float32)
        if not ((weights >= 0) & (weights <= 1)).all():
            raise LabelError("labels: expected confidences from 0 to 1")
        changed = int(given["changed"].sum()) if "changed" in given else None
        order = np.argsort(index, kind="stable")
        labels = as_labels(as_classes(given["label"].to_numpy(), names, "labels"), "labels")
        if soft is None:
            return cls(index[order], labels[order], weights[order], changed)
        return cls(
            index[order],
            soft.argmax(1)[order],
            np.ones(len(order), np.float32),
            changed,
            soft[order],
        )

    def at(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return labels and weights (n,) of a batch's samples, and chances (n, K) if known."""
        index = batch.index
        assert index is not None
        at = np.searchsorted(self.index, index)
        known = self.index[np.minimum(at, len(self.index) - 1)] == index
        if not known.all():
            raise LabelError(
                f"labels: there is none for the sample at index {index[~known][0]}; expected the "
                "cleaned labels of these very data"
            )
        chances = None if self.chances is None else torch.from_numpy(self.chances[at])
        return torch.from_numpy(self.labels[at]), torch.from_numpy(self.weights[at]), chances


def _step(
    network: nn.Module,
    batch: Batch,
    cleaned: _Cleaned,
    place: torch.device,
    optimiser: torch.optim.Optimizer,
) -> float:
    """Take one step of training and return the mean loss."""
    logits = forward(network, batch, place, "retraining", grad=True)
    labels, weights, chances = cleaned.at(batch)
    labels, weights = labels.to(place), weights.to(place)
    _check_classes(labels, logits)
    wanted = labels if chances is None else chances.to(logits)
    losses = nn.functional.cross_entropy(logits, wanted, reduction="none")
    loss = (losses * weights).sum() / weights.sum().clamp(min=1e-6)
    if not bool(torch.isfinite(loss)):
        raise ModelError("retraining: the loss is not finite; lower the learning rate")
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach())


def _measure(
    network: nn.Module, batches: Iterator[Batch], place: torch.device, cleaned: _Cleaned | None
) -> tuple[float, int]:
    """Return the share of labels, the data's own or cleaned, that are predicted, and how many."""
    right = n = 0
    for batch in batches:
        logits = forward(network, batch, place, "retraining")
        if cleaned is None and batch.labels is None:
            raise LabelError("retraining: expected labels; the data carry none: give (x, y)")
        labels = cleaned.at(batch)[0] if cleaned else torch.from_numpy(batch.labels)
        _check_classes(labels, logits)
        right += int((logits.argmax(1).cpu() == labels).sum())
        n += batch.size
    return right / max(n, 1), n


def _check_classes(labels: Tensor, logits: Tensor) -> None:
    if len(labels) and int(labels.max()) >= logits.shape[1]:
        raise LabelError(
            f"labels: found label {int(labels.max())}; the model's read-out knows "
            f"{logits.shape[1]} classes, 0 … {logits.shape[1] - 1}"
        )


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def _verdict(before: Mapping[str, Any], after: Mapping[str, Any], criterion: str, n: int) -> str:
    """Return one sentence on what retraining changed."""
    if after["epoch"] == 0:
        return f"No epoch predicts more of {n:,} {criterion}: the weights stay as they were."
    shown = ""
    if "test_accuracy" in before:
        shown = f"; test accuracy {before['test_accuracy']:.1%} to {after['test_accuracy']:.1%}"
    return (
        f"Retrained for {after['epoch']} epoch{'s' if after['epoch'] > 1 else ''}: from "
        f"{before['choice_accuracy']:.1%} to {after['choice_accuracy']:.1%} of {n:,} "
        f"{criterion}{shown}."
    )
