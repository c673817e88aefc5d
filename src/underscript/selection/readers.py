r"""Which candidates say what training labels should be: another question than who knows most.

A new input was never memorised; a training sample was. What a candidate remembers of a label says
nothing new of it, and hides what the candidate knows. So those that know most may be the wrong ones
here; and a layer that remembers nothing is best read on inputs as they are, which lose nothing by a
perturbation. Readers are candidates, each on plain or on perturbed rows. Together they are worth

.. math:: (1 - m) (L - L_0),

L the mean log-likelihood of labels of new inputs, L₀ that without any knowledge, and m the share of
training labels that are said from memory, where knowledge is hidden. With a hold-out L is the
likelihood there, and m what agreement falls by there. By the training data alone L is corrected for
memory (see `memory`), and m is what agreement falls by when corrected, or how often labels are
repeated that the layer contradicts which remembers least, whichever is less.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .greedy import STEPS, Scores, grown, likelihoods, thinned
from .memory import Memory, corrected, from_memory

__all__ = ["Reader", "remembered_by", "select_readers"]


class Reader(NamedTuple):
    """A candidate's place, and whether it reads perturbed rows."""

    candidate: int
    moved: bool


class _Sums(NamedTuple):
    """Summed scores of training samples, and of a hold-out if there is one.

    As they are read, all plain, and all perturbed.
    """

    read: Tensor
    plain: Tensor
    moved: Tensor
    held: Tensor | None

    def plus(self, other: "_Sums") -> "_Sums":
        held = None if self.held is None or other.held is None else self.held + other.held
        return _Sums(
            self.read + other.read, self.plain + other.plain, self.moved + other.moved, held
        )


class _Worth:
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
            # Where nothing can be remembered nothing is to be corrected.
            plain = scores.plain[at]
            views = plain, plain if at in self.memory.own else scores.moved[at]
            held = scores.held_moved if moved else scores.holdout
            mine = _Sums(views[moved], *views, held[at] if held else None)
            total = mine if total is None else total.plus(mine)
        assert total is not None
        return total

    def remembered(self, sums: _Sums) -> float:
        """Return the share of labels that are remembered."""
        known, new = self._shares(sums)
        weight = self._weight(sums)
        return (1 - weight) * known + weight * new

    def _weight(self, sums: _Sums) -> float:
        return self.memory.weight if sums.held is not None else 0.0

    def _shares(self, sums: _Sums) -> tuple[float, float]:
        """Return what is remembered by the training data alone, and by the hold-out."""
        agrees, weight = self._agrees(sums.read), self._weight(sums)
        alone = held = 0.0
        if weight < 1 and self.memory.contradicted is not None:
            # Both err upwards: what a perturbation costs is taken for memory, and so is what a
            # layer knows more than that which contradicts.
            new = corrected(self._agrees(sums.plain), self._agrees(sums.moved), self.survival)
            said = self.memory.contradicted.remembered(sums.read.argmax(1))
            alone = min(said, from_memory(agrees, max(0.0, new)))
        if weight:
            assert sums.held is not None
            assert self.scores.held is not None
            right = sums.held.argmax(1) == self.scores.held
            held = from_memory(agrees, float(right.double().mean()))
        return alone, held

    def worth(self, sums: _Sums) -> float:
        """Return what an ensemble's summed scores are worth."""
        weight, (alone, held) = self._weight(sums), self._shares(sums)
        found = 0.0
        if weight < 1:
            plain, moved = self._likely(sums.plain), self._likely(sums.moved)
            likely = float(corrected(plain, moved, self.survival).max())
            found += (1 - weight) * _hidden(likely - self.nothing, alone)
        if weight:
            assert sums.held is not None
            assert self.scores.held is not None
            likely = float(likelihoods(sums.held, self.scores.held, self.transitions).max())
            found += weight * _hidden(likely - self.nothing, held)
        return found

    def _likely(self, scores: Tensor) -> Tensor:
        return likelihoods(scores, self.labels, self.transitions)

    def _agrees(self, scores: Tensor) -> float:
        return float((scores.argmax(1) == self.labels).double().mean())


def _hidden(gain: float, share: float) -> float:
    """Return what is left of a likelihood's gain where a share of it is hidden by memory."""
    return gain * (1 - share) if gain > 0 else gain


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
    criterion = _Worth(scores, memory, transitions, memory.survival)
    # What is read on perturbed rows needs such a hold-out beside it, if there is one at all.
    views = (False, True) if memory.weight < 1 or scores.held_moved else (False,)
    tried = [
        Reader(at, moved) for moved in views for at in among if not (moved and at in memory.own)
    ]

    def worth(chosen: Sequence[Reader]) -> Callable[[Reader], float]:
        total = criterion.sums(chosen) if chosen else None

        def with_one(reader: Reader) -> float:
            mine = criterion.sums([reader])
            return criterion.worth(mine if total is None else total.plus(mine))

        return with_one

    return grown(tried, worth, most)[0]


def remembered_by(readers: Collection[Reader], scores: Scores, memory: Memory) -> float:
    """Return the share of labels that readers together say from memory, as is likely."""
    if not readers:
        return 0.0
    criterion = _Worth(scores, memory, None, memory.likely)
    return criterion.remembered(criterion.sums(readers))
