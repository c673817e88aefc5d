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

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .greedy import STEPS, Scores, grown, thinned
from .likelihood import Likely
from .memorisation import Memory, corrected, from_memory

__all__ = ["Reader", "remembered_by", "select_readers"]


class Reader(NamedTuple):
    """A candidate's place, and whether it reads perturbed rows."""

    candidate: int
    moved: bool


class _Worth:
    """What an ensemble of readers is worth, with ρ as large as it may be or as is likely."""

    def __init__(self, scores: Scores, memory: Memory, transitions: Tensor | None, survival: float):
        some = thinned(scores)
        self.memory, self.survival, self.labels = memory, survival, some.labels
        # Where nothing can be remembered nothing is to be corrected.
        moved = [
            (some.plain if at in memory.own else some.moved)[at] for at in range(len(some.plain))
        ]
        self.rows = [Likely(each, some.labels, transitions) for each in (some.plain, moved)]
        self.held: list[Likely | None] = [None, None]
        if some.held is not None:
            self.held = [
                Likely(each, some.held, transitions) if each else None
                for each in (some.holdout, some.held_moved)
            ]
        self.weight = memory.weight if self.held[0] is not None else 0.0
        shares = torch.bincount(self.labels).double() / max(1, len(self.labels))
        self.nothing = float(torch.xlogy(shares, shares).sum())
        self._known: dict[tuple[int, ...], float] = {}

    def remembered(self, readers: Sequence[Reader]) -> float:
        """Return the share of labels that readers, at least one, say from memory."""
        known, new = self._shares(readers)
        return (1 - self.weight) * known + self.weight * new

    def _shares(self, readers: Sequence[Reader]) -> tuple[float, float]:
        """Return what is remembered by the training data alone, and by the hold-out."""
        said = self._said(self.rows, readers)
        agrees = _share_of(said, self.labels)
        alone = held = 0.0
        if self.weight < 1 and self.memory.contradicted is not None:
            # Both err upwards: what a perturbation costs is taken for memory, and so is what a
            # layer knows more than that which contradicts.
            repeated = self.memory.contradicted.remembered(said)
            alone = min(repeated, from_memory(agrees, max(0.0, self._new(readers))))
        if self.weight:
            there = self.held[0]
            assert there is not None
            right = _share_of(self._said(self.held, readers), there.labels)
            held = from_memory(agrees, right)
        return alone, held

    def _said(self, views: Sequence[Likely | None], readers: Sequence[Reader]) -> Tensor:
        """Return what readers say together, each of the rows that it reads."""
        total = _summed(views, readers)
        assert total is not None
        return total.argmax(1)

    def _new(self, readers: Sequence[Reader]) -> float:
        """Return how often labels of new inputs are predicted, corrected for memory."""
        members = tuple(sorted(at for at, _ in readers))
        if members not in self._known:
            plain, moved = (
                _share_of(view.summed(members).argmax(1), self.labels) for view in self.rows
            )
            self._known[members] = corrected(plain, moved, self.survival)
        return self._known[members]

    def each(self, tried: Sequence[Reader], chosen: Sequence[Reader]) -> list[float]:
        """Return what the chosen readers are worth with one more, of each that is tried."""
        worth = [0.0] * len(tried)
        shares = [self._shares([*chosen, reader]) for reader in tried]
        if self.weight < 1:
            # The same whichever rows a reader reads.
            candidates = list(dict.fromkeys(at for at, _ in tried))
            plain, moved = (
                view.of(candidates, view.summed([at for at, _ in chosen]) if chosen else None)
                for view in self.rows
            )
            likely = corrected(plain, moved, self.survival).flatten(1).amax(1).tolist()
            gains = dict(zip(candidates, likely, strict=True))
            for place, ((at, _), (alone, _)) in enumerate(zip(tried, shares, strict=True)):
                worth[place] += (1 - self.weight) * _hidden(gains[at] - self.nothing, alone)
        if self.weight:
            before = _summed(self.held, chosen)
            for moved_too, view in enumerate(self.held):
                places = [at for at, reader in enumerate(tried) if reader.moved == bool(moved_too)]
                if view is None or not places:
                    continue
                found = view.of([tried[place].candidate for place in places], before)
                for place, gain in zip(places, found.flatten(1).amax(1).tolist(), strict=True):
                    hidden = _hidden(gain - self.nothing, shares[place][1])
                    worth[place] += self.weight * hidden
        return worth


def _summed(views: Sequence[Likely | None], readers: Sequence[Reader]) -> Tensor | None:
    """Return the summed scores of readers, each of the rows that it reads; None without any."""
    total: Tensor | None = None
    for at, moved in readers:
        view = views[moved]
        assert view is not None
        total = view.scores[at] if total is None else total + view.scores[at]
    return total


def _share_of(answers: Tensor, labels: Tensor) -> float:
    return float((answers == labels).double().mean())


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

    return grown(tried, criterion.each, most)[0]


def remembered_by(readers: Sequence[Reader], scores: Scores, memory: Memory) -> float:
    """Return the share of labels that readers together say from memory, as is likely."""
    if not readers:
        return 0.0
    return _Worth(scores, memory, None, memory.likely).remembered(readers)
