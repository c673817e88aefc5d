"""Which candidate is best, judged with noisy labels only."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ._candidates import SOME, Candidate, Kept, View, Views, Work
from ._notes import Notes
from ._overlap import fingerprints
from ._passes import Task
from .discriminant import Linear
from .selection import ahead_of

# Fewer hold-out samples for each class decide nothing.
_PER_CLASS = 10
# However good the best is, so many answer with it.
FEWEST = 4
# Others with them if they miss the vote no more than so many times as often as the best.
MISSED = 1.5
# Standard errors by which a hold-out shows one to be worse.
WORSE = 2.0

Ensemble = tuple[Candidate, ...]


@dataclass
class Judged:
    """A round's candidates, judged with noisy labels only.

    Attributes
    ----------
    worth : dict of Candidate to float
        Of the samples whose given label the other layers outvote, the share for which the
        candidate goes with the vote.
    agreements : dict of Candidate to float
        The share of the given training labels that it predicts.
    spreads : dict of Candidate to float
        How far its scores lie from each row's mean.
    doubted : dict of str to int
        For each layer, how many samples' given labels the others outvote.
    n : int
        Training samples.
    right : dict of Candidate to Tensor of bool, shape (n,)
        Which of a hold-out's labels it predicts; empty without a hold-out.
    """

    worth: dict[Candidate, float]
    agreements: dict[Candidate, float]
    spreads: dict[Candidate, float]
    doubted: dict[str, int]
    n: int
    right: dict[Candidate, Tensor]

    def best(self, layers: Collection[str], number: int, *, clean: bool = False) -> Ensemble:
        """Return the best candidates of some layers, best first; of equal ones the larger ridge.

        So many at most; from `FEWEST` on only those that are nearly as good as the best, as tells
        of many samples more than of few. Where nothing is wrong with the labels, the best are
        those that agree with them. What a hold-out shows to be worse than its best is left out.
        """
        worth = self.agreements if clean else self.worth
        mine = [candidate for candidate in worth if candidate.layer in layers]
        if self.right:
            first = max(mine, key=lambda each: float(self.right[each].double().mean()))
            ahead = {each: ahead_of(self.right[first], self.right[each]) for each in mine}
            mine = [each for each in mine if ahead[each][0] <= WORSE * ahead[each][1]]
        mine.sort(key=lambda each: (-worth[each], -each.ridge))
        counted = self.n if clean else self.doubted[mine[0].layer]
        least = 1 - MISSED * max(1 - worth[mine[0]], 1 / max(1, counted))
        others = [each for each in mine[FEWEST:number] if worth[each] >= least]
        return (*mine[: min(FEWEST, number)], *others)

    def spreads_of(self, ensemble: Ensemble) -> tuple[float, ...]:
        """Return what its members' scores are divided by."""
        return tuple(self.spreads[each] for each in ensemble)


def summed(
    members: Ensemble, spreads: Sequence[float], scores: Mapping[Candidate, Tensor]
) -> Tensor:
    """Return the sum of an ensemble's scores, each member's brought to one scale."""
    parts = [centred(scores[m]) / spread for m, spread in zip(members, spreads, strict=True)]
    return torch.stack(parts).sum(0)


def as_one(
    members: Ensemble, spreads: Sequence[float], fitted: Mapping[Candidate, Linear]
) -> dict[View, Linear]:
    """Return an ensemble as one discriminant for each view: it says the same at less cost.

    What all say of a row is `summed`, but for a number that is the same for all classes.
    """
    parts: dict[View, list[tuple[Linear, float]]] = {}
    for member, spread in zip(members, spreads, strict=True):
        parts.setdefault(member.view, []).append((fitted[member], spread))
    return {
        view: Linear(
            torch.stack([linear.coefficients / spread for linear, spread in some]).sum(0),
            torch.stack([linear.intercepts / spread for linear, spread in some]).sum(0),
        )
        for view, some in parts.items()
    }


def said(seen: Views, ensemble: Mapping[View, Linear]) -> Tensor:
    """Return the class that an ensemble, `as_one`, says of each row of a batch, int64 (n,)."""
    scores = [linear(seen[view]) for view, linear in ensemble.items()]
    return torch.stack(scores).sum(0).argmax(1)


def centred(scores: Tensor) -> Tensor:
    mean = scores.mean(1, keepdim=True)
    if not bool(torch.isfinite(mean).all()):
        finite = torch.isfinite(scores)
        mean = scores.masked_fill(~finite, 0).sum(1, keepdim=True) / finite.sum(1, keepdim=True)
    return scores - mean


def spread(scores: Tensor) -> float:
    values = centred(scores)
    found = float(values.double().std(correction=0))
    if not np.isfinite(found):
        found = float(values[torch.isfinite(values)].double().std(correction=0))
    return found if found > 0 else 1.0


def read_holdout(work: Work, notes: Notes) -> bool:
    """Look at the hold-out's labels and inputs; say whether it can choose."""
    holdout, n_classes, team = work.holdout, work.task.n_classes, work.task.team
    if holdout is None:
        return False
    counts = torch.zeros(n_classes, dtype=torch.int64)
    inputs = [np.empty(0, dtype=np.uint64)]
    with team.together():
        for batch in holdout.batches():
            labels = work.task.given(batch, holdout)
            counts += torch.bincount(torch.from_numpy(labels), minlength=n_classes)
            inputs.append(fingerprints(batch))
    work.held = int(counts.sum())
    counts = team.total(counts)
    work.held_inputs = np.concatenate(team.gather(np.concatenate(inputs)))
    n = int(counts.sum())
    if n < _PER_CLASS * n_classes:
        notes.add(
            f"holdout: {n} samples are too few to choose with (expected at least "
            f"{_PER_CLASS * n_classes}); chosen with the training data alone"
        )
        return False
    missing = torch.nonzero(counts == 0)[:, 0].tolist()
    if missing:
        notes.add(
            f"holdout: no sample is labelled {', '.join(map(str, missing[:5]))}"
            f"{' and others' if len(missing) > 5 else ''}: how well these classes are decoded "
            "chooses nothing"
        )
    return True


def judge(work: Work, fitted: dict[Candidate, Linear], held: bool) -> tuple[Judged, Kept]:
    """Judge by what the other layers say of samples whose given labels they contradict.

    Returns, besides, all scores of the hold-out, or else of some training samples.
    """
    layers = list(dict.fromkeys(each.layer for each in fitted))
    kept = Kept(min(SOME, work.room(len(fitted))), work.share)
    went_with = dict.fromkeys(fitted, 0)
    contradicted = dict.fromkeys(layers, 0)
    agreed = dict.fromkeys(fitted, 0)
    n = 0
    with work.task.team.together():
        for seen, labels, _ in work.views(work.train, "judging"):
            scores = work.scores(seen, fitted)
            if not held:
                rows = kept.next(len(labels))
                kept.add({each: values[rows] for each, values in scores.items()}, labels[rows])
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
        if held:
            assert work.holdout is not None
            kept = Kept(work.room(len(fitted)), work.held)
            for seen, labels, _ in work.views(work.holdout, "choosing"):
                rows = kept.next(len(labels))
                scores = work.scores(seen, fitted)
                kept.add({each: values[rows] for each, values in scores.items()}, labels[rows])
    kept = kept.together(work.task)
    parts = work.task.team.gather((went_with, contradicted, agreed, n))
    n = sum(part[3] for part in parts)
    outvoted = {layer: sum(part[1][layer] for part in parts) for layer in layers}
    went_with = {each: sum(part[0][each] for part in parts) for each in fitted}
    judged = Judged(
        worth={each: went_with[each] / max(1, outvoted[each.layer]) for each in fitted},
        agreements={each: sum(part[2][each] for part in parts) / n for each in fitted},
        spreads={each: spread(kept.of(each)) for each in fitted},
        doubted=outvoted,
        n=n,
        right={each: kept.of(each).argmax(1) == kept.given for each in fitted} if held else {},
    )
    return judged, kept


def _votes(answers: list[Tensor], task: Task) -> Tensor:
    """Return the share of a layer's candidates that are for each class, (n, K)."""
    votes = torch.zeros(len(answers[0]), task.n_classes)
    for answer in answers:
        votes.scatter_add_(1, answer[:, None], torch.ones(len(answer), 1))
    return votes / len(answers)
