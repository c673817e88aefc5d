"""Greedy ensemble selection with replacement (Caruana et al., ICML 2004), on noisy labels."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .memory import corrected

__all__ = ["STEPS", "Scores", "select_ensemble"]

# Members of an ensemble, at most; the same candidate may be several of them.
STEPS = 8


@dataclass(frozen=True)
class Scores:
    """Scores of all candidates, each brought to one scale, with the labels of the samples.

    Attributes
    ----------
    plain, moved : list of Tensor of float32, shape (n, K)
        Out of fold, of inputs as they are, and summed over perturbed ones.
    labels : Tensor of int64, shape (n,)
        Given labels.
    holdout : list of Tensor of float32, shape (m, K)
        Of the hold-out; empty without one.
    held : Tensor of int64, shape (m,), or None
        Its labels.
    """

    plain: list[Tensor]
    moved: list[Tensor]
    labels: Tensor
    holdout: list[Tensor]
    held: Tensor | None


class _Running:
    """The sum of an ensemble's scores, and what one more member would make of its agreement."""

    def __init__(self, scores: Sequence[Tensor], labels: Tensor | None):
        self.scores, self.labels = scores, labels
        self.total = torch.zeros_like(scores[0]) if scores else torch.zeros(0)

    def with_one(self, candidate: int) -> float:
        assert self.labels is not None
        answers = (self.total + self.scores[candidate]).argmax(1)
        return float((answers == self.labels).double().mean())

    def add(self, candidate: int) -> None:
        if self.scores:
            self.total = self.total + self.scores[candidate]


def select_ensemble(
    scores: Scores, survival: float, trust: float, among: Collection[int]
) -> tuple[list[int], float]:
    """Return the members of the best ensemble of some candidates, and its criterion.

    The criterion is the agreement with noisy labels of new inputs: on perturbed training inputs,
    corrected for the memory that survives; on the hold-out where there is one; each as far as it is
    to be trusted. Members are added for as long as it rises.

    Parameters
    ----------
    survival : float
        ρ, the share of memory that survives the perturbation.
    trust : float
        Weight of the hold-out, 0 to 1.
    among : collection of int
        Places of the candidates.
    """
    parts = [
        _Running(scores.plain, scores.labels),
        _Running(scores.moved, scores.labels),
        _Running(scores.holdout, scores.held),
    ]
    plain, moved, held = parts
    chosen: list[int] = []
    now = -1.0
    for _ in range(STEPS):
        best, value = -1, now
        for candidate in among:
            found = 0.0
            if trust < 1:
                a0 = torch.tensor(plain.with_one(candidate) if survival else 0.0)
                a = torch.tensor(moved.with_one(candidate))
                found += (1 - trust) * float(corrected(a0, a, survival))
            if trust > 0:
                found += trust * held.with_one(candidate)
            if found > value:
                best, value = candidate, found
        if best < 0:
            break
        chosen.append(best)
        now = value
        for part in parts:
            part.add(best)
    return chosen, now
