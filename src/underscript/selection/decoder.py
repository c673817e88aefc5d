"""The decoder that chooses itself: layers, features, ridges and rounds, with noisy labels only.

The network runs once over the training data as they are, and once over each perturbed view of them.
Every candidate of every layer is fitted out of fold. What agrees best with noisy labels of new
inputs answers: on perturbed rows, corrected for the memory that survives, and on a hold-out where
there is one. The input is a layer among others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from .._batches import Batch
from .._labels import Labels
from .._mixing import mixed
from .._passes import Task
from .._stream import Rows, Source, stream_views
from .._survey import INPUT
from ..noise import beyond_chance, chance_right
from ..perturbation import Perturbation
from ..random_features import FourierFeatures
from .fitting import Candidate, Fitted, Grid, LayerFit, scores_of
from .greedy import Scores
from .kept_rows import FOLDS, KeptRows
from .memory import (
    Memory,
    by_agreement,
    contradicted,
    survival_on_holdout,
    survival_without,
    weight_of_holdout,
)
from .unseen import prints_of

__all__ = [
    "Fits",
    "LayersFit",
    "RowsKeeper",
    "Settings",
    "fit_candidates",
    "keep_holdout",
    "keep_rows",
    "measure_memory",
    "places_of",
    "spread_of",
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


# Rows of a hold-out that are worked on at once.
_AT_ONCE = 2048
# Samples that say how far apart rows are.
_LOOKED_AT = 1024
_LOOKED_AT_NOISE = 10_000
# Wider rows are read by random features only: their covariance would be too large.
WIDEST = 4096
# A column's standard deviation over the median column's, at least.
_LEAST = 0.1
# So many samples choose at least, whatever they take; and of so many scores are kept at least, if
# there is room: more would tell no more.
_CHOOSE, _TELL = 500, 20_000
# Shares of the memory that may be used: rows of all layers, features of one, scores of candidates.
_OF_ROWS, _OF_FEATURES, _OF_SCORES = 0.2, 0.25, 0.25


@dataclass
class Held:
    """A hold-out: rows of each layer, float32 (m, width), labels (m,) and fingerprints.

    Besides, logits (m, K), where samples stand in their data set, if that is known, and the rows of
    one perturbed view.
    """

    layers: dict[str, Tensor]
    labels: Tensor
    prints: NDArray[np.uint64]
    logits: Tensor
    index: NDArray[np.int64] | None = None
    moved: dict[str, Tensor] | None = None

    def take(self, keep: Tensor) -> "Held":
        """Return the samples for which `keep`, bool (m,), is true."""
        some = keep.numpy()

        def cut(layers: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: rows[keep.to(rows.device)] for name, rows in layers.items()}

        return Held(
            cut(self.layers),
            self.labels[keep],
            self.prints[some] if len(self.prints) == len(keep) else self.prints,
            self.logits[keep.to(self.logits.device)],
            None if self.index is None else self.index[some],
            None if self.moved is None else cut(self.moved),
        )

    def again(
        self, places: NDArray[np.int64], layers: Sequence[str]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return rows of some samples, by their places, and logits; see `KeptRows.again`."""
        at = torch.from_numpy(places).to(self.logits.device)
        return {name: self.layers[name][at] for name in layers}, self.logits[at]


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
        Every so many samples chose.
    """

    fitted: dict[Candidate, Fitted]
    features: dict[str, FourierFeatures]
    scores: Scores
    classes: Tensor
    steps: int
    candidates: list[Candidate] = field(init=False)

    def __post_init__(self) -> None:
        self.candidates = list(self.fitted)


class RowsKeeper:
    """Keeps the rows of the training data and of their perturbed views while they are read.

    Parameters
    ----------
    task : Task
        The layers, and the memory that there is.
    perturbation : Perturbation or None
        How inputs are changed.
    views : int
        Into so many views.
    """

    def __init__(self, task: Task, perturbation: Perturbation | None, views: int):
        number = views if perturbation is not None else 0
        self.taps = task.taps
        self.changes: list[Callable[[Batch], Batch]] = []
        if perturbation is not None:
            self.changes = [partial(perturbation, view=view) for view in range(number)]
        self.kept = KeptRows(1 + number, int(_OF_ROWS * task.memory))
        # A process of a team may have no samples.
        self.kept.widths.update({tap.name: tap.width for tap in task.taps})

    def see(self, views: Sequence[Rows], labels: Labels) -> None:
        """Keep a batch's rows."""
        batch, layers = views[0].batch, [each.layers for each in views]
        self.kept.add(
            layers, torch.from_numpy(labels), prints_of(batch), batch.index, views[0].logits
        )


def keep_rows(
    network: nn.Module,
    task: Task,
    source: Source,
    keeper: RowsKeeper,
    keep: Callable[[Labels], NDArray[np.bool_]] | None = None,
) -> None:
    """Run the network over training data for nothing but their rows."""
    with task.team.together():
        for views in stream_views(
            network, source, task.taps, task.device, keeper.changes, stage="reading layers",
            keep=keep, progress=task.progress,
        ):  # fmt: skip
            keeper.see(views, task.given(views[0].batch, source))


def keep_holdout(
    network: nn.Module, task: Task, source: Source, perturbation: Perturbation | None
) -> Held:
    """Run the network over the hold-out as it is and perturbed once, and keep all rows."""
    changes = [] if perturbation is None else [partial(perturbation, view=0)]
    # A process of a team may have none of them.
    found = [
        {tap.name: [torch.empty(0, tap.width, device=task.device)] for tap in task.taps}
        for _ in range(1 + len(changes))
    ]
    labels, prints = [torch.empty(0, dtype=torch.int64)], [np.empty(0, dtype=np.uint64)]
    logits = [torch.empty(0, task.n_classes, device=task.device)]
    index: list[NDArray[np.int64] | None] = [np.empty(0, dtype=np.int64)]
    with task.team.together():
        for views in stream_views(
            network, source, task.taps, task.device, changes,
            stage="reading the hold-out", progress=task.progress,
        ):  # fmt: skip
            batch = views[0].batch
            labels.append(torch.from_numpy(task.given(batch, source)))
            prints.append(prints_of(batch))
            logits.append(views[0].logits)
            index.append(batch.index)
            for seen, rows in zip(found, views, strict=True):
                for name, mine in rows.layers.items():
                    seen[name].append(mine.float())
    layers, *moved = ({name: torch.cat(each) for name, each in seen.items()} for seen in found)
    known = [part for part in index if part is not None]
    return Held(
        layers, torch.cat(labels), np.concatenate(prints), torch.cat(logits),
        np.concatenate(known) if len(known) == len(index) else None, moved[0] if moved else None,
    )  # fmt: skip


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
        counts = task.team.total(
            torch.stack([torch.bincount(p.labels, minlength=task.n_classes) for p in parts])
        )
        classes = torch.nonzero(counts.sum(0))[:, 0]
        place = places_of(classes, task.n_classes)
        n_features = min(settings.features, int(counts.sum()) // 2 + 1)
        return cls(
            kept, task, settings, [place[part.labels] for part in parts],
            [part.prints for part in parts], counts[:, classes], classes, n_features,
            list(range(1, kept.views)),
        )  # fmt: skip

    def fit(
        self, name: str, lift: bool, grid: Grid, steps: int = 1, *, folds: bool = True
    ) -> tuple[dict[Candidate, Fitted], FourierFeatures | None]:
        """Fit a layer's candidates: discriminants of random features (`lift`) or of the rows."""
        kept, task = self.kept, self.task
        rows = _some_rows(kept, name, task)
        # Columns of features may be of different units; those of a layer, or of an image, are not.
        flat = [p.tap.name for p in task.places if p.tap.side == "model" and len(p.shape) == 1]
        scale = _scale(rows, task) if name in flat else None
        maps = None
        if lift:
            # What a process computes may differ in the last digit from what another does.
            known = torch.tensor([FourierFeatures.length_of(rows, scale)])
            (length,) = task.team.share([known] if task.team.rank == 0 else None, 0)
            maps = FourierFeatures.of_length(float(length), rows, self.n_features, task.seed, scale)
        seen = rows if maps is None else maps(rows)
        (centre,) = task.team.share([seen.mean(0)] if task.team.rank == 0 else None, 0)
        views = self.views if True in grid.perturbed else self.views[:1]
        # By the inputs' own fingerprints, whichever process has them; folds are what is left of it.
        turns = [
            torch.from_numpy((mixed(p) // np.uint64(FOLDS) >> np.uint64(2)).astype(np.int64))
            for p in self.prints
        ]
        found = LayerFit(
            kept, name, maps, self.labels, self.counts, centre, grid, views, task.team,
            int(_OF_FEATURES * task.memory), None if lift else scale, turns, folds,
        ).fit(steps)  # fmt: skip
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
    number = len(names) * len(kinds) * settings.rounds
    number *= len(settings.ridges) + len(settings.feature_ridges)
    each = 8 * len(shared.classes) * number * kept.n
    steps = max(1, -(-each // max(1, int(_OF_SCORES * task.memory))), kept.n // _TELL)
    steps = min(steps, max(1, kept.n // _CHOOSE))
    fitted: dict[Candidate, Fitted] = {}
    features: dict[str, FourierFeatures] = {}
    # Of the hold-out as it is, and perturbed.
    seen_of = [] if held is None else [held.layers, *([] if held.moved is None else [held.moved])]
    holdout: list[list[Tensor]] = [[] for _ in seen_of]
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
            for said, of_layer in zip(holdout, seen_of, strict=True):
                said += _whole_scores(of_layer[name], list(found.values()), maps)
        task.progress.advance()
    return _together(fitted, features, holdout, shared, held, steps)


def _whole_scores(
    rows: Tensor, fitted: Sequence[Fitted], maps: FourierFeatures | None
) -> list[Tensor]:
    """Return what each candidate, fitted to everything, says of new rows."""
    parts = []
    for some in torch.split(rows, _AT_ONCE):
        seen = some if maps is None else maps(some)
        scores = scores_of(seen, [each.whole for each in fitted], 1)
        parts.append(scores.view(len(some), len(fitted), -1).cpu())
    together = torch.cat(parts)
    return [together[:, at].clone() for at in range(len(fitted))]


def _some_rows(kept: KeptRows, layer: str, task: Task) -> Tensor:
    """Return rows of the same few samples in every process."""
    prints_of, rows_of = kept.some(layer, _LOOKED_AT)
    found = task.team.gather((prints_of, rows_of.cpu()))
    prints = np.concatenate([part[0] for part in found])
    rows = torch.cat([part[1].to(task.device) for part in found])
    order = np.argsort(prints, kind="stable")[:_LOOKED_AT]
    return rows[torch.from_numpy(order).to(rows.device)]


def _scale(rows: Tensor, task: Task) -> Tensor:
    """Return what brings columns to one scale: their standard deviations.

    Columns that hardly vary are not blown up: a deviation counts as a tenth of the median at least.
    """
    found = rows.float().std(0, correction=0)
    positive = found[found > 0]
    least = float(positive.median()) * _LEAST if len(positive) else 1.0
    (scale,) = task.team.share([found.clamp(min=least)] if task.team.rank == 0 else None, 0)
    return scale


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
    place, team = places_of(classes, task.n_classes), task.team
    # Some count and others do not, here and there: which ones is no matter of the data's order.
    every = team.gather(np.concatenate([mine[::steps] for mine in prints]))
    order = torch.from_numpy(np.argsort(mixed(np.concatenate(every)), kind="stable"))
    given = torch.cat(team.gather(torch.cat([mine[::steps] for mine in labels])))[order]
    plain, moved = [], []
    on_holdout: list[list[Tensor]] = [[] for _ in holdout]
    for number, each in enumerate(fitted.values()):
        mine = (each.plain, each.moved, *(said[number] for said in holdout))
        found = team.gather(mine) if team.size > 1 else [mine]
        wholes = [torch.cat([part[k] for part in found]) for k in range(len(mine))]
        wholes[:2] = [whole[order] for whole in wholes[:2]]
        each.plain_spread, each.moved_spread = spread_of(wholes[0]), spread_of(wholes[1])
        # New inputs are like perturbed ones, not like those that may be remembered.
        each.spread = spread_of(wholes[2]) if holdout else each.moved_spread
        plain.append(_centred(wholes[0]) / each.plain_spread)
        moved.append(_centred(wholes[1]) / each.moved_spread)
        for said, whole in zip(on_holdout, wholes[2:], strict=True):
            said.append(_centred(whole) / spread_of(whole))
    of_held = None
    if held is not None:
        of_held = torch.cat(team.gather(place[held.labels]))
    on_holdout += [[]] * (2 - len(on_holdout))
    scores = Scores(plain, moved, given, on_holdout[0], of_held, on_holdout[1])
    return Fits(fitted, features, scores, classes, steps)


def _centred(scores: Tensor) -> Tensor:
    return scores - scores.mean(1, keepdim=True)


def spread_of(scores: Float[Tensor, "n classes"]) -> float:
    """Return the standard deviation of scores about each row's mean; 1 of equal ones."""
    found = float(_centred(scores).double().std(correction=0)) if scores.numel() else 1.0
    return found if found > 0 else 1.0


def measure_memory(fits: Fits, perturbed: bool) -> Memory:
    """Return how often candidates agree with labels, and how much memory survives."""
    scores = fits.scores
    plain = torch.stack([each.argmax(1) for each in scores.plain])
    moved = torch.stack([each.argmax(1) for each in scores.moved])
    of_plain, of_moved = ((each == scores.labels).double().mean(1) for each in (plain, moved))
    # No network is before the input: nothing of it is remembered.
    own = torch.tensor([each.layer == INPUT for each in fits.candidates])
    base = torch.where(own, of_moved, of_plain)
    layers = [each.layer for each in fits.candidates]
    order = by_agreement(of_plain, layers)
    step = max(1, len(scores.labels) // _LOOKED_AT_NOISE)
    labels, n_classes = scores.labels[::step], len(fits.classes)

    def summed(name: str) -> Tensor:
        """Return the summed scores of a layer's candidates on perturbed rows."""
        mine = [each for each, layer in zip(scores.moved, layers, strict=True) if layer == name]
        return torch.stack([each[::step] for each in mine]).sum(0)

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
                plain[:, ::step], moved[:, ::step], labels, right, layers,
                [each.perturbed for each in fits.candidates], n_classes, name,
            )  # fmt: skip
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
