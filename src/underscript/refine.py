"""The decoder that chooses itself: layer, features and ridge, with noisy labels only.

Discriminants of every layer are fitted to the given labels, the best of them say which label each
training sample should have, and all are fitted again to those labels; a round or two, as long as
it helps. Their covariances do not depend on labels, so a round costs one more run of the network.

What is best is decided without clean labels. With a hold-out that the network was not trained on,
by the likelihood of its noisy labels (see `noise`). Without one, by a vote: of the samples whose
given label the other layers' discriminants outvote, the share for which a discriminant goes with
the vote. What a layer memorised makes it repeat given labels, so it fails exactly there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._notes import Notes
from ._overlap import fingerprints
from ._passes import Decoders, Task
from ._stream import Rows, Source, stream
from .discriminant import (
    ClassSums,
    Covariance,
    FourierFeatures,
    Linear,
    PooledMoments,
    RidgeDiscriminant,
)
from .noise import Calibration, Noise, calibrate, estimate_noise
from .selection import Key, Score, Selection

__all__ = ["Refined", "refine"]

RIDGES = (0.01, 0.1, 1.0, 10.0)
FEATURES = 2048
# Samples at the start of the training data that say how far apart rows are.
LOOKED_AT = 512
# Wider layers are read by random features only: a covariance of their rows would be too large.
WIDEST = 4096
ROUNDS = 2
# As many of the best vote on the labels of the next round.
VOTERS = 4
# Scores (samples × classes × candidates) that are kept to judge candidates with.
_KEPT = 1 << 27
# Fewer hold-out samples for each class decide nothing.
_PER_CLASS = 10


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


@dataclass
class Refined:
    """What `refine` found.

    Attributes
    ----------
    chosen : Candidate
        The decoder that was chosen.
    decoders : dict of str to RidgeDiscriminant
        The best of each layer, the chosen one among them.
    candidates : pandas.DataFrame
        Every candidate of every round: `round`, `layer`, `n_features`, `ridge`, `criterion` (its
        value; the larger, the better) and `chosen`.
    criterion : {"holdout", "training data"}
        What decided.
    agreement, n : float, int
        The share of the noisy labels of n samples that the chosen decoder predicts.
    noise : Noise
        How noisy the labels are, and how right the decoder is.
    """

    chosen: Candidate
    decoders: dict[str, RidgeDiscriminant]
    candidates: pd.DataFrame
    criterion: str
    agreement: float
    n: int
    noise: Noise

    def keyed(self, layers: Sequence[str]) -> Decoders:
        """Return the decoders of some layers, by the names that tables give them."""
        return {_key(layer): self.decoders[layer] for layer in layers}

    @property
    def selection(self) -> Selection:
        """The choice and why."""
        noise = self.noise
        decided = {
            "holdout": f"the likelihood of {self.n:,} noisy labels of a hold-out",
            "training data": "agreement with the other layers where these contradict given labels",
        }[self.criterion]
        labels = "the given labels"
        if self.chosen.round:
            labels = f"labels decoded in round {self.chosen.round}"
        reason = f"A {self.chosen}, fitted to {labels}, chosen by {decided}; "
        if noise.hopeless:
            reason += "but the labels say no more than chance: nothing can be decoded from them."
        else:
            reason += (
                f"estimated to be right for {noise.accuracy:.1%} "
                f"({noise.accuracy_low:.1%} to {noise.accuracy_high:.1%}), with "
                f"{noise.rate:.1%} of the labels wrong "
                f"({noise.rate_low:.1%} to {noise.rate_high:.1%})"
            )
            reason += ": there is nothing to repair." if noise.nothing_wrong else "."
        score = Score(_key(self.chosen.layer), self.agreement, self.n)
        return Selection(score.key, self.criterion, score, None, reason)


def _key(layer: str) -> Key:
    return Key(layer, "auto", None, "corrupted")


@dataclass
class _Judged:
    """A round's candidates, judged: `worth` is the criterion's value, the larger the better."""

    worth: dict[Candidate, float]
    spreads: dict[Candidate, float]
    calibrations: dict[Candidate, Calibration]
    agreements: dict[Candidate, float]
    kept: "_Kept"

    def ranked(self, layers: set[str]) -> list[Candidate]:
        """Return the candidates of some layers, best first; of equal ones the larger ridge."""
        mine = [candidate for candidate in self.worth if candidate.layer in layers]
        return sorted(mine, key=lambda each: (-self.worth[each], -each.ridge))

    def best(self, layers: set[str]) -> Candidate:
        """Return the one that cannot be told from the best and has the largest ridge."""
        first, *others = self.ranked(layers)
        for other in others:
            if other.ridge > first.ridge and not self.worse(other, first):
                first = other
        return first

    def worse(self, candidate: Candidate, than: Candidate, judged: "_Judged | None" = None) -> bool:
        """Say whether a candidate is worse by more than a standard error of the difference."""
        other = judged or self
        mine = self.calibrations.get(candidate)
        theirs = other.calibrations.get(than)
        if mine is None or theirs is None:
            return self.worth[candidate] < other.worth[than]
        difference = theirs.likelihoods - mine.likelihoods
        error = float(difference.std(correction=0)) / len(difference) ** 0.5
        return bool(float(difference.mean()) > error)


class _Kept:
    """Scores of all candidates for some samples, with these samples' given labels."""

    def __init__(self, room: int):
        self.room = room
        self.scores: list[dict[Candidate, Tensor]] = []
        self.labels: list[Tensor] = []

    def add(self, scores: dict[Candidate, Tensor], labels: Tensor) -> None:
        """Keep a batch's, as long as there is room."""
        take = min(self.room, len(labels))
        if take:
            self.room -= take
            self.scores.append({each: values[:take].cpu() for each, values in scores.items()})
            self.labels.append(labels[:take])

    def of(self, candidate: Candidate) -> Tensor:
        """Return a candidate's scores (n, K)."""
        return torch.cat([part[candidate] for part in self.scores])

    @property
    def given(self) -> Tensor:
        """The labels (n,)."""
        return torch.cat(self.labels)

    def together(self, task: Task) -> "_Kept":
        """Return everybody's."""
        whole = _Kept(0)
        for part in task.team.gather(self):
            whole.scores += part.scores
            whole.labels += part.labels
        return whole


@dataclass
class _Work:
    """The network and data of one refinement, and what does not change from round to round."""

    network: nn.Module
    task: Task
    train: Source
    holdout: Source | None
    share: int
    maps: dict[View, FourierFeatures | None] = field(default_factory=dict)
    factors: dict[View, dict[float, Covariance]] = field(default_factory=dict)
    centres: dict[View, Tensor] = field(default_factory=dict)
    kept: list[tuple[Views, Tensor, Tensor]] | None = None
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
        """Give each batch's views, given labels, and which tenth by input they are (n,) bool.

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
            if source is self.train and self.held_inputs is not None and not self.factors:
                self.train_inputs.append(prints)
            # Equal inputs stay together, in any order of the data.
            tenth = torch.from_numpy(prints % 10 == 0)
            if keep is not None:
                keep.append((seen, labels, tenth))
            yield seen, labels, tenth
        if source is self.train:
            self.kept = keep

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

    def fit(self, number: int, sums: dict[View, ClassSums]) -> dict[Candidate, Linear]:
        """Fit all candidates of a round to the labels that the sums were gathered with."""
        fitted = {}
        for view, mine in sums.items():
            means, counts = mine.total(self.task.team)
            for ridge, covariance in self.factors[view].items():
                candidate = Candidate(number, view.layer, view.n_features, ridge)
                fitted[candidate] = covariance.discriminant(means, counts)
        return fitted

    def empty_sums(self) -> dict[View, ClassSums]:
        """Return sums to gather labels' classes with."""
        return {
            view: ClassSums(self.task.n_classes, centre) for view, centre in self.centres.items()
        }


def refine(
    network: nn.Module,
    task: Task,
    whole: Source,
    sources: Mapping[str, Source],
    n: int,
    notes: Notes,
) -> Refined:
    """Fit discriminants to every layer, refine them, and choose one, with noisy labels only.

    Parameters
    ----------
    network : torch.nn.Module
        The network; it is run, not changed.
    task : Task
        The layers and how they are read. The input is never chosen, but it votes.
    whole : Source
        All training data: what every process looks at first.
    sources : mapping of str to Source
        This process's ``train`` and, where there is one, ``holdout``: data with noisy labels that
        the network was not trained on.
    n : int
        Number of training samples.
    notes : Notes
        Where what a user should know is added.
    """
    work = _Work(network, task, sources["train"], sources.get("holdout"), n // task.team.size)
    _look(work, whole, n)
    judge, criterion = _judge_for(work, notes)
    fitted = work.fit(0, _gather(work))
    _note_overlap(work, notes)
    own = {place.tap.name for place in task.places if place.tap.side != "model"}
    own = own or {place.tap.name for place in task.places}
    judged = judge(work, fitted)
    best: dict[str, tuple[Candidate, Linear, _Judged]] = {}
    _keep_best(best, fitted, judged, own)
    tables = [judged.worth]
    leader = _leader(best, own)
    noise = _noise_at_the_input(work, own) if criterion == "training data" else None
    clean = noise is not None and noise.nothing_wrong
    for number in range(1, 1 if clean else ROUNDS + 1):
        fitted = work.fit(number, _gather_again(work, fitted, judged, own))
        judged = judge(work, fitted)
        tables.append(judged.worth)
        before = leader
        _keep_best(best, fitted, judged, own)
        leader = _leader(best, own)
        if criterion == "holdout" and leader == before:
            break
    if clean:
        # Nothing is wrong with the labels: what agrees with them best is best.
        for layer in best:
            first = max(judged.ranked({layer}), key=lambda each: judged.agreements[each])
            best[layer] = first, fitted[first], judged
        leader = max((best[layer][0] for layer in own), key=lambda c: judged.agreements[c])
    return _result(work, best, leader, tables, criterion, noise)


def _look(work: _Work, whole: Source, n: int) -> None:
    """Draw features and find the rows' rough centres, the same in all processes."""
    task = work.task
    rows_of = _first_rows(work, whole)
    n_features = min(FEATURES, n // 4 + 1)
    for place in task.places:
        name = place.tap.name
        rows = rows_of[name].float()
        for number in (0, n_features):
            if not number and place.width > WIDEST:
                continue
            features = FourierFeatures.drawn(rows, number, task.seed) if number else None
            seen = rows if features is None else features(rows)
            view = View(name, number)
            # What a process computes may differ in the last digit from what another does.
            tensors = [seen.mean(0)]
            tensors += [] if features is None else [features.directions, features.phases]
            shared = task.team.share(tensors if task.team.rank == 0 else None, 0)
            work.centres[view] = shared[0].to(rows)
            work.maps[view] = None if features is None else FourierFeatures(*shared[1:])


def _first_rows(work: _Work, whole: Source) -> dict[str, Tensor]:
    """Return every layer's rows of the first samples: by index, where one is known."""
    found: list[Rows] = []
    if whole.first(1).index is not None:
        found = _some_rows(work, whole, lambda index: index < LOOKED_AT)
    # Indices may be any numbers; then what comes first must do.
    found = found or _some_rows(work, whole, None)
    layers = {name: torch.cat([rows.layers[name] for rows in found]) for name in found[0].layers}
    indices = [rows.batch.index for rows in found if rows.batch.index is not None]
    if len(indices) == len(found):
        order = torch.from_numpy(np.argsort(np.concatenate(indices), kind="stable"))
        layers = {name: rows[order.to(rows.device)] for name, rows in layers.items()}
    return {name: rows[:LOOKED_AT] for name, rows in layers.items()}


def _some_rows(work: _Work, whole: Source, keep: Callable[[Any], Any] | None) -> list[Rows]:
    found, n = [], 0
    for rows in stream(
        work.network, whole, work.task.taps, work.task.device,
        stage="looking", keep=keep, progress=work.task.progress,
    ):  # fmt: skip
        found.append(rows)
        n += rows.batch.size
        if n >= LOOKED_AT:
            break
    return found


def _gather(work: _Work) -> dict[View, ClassSums]:
    """Run the training data once: covariances, and sums with the given labels."""
    moments = {view: PooledMoments(centre) for view, centre in work.centres.items()}
    sums = work.empty_sums()
    with work.task.team.together():
        for seen, labels, _ in work.views(work.train, "refining"):
            for view, rows in seen.items():
                moments[view].update(rows)
                sums[view].update(rows, labels)
    for view in list(moments):
        found = moments.pop(view).covariance(work.task.team)
        work.factors[view] = {ridge: Covariance(*found, ridge) for ridge in RIDGES}
    return sums


def _note_overlap(work: _Work, notes: Notes) -> None:
    """Say so if inputs of the hold-out stand in the training data."""
    if work.held_inputs is None:
        return
    mine = [np.empty(0, dtype=np.uint64), *work.train_inputs]
    here = np.isin(work.held_inputs, np.concatenate(mine))
    both = int(np.any(work.task.team.gather(here), axis=0).sum())
    work.held_inputs, work.train_inputs = None, []
    if both:
        notes.add(
            f"holdout: {both:,} of its {len(here):,} inputs are also in the training data; the "
            "network may have memorised their labels, which misleads the choice: leave them out"
        )


def _gather_again(
    work: _Work, fitted: dict[Candidate, Linear], judged: _Judged, own: set[str]
) -> dict[View, ClassSums]:
    """Run the training data once: sums with the labels that the best candidates agree on."""
    layers = {view.layer for view in work.centres}
    # The input decides for itself: as a control it must not know what the network knows.
    groups = [(group, _voters(judged, group)) for group in (own, layers - own) if group]
    sums = work.empty_sums()
    with work.task.team.together():
        for seen, _, _ in work.views(work.train, "refining"):
            for group, voters in groups:
                scores = work.scores(seen, {each: fitted[each] for each in voters})
                parts = [_centred(scores[each]) / judged.spreads[each] for each in voters]
                labels = torch.stack(parts).sum(0).argmax(1)
                for view, rows in seen.items():
                    if view.layer in group:
                        sums[view].update(rows, labels)
    return sums


def _voters(judged: _Judged, own: set[str]) -> list[Candidate]:
    """Return the best; with a hold-out only those that it cannot tell from the very best."""
    ranked = judged.ranked(own)[:VOTERS]
    if judged.calibrations:
        ranked = [each for each in ranked if not judged.worse(each, ranked[0])]
    return ranked


def _centred(scores: Tensor) -> Tensor:
    finite = torch.isfinite(scores)
    mean = scores.masked_fill(~finite, 0).sum(1, keepdim=True) / finite.sum(1, keepdim=True)
    return scores - mean


def _spread(scores: Tensor) -> float:
    values = _centred(scores)
    spread = float(values[torch.isfinite(values)].double().std(correction=0))
    return spread if spread > 0 else 1.0


def _judge_for(work: _Work, notes: Notes) -> tuple[Any, str]:
    """Return what judges candidates, and its name; read the hold-out's labels and inputs."""
    holdout, n_classes, team = work.holdout, work.task.n_classes, work.task.team
    if holdout is None:
        return _by_vote, "training data"
    counts = torch.zeros(n_classes, dtype=torch.int64)
    inputs = [np.empty(0, dtype=np.uint64)]
    with team.together():
        for batch in holdout.batches():
            labels = work.task.given(batch, holdout)
            counts += torch.bincount(torch.from_numpy(labels), minlength=n_classes)
            inputs.append(fingerprints(batch))
    counts = team.total(counts)
    work.held_inputs = np.concatenate(team.gather(np.concatenate(inputs)))
    n = int(counts.sum())
    if n < _PER_CLASS * n_classes:
        notes.add(
            f"holdout: {n} samples are too few to choose with (expected at least "
            f"{_PER_CLASS * n_classes}); chosen with the training data alone"
        )
        return _by_vote, "training data"
    missing = torch.nonzero(counts == 0)[:, 0].tolist()
    if missing:
        notes.add(
            f"holdout: no sample is labelled {', '.join(map(str, missing[:5]))}"
            f"{' and others' if len(missing) > 5 else ''}: how well these classes are decoded "
            "chooses nothing"
        )
    return _by_holdout, "holdout"


def _by_holdout(work: _Work, fitted: dict[Candidate, Linear]) -> _Judged:
    """Judge by the likelihood of a hold-out's noisy labels."""
    assert work.holdout is not None
    kept = _Kept(_KEPT // (len(fitted) * work.task.n_classes * work.task.team.size))
    with work.task.team.together():
        for seen, labels, _ in work.views(work.holdout, "choosing"):
            kept.add(work.scores(seen, fitted), labels)
    kept = kept.together(work.task)
    given = kept.given
    calibrations = {each: calibrate(kept.of(each), given) for each in fitted}
    return _Judged(
        {each: found.mean for each, found in calibrations.items()},
        {each: _spread(kept.of(each)) for each in fitted},
        calibrations,
        {each: float((kept.of(each).argmax(1) == given).double().mean()) for each in fitted},
        kept,
    )


def _by_vote(work: _Work, fitted: dict[Candidate, Linear]) -> _Judged:
    """Judge by what the other layers say of samples whose given labels they contradict."""
    layers = list(dict.fromkeys(each.layer for each in fitted))
    room = _KEPT // (len(fitted) * work.task.n_classes * work.task.team.size)
    kept = _Kept(min(20_000, room))
    went_with = dict.fromkeys(fitted, 0)
    contradicted = dict.fromkeys(layers, 0)
    agreed = dict.fromkeys(fitted, 0)
    n = 0
    with work.task.team.together():
        for seen, labels, _ in work.views(work.train, "choosing"):
            scores = work.scores(seen, fitted)
            kept.add(scores, labels)
            n += len(labels)
            predicted = {each: values.argmax(1).cpu() for each, values in scores.items()}
            votes = {
                layer: _votes([p for e, p in predicted.items() if e.layer == layer], work.task)
                for layer in layers
            }
            everybody = torch.stack(list(votes.values())).sum(0)
            for layer in layers:
                others = everybody - votes[layer] if len(layers) > 1 else everybody
                vote = others.argmax(1)
                doubted = vote != labels
                contradicted[layer] += int(doubted.sum())
                for each, answer in predicted.items():
                    if each.layer == layer:
                        went_with[each] += int((doubted & (answer == vote)).sum())
            for each, answer in predicted.items():
                agreed[each] += int((answer == labels).sum())
    kept = kept.together(work.task)
    parts = work.task.team.gather((went_with, contradicted, agreed, n))
    n = sum(part[3] for part in parts)
    return _Judged(
        {
            each: sum(part[0][each] for part in parts)
            / max(1, sum(part[1][each.layer] for part in parts))
            for each in fitted
        },
        {each: _spread(kept.of(each)) for each in fitted},
        {},
        {each: sum(part[2][each] for part in parts) / n for each in fitted},
        kept,
    )


def _votes(answers: list[Tensor], task: Task) -> Tensor:
    """Return the share of a layer's candidates that are for each class, (n, K)."""
    votes = torch.zeros(len(answers[0]), task.n_classes)
    for answer in answers:
        votes.scatter_add_(1, answer[:, None], torch.ones(len(answer), 1))
    return votes / len(answers)


def _noise_at_the_input(work: _Work, own: set[str]) -> Noise | None:
    """Estimate the noise from discriminants of the input, on samples that they were kept from.

    A network cannot have memorised labels into its input, as it can into its layers. None where
    the input is not read.
    """
    views = {view: centre for view, centre in work.centres.items() if view.layer not in own}
    if not views:
        return None
    sums = {view: ClassSums(work.task.n_classes, centre) for view, centre in views.items()}
    with work.task.team.together():
        for seen, labels, held in work.views(work.train, "estimating noise"):
            for view, mine in sums.items():
                rest = ~held
                mine.update(seen[view][rest.to(seen[view].device)], labels[rest])
    fitted = work.fit(0, sums)
    kept = _Kept(min(20_000, _KEPT // (len(fitted) * work.task.n_classes * work.task.team.size)))
    with work.task.team.together():
        for seen, labels, held in work.views(work.train, "estimating noise"):
            if held.any():
                scores = work.scores({view: seen[view] for view in views}, fitted)
                kept.add({each: said.cpu()[held] for each, said in scores.items()}, labels[held])
    kept = kept.together(work.task)
    if not kept.labels:
        return None
    given = kept.given
    calibrations = {each: calibrate(kept.of(each), given) for each in fitted}
    best = max(calibrations, key=lambda each: calibrations[each].mean)
    return estimate_noise(kept.of(best), given, calibrations[best], work.task.seed)


def _keep_best(
    best: dict[str, tuple[Candidate, Linear, _Judged]],
    fitted: dict[Candidate, Linear],
    judged: _Judged,
    own: set[str],
) -> None:
    """Put a round's best candidate of each layer in place of an earlier one that is worse."""
    for layer in {each.layer for each in fitted}:
        new = judged.best({layer})
        old = best.get(layer)
        # Without a hold-out rounds cannot be compared; one round of refitting helps.
        if old is None or not judged.calibrations or old[2].worse(old[0], new, judged):
            best[layer] = new, fitted[new], judged


def _leader(best: dict[str, tuple[Candidate, Linear, _Judged]], own: set[str]) -> Candidate:
    """Return the best of the layers' best; of those that cannot be told apart the first's."""
    layers = [layer for layer in best if layer in own]
    top = max(layers, key=lambda layer: best[layer][2].worth[best[layer][0]])
    return best[top][0]


def _result(
    work: _Work,
    best: dict[str, tuple[Candidate, Linear, _Judged]],
    chosen: Candidate,
    tables: list[dict[Candidate, float]],
    criterion: str,
    noise: Noise | None,
) -> Refined:
    decoders = {}
    for layer, (candidate, linear, judged) in best.items():
        scores = judged.kept.of(candidate)
        found = judged.calibrations.get(candidate) or calibrate(scores, judged.kept.given)
        estimator = RidgeDiscriminant(
            ridge=candidate.ridge, n_features=candidate.n_features, seed=work.task.seed
        )
        decoders[layer] = estimator.set_fitted(linear, work.maps[candidate.view], found.temperature)
    judged = best[chosen.layer][2]
    scores, given = judged.kept.of(chosen), judged.kept.given
    if noise is None:
        noise = estimate_noise(scores, given, calibrate(scores, given), work.task.seed)
    else:
        noise = noise.of_decoder(judged.agreements[chosen], len(given))
    rows = [
        {**each._asdict(), "criterion": value, "chosen": each == chosen}
        for table in tables
        for each, value in table.items()
    ]
    return Refined(
        chosen, decoders, pd.DataFrame(rows), criterion, judged.agreements[chosen],
        len(given), noise,
    )  # fmt: skip
