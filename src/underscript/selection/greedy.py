r"""Greedy ensemble selection with replacement (Caruana et al., ICML 2004), by noisy labels.

An ensemble is worth the mean log-likelihood of noisy labels of new inputs. A label is what the
ensemble says, or with probability e drawn from all K classes:
:math:`p(y | x) = (1 - e)\, \mathrm{softmax}(t s(x))_y + e / K`, with the likeliest t and e of a
grid. On perturbed training inputs it is corrected for the memory that survives, as agreement is
(see `memory`): what holds of the mean of one number a sample holds of that of any other.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["STEPS", "Scores", "select_ensemble"]

# Members of an ensemble, at most; the same candidate may be several of them.
STEPS = 8
# So many of the candidates, the best alone, are tried as further members.
_TRIED = 40
# Samples that choose, of each kind; more would change nothing but the time.
_CHOOSING = 10_000
_TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0)
_REDRAWN = tuple(step / 10 for step in range(10))


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


def likelihoods(
    scores: Float[Tensor, "n classes"], labels: Tensor
) -> Float[Tensor, "temperatures shares"]:
    """Return the mean log-likelihood of labels for each temperature and share that is redrawn.

    Temperatures are relative to the scores' own spread.
    """
    about = scores - scores.mean(1, keepdim=True)
    spread = float(about.std(correction=0)) or 1.0
    rows = []
    shares = torch.tensor(_REDRAWN, dtype=torch.float64)[:, None]
    kept, even = (1 - shares).to(scores), (shares / scores.shape[1]).to(scores)
    for temperature in _TEMPERATURES:
        chance = torch.softmax(about * (temperature / spread), 1).gather(1, labels[:, None])[:, 0]
        mixed = kept * chance + even
        rows.append(mixed.clamp_(min=1e-12).log_().mean(1))
    return torch.stack(rows).double()


class _Running:
    """The sum of an ensemble's scores of some samples."""

    def __init__(self, scores: Sequence[Tensor], labels: Tensor | None):
        self.step = 1 if labels is None else max(1, len(labels) // _CHOOSING)
        self.scores = [each[:: self.step] for each in scores]
        self.labels = torch.empty(0) if labels is None else labels[:: self.step]
        self.total = torch.zeros_like(self.scores[0]) if self.scores else torch.zeros(0)

    def with_one(self, candidate: int) -> Tensor:
        return likelihoods(self.total + self.scores[candidate], self.labels)

    def add(self, candidate: int) -> None:
        if self.scores:
            self.total = self.total + self.scores[candidate]


def select_ensemble(
    scores: Scores,
    survival: float,
    trust: float,
    among: Collection[int],
    most: int = STEPS,
) -> tuple[list[int], float]:
    """Return the members of the best ensemble of some candidates, and its mean log-likelihood.

    Members are added for as long as labels get likelier.

    Parameters
    ----------
    survival : float
        ρ, the share of memory that survives the perturbation.
    trust : float
        Weight of the hold-out beside perturbed training inputs, 0 to 1.
    among : collection of int
        Places of the candidates.
    most : int
        Members at most.
    """
    plain = _Running(scores.plain, scores.labels)
    moved = _Running(scores.moved, scores.labels)
    held = _Running(scores.holdout, scores.held)

    def worth(candidate: int) -> float:
        found = torch.zeros(len(_TEMPERATURES), len(_REDRAWN), dtype=torch.float64)
        if trust < 1:
            mine = moved.with_one(candidate)
            if survival:
                mine = (mine - survival * plain.with_one(candidate)) / (1 - survival)
            found += (1 - trust) * mine
        if trust > 0:
            found += trust * held.with_one(candidate)
        return float(found.max())

    tried = list(among)
    chosen: list[int] = []
    now = -float("inf")
    for step in range(most):
        values = {candidate: worth(candidate) for candidate in tried}
        best = max(tried, key=lambda candidate: values[candidate])
        if values[best] <= now:
            break
        if not step:
            tried = sorted(tried, key=lambda candidate: -values[candidate])[:_TRIED]
        chosen.append(best)
        now = values[best]
        for part in (plain, moved, held):
            part.add(best)
    return chosen, now
