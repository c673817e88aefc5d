"""Discriminants of every layer as candidates: what they are fitted to, and what they say."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._mixing import mixed
from ._overlap import fingerprints
from ._passes import Task
from ._stream import Rows, Source, stream
from .discriminant import ClassSums, Covariance, FourierFeatures, Linear

# Scores (samples × classes × candidates) that are kept at once.
_ROOM = 1 << 27
# Training samples whose scores are kept: enough to scale and calibrate with.
SOME = 20_000
# Parts of the training data that noise is estimated with.
FOLDS = 5


class View(NamedTuple):
    """A layer's rows as they are (0 features), or random features of them."""

    layer: str
    n_features: int


Views = dict[View, Tensor]


class Candidate(NamedTuple):
    """One discriminant of a round: round 0 is fitted to the given labels."""

    round: int
    layer: str
    n_features: int
    ridge: float

    @property
    def view(self) -> View:
        """What it is fitted to."""
        return View(self.layer, self.n_features)

    def __str__(self) -> str:
        kind = "kernel discriminant" if self.n_features else "linear discriminant"
        return f"{kind}, ridge {self.ridge:g}, on {self.layer}"


class Kept:
    """Scores of all candidates for some samples, with these samples' given labels.

    Parameters
    ----------
    room : int
        So many samples at most.
    n : int
        Of so many; those that are kept are spread over all, as data may be sorted by class.
    """

    def __init__(self, room: int, n: int):
        self.step = max(1, -(-n // max(1, room)))
        self.passed = 0
        self.scores: list[dict[Candidate, Tensor]] = []
        self.labels: list[Tensor] = []

    def next(self, size: int) -> Tensor:
        """Return which rows of the next batch of this size are to be kept, int64."""
        first = -self.passed % self.step
        self.passed += size
        return torch.arange(first, size, self.step) if first < size else torch.empty(0).long()

    def add(self, scores: dict[Candidate, Tensor], labels: Tensor) -> None:
        """Keep these rows."""
        if len(labels):
            self.scores.append({each: values.cpu() for each, values in scores.items()})
            self.labels.append(labels)

    def of(self, candidate: Candidate) -> Tensor:
        """Return a candidate's scores (n, K)."""
        return torch.cat([part[candidate] for part in self.scores])

    @property
    def given(self) -> Tensor:
        """The labels (n,)."""
        return torch.cat(self.labels)

    @classmethod
    def joined(cls, parts: Iterable["Kept"]) -> "Kept":
        """Return what is kept in any of some."""
        whole = cls(0, 0)
        for part in parts:
            whole.scores += part.scores
            whole.labels += part.labels
        return whole

    def together(self, task: Task) -> "Kept":
        """Return everybody's."""
        return self.joined(task.team.gather(self))


@dataclass
class Work:
    """The network and data of one refinement, and what does not change from round to round."""

    network: nn.Module
    task: Task
    train: Source
    holdout: Source | None
    share: int
    maps: dict[View, FourierFeatures | None] = field(default_factory=dict)
    covariances: dict[View, Covariance] = field(default_factory=dict)
    centres: dict[View, Tensor] = field(default_factory=dict)
    kept: list[tuple[Views, Tensor, Tensor]] | None = None
    means: dict[View, tuple[Tensor, Tensor]] = field(default_factory=dict)
    ones: dict[View, Tensor] = field(default_factory=dict)
    held: int = 0
    held_inputs: NDArray[np.uint64] | None = None
    train_inputs: list[NDArray[np.uint64]] = field(default_factory=list)

    def batches(self, source: Source, stage: str) -> Iterator[tuple[Rows, Tensor]]:
        """Run the network over data; give each batch's rows and given labels."""
        task = self.task
        for rows in stream(
            self.network, source, task.taps, task.device, stage=stage, progress=task.progress
        ):
            yield rows, torch.from_numpy(task.given(rows.batch, source))

    def views(self, source: Source, stage: str) -> Iterator[tuple[Views, Tensor, Tensor]]:
        """Give each batch's views, given labels, and folds (n,) int64.

        Those of the training data are kept if they fit.
        """
        if source is self.train and self.kept is not None:
            yield from self.kept
            return
        keep: list[tuple[Views, Tensor, Tensor]] | None = None
        if source is self.train:
            numbers = sum(len(centre) for centre in self.centres.values())
            keep = [] if 4 * numbers * self.share <= self.task.memory else None
        for rows, labels in self.batches(source, stage):
            seen: Views = {}
            for view, features in self.maps.items():
                mine = rows.layers[view.layer].float()
                seen[view] = mine if features is None else features(mine)
            prints = fingerprints(rows.batch)
            if source is self.train and self.held_inputs is not None and not self.covariances:
                self.train_inputs.append(prints)
            # Equal inputs stay together, in any order of the data. Low bits of fingerprints are not
            # random: those of round numbers are zero.
            folds = torch.from_numpy((mixed(prints) % np.uint64(FOLDS)).astype(np.int64))
            if keep is not None:
                keep.append((seen, labels, folds))
            yield seen, labels, folds
        if source is self.train:
            self.kept = keep

    def room(self, candidates: int) -> int:
        """Return of how many samples a process may keep so many candidates' scores."""
        return _ROOM // (candidates * self.task.n_classes * self.task.team.size)

    def scores(self, seen: Views, fitted: dict[Candidate, Linear]) -> dict[Candidate, Tensor]:
        """Return what each candidate says of a batch, (n, K) each."""
        found: dict[Candidate, Tensor] = {}
        for view, rows in seen.items():
            group = {each: linear for each, linear in fitted.items() if each.view == view}
            if not group:
                continue
            stacked = torch.cat([linear.coefficients for linear in group.values()])
            offsets = torch.cat([linear.intercepts for linear in group.values()])
            both = torch.addmm(offsets, rows, stacked.T)
            for each, values in zip(group, both.chunk(len(group), 1), strict=True):
                found[each] = values
        return found

    def fit(
        self, number: int, labellings: Sequence[Mapping[View, ClassSums]]
    ) -> list[dict[Candidate, Linear]]:
        """Fit all candidates of a round, to each labelling that sums were gathered with."""
        fitted: list[dict[Candidate, Linear]] = [{} for _ in labellings]
        for view in labellings[0]:
            found = [sums[view].total(self.task.team) for sums in labellings]
            self.means[view] = found[-1]
            by_ridge = self.covariances[view].discriminants(found)
            for mine, linears in zip(fitted, by_ridge, strict=True):
                for ridge, linear in linears.items():
                    mine[Candidate(number, view.layer, view.n_features, ridge)] = linear
        return fitted

    def forget(self) -> None:
        """Drop rows and factors: nothing more will be fitted.

        What can make up for a bias is kept.
        """
        for view, covariance in self.covariances.items():
            if not view.n_features:
                self.ones[view] = covariance.one()
        self.kept = None
        self.covariances.clear()

    def empty_sums(self, views: Iterable[View] | None = None) -> dict[View, ClassSums]:
        """Return sums to gather labels' classes with, of some views or of all."""
        views = self.centres if views is None else views
        return {view: ClassSums(self.task.n_classes, self.centres[view]) for view in views}
