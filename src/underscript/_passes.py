"""The two passes of a network over data: gather and fit, then count who is right."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ._capture import Tap
from ._classifier import SubspaceClassifier, fit_together
from ._labels import Labels, check_range, pick
from ._notes import Notes
from ._stream import Rows, Source, known_index, progress_bar, stream
from .errors import DataError, LabelError
from .issues import Answers
from .layers import Place
from .moments import ROW_MEMORY, ClassMoments, ClassRows, statistics_for
from .selection import Key, Score, held_out_tenth
from .subspace import PROBES

Decoders = dict[Key, SubspaceClassifier]
Statistics = dict[str, ClassMoments | ClassRows]


@dataclass(frozen=True)
class Task:
    """What is decoded and how: the same for the network and its random twin."""

    places: list[Place]
    probes: tuple[str, ...]
    shares: tuple[float, ...]
    n_classes: int
    device: torch.device
    seed: int
    progress: bool
    paths: dict[str, str] = field(default_factory=dict)

    @property
    def taps(self) -> list[Tap]:
        return [place.tap for place in self.places]

    def keys(self, layer: str, labels: str) -> list[Key]:
        keys = []
        for probe in self.probes:
            shares: tuple[float | None, ...] = self.shares if probe == "masc" else (None,)
            keys += [Key(layer, probe, share, labels) for share in shares]
        return keys

    def label_sets(self, rows: Rows, source: Source) -> dict[str, Labels]:
        """Return a batch's given labels, and its true ones where they are known."""
        batch, role = rows.batch, source.role
        if batch.labels is None:
            raise LabelError(f"{role}: expected labels; the data carry none: give (x, y)")
        given = check_range(batch.labels, self.n_classes, batch.index, role)
        sets = {"given": given}
        if source.truth is not None:
            index = known_index(batch, role, "true_labels")
            sets["true"] = check_range(
                pick(source.truth, index, role), self.n_classes, index, f"{role}: true_labels"
            )
        return sets


def fit(
    network: nn.Module, task: Task, source: Source, notes: Notes, who: str, hold_out: bool
) -> tuple[Decoders, Decoders]:
    """Run the training data once and fit every decoder of every layer.

    Returns the decoders, and those fitted without the held-out tenth if `hold_out` is true.
    """
    # Parts of the data rather than repeated sums: the whole is the held-out tenth and the rest.
    parts: tuple[str, ...] = ("kept", "held") if hold_out else ("corrupted",)
    parts += ("true",) if source.truth is not None else ()
    statistics = {place.tap.name: _empty(place, parts, task, source) for place in task.places}
    task.paths.update({name: sets[parts[0]].path for name, sets in statistics.items()})
    stage = f"{who}reading layers"
    for rows in stream(
        network, source, task.taps, task.device, stage=stage, progress=task.progress
    ):
        labels = task.label_sets(rows, source)
        by_part = {"corrupted": labels["given"]}
        if "true" in labels:
            by_part["true"] = labels["true"]
        if hold_out:
            index = known_index(rows.batch, source.role, "a held-out tenth (no holdout is given)")
            held = held_out_tenth(index, task.seed)
            by_part["held"] = np.where(held, labels["given"], -1)
            by_part["kept"] = np.where(held, -1, labels["given"])
        for name, tapped in rows.layers.items():
            for part in parts:
                statistics[name][part].update(tapped, torch.from_numpy(by_part[part]))
    first = next(iter(statistics.values()))
    counts = [first[part].counts() for part in parts if part != "true"]
    notes.missing(torch.stack(counts).sum(0))
    decoders: Decoders = {}
    selecting: Decoders = {}
    bar = progress_bar(f"{who}decomposing", len(statistics) * len(parts), "layers", task.progress)
    with bar:
        for name in list(statistics):
            sets = statistics.pop(name)
            with notes.gather(f"{who}{name}"):
                if hold_out:
                    selecting.update(_fit_keys(sets["kept"], task.keys(name, "corrupted")))
                    bar.update()
                whole = _totals(sets, parts)
                decoders.update(_fit_keys(whole, task.keys(name, "corrupted")))
                bar.update()
                if "true" in sets:
                    decoders.update(_fit_keys(sets["true"], task.keys(name, "true")))
                    bar.update()
    return decoders, selecting


def _empty(place: Place, parts: Sequence[str], task: Task, source: Source) -> Statistics:
    """Return one layer's empty statistics, one for each part; wide layers keep their rows once."""
    # Some devices have no float64.
    device = torch.device("cpu") if task.device.type == "mps" else task.device
    memory = ROW_MEMORY // len(task.places)
    first = statistics_for(task.n_classes, place.width, source.length, device, memory)
    made: Statistics = {parts[0]: first}
    for part in parts[1:]:
        made[part] = (
            first.sharing()
            if isinstance(first, ClassRows)
            else ClassMoments(task.n_classes, place.width, device)
        )
    return made


def _totals(sets: Statistics, parts: Sequence[str]) -> ClassMoments | ClassRows:
    if "kept" not in parts:
        return sets["corrupted"]
    kept: Any = sets["kept"]
    return kept.merge(sets["held"])  # type: ignore[no-any-return]


def _fit_keys(statistics: ClassMoments | ClassRows, keys: list[Key]) -> Decoders:
    made = {key: _estimator(key) for key in keys}
    fit_together(statistics, list(made.values()))
    return made


def _estimator(key: Key) -> SubspaceClassifier:
    share = {} if key.variance is None else {"variance": key.variance}
    return PROBES[key.probe](**share)


class Counts:
    """How often each decoder, and the model itself, agrees with each kind of label."""

    def __init__(self) -> None:
        self.n = 0
        self.right: dict[tuple[Key | None, str], int] = {}
        self.wrong: int | None = None
        self.watched: list[Answers] = []

    @property
    def scores(self) -> list[Score]:
        """How often each decoder agrees with the given labels."""
        return [
            Score(key, right / self.n, self.n)
            for (key, kind), right in self.right.items()
            if key is not None and kind == "given"
        ]

    def add(self, key: Key | None, scores: Tensor, sets: Mapping[str, Labels]) -> None:
        """Count one decoder's (None: the model's) right answers in a batch."""
        predicted = scores.argmax(1).cpu().numpy()
        for kind, labels in sets.items():
            right = int((predicted == labels).sum())
            self.right[key, kind] = self.right.get((key, kind), 0) + right

    def records(
        self, which: str, task: Task, decoders: Decoders, role: str
    ) -> list[dict[str, Any]]:
        """Return the table's rows."""
        widths = {place.tap.name: place.width for place in task.places}
        rows = []
        for (key, kind), right in self.right.items():
            rows.append(
                {
                    "model": which,
                    "layer": key.layer if key else "output",
                    "width": widths[key.layer] if key else task.n_classes,
                    "probe": key.probe if key else "model",
                    "variance": key.variance if key else None,
                    "subspace_labels": key.subspace_labels if key else None,
                    "rank": float(np.mean(decoders[key].ranks_)) if key else None,
                    "split": role,
                    "labels": kind,
                    "n": self.n,
                    "accuracy": right / self.n,
                }
            )
        return rows


def count(
    network: nn.Module,
    task: Task,
    source: Source,
    decoders: Decoders,
    stage: str,
    *,
    keep: Callable[[Labels], Any] | None = None,
    watch: Key | None = None,
) -> Counts:
    """Run a source once and count right answers; of the watched decoder keep every answer."""
    counts = Counts()
    for rows in stream(
        network, source, task.taps, task.device, stage=stage, keep=keep, progress=task.progress
    ):
        sets = task.label_sets(rows, source)
        counts.n += rows.batch.size
        if "true" in sets:
            counts.wrong = (counts.wrong or 0) + int((sets["given"] != sets["true"]).sum())
        counts.add(None, rows.logits, sets)
        for key, decoder in decoders.items():
            scores = decoder.decide(rows.layers[key.layer])
            counts.add(key, scores, sets)
            if key == watch:
                closeness = decoder.closeness(rows.layers[key.layer])
                predicted = scores.argmax(1).cpu().numpy()
                counts.watched.append(
                    Answers.of(closeness, predicted, sets["given"], rows.batch.index)
                )
    if not counts.n:
        raise DataError(
            f"{source.role}: none of its samples fell in the held-out tenth; give a holdout"
        )
    return counts
