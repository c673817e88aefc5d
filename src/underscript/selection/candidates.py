"""The decoder that chooses itself: layers, features, ridges and rounds, with noisy labels only.

The network runs once over the training data as they are, and once over each perturbed view of them.
Every candidate of every layer is fitted out of fold. What agrees best with noisy labels of new
inputs answers: on perturbed rows, corrected for the memory that survives, and on a hold-out where
there is one. The input is a layer among others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..activations.trace import INPUT
from ..noise.estimate import beyond_chance, chance_right
from ..probes.random_features import FourierFeatures
from ..utils.hashing import mixed
from .budget import CHOOSE, ESTIMATED_WITH, WIDEST, Sizes, give_back
from .fitting import Candidate, Fitted, Grid, LayerFit, scores_of
from .greedy import Scores
from .kept_rows import FOLDS, KeptRows
from .memorisation import (
    Memory,
    by_agreement,
    contradicted,
    survival_on_holdout,
    survival_without,
    weight_of_holdout,
)
from .reading import Held
from .task import Task

__all__ = [
    "Fits",
    "LayersFit",
    "Settings",
    "fit_candidates",
    "measure_memory",
    "on_one_scale",
    "places_of",
]


@dataclass(frozen=True)
class Settings:
    """What is tried; each constant's sensitivity is in the documentation of the study.

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


# Samples that say how far apart rows are.
_LOOKED_AT = 1024
# Of the largest number of a column: a smaller deviation is rounding.
_ROUNDING = 1e-6
# Scores of so many samples are kept, if there is room: more would tell no more.
_TELL = 20_000


@dataclass
class Fits:
    """All candidates, with their scores.

    Attributes
    ----------
    fitted : dict of Candidate to Fitted
        Everything, in a fixed order; scores are of this process's samples.
    features : dict of str to FourierFeatures
        By layer.
    scores : Scores
        Everybody's scores of the samples that choose, each candidate's on one scale.
    classes : Tensor of int64, shape (C,)
        The classes that occur.
    steps : int
        Every so many training samples chose.
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
    prints : list of ndarray of uint64, shape (n_k,)
        Fingerprints of inputs, by fold.
    counts : Tensor of int64, shape (FOLDS, C)
        Everybody's labels.
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
    prints: list[NDArray[np.uint64]]
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
            [part.prints for part in parts],
            counts[:, classes],
            classes,
            n_features,
            list(range(1, kept.views)),
        )

    def fit(
        self, name: str, lift: bool, grid: Grid, steps: int = 1, *, folds: bool = True
    ) -> tuple[dict[Candidate, Fitted], FourierFeatures | None]:
        """Fit a layer's candidates: discriminants of random features (`lift`) or of the rows."""
        kept, task = self.kept, self.task
        rows = _some_rows(kept, name, task)
        # Columns of features may be of different units; those of a layer, or of an image, are not.
        flat = [p.tap.name for p in task.places if p.tap.side == "model" and len(p.shape) == 1]
        units = _units(rows, task) if name in flat else None
        maps = None
        if lift:
            # What a process computes may differ in the last digit from what another does.
            known = torch.tensor([FourierFeatures.length_of(rows, units)])
            (length,) = task.processes.share([known] if task.processes.rank == 0 else None, 0)
            maps = FourierFeatures.of_length(float(length), rows, self.n_features, task.seed, units)
        seen = rows if maps is None else maps(rows)
        (centre,) = task.processes.share([seen.mean(0)] if task.processes.rank == 0 else None, 0)
        views = self.views if True in grid.perturbed else self.views[:1]
        # By the inputs' own fingerprints, whichever process has them; folds are what is left of it.
        turns = [
            torch.from_numpy((mixed(p) // np.uint64(FOLDS) >> np.uint64(2)).astype(np.int64))
            for p in self.prints
        ]
        scale = None if lift or units is None else units[1]
        found = LayerFit(
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
        return found, maps


def places_of(classes: Tensor, n_classes: int) -> Tensor:
    """Return of all classes their places among those that occur, int64 (K,); −1 of others."""
    place = torch.full((n_classes,), -1)
    place[classes] = torch.arange(len(classes))
    return place


def fit_candidates(
    kept: KeptRows,
    held: Held | None,
    task: Task,
    fits: bool,
    settings: Settings,
    layers: Sequence[str] | None = None,
) -> Fits:
    """Fit every candidate of every layer, and score samples by what has not seen their labels.

    Parameters
    ----------
    fits : bool
        Whether perturbed rows may be fitted with.
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
    # Of the hold-out as it is, and perturbed.
    holdout: list[list[Tensor]] = [[] for _ in range(0 if held is None else held.kept.views)]
    task.progress.begin("choosing by layer")
    for name in names:
        task.progress.note(name)
        for lift in (False, True):
            if not lift and kept.widths[name] > WIDEST:
                continue
            ridges = settings.feature_ridges if lift else settings.ridges
            found, maps = shared.fit(name, lift, Grid(ridges, settings.rounds, kinds), steps)
            fitted |= found
            if maps is not None:
                features[name] = maps
            for view, said in enumerate(holdout):
                assert held is not None
                said += _whole_scores(held.blocks(name, view), list(found.values()), maps, task)
            give_back()
        task.progress.advance()
    return _together(fitted, features, holdout, shared, held, steps)


def _steps(sizes: Sizes, n: int, held: int, task: Task) -> tuple[int, int]:
    """Return every how many samples choose, of the training data and of the hold-out.

    As many as there is room for: the hold-out first, with at most half of it if all do not fit.
    """
    room = task.room.scores
    wanted = min(n, 2 * _TELL) * sizes.of_sample
    for_held = min(held * sizes.of_held, max(room // 2, room - wanted))
    held_steps = -(-held * sizes.of_held // max(1, for_held)) if held else 1
    left = room - held * sizes.of_held // held_steps
    steps = max(-(-n * sizes.of_sample // max(1, left)), n // _TELL)
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
    """Return what each candidate, fitted to everything, says of new rows."""
    wholes = [each.whole for each in fitted]
    parts = [torch.empty(0, len(fitted), len(wholes[0].intercepts))]
    for some in blocks:
        rows = some.to(task.device)
        seen = rows if maps is None else maps(rows)
        parts.append(scores_of(seen, wholes, 1).view(len(some), len(fitted), -1).cpu())
    return [torch.cat([part[:, at] for part in parts]) for at in range(len(fitted))]


def _some_rows(kept: KeptRows, layer: str, task: Task) -> Tensor:
    """Return rows of the same few samples in every process."""
    prints_of, rows_of = kept.some(layer, _LOOKED_AT)
    found = task.processes.gather((prints_of, rows_of.cpu()))
    prints = np.concatenate([part[0] for part in found])
    rows = torch.cat([part[1].to(task.device) for part in found])
    order = np.argsort(prints, kind="stable")[:_LOOKED_AT]
    return rows[torch.from_numpy(order).to(rows.device)]


def _units(rows: Tensor, task: Task) -> Tensor:
    """Return what is taken from columns, and what then brings them to one scale, (2, width).

    Their means, and their spread where they vary: the standard deviation over the root of the share
    of rows that are not as most are. A pixel that is black but for a few rows is not blown up so.
    """
    rows = rows.float()
    middle, deviation = rows.mean(0), rows.std(0, correction=0)
    varies = (rows != rows.mode(0).values).float().mean(0)
    spread = deviation / varies.clamp(min=1 / len(rows)).sqrt()
    # What rounding leaves of a column that is the same everywhere.
    constant = deviation <= _ROUNDING * rows.abs().amax(0)
    units = torch.stack([middle, torch.where(constant, 1.0, spread)])
    (units,) = task.processes.share([units] if task.processes.rank == 0 else None, 0)
    return units


def _together(
    fitted: dict[Candidate, Fitted],
    features: dict[str, FourierFeatures],
    holdout: list[list[Tensor]],
    shared: LayersFit,
    held: Held | None,
    steps: int,
) -> Fits:
    """Return everybody's scores, each candidate's brought to one scale."""
    labels, prints, classes, task = shared.labels, shared.prints, shared.classes, shared.task
    place, processes = places_of(classes, task.n_classes), task.processes
    # Some count and others do not, here and there: which ones is no matter of the data's order.
    every = processes.gather(np.concatenate([mine[::steps] for mine in prints]))
    order = torch.from_numpy(np.argsort(mixed(np.concatenate(every)), kind="stable"))
    given = torch.cat(processes.gather(torch.cat([mine[::steps] for mine in labels])))[order]
    plain, moved = [], []
    on_holdout: list[list[Tensor]] = [[] for _ in holdout]
    for number, each in enumerate(fitted.values()):
        mine = (each.plain, each.moved, *(said[number] for said in holdout))
        # Not kept twice: what is put together takes their place.
        nothing = each.plain[:0]
        each.plain = each.moved = nothing
        for said in holdout:
            said[number] = nothing
        found = processes.gather(mine) if processes.size > 1 else [mine]
        wholes = [torch.cat([part[k] for part in found]) for k in range(len(mine))]
        wholes[:2] = [whole[order] for whole in wholes[:2]]
        del mine, found
        each.plain_spread, each.moved_spread = on_one_scale(wholes[0]), on_one_scale(wholes[1])
        spreads = [on_one_scale(whole) for whole in wholes[2:]]
        # New inputs are like perturbed ones, not like those that may be remembered.
        each.spread = spreads[0] if spreads else each.moved_spread
        plain.append(wholes[0])
        moved.append(wholes[1])
        for said, whole in zip(on_holdout, wholes[2:], strict=True):
            said.append(whole)
    of_held = None
    if held is not None:
        of_held = torch.cat(processes.gather(place[held.labels]))
    on_holdout += [[]] * (2 - len(on_holdout))
    scores = Scores(plain, moved, given, on_holdout[0], of_held, on_holdout[1])
    return Fits(fitted, features, scores, classes, steps)


def on_one_scale(scores: Tensor) -> float:
    """Centre each row of scores, in place, divide by the spread of all, and return that."""
    scores -= scores.mean(1, keepdim=True)
    found = float(scores.double().std(correction=0)) if scores.numel() else 1.0
    spread = found if found > 0 else 1.0
    scores /= spread
    return spread


def measure_memory(fits: Fits, perturbed: bool, samples: int = ESTIMATED_WITH) -> Memory:
    """Return how often candidates agree with labels, and how much memory survives.

    Parameters
    ----------
    fits : Fits
        The candidates, with their scores.
    perturbed : bool
        Whether inputs were.
    samples : int
        So many say how noisy labels are.
    """
    scores = fits.scores
    plain = torch.stack([each.argmax(1) for each in scores.plain])
    moved = torch.stack([each.argmax(1) for each in scores.moved])
    of_plain, of_moved = ((each == scores.labels).double().mean(1) for each in (plain, moved))
    # No network is before the input: nothing of it is remembered.
    own = torch.tensor([each.layer == INPUT for each in fits.candidates])
    base = torch.where(own, of_moved, of_plain)
    layers = [each.layer for each in fits.candidates]
    order = by_agreement(of_plain, layers)
    step = max(1, len(scores.labels) // samples)
    labels, n_classes = scores.labels[::step], len(fits.classes)

    def summed(name: str) -> Tensor:
        """Return the summed scores of a layer's candidates on perturbed rows."""
        mine = [each for each, layer in zip(scores.moved, layers, strict=True) if layer == name]
        return sum(each[::step] for each in mine)  # type: ignore[return-value]

    answers = summed(order[0]).argmax(1)
    beyond = beyond_chance(float((answers == labels).double().mean()), answers, labels)
    likely = most = 0.0
    against = None
    for name in order[:-1] if perturbed else ():
        right = chance_right(summed(name), labels)
        knowing = [at for at, layer in enumerate(layers) if layer == name]
        mine = contradicted(moved[knowing, ::step], labels, right, n_classes)
        credible = mine is not None and float(mine.right.mean()) < 0.5
        if credible or name == order[0]:
            against = mine
            likely, most = survival_without(
                plain[:, ::step],
                moved[:, ::step],
                labels,
                right,
                layers,
                [each.perturbed for each in fits.candidates],
                n_classes,
                name,
            )
        if credible:
            break
    places = frozenset(torch.nonzero(own)[:, 0].tolist())
    found = Memory(of_plain, of_moved, base, None, most, likely, 0.0, 0.0, beyond, against, places)
    if scores.held is None or not len(scores.holdout):
        return found
    held = torch.stack([each.argmax(1) for each in scores.holdout]) == scores.held
    on_holdout = held.double().mean(1)
    likely = survival_on_holdout(base, of_moved, on_holdout)
    most = max(most, likely)
    trust = 1.0
    if perturbed:
        as_they_are = torch.where(own[:, None], moved, plain) == scores.labels
        trust = weight_of_holdout(as_they_are, moved == scores.labels, held, most)
    # Training inputs as they are tell what is remembered, if there are no others.
    return replace(found, holdout=on_holdout, survival=most, likely=likely, trust=trust)
