"""Observers see every batch of one pass over data: they count how often decoders are right."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..activations.stream import Rows, Seen, stream
from ..data.fingerprints import fingerprints_of
from ..data.source import Source
from ..errors import DataError
from ..probes.ensemble import COMBINED, rows_for
from ..probes.subspace import nearest_together
from ..utils.labels import Labels
from .choice import Key, Score
from .task import Decoders, Task

__all__ = ["Agreement", "Fingerprints", "Observed", "Observer", "observe"]


@dataclass(frozen=True)
class Observed:
    """A batch as observers see it.

    Attributes
    ----------
    rows : Rows
        The network's rows for it.
    labels : dict of str to ndarray of int64, shape (n,)
        By kind: ``"given"``, and ``"true"`` where they are known.
    predicted : dict of Key to ndarray of int64, shape (n,)
        Predictions of decoders; the observer that computes them adds them for later observers.
    """

    rows: Rows
    labels: Mapping[str, Labels]
    predicted: dict[Key, Labels] = field(default_factory=dict)


class Observer(ABC):
    """Sees every batch of a pass; what several processes saw is merged at its end."""

    # Attributes that are not sent to other processes, which have their own.
    local: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def see(self, batch: Observed) -> None:
        """Look at a batch."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add what another process's observer saw, which comes later in the data."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **dict.fromkeys(self.local)}


def observe(
    network: nn.Module,
    task: Task,
    source: Source,
    observers: Sequence[Observer],
    stage: str,
    *,
    keep: Callable[[Labels], NDArray[np.bool_]] | None = None,
    seen: Seen | None = None,
) -> list[Any]:
    """Run a source once and show every batch to all observers, in their order.

    Parameters
    ----------
    observers : sequence of Observer
        Those of this process.
    stage : str
        The text of the progress bar.
    keep : callable, optional
        Takes indices (n,) and returns which of them to look at; by default all.
    seen : callable, optional
        Returns rows that are known, for which the network does not run.

    Returns
    -------
    list of Observer
        In the same order, merged over all processes.

    Raises
    ------
    DataError
        If there was nothing to look at.
    """
    n = 0
    with task.processes.together():
        for rows in stream(
            network,
            source,
            task.taps,
            task.device,
            stage=stage,
            keep=keep,
            progress=task.progress,
            seen=seen,
        ):
            batch = Observed(rows, task.label_sets(rows, source))
            for observer in observers:
                observer.see(batch)
            n += rows.batch.size
    if not sum(task.processes.gather(n)):
        raise DataError(
            f"{source.role}: none of its samples fell in the held-out tenth; give a holdout"
        )
    return [merged(observer, task) for observer in observers]


def merged(observer: Observer, task: Task) -> Any:
    """Return an observer, merged over all processes."""
    first, *others = task.processes.gather(observer)
    for other in others:
        first.merge(other)
    return first


class Agreement(Observer):
    """How often each decoder, and the network itself, agrees with each kind of label.

    Predictions that an earlier observer has computed are not computed again.

    Parameters
    ----------
    decoders : mapping of Key to estimator
        The decoders to count.
    """

    local = ("_by_layer",)

    def __init__(self, decoders: Decoders | None = None) -> None:
        self.n = 0
        self.right: dict[tuple[Key | None, str], int] = {}
        self.wrong: int | None = None
        self._by_layer: dict[str, Decoders] = {}
        for key, decoder in (decoders or {}).items():
            self._by_layer.setdefault(key.layer, {})[key] = decoder

    @property
    def scores(self) -> list[Score]:
        """How often each decoder agrees with the given labels."""
        return [
            Score(key, right / self.n, self.n)
            for (key, kind), right in self.right.items()
            if key is not None and kind == "given"
        ]

    @property
    def wrong_share(self) -> float | None:
        """The share of given labels that are not the true ones; None where these are not known."""
        return None if self.wrong is None else self.wrong / self.n

    def see(self, batch: Observed) -> None:
        """Count a batch."""
        rows, labels = batch.rows, batch.labels
        self.n += rows.batch.size
        if "true" in labels:
            self.wrong = (self.wrong or 0) + int((labels["given"] != labels["true"]).sum())
        self._count(None, rows.logits.argmax(1), labels)
        for key, predicted in batch.predicted.items():
            self._count(key, torch.from_numpy(predicted), labels)
        for layer, decoders in self._by_layer.items():
            missing = {key: each for key, each in decoders.items() if key not in batch.predicted}
            if missing:
                nearest = nearest_together(missing, rows_for(layer, rows.layers))
                for key, predictions in nearest.items():
                    self._count(key, predictions, labels)

    def _count(self, key: Key | None, predictions: Tensor, sets: Mapping[str, Labels]) -> None:
        """Count one decoder's (None: the network's) right predictions (n,) in a batch."""
        predicted = predictions.cpu().numpy()
        for kind, labels in sets.items():
            right = int((predicted == labels).sum())
            self.right[key, kind] = self.right.get((key, kind), 0) + right

    def merge(self, other: Self) -> None:
        """Add another process's counts."""
        self.n += other.n
        for what, right in other.right.items():
            self.right[what] = self.right.get(what, 0) + right
        if other.wrong is not None:
            self.wrong = (self.wrong or 0) + other.wrong

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


class Fingerprints(Observer):
    """A number for each input, by which it is recognised in other data."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.uint64]] = []

    def see(self, batch: Observed) -> None:
        """Take a batch's inputs."""
        self._parts.append(fingerprints_of(batch.rows.batch))

    def merge(self, other: Self) -> None:
        """Add another process's."""
        self._parts += other._parts

    def all(self) -> NDArray[np.uint64]:
        """Return all of them, uint64 (n,)."""
        return np.concatenate([np.empty(0, dtype=np.uint64), *self._parts])
