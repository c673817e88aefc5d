"""Which candidate is best, judged with noisy labels only; and how noisy these are."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ._candidates import Candidate, Kept, Work
from ._notes import Notes
from ._overlap import fingerprints
from ._passes import Task
from .discriminant import ClassSums, Linear
from .noise import Calibration, Noise, calibrate, estimate_noise

# Scores (samples × classes × candidates) that are kept to judge candidates with.
ROOM = 1 << 27
# Fewer hold-out samples for each class decide nothing.
_PER_CLASS = 10


@dataclass
class Judged:
    """A round's candidates, judged: `worth` is the criterion's value, the larger the better."""

    worth: dict[Candidate, float]
    spreads: dict[Candidate, float]
    calibrations: dict[Candidate, Calibration]
    agreements: dict[Candidate, float]
    kept: "Kept"

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

    def worse(self, candidate: Candidate, than: Candidate, judged: "Judged | None" = None) -> bool:
        """Say whether a candidate is worse by more than a standard error of the difference."""
        other = judged or self
        mine = self.calibrations.get(candidate)
        theirs = other.calibrations.get(than)
        if mine is None or theirs is None:
            return self.worth[candidate] < other.worth[than]
        difference = theirs.likelihoods - mine.likelihoods
        error = float(difference.std(correction=0)) / len(difference) ** 0.5
        return bool(float(difference.mean()) > error)


Judge = Callable[[Work, dict[Candidate, Linear]], Judged]


def centred(scores: Tensor) -> Tensor:
    finite = torch.isfinite(scores)
    mean = scores.masked_fill(~finite, 0).sum(1, keepdim=True) / finite.sum(1, keepdim=True)
    return scores - mean


def spread(scores: Tensor) -> float:
    values = centred(scores)
    spread = float(values[torch.isfinite(values)].double().std(correction=0))
    return spread if spread > 0 else 1.0


def judge_for(work: Work, notes: Notes) -> tuple[Judge, str]:
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


def _by_holdout(work: Work, fitted: dict[Candidate, Linear]) -> Judged:
    """Judge by the likelihood of a hold-out's noisy labels."""
    assert work.holdout is not None
    kept = Kept(ROOM // (len(fitted) * work.task.n_classes * work.task.team.size))
    with work.task.team.together():
        for seen, labels, _ in work.views(work.holdout, "choosing"):
            kept.add(work.scores(seen, fitted), labels)
    kept = kept.together(work.task)
    given = kept.given
    calibrations = {each: calibrate(kept.of(each), given) for each in fitted}
    return Judged(
        {each: found.mean for each, found in calibrations.items()},
        {each: spread(kept.of(each)) for each in fitted},
        calibrations,
        {each: float((kept.of(each).argmax(1) == given).double().mean()) for each in fitted},
        kept,
    )


def _by_vote(work: Work, fitted: dict[Candidate, Linear]) -> Judged:
    """Judge by what the other layers say of samples whose given labels they contradict."""
    layers = list(dict.fromkeys(each.layer for each in fitted))
    room = ROOM // (len(fitted) * work.task.n_classes * work.task.team.size)
    kept = Kept(min(20_000, room))
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
    return Judged(
        {
            each: sum(part[0][each] for part in parts)
            / max(1, sum(part[1][each.layer] for part in parts))
            for each in fitted
        },
        {each: spread(kept.of(each)) for each in fitted},
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


def noise_at_the_input(work: Work, own: set[str]) -> Noise | None:
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
    kept = Kept(min(20_000, ROOM // (len(fitted) * work.task.n_classes * work.task.team.size)))
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
