r"""Which candidates say what training labels should be: another question than who knows most.

A new input was never memorised; a training sample was. What a candidate remembers of a label says
nothing new of it, and hides what the candidate knows. So those that know most may be the wrong ones
here, and a layer that remembers nothing is best read on inputs as they are, which lose nothing by a
perturbation. Readers are candidates, each on plain or on perturbed rows; together they are worth

.. math:: (L - L_0) + m L_0,

the mean log-likelihood L of given labels beyond that without any knowledge, L₀, less what memory
adds to it at most: a remembered label has the likelihood 1. m is the share of labels that are
remembered: with a hold-out, what agreement falls by there; by the training data alone, what it
falls by when corrected for memory, or how often labels are repeated that the layer contradicts
which remembers least (see `memory`), whichever is less.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .greedy import STEPS, TRIED, Scores, likelihoods, thinned
from .memory import Memory, corrected

__all__ = ["Reader", "remembered_by", "select_readers"]


class Reader(NamedTuple):
    """A candidate's place, and whether it reads perturbed rows."""

    candidate: int
    moved: bool


class _Sums(NamedTuple):
    """Summed scores of training samples, and of a hold-out if there is one.

    As they are read, with all views where perturbed ones are; the same with one view, as the
    hold-out has; all as inputs are; all perturbed.
    """

    read: Tensor
    once: Tensor
    plain: Tensor
    moved: Tensor
    held: Tensor | None

    def plus(self, other: "_Sums") -> "_Sums":
        mine, others = self[:4], other[:4]
        held = None if self.held is None or other.held is None else self.held + other.held
        return _Sums(*(a + b for a, b in zip(mine, others, strict=True)), held)


class _Criterion:
    """What an ensemble of readers is worth, with ρ as large as it may be or as is likely."""

    def __init__(self, scores: Scores, memory: Memory, transitions: Tensor | None, survival: float):
        self.scores, self.memory, self.transitions = thinned(scores), memory, transitions
        self.labels, self.survival = self.scores.labels, survival
        shares = torch.bincount(self.labels).double() / max(1, len(self.labels))
        self.nothing = float(torch.xlogy(shares, shares).sum())

    def sums(self, readers: Iterable[Reader]) -> _Sums:
        """Return the summed scores of readers, at least one."""
        total: _Sums | None = None
        scores = self.scores
        for at, moved in readers:
            views = scores.plain[at], scores.moved[at]
            held = scores.held_moved if moved else scores.holdout
            read = (scores.averaged or scores.moved)[at] if moved else views[0]
            mine = _Sums(read, views[moved], *views, held[at] if held else None)
            total = mine if total is None else total.plus(mine)
        assert total is not None
        return total

    def remembered(self, sums: _Sums) -> float:
        """Return the share of labels that are remembered."""
        memory = self.memory
        agrees = self._agrees(sums.once)
        weight = memory.weight if sums.held is not None else 0.0
        found = 0.0
        if weight < 1 and memory.contradicted is not None:
            # Both err upwards: what a perturbation costs is taken for memory, and so is what a
            # layer knows more than that which contradicts.
            new = corrected(self._agrees(sums.plain), self._agrees(sums.moved), self.survival)
            said = memory.contradicted.remembered(sums.once.argmax(1))
            found = (1 - weight) * min(said, _beyond(agrees, max(0.0, new)))
        if weight:
            assert sums.held is not None
            new = float((sums.held.argmax(1) == self.scores.held).double().mean())
            found += weight * _beyond(agrees, new)
        return found

    def worth(self, sums: _Sums) -> float:
        """Return what an ensemble's summed scores are worth."""
        likely = float(likelihoods(sums.read, self.labels, self.transitions).max())
        return likely - self.nothing + self.remembered(sums) * self.nothing

    def _agrees(self, scores: Tensor) -> float:
        return float((scores.argmax(1) == self.labels).double().mean())


def _beyond(agrees: float, new: float) -> float:
    """Return the share of samples whose label is said from memory, by agreement there and anew."""
    return max(0.0, agrees - new) / (1 - new) if new < 1 else 0.0


def select_readers(
    scores: Scores,
    memory: Memory,
    among: Collection[int],
    transitions: Float[Tensor, "classes classes"] | None = None,
    most: int = STEPS,
) -> list[Reader]:
    """Return the best readers, some of them several times, added for as long as it helps.

    Parameters
    ----------
    scores : Scores
        Of all candidates; `plain` of inputs as they are, also of the input itself.
    memory : Memory
        What is known of it.
    among : collection of int
        Places of the candidates.
    transitions : Tensor of float64, shape (K, K), optional
        How labels go wrong, if it depends on the class.
    most : int
        Readers at most.
    """
    criterion = _Criterion(scores, memory, transitions, memory.survival)
    # What is read on perturbed rows needs such a hold-out beside it, if there is one at all.
    views = (False, True) if memory.weight < 1 or scores.held_moved else (False,)
    tried = [Reader(at, moved) for moved in views for at in among]
    chosen: list[Reader] = []
    total: _Sums | None = None
    now = -float("inf")
    for step in range(most):
        values = {}
        for reader in tried:
            mine = criterion.sums([reader])
            values[reader] = criterion.worth(mine if total is None else total.plus(mine))
        best = max(tried, key=values.__getitem__)
        if values[best] <= now:
            break
        if not step:
            tried = sorted(tried, key=lambda reader: -values[reader])[:TRIED]
        chosen.append(best)
        now, total = values[best], criterion.sums(chosen)
    return chosen


def remembered_by(readers: Collection[Reader], scores: Scores, memory: Memory) -> float:
    """Return the share of labels that readers together say from memory, as is likely."""
    if not readers:
        return 0.0
    criterion = _Criterion(scores, memory, None, memory.likely)
    return criterion.remembered(criterion.sums(readers))
