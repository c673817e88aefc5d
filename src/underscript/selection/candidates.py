"""Fits the candidates of all layers, with noisy labels only.

The network runs once over the training data as they are, and once over each perturbed view of them.
Every candidate of every layer is fitted out of fold. Candidates are compared by their agreement
with noisy labels of new inputs: on perturbed rows, corrected for the memory that survives, and on a
hold-out where there is one. The input counts as a layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..activations.trace import INPUT
from ..probes.random_features import FourierFeatures
from ..utils.hashing import mixed
from .budget import CHOOSE, WIDEST, Sizes, give_back
from .fitting import Candidate, Fitted, Grid, LayerFit, scores_of
from .greedy import Scores
from .kept_rows import FOLDS, KeptRows
from .known_fits import FitsOfLayer
from .reading import Held
from .task import Task

__all__ = [
    "Fits",
    "LayersFit",
    "Settings",
    "fit_candidates",
    "on_one_scale",
    "places_of",
]


@dataclass(frozen=True)
class Settings:
    """What is tried. The documentation of the study shows how sensitive results are to it.

    Attributes
    ----------
    ridges : tuple of float
        Of linear discriminants, over the mean variance.
    feature_ridges : tuple of float
        Of discriminants of random features.
    features : int
        Random features of a layer; half as many as samples where these are few.
    rounds : int
        Fits to the given labels, and to what was decoded.
    """

    ridges: tuple[float, ...] = (0.01, 0.3)
    feature_ridges: tuple[float, ...] = (0.03, 1.0)
    features: int = 2048
    rounds: int = 3


# Samples that the typical distance between rows is taken from.
_LOOKED_AT = 1024
# A deviation below this share of a column's largest number is rounding.
_ROUNDING = 1e-6
# The scores of this many samples are kept, if there is room: more would change nothing.
_MOST = 20_000


@dataclass
class Fits:
    """All candidates, with their scores.

    Attributes
    ----------
    fitted : dict of Candidate to Fitted
        All candidates in a fixed order, with the scores of this process's samples.
    features : dict of str to FourierFeatures
        By layer.
    scores : Scores
        Scores from all processes of the samples that choose, each candidate's on one scale.
    classes : Tensor of int64, shape (C,)
        The classes that occur.
    steps : int
        Every `steps`-th training sample chooses.
    """

    fitted: dict[Candidate, Fitted]
    features: dict[str, FourierFeatures]
    scores: Scores
    classes: Tensor
    steps: int
    candidates: list[Candidate] = field(init=False)

    def __post_init__(self) -> None:
        self.candidates = list(self.fitted)


@dataclass
class LayersFit:
    """What the fits of all layers share.

    Attributes
    ----------
    labels : list of Tensor of int64, shape (n_k,)
        Given labels by fold, 0 … C − 1, all of which occur.
    fingerprints : list of ndarray of uint64, shape (n_k,)
        Fingerprints of inputs, by fold.
    counts : Tensor of int64, shape (FOLDS, C)
        Labels of all processes.
    classes : Tensor of int64, shape (C,)
        The classes that occur.
    n_features : int
        Random features of a layer.
    views : list of int
        The perturbed views.
    """

    kept: KeptRows
    task: Task
    settings: Settings
    labels: list[Tensor]
    fingerprints: list[NDArray[np.uint64]]
    counts: Tensor
    classes: Tensor
    n_features: int
    views: list[int]

    @classmethod
    def of(cls, kept: KeptRows, task: Task, settings: Settings) -> "LayersFit":
        """Return what is known of the rows before anything is fitted."""
        parts = [kept.part(fold) for fold in range(FOLDS)]
        counts = task.processes.total(
            torch.stack([torch.bincount(p.labels, minlength=task.n_classes) for p in parts])
        )
        classes = torch.nonzero(counts.sum(0))[:, 0]
        place = places_of(classes, task.n_classes)
        n_features = min(settings.features, int(counts.sum()) // 2 + 1)
        return cls(
            kept,
            task,
            settings,
            [place[part.labels] for part in parts],
            [part.fingerprints for part in parts],
            counts[:, classes],
            classes,
            n_features,
            list(range(1, kept.views)),
        )

    def known(self, name: str, lift: bool, grid: Grid, steps: int) -> FitsOfLayer:
        """Return what `fit` does; fits of the input may have been made for another network."""
        known, task = self.task.known, self.task
        if known is None or name != INPUT or task.processes.size > 1:
            return self.fit(name, lift, grid, steps)
        settings = (lift, grid, steps, self.views, self.n_features, task.seed, str(task.device))
        return known.fits(self.kept, name, settings, lambda: self.fit(name, lift, grid, steps))

    def fit(
        self, name: str, lift: bool, grid: Grid, steps: int = 1, *, folds: bool = True
    ) -> FitsOfLayer:
        """Fit a layer's candidates: discriminants of random features (`lift`) or of the rows."""
        kept, task = self.kept, self.task
        rows = _some_rows(kept, name, task)
        # Feature columns may have different units; those of a layer or an image do not.
        flat = [p.tap.name for p in task.places if p.tap.side == "model" and len(p.shape) == 1]
        units = _units(rows, task) if name in flat else None
        maps = None
        if lift:
            # Processes may differ in the last digit, so one of them decides.
            known = torch.tensor([FourierFeatures.length_of(rows, units)])
            (length,) = task.processes.share([known] if task.processes.rank == 0 else None, 0)
            maps = FourierFeatures.of_length(float(length), rows, self.n_features, task.seed, units)
        seen = rows if maps is None else maps(rows)
        (centre,) = task.processes.share([seen.mean(0)] if task.processes.rank == 0 else None, 0)
        views = self.views if True in grid.perturbed else self.views[:1]
        # From fingerprints, so that it does not matter which process has an input. The remainder
        # of the same number is the fold.
        turns = [
            torch.from_numpy((mixed(p) // np.uint64(FOLDS) >> np.uint64(2)).astype(np.int64))
            for p in self.fingerprints
        ]
        scale = None if lift or units is None else units[1]
        fitted = LayerFit(
            kept,
            name,
            maps,
            self.labels,
            self.counts,
            centre,
            grid,
            views,
            task.processes,
            task.room.features,
            scale,
            turns,
            folds,
        ).fit(steps)
        return fitted, maps


def places_of(classes: Tensor, n_classes: int) -> Tensor:
    """Return each class's place among those that occur, int64 (K,); −1 for the others."""
    place = torch.full((n_classes,), -1)
    place[classes] = torch.arange(len(classes))
    return place


def in_order(fingerprints: Sequence[NDArray[np.uint64]]) -> NDArray[np.int64]:
    """Return the places of samples by fingerprint, so that nothing depends on the data's order.

    Parameters
    ----------
    fingerprints : sequence of ndarray of uint64
        Of each process.
    """
    return np.argsort(mixed(np.concatenate(fingerprints)), kind="stable")


def fit_candidates(
    kept: KeptRows,
    held: Held | None,
    task: Task,
    fits: bool,
    settings: Settings,
    layers: Sequence[str] | None = None,
) -> Fits:
    """Fit every candidate of every layer, and score samples out of fold.

    Parameters
    ----------
    fits : bool
        Whether candidates may be fitted to perturbed rows.
    """
    shared = LayersFit.of(kept, task, settings)
    names = list(kept.widths) if layers is None else list(layers)
    kinds = (False, True) if shared.views and fits else (False,)
    sizes = replace(
        task.sizes,
        n_classes=len(shared.classes),
        views=len(shared.views),
        fits_views=len(kinds) > 1,
        widths=tuple(kept.widths[name] for name in names),
        rounds=settings.rounds,
        ridges=max(len(settings.ridges), len(settings.feature_ridges)),
    )
    steps, held_steps = _steps(sizes, kept.n, 0 if held is None else held.kept.n, task)
    if held is not None and held_steps > 1:
        held = held.take(torch.arange(len(held.labels)) % held_steps == 0)
    fitted: dict[Candidate, Fitted] = {}
    features: dict[str, FourierFeatures] = {}
    # By view: the hold-out as it is, and perturbed.
    holdout: list[list[Tensor]] = [[] for _ in range(0 if held is None else held.kept.views)]
    task.progress.begin("choosing by layer")
    for name in names:
        task.progress.note(name)
        for lift in (False, True):
            if not lift and kept.widths[name] > WIDEST:
                continue
            ridges = settings.feature_ridges if lift else settings.ridges
            of_layer, maps = shared.known(name, lift, Grid(ridges, settings.rounds, kinds), steps)
            fitted |= of_layer
            if maps is not None:
                features[name] = maps
            for view, view_scores in enumerate(holdout):
                assert held is not None
                blocks = held.blocks(name, view)
                view_scores += _whole_scores(blocks, list(of_layer.values()), maps, task)
            give_back()
        task.progress.advance()
    return _gathered_fits(fitted, features, holdout, shared, held, steps)


def _steps(sizes: Sizes, n: int, held: int, task: Task) -> tuple[int, int]:
    """Return the steps at which samples choose: of the training data, and of the hold-out.

    As many choose as there is room for. The hold-out comes first; it gets at most half of the room
    if not everything fits.
    """
    room = task.room.scores
    wanted = min(n, 2 * _MOST) * sizes.of_sample
    for_held = min(held * sizes.of_held, max(room // 2, room - wanted))
    held_steps = -(-held * sizes.of_held // max(1, for_held)) if held else 1
    left = room - held * sizes.of_held // held_steps
    steps = max(-(-n * sizes.of_sample // max(1, left)), n // _MOST)
    return (
        min(max(1, steps), max(1, n // CHOOSE)),
        min(max(1, held_steps), max(1, held // CHOOSE)),
    )


def _whole_scores(
    blocks: Iterator[Tensor],
    fitted: Sequence[Fitted],
    maps: FourierFeatures | None,
    task: Task,
) -> list[Tensor]:
    """Return the scores of new rows by each candidate, fitted to everything."""
    wholes = [candidate.whole for candidate in fitted]
    parts = [torch.empty(0, len(fitted), len(wholes[0].intercepts))]
    for some in blocks:
        rows = some.to(task.device)
        seen = rows if maps is None else maps(rows)
        parts.append(scores_of(seen, wholes, 1).view(len(some), len(fitted), -1).cpu())
    return [torch.cat([part[:, at] for part in parts]) for at in range(len(fitted))]


def _some_rows(kept: KeptRows, layer: str, task: Task) -> Tensor:
    """Return rows of the same few samples in every process."""
    fingerprints_of, rows_of = kept.some(layer, _LOOKED_AT)
    gathered = task.processes.gather((fingerprints_of, rows_of.cpu()))
    fingerprints = np.concatenate([part[0] for part in gathered])
    rows = torch.cat([part[1].to(task.device) for part in gathered])
    order = np.argsort(fingerprints, kind="stable")[:_LOOKED_AT]
    return rows[torch.from_numpy(order).to(rows.device)]


def _units(rows: Tensor, task: Task) -> Tensor:
    """Return what to subtract from columns, and what to divide them by then, (2, width).

    These are the means, and the spread where a column varies: the standard deviation over the root
    of the share of rows that differ from the most frequent value. So a pixel that is black in all
    but a few rows is not blown up.
    """
    rows = rows.float()
    middle, deviation = rows.mean(0), rows.std(0, correction=0)
    varies = (rows != rows.mode(0).values).float().mean(0)
    spread = deviation / varies.clamp(min=1 / len(rows)).sqrt()
    # Such a column is constant but for rounding.
    constant = deviation <= _ROUNDING * rows.abs().amax(0)
    units = torch.stack([middle, torch.where(constant, 1.0, spread)])
    (units,) = task.processes.share([units] if task.processes.rank == 0 else None, 0)
    return units


def _gathered_fits(
    fitted: dict[Candidate, Fitted],
    features: dict[str, FourierFeatures],
    holdout: list[list[Tensor]],
    shared: LayersFit,
    held: Held | None,
    steps: int,
) -> Fits:
    """Return the scores of all processes, each candidate's brought to one scale."""
    labels, fingerprints, classes, task = (
        shared.labels,
        shared.fingerprints,
        shared.classes,
        shared.task,
    )
    place, processes = places_of(classes, task.n_classes), task.processes
    all_prints = processes.gather(np.concatenate([part[::steps] for part in fingerprints]))
    order = torch.from_numpy(in_order(all_prints))
    given = torch.cat(processes.gather(torch.cat([part[::steps] for part in labels])))[order]
    plain, moved = [], []
    on_holdout: list[list[Tensor]] = [[] for _ in holdout]
    for number, candidate in enumerate(fitted.values()):
        local = (
            candidate.plain,
            candidate.moved,
            *(view_scores[number] for view_scores in holdout),
        )
        # The gathered scores replace the local ones, so that nothing is kept twice.
        nothing = candidate.plain[:0]
        candidate.plain = candidate.moved = nothing
        for view_scores in holdout:
            view_scores[number] = nothing
        gathered = processes.gather(local) if processes.size > 1 else [local]
        wholes = [torch.cat([part[k] for part in gathered]) for k in range(len(local))]
        wholes[:2] = [whole[order] for whole in wholes[:2]]
        del local, gathered
        candidate.plain_spread = on_one_scale(wholes[0])
        candidate.moved_spread = on_one_scale(wholes[1])
        spreads = [on_one_scale(whole) for whole in wholes[2:]]
        # New inputs resemble perturbed ones, not those that may be memorised.
        candidate.spread = spreads[0] if spreads else candidate.moved_spread
        plain.append(wholes[0])
        moved.append(wholes[1])
        for view_scores, whole in zip(on_holdout, wholes[2:], strict=True):
            view_scores.append(whole)
    of_held = None
    if held is not None:
        of_held = torch.cat(processes.gather(place[held.labels]))
    on_holdout += [[]] * (2 - len(on_holdout))
    scores = Scores(plain, moved, given, on_holdout[0], of_held, on_holdout[1])
    return Fits(fitted, features, scores, classes, steps)


def on_one_scale(scores: Tensor) -> float:
    """Centre each row of scores, in place, divide by the spread of all, and return that."""
    scores -= scores.mean(1, keepdim=True)
    deviation = float(scores.double().std(correction=0)) if scores.numel() else 1.0
    spread = deviation if deviation > 0 else 1.0
    scores /= spread
    return spread
