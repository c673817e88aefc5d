"""The decoder that chooses itself: layer, features and ridge, with noisy labels only.

Discriminants of every layer are fitted to the given labels, the best of them say which label each
training sample should have, and all are fitted again to those labels; a round or two, as long as
it helps. Their covariances do not depend on labels, so a round costs one more run of the network.

What is best is decided without clean labels. With a hold-out that the network was not trained on,
by the likelihood of its noisy labels (see `noise`). Without one, by a vote: of the samples whose
given label the other layers' discriminants outvote, the share for which a discriminant goes with
the vote. What a layer memorised makes it repeat given labels, so it fails exactly there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ._candidates import Candidate, View, Work
from ._judges import Judged, centred, judge_for, noise_at_the_input
from ._notes import Notes
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
from .noise import Noise, calibrate, estimate_noise
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


@dataclass
class Refined:
    """What `refine` found.

    Attributes
    ----------
    chosen : Candidate
        The decoder that was chosen.
    decoders : dict of str to RidgeDiscriminant
        The best of each layer, the chosen one among them.
    fitted : dict of Candidate to Linear
        Every candidate of every round.
    worth : dict of Candidate to float
        Their criterion's values; the larger, the better.
    criterion : {"holdout", "training data"}
        What decided.
    agreement, n : float, int
        The share of the noisy labels of n samples that the chosen decoder predicts.
    noise : Noise
        How noisy the labels are, and how right the decoder is.
    work : Work
        The network and its layers' features.
    """

    chosen: Candidate
    decoders: dict[str, RidgeDiscriminant]
    fitted: dict[Candidate, Linear]
    worth: dict[Candidate, float]
    criterion: str
    agreement: float
    n: int
    noise: Noise
    work: Work

    def keyed(self, layers: Sequence[str]) -> Decoders:
        """Return the decoders of some layers, by the names that tables give them."""
        return {_key(layer): self.decoders[layer] for layer in layers}

    def candidates(self, test: Source | None) -> pd.DataFrame:
        """Return every candidate of every round, with its accuracy on test data if there are any.

        Test data choose nothing; they show what the choice cost.

        Returns
        -------
        pandas.DataFrame
            `round`, `layer`, `n_features`, `ridge`, `criterion` (what chose; the larger, the
            better), `chosen` and `test_accuracy` (0 to 1, or missing).
        """
        right = dict.fromkeys(self.fitted, 0)
        n, team = 0, self.work.task.team
        if test is not None:
            with team.together():
                for seen, labels, _ in self.work.views(test, "trying all candidates"):
                    n += len(labels)
                    for each, scores in self.work.scores(seen, self.fitted).items():
                        right[each] += int((scores.argmax(1).cpu() == labels).sum())
            parts = team.gather((right, n))
            n = sum(part[1] for part in parts)
            right = {each: sum(part[0][each] for part in parts) for each in right}
        rows = [
            {
                **each._asdict(), "criterion": self.worth[each], "chosen": each == self.chosen,
                "test_accuracy": right[each] / n if n else np.nan,
            }
            for each in self.fitted
        ]  # fmt: skip
        return pd.DataFrame(rows)

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
    work = Work(network, task, sources["train"], sources.get("holdout"), n // task.team.size)
    _look(work, whole, n)
    judge, criterion = judge_for(work, notes)
    fitted = work.fit(0, _gather(work))
    _note_overlap(work, notes)
    own = {place.tap.name for place in task.places if place.tap.side != "model"}
    own = own or {place.tap.name for place in task.places}
    judged = judge(work, fitted)
    best: dict[str, tuple[Candidate, Linear, Judged]] = {}
    _keep_best(best, fitted, judged, own)
    everything, worth = dict(fitted), dict(judged.worth)
    leader = _leader(best, own)
    noise = noise_at_the_input(work, own) if criterion == "training data" else None
    clean = noise is not None and noise.nothing_wrong
    for number in range(1, 1 if clean else ROUNDS + 1):
        fitted = work.fit(number, _gather_again(work, fitted, judged, own))
        judged = judge(work, fitted)
        everything |= fitted
        worth |= judged.worth
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
    work.forget()
    return _result(work, best, leader, everything, worth, criterion, noise)


def _look(work: Work, whole: Source, n: int) -> None:
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


def _first_rows(work: Work, whole: Source) -> dict[str, Tensor]:
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


def _some_rows(work: Work, whole: Source, keep: Callable[[Any], Any] | None) -> list[Rows]:
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


def _gather(work: Work) -> dict[View, ClassSums]:
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


def _note_overlap(work: Work, notes: Notes) -> None:
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
    work: Work, fitted: dict[Candidate, Linear], judged: Judged, own: set[str]
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
                parts = [centred(scores[each]) / judged.spreads[each] for each in voters]
                labels = torch.stack(parts).sum(0).argmax(1)
                for view, rows in seen.items():
                    if view.layer in group:
                        sums[view].update(rows, labels)
    return sums


def _voters(judged: Judged, own: set[str]) -> list[Candidate]:
    """Return the best; with a hold-out only those that it cannot tell from the very best."""
    ranked = judged.ranked(own)[:VOTERS]
    if judged.calibrations:
        ranked = [each for each in ranked if not judged.worse(each, ranked[0])]
    return ranked


def _keep_best(
    best: dict[str, tuple[Candidate, Linear, Judged]],
    fitted: dict[Candidate, Linear],
    judged: Judged,
    own: set[str],
) -> None:
    """Put a round's best candidate of each layer in place of an earlier one that is worse."""
    for layer in {each.layer for each in fitted}:
        new = judged.best({layer})
        old = best.get(layer)
        # Without a hold-out rounds cannot be compared; one round of refitting helps.
        if old is None or not judged.calibrations or old[2].worse(old[0], new, judged):
            best[layer] = new, fitted[new], judged


def _leader(best: dict[str, tuple[Candidate, Linear, Judged]], own: set[str]) -> Candidate:
    """Return the best of the layers' best; of those that cannot be told apart the first's."""
    layers = [layer for layer in best if layer in own]
    top = max(layers, key=lambda layer: best[layer][2].worth[best[layer][0]])
    return best[top][0]


def _result(
    work: Work,
    best: dict[str, tuple[Candidate, Linear, Judged]],
    chosen: Candidate,
    fitted: dict[Candidate, Linear],
    worth: dict[Candidate, float],
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
    return Refined(
        chosen, decoders, fitted, worth, criterion, judged.agreements[chosen], len(given),
        noise, work,
    )  # fmt: skip
