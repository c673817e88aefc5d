"""The decoder that chooses itself: layers, features and ridges, with noisy labels only.

Discriminants of every layer are fitted to the given labels. A vote finds the best of them: of the
samples whose given label the other layers' discriminants outvote, the share for which one goes with
the vote. (What a layer memorised makes it repeat given labels, so it fails exactly there.) The
best say together which label each training sample should have, all are fitted again to those
labels, and so on until labels settle. Covariances do not depend on labels, so a round costs no more
than reading the rows again.

The answer is the best few of the last round together, of the layers, of the input, or of both where
neither is known to be clearly better. A hold-out with noisy labels that the network was not trained
on leaves out what it shows to be worse, and may overrule the answer: with what agrees with its
labels clearly better.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ._candidates import Candidate, View, Work
from ._crossfit import CrossFitted
from ._judges import Ensemble, Judged, as_one, judge, read_holdout, said
from ._notes import Notes
from ._offers import (
    ECHO,
    Estimates,
    Offer,
    estimates,
    is_clean,
    layers_or_input,
    offers_of,
    overruled,
)
from ._passes import Decoders, Task
from ._stream import Rows, Source, stream
from .combined import COMBINED, CombinedDiscriminant, Member
from .discriminant import (
    ClassSums,
    FourierFeatures,
    Linear,
    PooledMoments,
    RidgeDiscriminant,
)
from .noise import Noise, calibrate
from .selection import Key, Score, Selection

__all__ = ["Refined", "refine"]

RIDGES = (0.01, 0.1, 1.0, 10.0)
FEATURES = 2048
# Samples at the start of the training data that say how far apart rows are.
LOOKED_AT = 512
# Wider layers are read by random features only: a covariance of their rows would be too large.
WIDEST = 4096
# Fitting again ends after so many rounds, or when fewer labels than this share change.
ROUNDS = 5
SETTLED = 0.005
# So many of the best say the labels of the next round.
VOTERS = 8


@dataclass
class Refined:
    """What `refine` found.

    Attributes
    ----------
    chosen : Key
        Names the decoder that was chosen.
    decoders : dict of str to CombinedDiscriminant
        The best of each layer, and of all together (`COMBINED`) unless they are of one layer.
    members : tuple of Candidate
        What the chosen one consists of.
    fitted : dict of Candidate to Linear
        Every candidate of every round.
    worth : dict of Candidate to float
        Their criterion's values; the larger, the better.
    clean : bool
        Whether nothing is wrong with the labels: then agreement with them is the criterion.
    criterion : {"holdout", "training data"}
        What decided.
    agreement, n : float, int
        The share of the noisy labels of n samples that the chosen decoder predicts.
    noise : Noise
        How noisy the labels are, and how right the decoder is.
    work : Work
        The network and its layers' features.
    beside : Estimates or None
        How right the layers together and the input are, where both may be chosen.
    why : str
        Which of these answers, and why.
    """

    chosen: Key
    decoders: dict[str, CombinedDiscriminant]
    members: Ensemble
    fitted: dict[Candidate, Linear]
    worth: dict[Candidate, float]
    clean: bool
    criterion: str
    agreement: float
    n: int
    noise: Noise
    work: Work
    beside: Estimates | None
    why: str

    def keyed(self, layers: Sequence[str]) -> Decoders:
        """Return the decoders of some layers and of all together, by their names in tables."""
        places = [*layers, *(place for place in self.decoders if place == COMBINED)]
        return {_key(place): self.decoders[place] for place in places}

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
                **each._asdict(), "criterion": self.worth[each], "chosen": each in self.members,
                "test_accuracy": right[each] / n if n else np.nan,
            }
            for each in self.fitted
        ]  # fmt: skip
        return pd.DataFrame(rows)

    @property
    def selection(self) -> Selection:
        """The choice and why."""
        noise = self.noise
        reason = f"{_listed(self.members)}; fitted to {_labels_of(self.members)}"
        alone = len({each.layer for each in self.fitted}) == 1
        others = "one another" if alone else "the other layers"
        if self.criterion == "holdout":
            reason += f", as {self.n:,} noisy labels of a hold-out prefer nothing else clearly; "
        elif self.clean:
            reason += ", chosen by agreement with the labels, of which next to none is wrong; "
        else:
            reason += f", chosen by agreement with {others} where these contradict given labels; "
        if self.beside is not None and not noise.hopeless:
            reason += (
                f"the layers are estimated to be right for {self.beside.layers:.1%} of the "
                f"training data, the input for {self.beside.input:.1%} (± "
                f"{1.96 * self.beside.error:.1%} between them)"
            )
            reason += (
                f", and the layers repeat {self.beside.echo:.1%} of the given labels without "
                "another reason than memory"
                if self.beside.echo > ECHO
                else ""
            )
            reason += f": {self.why}; "
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
        score = Score(self.chosen, self.agreement, self.n)
        return Selection(self.chosen, self.criterion, score, None, reason)


def _listed(members: Ensemble) -> str:
    said = [str(member) for member in members]
    if len(said) == 1:
        return f"A {said[0]}"
    return f"{len(said)} discriminants together ({'; '.join(said)})"


def _labels_of(members: Ensemble) -> str:
    rounds = sorted({member.round for member in members})
    said = [
        f"labels decoded in round {number}" if number else "the given labels" for number in rounds
    ]
    return " and ".join(said)


def _key(layer: str) -> Key:
    return Key(layer, "auto", None, "corrupted")


def refine(
    network: nn.Module,
    task: Task,
    whole: Source,
    sources: Mapping[str, Source],
    n: int,
    notes: Notes,
    chosen_from: Collection[str],
) -> Refined:
    """Fit discriminants to every layer, refine them, and choose one, with noisy labels only.

    Parameters
    ----------
    network : torch.nn.Module
        The network; it is run, not changed.
    task : Task
        The layers and how they are read, the input with them: it votes.
    whole : Source
        All training data: what every process looks at first.
    sources : mapping of str to Source
        This process's ``train`` and, where there is one, ``holdout``: data with noisy labels that
        the network was not trained on.
    n : int
        Number of training samples.
    notes : Notes
        Where what a user should know is added.
    chosen_from : collection of str
        Names of the layers that may be chosen; the input only if it is among them.
    """
    work = Work(network, task, sources["train"], sources.get("holdout"), n // task.team.size)
    _look(work, whole, n)
    held = read_holdout(work, notes)
    (fitted,) = work.fit(0, [_gather(work, n)])
    _note_overlap(work, notes)
    own = [place.tap.name for place in task.places if place.tap.side != "model"]
    own = own or [place.tap.name for place in task.places]
    layers = list(dict.fromkeys(view.layer for view in work.centres))
    places = {layer: [layer] for layer in layers} | {COMBINED: own}
    blind = CrossFitted.of_input(work, own)
    noise = None if blind is None else blind.noise
    judged, kept = judge(work, fitted, held)
    clean = is_clean(noise, judged, kept, own, held, task.seed)
    everything, worth = dict(fitted), dict(judged.agreements if clean else judged.worth)
    rounds = [offers_of(judged, kept, places, clean)]
    decoded: list[Tensor] | None = None
    for number in range(1, 1 if clean else ROUNDS + 1):
        sums, decoded, changed = _gather_again(work, fitted, judged, own, decoded)
        if changed < SETTLED:
            break
        (fitted,) = work.fit(number, [sums])
        judged, kept = judge(work, fitted, held)
        rounds.append(offers_of(judged, kept, places, clean))
        everything |= fitted
        worth |= judged.worth
    if blind is not None and noise is not None and not (clean or noise.hopeless):
        blind = blind.refined(ROUNDS)
        # Labels that were decoded in vain say nothing of whether there is anything to decode.
        noise = replace(blind.noise, beyond_chance=noise.beyond_chance)
    # The last round's, of the input what was best blind; or what the hold-out clearly prefers.
    offers = dict(rounds[-1])
    for layer in set(layers) - set(own):
        if blind is not None:
            offers[layer] = rounds[min(blind.round, len(rounds) - 1)][layer]
    if held:
        offers = {
            place: overruled(offer, [each[place] for each in rounds])
            for place, offer in offers.items()
        }
    leading = offers.pop(COMBINED)
    alone = {member.layer for member in leading.members}
    if len(alone) == 1:
        leading = leading._replace(place=alone.pop())
    offers[leading.place] = leading
    beside, why = None, ""
    rivals = [offers[layer] for layer in own]
    for layer in set(layers) - set(own):
        if blind is not None and noise is not None and layer in chosen_from:
            beside = estimates(work, everything, leading, blind, noise)
            rivals = [*rivals, leading, offers[layer]]
            leading, why = layers_or_input(leading, offers[layer], beside, clean, held)
    work.forget()
    if held and (other := overruled(leading, rivals)) is not leading:
        leading, why = other, "the hold-out clearly prefers another"
    offers[leading.place] = leading
    return _result(work, offers, leading, everything, worth, clean, held, noise, beside, why)


def _look(work: Work, whole: Source, n: int) -> None:
    """Draw features and find the rows' rough centres, the same in all processes."""
    task = work.task
    rows_of = _first_rows(work, whole)
    n_features = min(FEATURES, n // 2 + 1)
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


def _gather(work: Work, n: int) -> dict[View, ClassSums]:
    """Run all n training samples once: covariances, and sums with the given labels."""
    moments = {view: PooledMoments(centre) for view, centre in work.centres.items()}
    sums = work.empty_sums()
    with work.task.team.together():
        for seen, labels, _ in work.views(work.train, "refining"):
            for view, rows in seen.items():
                moments[view].update(rows)
                sums[view].update(rows, labels)
    # The more samples there are for each feature, the less has to be smoothed away.
    ridges = [float(f"{ridge * min(1.0, 2 * FEATURES / n):.2g}") for ridge in RIDGES]
    for view in list(moments):
        work.covariances[view] = moments.pop(view).covariance(ridges, work.task.team)
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
    work: Work,
    fitted: dict[Candidate, Linear],
    judged: Judged,
    own: Sequence[str],
    before: Sequence[Tensor] | None,
) -> tuple[dict[View, ClassSums], list[Tensor], float]:
    """Run the training data once: sums with the labels that the best candidates agree on.

    Returns the sums, the labels that the layers say of each batch, and the share of these that
    changed.
    """
    # The input decides for itself: as a control it must not know what the network knows. The
    # layers come last: their labels are returned.
    others = {view.layer for view in work.centres} - set(own)
    voters = []
    for group in (others, own):
        if group:
            some = judged.best(group, VOTERS)
            voters.append((set(group), as_one(some, judged.spreads_of(some), fitted)))
    sums = work.empty_sums()
    found: list[Tensor] = []
    changed = n = 0
    with work.task.team.together():
        for number, (seen, given, _) in enumerate(work.views(work.train, "refining")):
            for group, together in voters:
                decoded = said(seen, together)
                for view, rows in seen.items():
                    if view.layer in group:
                        sums[view].update(rows, decoded)
            found.append(decoded.cpu())
            changed += int((found[-1] != (given if before is None else before[number])).sum())
            n += len(given)
    parts = work.task.team.gather((changed, n))
    share = sum(part[0] for part in parts) / max(1, sum(part[1] for part in parts))
    return sums, found, share


def _result(
    work: Work,
    offers: dict[str, Offer],
    chosen: Offer,
    fitted: dict[Candidate, Linear],
    worth: dict[Candidate, float],
    clean: bool,
    held: bool,
    noise: Noise | None,
    beside: Estimates | None,
    why: str,
) -> Refined:
    decoders = {}
    for place, offer in offers.items():
        calibration = calibrate(offer.scores, offer.given)
        made = []
        for each, spread in zip(offer.members, offer.spreads, strict=True):
            estimator = RidgeDiscriminant(
                ridge=each.ridge, n_features=each.n_features, seed=work.task.seed
            )
            temperature = calibration.temperature / spread
            estimator.set_fitted(fitted[each], work.maps[each.view], temperature)
            made.append(Member(each.layer, estimator))
        decoders[place] = CombinedDiscriminant(made)
    _, found = chosen.noise(work.task.seed)
    agreement, n = float(chosen.agrees.mean()), len(chosen.given)
    if noise is not None:
        beyond = max(noise.beyond_chance, found.beyond_chance) if held else noise.beyond_chance
        if not held or _width(noise) < _width(found):
            found = noise.of_decoder(agreement, n)
        found = replace(found, beyond_chance=beyond)
    return Refined(
        _key(chosen.place), decoders, chosen.members, fitted, worth, clean,
        "holdout" if held else "training data", agreement, n, found, work, beside, why,
    )  # fmt: skip


def _width(noise: Noise) -> float:
    """Return how far the rate's interval reaches; none of few samples is narrow, not even at 0."""
    return max(noise.rate_high - noise.rate_low, 1 / float(np.sqrt(noise.n)))
