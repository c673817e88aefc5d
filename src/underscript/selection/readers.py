r"""Chooses the readers: the ensemble that predicts what training labels should be.

The best ensemble for new inputs may be the wrong one here. Training samples were memorised, and a
label that a candidate repeats from memory says nothing new and hides what the candidate knows. A
layer that memorises nothing is best read on inputs as they are, as a perturbation costs knowledge.
So each reader is a candidate, on plain or on perturbed rows. The score of an ensemble of readers is

.. math:: (1 - m) (L - L_0).

L is the mean log-likelihood of labels of new inputs, L₀ that without any knowledge, and m the share
of training labels that are predicted from memory. With a hold-out, L is the likelihood there, and m
is how much lower agreement is there. With the training data alone, L is corrected for memory (see
`memorisation`). Then m is the smaller of two numbers: how much the correction lowers agreement, and
how often labels are repeated that a reference takes for wrong.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .greedy import STEPS, Scores, grown, of_new_inputs, thinned
from .likelihood import Likely
from .memorisation import Memory, from_memory, without_memory

__all__ = ["Reader", "remembered_by", "select_readers"]


class Reader(NamedTuple):
    """A candidate's place, and whether it reads perturbed rows."""

    candidate: int
    moved: bool


class _Objective:
    """The score of an ensemble of readers, for a given ρ."""

    def __init__(self, scores: Scores, memory: Memory, transitions: Tensor | None, survival: float):
        some = thinned(scores)
        self.memory, self.survival, self.labels = memory, survival, some.labels
        self.rows = [Likely(each, some.labels, transitions) for each in (some.plain, some.moved)]
        self.held: list[Likely | None] = [None, None]
        if some.held is not None:
            self.held = [
                Likely(each, some.held, transitions) if each else None
                for each in (some.holdout, some.held_moved)
            ]
        self.weight = memory.weight if self.held[0] is not None else 0.0
        shares = torch.bincount(self.labels).double() / max(1, len(self.labels))
        self.uninformed = float(torch.xlogy(shares, shares).sum())
        self._known: dict[tuple[int, ...], float] = {}

    def remembered(self, readers: Sequence[Reader]) -> float:
        """Return the share of labels that readers, at least one, predict from memory."""
        known, new = self._shares(readers)
        return (1 - self.weight) * known + self.weight * new

    def _shares(self, readers: Sequence[Reader]) -> tuple[float, float]:
        """Return the remembered share, estimated with the training data alone, and the hold-out."""
        predicted = self._predicted(self.rows, readers)
        agrees = _agreement(predicted, self.labels)
        alone = held = 0.0
        if self.weight < 1 and self.memory.reference is not None:
            # Both are upper bounds: one counts what a perturbation costs as memory, the other what
            # a layer knows more than the reference.
            reference = self.memory.reference
            repeated = reference.remembered(predicted[:: reference.every])
            alone = min(repeated, from_memory(agrees, self._new(readers)))
        if self.weight:
            there = self.held[0]
            assert there is not None
            right = _agreement(self._predicted(self.held, readers), there.labels)
            held = from_memory(agrees, right)
        return alone, held

    def _predicted(self, views: Sequence[Likely | None], readers: Sequence[Reader]) -> Tensor:
        """Return the readers' joint predictions, each from the rows that it reads."""
        total = _summed(views, readers)
        assert total is not None
        return total.argmax(1)

    def _new(self, readers: Sequence[Reader]) -> float:
        """Return how often labels of new inputs are predicted, corrected for memory."""
        members = tuple(sorted(at for at, _ in readers))
        if members not in self._known:
            plain, moved = (
                _agreement(view.summed(members).argmax(1), self.labels) for view in self.rows
            )
            self._known[members] = without_memory(plain, moved, self.survival, self.memory.lost)
        return self._known[members]

    def values(self, tried: Sequence[Reader], chosen: Sequence[Reader]) -> list[float]:
        """Return the score of the chosen readers with each tried one added."""
        values = [0.0] * len(tried)
        shares = [self._shares([*chosen, reader]) for reader in tried]
        if self.weight < 1:
            # The gain does not depend on which rows a reader reads.
            candidates = list(dict.fromkeys(at for at, _ in tried))
            plain, moved = self.rows
            members, free = [at for at, _ in chosen], self.memory.free
            survival = self.memory.in_likelihoods
            new = of_new_inputs(plain, moved, candidates, members, survival, free)
            likely = new.flatten(1).amax(1).tolist()
            gain_of = dict(zip(candidates, likely, strict=True))
            for place, ((at, _), (alone, _)) in enumerate(zip(tried, shares, strict=True)):
                values[place] += (1 - self.weight) * _discounted(
                    gain_of[at] - self.uninformed, alone
                )
        if self.weight:
            before = _summed(self.held, chosen)
            for moved_too, view in enumerate(self.held):
                places = [at for at, reader in enumerate(tried) if reader.moved == bool(moved_too)]
                if view is None or not places:
                    continue
                likelihoods = view.of([tried[place].candidate for place in places], before)
                gains = likelihoods.flatten(1).amax(1).tolist()
                for place, gain in zip(places, gains, strict=True):
                    discounted = _discounted(gain - self.uninformed, shares[place][1])
                    values[place] += self.weight * discounted
        return values


def _summed(views: Sequence[Likely | None], readers: Sequence[Reader]) -> Tensor | None:
    """Return the readers' summed scores, each for the rows that it reads; None without readers."""
    total: Tensor | None = None
    for at, moved in readers:
        view = views[moved]
        assert view is not None
        total = view.scores[at] if total is None else total + view.scores[at]
    return total


def _agreement(predicted: Tensor, labels: Tensor) -> float:
    return float((predicted == labels).double().mean())


def _discounted(gain: float, share: float) -> float:
    """Return a likelihood's gain less the share of it that memory hides."""
    return gain * (1 - share) if gain > 0 else gain


def select_readers(
    scores: Scores,
    memory: Memory,
    among: Collection[int],
    transitions: Float[Tensor, "classes classes"] | None = None,
    most: int = STEPS,
) -> list[Reader]:
    """Return the best readers, some of them several times, added as long as the score rises.

    Parameters
    ----------
    scores : Scores
        Of all candidates.
    memory : Memory
        How much candidates memorise.
    among : collection of int
        Places of the candidates.
    transitions : Tensor of float64, shape (K, K), optional
        How labels go wrong, if it depends on the class.
    most : int
        Readers at most.
    """
    criterion = _Objective(scores, memory, transitions, memory.survival)
    # If the hold-out alone counts, readers of perturbed rows need a perturbed hold-out.
    views = (False, True) if memory.weight < 1 or scores.held_moved else (False,)
    tried = [Reader(at, moved) for moved in views for at in among]
    return grown(tried, criterion.values, most)[0]


def remembered_by(readers: Sequence[Reader], scores: Scores, memory: Memory) -> float:
    """Return the likeliest share of labels that readers together predict from memory."""
    if not readers:
        return 0.0
    return _Objective(scores, memory, None, memory.likely).remembered(readers)
