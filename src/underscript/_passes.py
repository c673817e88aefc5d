"""The two passes of a network over data: gather and fit, then count who is right."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._batches import Batch
from ._budget import Shares, Sizes
from ._capture import Tap
from ._classifier import SubspaceClassifier, fit_together
from ._kept import Kept
from ._labels import Labels, check_different, check_range, pick
from ._notes import Notes
from ._prints import prints_of
from ._progress import SILENT, Progress
from ._row_file import RowFile
from ._stream import Rows, Seen, Source, known_index, stream, stream_views
from ._survey import Place
from ._team import ALONE, Team
from .combined import COMBINED, CombinedDiscriminant, rows_for
from .errors import DataError, LabelError
from .examples import Worst
from .issues import Answers, Gathered, came_from
from .moments import WAITING, ClassMoments, budgets, statistics_for
from .noise import Noise
from .rows import ClassRows, RowStore
from .selection import Key, Score, held_out_tenth
from .subspace import PROBES, nearest_together

if TYPE_CHECKING:
    from .repair import Choosing
    from .selection.unseen import Unseen

logger = logging.getLogger(__name__)

# Multiply-adds of one layer's subspaces that cost next to nothing: a second of a core or less.
_CHEAP = 1 << 34
# Samples, where their number is not known.
_UNKNOWN = 100_000

Decoders = dict[Key, SubspaceClassifier | CombinedDiscriminant]
Statistics = dict[str, ClassMoments | ClassRows]


@dataclass(frozen=True)
class Task:
    """What is decoded and how: the same for the network and its random twin.

    Where `cheap` is true the probes are fitted only at layers where that costs next to nothing, for
    so many `samples`.
    """

    places: list[Place]
    probes: tuple[str, ...]
    shares: tuple[float, ...]
    subspace_labels: tuple[str, ...]
    n_classes: int
    device: torch.device
    seed: int
    progress: Progress = SILENT
    sizes: Sizes = field(default_factory=Sizes)
    room: Shares = field(default_factory=Shares)
    # What of the rows does not fit in memory.
    file: RowFile = field(default_factory=RowFile)
    team: Team = ALONE
    paths: dict[str, str] = field(default_factory=dict)
    # Fitted whether or not it is among the probes.
    extra: Key | None = None
    cheap: bool = False
    samples: int | None = None
    # Whether rows are kept where there is room: for a later pass, and for cheaper sums.
    keeps: bool = False

    @property
    def taps(self) -> list[Tap]:
        return [place.tap for place in self.places]

    def keys(self, layer: str, labels: str) -> list[Key]:
        keys = []
        for probe in self.probes if self.probed(layer) else ():
            shares: tuple[float | None, ...] = self.shares if probe == "masc" else (None,)
            keys += [Key(layer, probe, share, labels) for share in shares]
        extra = self.extra
        if extra is not None and extra not in keys and extra[::3] == (layer, labels):
            keys.append(extra)
        return keys

    def probed(self, layer: str) -> bool:
        """Say whether probes are fitted at a layer."""
        return not self.cheap or sum(self.subspace_work(layer)) <= _CHEAP

    def subspace_work(self, layer: str) -> tuple[int, int, int]:
        """Return multiply-adds of a layer's subspaces.

        Those of sums, of each class's eigenvectors (some ten times the cube of its smaller side)
        and, for as many rows again, of products with these.
        """
        width = next(place.width for place in self.places if place.tap.name == layer)
        n = self.samples or _UNKNOWN
        side = min(width, -(-n // self.n_classes))
        answering = n * width * self.n_classes * side // 2
        return n * width**2, 10 * self.n_classes * side**3, answering

    def given(self, batch: Batch, source: Source) -> Labels:
        """Return a batch's given labels."""
        if batch.labels is None:
            raise LabelError(f"{source.role}: expected labels; the data carry none: give (x, y)")
        return check_range(batch.labels, self.n_classes, batch.index, source.role)

    def label_sets(self, rows: Rows, source: Source) -> dict[str, Labels]:
        """Return a batch's given labels, and its true ones where they are known."""
        batch, role = rows.batch, source.role
        sets = {"given": self.given(batch, source)}
        if source.truth is not None:
            index = known_index(batch, role, "true_labels")
            sets["true"] = check_range(
                pick(source.truth, index, role), self.n_classes, index, f"{role}: true_labels"
            )
        return sets


class Watcher(Protocol):
    """What sees the training data while they are read for something else."""

    @property
    def taps(self) -> list[Tap]:
        """Everything that is to be read: at least what else is."""

    @property
    def changes(self) -> Sequence[Callable[[Batch], Batch]]:
        """How each batch is changed; the network runs once more for each."""

    def see(self, views: Sequence[Rows], labels: Labels) -> None:
        """Take a batch as it is and changed, and its given labels."""


@dataclass(frozen=True)
class Fitted:
    """What one pass over the training data gave.

    Attributes
    ----------
    decoders, selecting : dict of Key to estimator
        The decoders, and those fitted without the held-out tenth, if that was asked for.
    own : Counts
        How often the network itself agrees with the labels.
    kept : Kept or None
        The rows, if they were to be kept and there was room.
    labels : ndarray of int64, shape (K,)
        Everybody's labels of each class.
    """

    decoders: "Decoders"
    selecting: "Decoders"
    own: "Counts"
    kept: Kept | None
    labels: NDArray[np.int64]


def fit(
    network: nn.Module,
    task: Task,
    source: Source,
    notes: Notes,
    who: str,
    hold_out: bool,
    watcher: "Watcher | None" = None,
    again: bool = False,
) -> "Fitted":
    """Run the training data once and fit every decoder of every layer.

    A watcher sees every batch too, changed in the ways that it asks for. If the training data are
    to be seen `again` their rows are kept, where there is room.
    """
    # Parts of the data rather than repeated sums: the whole is the held-out tenth and the rest.
    parts: tuple[str, ...] = ("kept", "held") if hold_out else ("corrupted",)
    parts += ("true",) if "true" in task.subspace_labels else ()
    statistics = _empty(task, source, parts)
    team = task.team
    indices: list[Labels] = []
    counts = torch.zeros(task.n_classes, dtype=torch.int64)
    own = Counts()
    firsts = {name: sets[parts[0]] for name, sets in statistics.items()}
    stores = {name: first.store for name, first in firsts.items() if isinstance(first, ClassRows)}
    kept = Kept(stores) if again and len(stores) == len(firsts) else None
    del firsts
    with team.together():
        for rows, *others in stream_views(
            network, source, task.taps if watcher is None else watcher.taps, task.device,
            () if watcher is None else watcher.changes,
            stage="reading layers", progress=task.progress,
        ):  # fmt: skip
            labels = task.label_sets(rows, source)
            if watcher is not None:
                watcher.see([rows, *others], labels["given"])
            if rows.batch.index is not None:
                indices.append(rows.batch.index)
            counts += torch.bincount(torch.from_numpy(labels["given"]), minlength=task.n_classes)
            own.add_own(rows, labels)
            own.prints.append(prints_of(rows.batch))
            if kept is not None:
                kept.add(rows)
            by_part = {"corrupted": labels["given"]}
            if "true" in parts:
                by_part["true"] = labels["true"]
            if hold_out:
                what = "a held-out tenth (no holdout is given)"
                held = held_out_tenth(known_index(rows.batch, source.role, what), task.seed)
                by_part["held"] = np.where(held, labels["given"], -1)
                by_part["kept"] = np.where(held, -1, labels["given"])
            for name, of_layer in statistics.items():
                for part in parts:
                    of_layer[part].update(rows.layers[name], torch.from_numpy(by_part[part]))
    check_different([part for parts_of in team.gather(indices) for part in parts_of], source.role)
    task.paths.update({name: sets[parts[0]].path for name, sets in statistics.items()})
    counts = team.total(counts)
    notes.missing(counts)
    decoders: Decoders = {}
    selecting: Decoders = {}
    task.progress.begin("decomposing")
    for name in list(statistics):
        task.progress.note(name)
        sets = statistics.pop(name)
        whole = _totals(sets, parts)
        _in_turn([sets["kept"], whole] if hold_out else [whole], sets.get("true"))
        with notes.gather(f"{who}{name}"):
            if hold_out:
                selecting.update(_fit_keys(sets["kept"], task.keys(name, "corrupted"), team))
            decoders.update(_fit_keys(whole, task.keys(name, "corrupted"), team))
            if "true" in sets:
                decoders.update(_fit_keys(sets["true"], task.keys(name, "true"), team))
        task.progress.advance()
    return Fitted(decoders, selecting, own.together(team), kept, counts.numpy())


def _empty(task: Task, source: Source, parts: Sequence[str]) -> dict[str, Statistics]:
    """Return each layer's empty statistics, one for each part; wide layers keep their rows once."""
    # Some devices have no float64.
    device = torch.device("cpu") if task.device.type == "mps" else task.device
    places = [place for place in task.places if task.keys(place.tap.name, "corrupted")]
    widths = [place.width for place in places]
    # A whole that is made of parts is there beside them for a while.
    sets = len(parts) + ("kept" in parts)
    # Some of it is for rows that wait until a product is worth it.
    waiting = min(WAITING, task.room.statistics // (8 * max(1, len(places) * len(parts))))
    memory = task.room.statistics - waiting * len(places) * len(parts)
    allowed = budgets(task.n_classes, widths, source.length, memory, sets)
    keeps = task.keeps and source.length is not None and task.team.size == 1
    keeps &= device.type == "cpu" and 4 * (source.length or 0) * sum(widths) <= memory
    room = task.room.statistics
    made: dict[str, Statistics] = {}
    for place, memory in zip(places, allowed, strict=True):
        first: ClassMoments | ClassRows
        if keeps:
            store = RowStore(place.width, room * place.width // sum(widths), task.file)
            first = ClassRows(task.n_classes, store, device)
        else:
            first = statistics_for(
                task.n_classes, place.width, source.length, device, memory, sets, task.file, waiting
            )
        logger.info("layer %s (%d wide) is read by its %s", place.tap.name, place.width, first.path)
        made[place.tap.name] = {parts[0]: first}
        for part in parts[1:]:
            made[place.tap.name][part] = (
                first.sharing()
                if isinstance(first, ClassRows)
                else ClassMoments(task.n_classes, place.width, device, waiting)
            )
    return made


def _totals(sets: Statistics, parts: Sequence[str]) -> ClassMoments | ClassRows:
    if "kept" not in parts:
        return sets["corrupted"]
    kept: Any = sets["kept"]
    return kept.merge(sets["held"])  # type: ignore[no-any-return]


def _in_turn(given: list[ClassMoments | ClassRows], true: ClassMoments | ClassRows | None) -> None:
    """Say in which order sets of labels of the same rows are decomposed."""
    order = [*given, *([] if true is None else [true])]
    for place, sets in enumerate(order):
        if isinstance(sets, ClassRows):
            sets.before(*(later for later in order[place + 1 :] if isinstance(later, ClassRows)))


def _fit_keys(statistics: ClassMoments | ClassRows, keys: list[Key], team: Team) -> Decoders:
    made = {key: _estimator(key) for key in keys}
    fit_together(statistics, list(made.values()), team=team)
    return dict(made)


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
        self.chances: list[tuple[Tensor, Tensor]] = []
        self.worst: Worst | None = None
        self.prints: list[NDArray[np.uint64]] = []

    @property
    def scores(self) -> list[Score]:
        """How often each decoder agrees with the given labels."""
        return [
            Score(key, right / self.n, self.n)
            for (key, kind), right in self.right.items()
            if key is not None and kind == "given"
        ]

    def add(self, key: Key | None, answers: Tensor, sets: Mapping[str, Labels]) -> None:
        """Count one decoder's (None: the model's) right answers (n,) in a batch."""
        predicted = answers.cpu().numpy()
        for kind, labels in sets.items():
            right = int((predicted == labels).sum())
            self.right[key, kind] = self.right.get((key, kind), 0) + right

    def add_own(self, rows: Rows, sets: Mapping[str, Labels]) -> None:
        """Count a batch, and the model's own right answers in it."""
        self.n += rows.batch.size
        if "true" in sets:
            self.wrong = (self.wrong or 0) + int((sets["given"] != sets["true"]).sum())
        self.add(None, rows.logits.argmax(1), sets)

    def together(self, team: Team) -> "Counts":
        """Return what all processes counted."""
        if team.size == 1:
            return self
        whole = Counts()
        for part in team.gather(self):
            whole.n += part.n
            for what, right in part.right.items():
                whole.right[what] = whole.right.get(what, 0) + right
            if part.wrong is not None:
                whole.wrong = (whole.wrong or 0) + part.wrong
            whole.watched += part.watched
            whole.chances += part.chances
            whole.prints += part.prints
            if whole.worst is None:
                whole.worst = part.worst
            elif part.worst is not None:
                whole.worst.merge(part.worst)
        return whole

    def records(
        self, which: str, task: Task, decoders: Decoders, role: str
    ) -> list[dict[str, Any]]:
        """Return the table's rows."""
        widths = {place.tap.name: place.width for place in task.places}
        widths[COMBINED] = sum(
            decoder.n_features_in_ for key, decoder in decoders.items() if key.layer == COMBINED
        )
        rows = []
        order = {key: place for place, key in enumerate([None, *decoders])}
        for (key, kind), right in sorted(self.right.items(), key=lambda item: order[item[0][0]]):
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
    calibration: Key | None = None,
    noise: Noise | None = None,
    unseen: "Unseen | None" = None,
    worst: Worst | None = None,
    choosing: "Choosing | None" = None,
    seen: Seen | None = None,
) -> Counts:
    """Run a source once and count right answers; of the watched decoder keep every answer.

    The watched decoder's `worst` samples are kept too, if asked for.

    Of the decoder whose `calibration` is asked for, keep how sure it is and whether it is right.
    The noise, where it was estimated, says how good the watched samples' labels are, and `unseen`
    what the watched decoder says of samples whose labels it has not seen. `choosing` tries what
    could be the network's read-out. Where rows were `seen` before the network does not run.
    """
    counts = Counts()
    origins = None if noise is None else came_from(noise)
    gathered = Gathered()
    counts.worst = worst
    by_layer: dict[str, Decoders] = {}
    for key, decoder in decoders.items():
        if key != watch:
            by_layer.setdefault(key.layer, {})[key] = decoder
    with task.team.together():
        for rows in stream(
            network, source, task.taps, task.device, stage=stage, keep=keep,
            progress=task.progress, seen=seen,
        ):  # fmt: skip
            sets = task.label_sets(rows, source)
            counts.add_own(rows, sets)
            if source.role != "train":
                counts.prints.append(prints_of(rows.batch))
            for layer, group in by_layer.items():
                for key, answers in nearest_together(group, rows_for(layer, rows.layers)).items():
                    counts.add(key, answers, sets)
            if calibration is not None:
                chances = (
                    decoders[calibration].closeness(rows_for(calibration.layer, rows.layers)).cpu()
                )
                counts.chances.append(
                    (chances.max(1).values, chances.argmax(1) == torch.from_numpy(sets["given"]))
                )
            decoded = None
            if watch is not None:
                mine = rows_for(watch.layer, rows.layers)
                if unseen is not None and origins is not None:
                    values = unseen.of(rows.batch, partial(decoders[watch].decide, mine))
                    said = Answers.of_values(values, sets["given"], rows.batch, origins)
                else:
                    said = Answers.of(decoders[watch], mine, sets["given"], rows.batch)
                counts.add(watch, torch.from_numpy(said.predicted), sets)
                gathered.add(said)
                if worst is not None:
                    worst.add(rows.batch, said)
                decoded = said.predicted
            if choosing is not None:
                choosing.see(source.role, rows, sets["given"], decoded)
    counts.watched = gathered.all()
    counts = counts.together(task.team)
    if not counts.n:
        raise DataError(
            f"{source.role}: none of its samples fell in the held-out tenth; give a holdout"
        )
    return counts
