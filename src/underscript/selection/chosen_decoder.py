"""Chooses the decoder: an ensemble, its prediction for every training label, and its certainty."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..activations.perturbation import Perturbation
from ..activations.stream import stream
from ..data.source import Source
from ..noise.estimate import Noise
from ..noise.margins import evidence_of_margins
from ..noise.posterior import came_from, odds_of_labels, with_memory
from ..probes.discriminant import Linear, RidgeDiscriminant
from ..probes.ensemble import COMBINED, CombinedDiscriminant, Member
from ..probes.random_features import FourierFeatures
from ..utils.notes import Notes
from .budget import give_back
from .calibration import estimate
from .candidates import Fits, Settings, fit_candidates
from .choice import Key, Score, Selection
from .fitting import Candidate
from .greedy import Criterion
from .kept_rows import FOLDS, KeptRows
from .log_odds_lookup import LogOdds, OutOfFoldLogOdds, SampleLookup
from .measured_memory import measure_memory
from .memorisation import Memory, without_memory
from .out_of_fold import AnotherView, gathered_values, out_of_fold_values
from .readers import Reader, remembered_by, select_readers
from .reading import Held, keep_holdout
from .replay import Replay
from .task import Decoders, Task

__all__ = ["Chosen", "MemorySurvivesError", "auto_key", "choose", "combined"]

# A hold-out with fewer samples than this for each class chooses nothing.
_PER_CLASS = 2
# The probabilities of this many samples are computed at once.
_AT_ONCE = 2048
# Members of the ensemble of one layer.
_OF_LAYER = 3


@dataclass
class Chosen:
    """The decoder that `choose` returns.

    Attributes
    ----------
    key : Key
        Its name in tables.
    decoders : dict of str to CombinedDiscriminant
        The best of each layer, and of all together.
    members : dict of str to tuple of Candidate
        The members of each of these ensembles.
    readers : tuple of (Candidate, bool)
        The ensemble for training labels: each reads rows as they are, or perturbed ones (true).
    criterion : {"holdout", "training data"}
        Which labels the choice rests on.
    agreement, n : float, int
        The share of noisy labels that it predicts, of n samples whose labels it has not seen.
    noise : Noise
        How noisy labels are, and how right the decoder is.
    memory : pandas.DataFrame
        The memory meter: `layer`, `plain`, `perturbed`, `holdout`, `corrected`: agreement with
        given labels, out of fold.
    survival : Memory
        How much memory survives the perturbation.
    odds : LogOdds
        Of this process's training samples, out of fold, in the order of the data.
    fits : Fits
        All candidates.
    kept : KeptRows
        The rows of the training data.
    held : Held or None
        The rows of the hold-out, all of them.
    """

    key: Key
    decoders: dict[str, CombinedDiscriminant]
    members: dict[str, tuple[Candidate, ...]]
    readers: tuple[tuple[Candidate, bool], ...]
    criterion: str
    agreement: float
    n: int
    noise: Noise
    memory: pd.DataFrame
    survival: Memory
    odds: LogOdds
    fits: Fits
    kept: KeptRows
    held: Held | None
    task: Task
    network: nn.Module

    def keyed(self, layers: Sequence[str]) -> Decoders:
        """Return the decoders of some layers and of all together, by their names in tables."""
        places = [*layers, *(place for place in self.decoders if place == COMBINED)]
        return {auto_key(place): self.decoders[place] for place in places if place in self.decoders}

    @property
    def selection(self) -> Selection:
        """The choice and why."""
        noise, survival = self.noise, self.survival
        members = [str(member) for member in dict.fromkeys(self.members[self.key.layer])]
        reason = (
            f"{len(members)} discriminants together ({'; '.join(members)})"
            if len(members) > 1
            else f"A {members[0]}"
        )
        if self.criterion == "holdout":
            reason += f", chosen by {self.n:,} noisy labels of a hold-out"
            if survival.weight < 1:
                reason += " and by perturbed training inputs"
        else:
            reason += ", chosen by labels of training inputs that their fits had not seen"
        if survival.survival:
            reason += f", corrected for at most {survival.survival:.0%} of memory that survive"
        if noise.hopeless:
            reason += "; but the labels say no more than chance: nothing can be decoded from them."
        else:
            reason += (
                f"; estimated to be right for {noise.accuracy:.1%} ({noise.accuracy_low:.1%} to "
                f"{noise.accuracy_high:.1%}), with {noise.rate:.1%} of the labels wrong "
                f"({noise.rate_low:.1%} to {noise.rate_high:.1%})"
            )
            reason += ": there is nothing to repair." if noise.nothing_wrong else "."
        score = Score(self.key, self.agreement, self.n)
        return Selection(self.key, self.criterion, score, None, reason)

    @property
    def reader_descriptions(self) -> list[str]:
        """Describe the ensemble for training labels, one text for each member."""
        rows = {False: "read on inputs as they are", True: "read on perturbed inputs"}
        return [f"{candidate}, {rows[moved]}" for candidate, moved in dict.fromkeys(self.readers)]

    @property
    def out_of_fold(self) -> OutOfFoldLogOdds:
        """Out-of-fold log-odds of the training data, to be looked up in a later pass."""
        return OutOfFoldLogOdds(self.odds, self._known)

    @cached_property
    def _known(self) -> SampleLookup:
        return SampleLookup(self.kept.fingerprints, self.kept.index)

    def replay(self, role: str) -> Replay | None:
        """Return the kept rows of the training data or the hold-out, if there are any."""
        if not self.kept.replays:
            return None
        if role == "train":
            return Replay(self.kept, self._known, self.task.device)
        if role == "holdout" and self.held is not None:
            rows = self.held.kept
            return Replay(rows, SampleLookup(rows.fingerprints, rows.index), self.task.device)
        return None

    def candidates(self, test: Source | None) -> pd.DataFrame:
        """Return every candidate, with its accuracy on test data if there are any.

        Test data choose nothing; they show what the choice cost.

        Returns
        -------
        pandas.DataFrame
            `round`, `layer`, `n_features`, `perturbed`, `ridge`, `criterion` (agreement with noisy
            labels of new inputs, as estimated), `chosen` and `test_accuracy` (0 to 1, or missing).
        """
        right = torch.zeros(len(self.fits.candidates))
        n = 0
        if test is not None:
            with self.task.processes.together():
                for labels, predicted, _ in self.predictions(test):
                    n += len(labels)
                    right += (predicted == labels).sum(1)
            parts = self.task.processes.gather((right, n))
            n = sum(part[1] for part in parts)
            right = torch.stack([part[0] for part in parts]).sum(0)
        agreement = _estimated_agreement(self.survival)
        return pd.DataFrame(
            [
                {
                    **candidate._asdict(),
                    "criterion": float(agreement[at]),
                    "chosen": candidate in self.members[self.key.layer],
                    "test_accuracy": float(right[at]) / n if n else np.nan,
                }
                for at, candidate in enumerate(self.fits.candidates)
            ]
        )

    def predictions(self, source: Source) -> Iterator[tuple[Tensor, Tensor, Mapping[str, Tensor]]]:
        """Yield labels (n,), the classes that each candidate predicts (m, n), and rows by layer."""
        fits, task = self.fits, self.task
        for rows in stream(
            self.network,
            source,
            task.taps,
            task.device,
            stage="trying all candidates",
            progress=task.progress,
        ):
            labels = torch.from_numpy(task.given(rows.batch, source))
            predicted = torch.empty(len(fits.fitted), len(labels), dtype=torch.int64)
            seen: dict[tuple[str, int], Tensor] = {}
            for at, (candidate, fitted) in enumerate(fits.fitted.items()):
                view = candidate.layer, candidate.n_features
                if view not in seen:
                    layer_rows = rows.layers[candidate.layer].float()
                    if view[1]:
                        layer_rows = fits.features[candidate.layer](layer_rows)
                    seen = {view: layer_rows}
                predicted[at] = fits.classes[fitted.whole(seen[view]).argmax(1).cpu()]
            yield labels, predicted, rows.layers


class MemorySurvivesError(Exception):
    """Most of what the network memorised survives the perturbation; see `choose`."""


def auto_key(layer: str) -> Key:
    """Return the name in tables of the decoder that was chosen at a layer."""
    return Key(layer, "auto", None, "corrupted")


def choose(
    network: nn.Module,
    task: Task,
    kept: KeptRows,
    holdout: Source | None,
    perturbation: Perturbation | None,
    notes: Notes,
    chosen_from: Sequence[str],
    settings: Settings | None = None,
    *,
    remembers: bool = True,
    settles: bool = True,
) -> Chosen:
    """Fit candidates to every layer, and choose an ensemble of them with noisy labels only.

    Parameters
    ----------
    network : torch.nn.Module
        The network; it is run, not changed.
    task : Task
        The layers and how they are read.
    kept : KeptRows
        This process's rows of the training data, as they are and perturbed.
    holdout : Source or None
        Data with noisy labels that the network was not trained on: this process's share.
    perturbation : Perturbation or None
        How inputs were changed.
    notes : Notes
        Collects what a user should know.
    chosen_from : sequence of str
        Layers that may be chosen.
    settings : Settings, optional
        What is tried.
    remembers : bool
        Whether the network may have memorised labels; an untrained one has not.
    settles : bool
        Whether to choose even if nothing tells what the network memorised from what it knows.

    Raises
    ------
    MemorySurvivesError
        If most memory survives the perturbation, and there is no hold-out; unless it `settles`.
    """
    settings = settings or Settings()
    read = None if holdout is None else keep_holdout(network, task, holdout, perturbation, kept)
    held = None if read is None else _checked(read, kept, task, notes)
    fits_views = perturbation is not None and perturbation.fits
    fits = fit_candidates(kept, held, task, fits_views, settings)
    task.progress.begin("choosing an ensemble")
    most = task.room.estimates
    another = AnotherView(fits, kept, task) if perturbation and kept.views > 2 else None
    memory = measure_memory(fits, perturbation is not None, most, another)
    if memory.survives and not settles:
        raise MemorySurvivesError
    layers = [each.layer for each in fits.candidates]
    scores = fits.scores
    eligible = [at for at, layer in enumerate(layers) if layer in chosen_from]
    separable = perturbation is not None or held is not None or not remembers
    separable |= set(layers) == {"input"}
    if separable:
        criterion = Criterion.of(scores, memory.in_likelihoods, memory.trust, memory.free)
        wrong = criterion.likeliest_noise(eligible)
        criterion = criterion.drawn_by(wrong)
        weight = criterion.weight_by_cross_fitting(eligible)
        memory = replace(memory, weight=weight)
        criterion = replace(criterion, trust=weight)
        members, _ = criterion.ensemble(eligible)
        readers = select_readers(scores, memory, eligible, wrong)
    else:
        notes.add(
            "nothing tells memory from knowledge: inputs are not perturbed and there is no "
            "hold-out, so all layers answer together. Give a hold-out, or a perturbation"
        )
        members = _one_per_layer(fits, eligible)
        readers = [Reader(at, False) for at in members]
    values = out_of_fold_values(fits, kept, readers, task)
    remembered = remembered_by(readers, scores, memory)
    averaged = gathered_values(values, kept, fits, task)
    estimates = estimate(
        scores, memory, members, averaged, [at for at, _ in readers], remembered, task.seed, most
    )
    noise, temperature = estimates.noise.over(fits.classes, task.n_classes), estimates.temperature
    decoders, made_of = {}, {}
    for layer in dict.fromkeys(layers):
        among = [at for at, other in enumerate(layers) if other == layer]
        of_layer = among[:1]
        if separable:
            of_layer, _ = criterion.ensemble(among, _OF_LAYER)
        made_of[layer] = tuple(fits.candidates[at] for at in of_layer)
        decoders[layer] = combined(fits, made_of[layer], temperature, None, task)
    alone = {layers[at] for at in members}
    place = alone.pop() if len(alone) == 1 else COMBINED
    made_of[place] = tuple(fits.candidates[at] for at in members)
    decoders[place] = combined(fits, made_of[place], temperature, estimates.bias, task)
    places = torch.cat([kept.part(fold).places for fold in range(FOLDS)])
    ordered = torch.full((len(values), task.n_classes), -torch.inf)
    parts = (torch.split(each, _AT_ONCE) for each in (places, values))
    for at, some in zip(*parts, strict=True):
        odds = some * estimates.out_of_fold_temperature + estimates.out_of_fold_bias
        ordered[at[:, None], fits.classes] = odds.float()
    del values, averaged
    of_labels = odds_of_labels(ordered, kept.labels, came_from(noise))
    noise = with_memory(of_labels, noise, task.processes)
    of_labels -= noise.remembered
    margins = kept.margins
    if margins is not None and remembers and not noise.hopeless:
        by_margins = evidence_of_margins(margins, of_labels, task.processes)
    else:
        by_margins = torch.zeros_like(of_labels)
    agreement, n = _agreement(fits, memory, members)
    # The choice is made; what follows needs the weights alone.
    fits.scores = replace(
        fits.scores, plain=[], moved=[], holdout=[], held_moved=[], labels=fits.scores.labels[:0]
    )
    if separable:
        del criterion
    del scores
    give_back()
    return Chosen(
        key=auto_key(place),
        decoders=decoders,
        members=made_of,
        readers=tuple((fits.candidates[at], moved) for at, moved in readers),
        criterion="training data" if memory.holdout is None else "holdout",
        agreement=agreement,
        n=n,
        noise=noise,
        memory=_meter(fits, memory),
        survival=memory,
        odds=LogOdds(ordered, by_margins),
        fits=fits,
        kept=kept,
        held=read,
        task=task,
        network=network,
    )


def _checked(held: Held, kept: KeptRows, task: Task, notes: Notes) -> Held | None:
    """Return the hold-out if it can choose; note what is wrong with it."""
    processes = task.processes
    given = torch.cat([kept.part(fold).labels for fold in range(FOLDS)])
    occurs = processes.total(torch.bincount(given, minlength=task.n_classes)) > 0
    counts = processes.total(torch.bincount(held.labels, minlength=task.n_classes))
    if int(unknown := counts[~occurs].sum()):
        notes.add(
            f"holdout: {unknown} of its samples have labels that no training sample has: they "
            "choose nothing"
        )
        held, counts = held.take(occurs[held.labels]), counts * occurs
    some = int((counts > 0).sum())
    n, least = int(counts.sum()), _PER_CLASS * task.n_classes
    if some < 2 or n < least:
        what = "one class" if some < 2 else f"{n} samples"
        notes.add(
            f"holdout: {what} cannot choose (expected at least 2 classes and {least} samples); "
            "chosen with the training data alone"
        )
        return None
    missing = torch.nonzero(counts == 0)[:, 0].tolist()
    if missing:
        notes.add(
            f"holdout: no sample is labelled {', '.join(map(str, missing[:5]))}"
            f"{' and others' if len(missing) > 5 else ''}: how well these classes are decoded "
            "chooses nothing"
        )
    return held


def _one_per_layer(fits: Fits, among: Sequence[int]) -> list[int]:
    """Return each layer's candidate that is fitted to the given labels with the largest ridge."""
    best: dict[str, int] = {}
    for at in among:
        candidate = fits.candidates[at]
        if candidate.round or candidate.perturbed:
            continue
        best[candidate.layer] = at
    return list(best.values())


def _estimated_agreement(memory: Memory) -> Tensor:
    """Return each candidate's agreement with noisy labels of new inputs, as estimated."""
    of_training = memory.expected
    if memory.holdout is None:
        return of_training
    return memory.weight * memory.holdout + (1 - memory.weight) * of_training


def _agreement(fits: Fits, memory: Memory, members: Sequence[int]) -> tuple[float, int]:
    """Return an ensemble's agreement with noisy labels of new inputs, and the number of these."""
    scores = fits.scores
    if scores.held is not None:
        together = sum(scores.holdout[at] for at in members)
        agreed = (together.argmax(1) == scores.held).double()  # type: ignore[union-attr]
        return float(agreed.mean()), len(agreed)
    shares = [
        (sum(each[at] for at in members).argmax(1) == scores.labels).double().mean()  # type: ignore[union-attr]
        for each in (scores.plain, scores.moved)
    ]
    agreement = float(without_memory(shares[0], shares[1], memory.survival, memory.lost))
    return max(0.0, agreement), len(scores.labels)


def combined(
    fits: Fits,
    members: Sequence[Candidate],
    temperature: float,
    bias: Tensor | None,
    task: Task,
) -> CombinedDiscriminant:
    """Return an ensemble as one discriminant for each view: the same predictions at less cost."""
    views: dict[tuple[str, int], list[Candidate]] = {}
    for candidate in members:
        views.setdefault((candidate.layer, candidate.n_features), []).append(candidate)
    made: list[Member] = []
    for (layer, n_features), some in views.items():
        weights, offsets = None, None
        for candidate in some:
            fitted = fits.fitted[candidate]
            part = fitted.whole.coefficients / fitted.spread
            offset = fitted.whole.intercepts / fitted.spread
            weights = part if weights is None else weights + part
            offsets = offset if offsets is None else offsets + offset
        assert weights is not None
        assert offsets is not None
        if bias is not None and not made:
            offsets = offsets + (bias / temperature).to(offsets)
        features: FourierFeatures | None = fits.features[layer] if n_features else None
        linear = _expanded(Linear(weights, offsets), fits.classes, task.n_classes)
        ridge = RidgeDiscriminant(ridge=some[0].ridge, n_features=n_features, seed=task.seed)
        made.append(Member(layer, ridge.set_fitted(linear, features, temperature)))
    return CombinedDiscriminant(made)


def _expanded(linear: Linear, classes: Tensor, n_classes: int) -> Linear:
    """Return a discriminant of the classes that occur as one of all; it never predicts others."""
    weights = linear.coefficients.new_zeros(n_classes, linear.coefficients.shape[1])
    offsets = linear.intercepts.new_full((n_classes,), -torch.inf)
    at = classes.to(weights.device)
    weights[at], offsets[at] = linear.coefficients.float(), linear.intercepts.float()
    return Linear(weights, offsets)


def _meter(fits: Fits, memory: Memory) -> pd.DataFrame:
    """Return the memory meter: agreement of each layer's plain discriminant with labels."""
    rows: dict[str, dict[str, Any]] = {}
    expected = memory.expected
    for at, candidate in enumerate(fits.candidates):
        if candidate.perturbed or candidate.round or candidate.layer in rows:
            continue
        rows[candidate.layer] = {
            "layer": candidate.layer,
            "plain": float(memory.plain[at]),
            "perturbed": float(memory.moved[at]),
            "holdout": np.nan if memory.holdout is None else float(memory.holdout[at]),
            "corrected": float(expected[at].clamp(0, 1)),
        }
    return pd.DataFrame(list(rows.values()))
