"""The first pass over the training data: class statistics and subspaces of every layer."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..activations.hooks import Tap
from ..activations.kept import Kept
from ..activations.stream import Rows, stream_views
from ..data.batches import Batch
from ..data.source import Source, known_index
from ..linalg.moments import WAITING, ClassMoments, budgets, statistics_for
from ..linalg.rows import ClassRows, RowStore
from ..probes.classifier import SubspaceClassifier, fit_together
from ..probes.subspace import PROBES
from ..utils.distributed import Processes
from ..utils.labels import Labels, check_different
from ..utils.notes import Notes
from .choice import Key, held_out_tenth
from .observers import Agreement, Fingerprints, Observed, merged
from .task import Decoders, Task

logger = logging.getLogger(__name__)

Statistics = dict[str, ClassMoments | ClassRows]


class Watcher(Protocol):
    """Sees the training data during a pass that is made for something else."""

    @property
    def taps(self) -> list[Tap]:
        """All layers to read; they include those of the pass itself."""

    @property
    def changes(self) -> Sequence[Callable[[Batch], Batch]]:
        """How each batch is changed; the network runs once more for each."""

    def see(self, views: Sequence[Rows], labels: Labels) -> None:
        """Take a batch as it is and changed, and its given labels."""


@dataclass(frozen=True)
class Fitted:
    """The results of one pass over the training data.

    Attributes
    ----------
    decoders, selecting : dict of Key to estimator
        The decoders, and those fitted without the held-out tenth, if that was asked for.
    own : Agreement
        How often the network itself agrees with the labels.
    fingerprints : Fingerprints
        Of all inputs.
    kept : Kept or None
        The rows, if they were wanted and there was room.
    labels : ndarray of int64, shape (K,)
        How often each class is given, over all processes.
    """

    decoders: Decoders
    selecting: Decoders
    own: Agreement
    fingerprints: Fingerprints
    kept: Kept | None
    labels: NDArray[np.int64]


def fit_subspaces(
    network: nn.Module,
    task: Task,
    source: Source,
    notes: Notes,
    who: str,
    hold_out: bool,
    watcher: Watcher | None = None,
    again: bool = False,
) -> Fitted:
    """Run the training data once and fit every decoder of every layer.

    A watcher sees every batch too, changed in the ways that it asks for. If the training data are
    to be seen `again` their rows are kept, where there is room.
    """
    # Statistics of parts, so that nothing is summed twice: the held-out tenth and the rest.
    parts: tuple[str, ...] = ("kept", "held") if hold_out else ("corrupted",)
    parts += ("true",) if "true" in task.subspace_labels else ()
    statistics = _empty(task, source, parts)
    kept = _kept(statistics, parts) if again else None
    indices: list[Labels] = []
    counts = torch.zeros(task.n_classes, dtype=torch.int64)
    agreement, fingerprints = Agreement(), Fingerprints()
    with task.processes.together():
        for rows, *others in stream_views(
            network,
            source,
            task.taps if watcher is None else watcher.taps,
            task.device,
            () if watcher is None else watcher.changes,
            stage="reading layers",
            progress=task.progress,
        ):
            labels = task.label_sets(rows, source)
            if watcher is not None:
                watcher.see([rows, *others], labels["given"])
            if rows.batch.index is not None:
                indices.append(rows.batch.index)
            counts += torch.bincount(torch.from_numpy(labels["given"]), minlength=task.n_classes)
            for observer in (agreement, fingerprints):
                observer.see(Observed(rows, labels))
            if kept is not None:
                kept.add(rows)
            by_part = _by_part(rows, labels, parts, source.role, task.seed)
            for name, of_layer in statistics.items():
                for part in parts:
                    of_layer[part].update(rows.layers[name], torch.from_numpy(by_part[part]))
    gathered = task.processes.gather(indices)
    check_different([part for of_process in gathered for part in of_process], source.role)
    task.paths.update({name: sets[parts[0]].path for name, sets in statistics.items()})
    counts = task.processes.total(counts)
    notes.missing(counts)
    decoders, selecting = _decomposed(statistics, parts, task, notes, who)
    return Fitted(
        decoders,
        selecting,
        merged(agreement, task),
        merged(fingerprints, task),
        kept,
        counts.numpy(),
    )


def _kept(statistics: dict[str, Statistics], parts: Sequence[str]) -> Kept | None:
    """Return the kept rows of all layers, if the statistics keep all of them."""
    firsts = {name: sets[parts[0]] for name, sets in statistics.items()}
    stores = {name: first.store for name, first in firsts.items() if isinstance(first, ClassRows)}
    return Kept(stores) if len(stores) == len(firsts) else None


def _by_part(
    rows: Rows, labels: Mapping[str, Labels], parts: Sequence[str], role: str, seed: int
) -> dict[str, Labels]:
    """Return the labels of each part of the data; −1 for samples that are not in it."""
    of_part = {"corrupted": labels["given"]}
    if "true" in parts:
        of_part["true"] = labels["true"]
    if "held" in parts:
        what = "a held-out tenth (no holdout is given)"
        held = held_out_tenth(known_index(rows.batch, role, what), seed)
        of_part["held"] = np.where(held, labels["given"], -1)
        of_part["kept"] = np.where(held, -1, labels["given"])
    return of_part


def _decomposed(
    statistics: dict[str, Statistics], parts: Sequence[str], task: Task, notes: Notes, who: str
) -> tuple[Decoders, Decoders]:
    """Fit the decoders of each layer; return them, and those without the held-out tenth."""
    decoders: Decoders = {}
    selecting: Decoders = {}
    hold_out, processes = "held" in parts, task.processes
    task.progress.begin("decomposing")
    for name in list(statistics):
        task.progress.note(name)
        sets = statistics.pop(name)
        whole = _totals(sets, parts)
        _in_turn([sets["kept"], whole] if hold_out else [whole], sets.get("true"))
        with notes.gather(f"{who}{name}"):
            if hold_out:
                selecting.update(_fit_keys(sets["kept"], task.keys(name, "corrupted"), processes))
            decoders.update(_fit_keys(whole, task.keys(name, "corrupted"), processes))
            if "true" in sets:
                decoders.update(_fit_keys(sets["true"], task.keys(name, "true"), processes))
        task.progress.advance()
    return decoders, selecting


def _empty(task: Task, source: Source, parts: Sequence[str]) -> dict[str, Statistics]:
    """Return each layer's empty statistics, one for each part; wide layers keep their rows once."""
    # Some devices have no float64.
    device = torch.device("cpu") if task.device.type == "mps" else task.device
    places = [place for place in task.places if task.keys(place.tap.name, "corrupted")]
    widths = [place.width for place in places]
    # A whole that is merged from parts exists beside them for a while.
    sets = len(parts) + ("kept" in parts)
    # Some memory is for rows that wait until there are enough for a product.
    waiting = min(WAITING, task.room.statistics // (8 * max(1, len(places) * len(parts))))
    memory = task.room.statistics - waiting * len(places) * len(parts)
    allowed = budgets(task.n_classes, widths, source.length, memory, sets)
    keeps = task.keeps and source.length is not None and task.processes.size == 1
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
    """Set the order in which sets of labels of the same rows are decomposed."""
    order = [*given, *([] if true is None else [true])]
    for place, sets in enumerate(order):
        if isinstance(sets, ClassRows):
            sets.before(*(later for later in order[place + 1 :] if isinstance(later, ClassRows)))


def _fit_keys(
    statistics: ClassMoments | ClassRows, keys: list[Key], processes: Processes
) -> Decoders:
    made = {key: _estimator(key) for key in keys}
    fit_together(statistics, list(made.values()), processes=processes)
    return dict(made)


def _estimator(key: Key) -> SubspaceClassifier:
    share = {} if key.variance is None else {"variance": key.variance}
    return PROBES[key.probe](**share)
