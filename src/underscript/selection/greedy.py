"""Greedy ensemble selection with replacement (Caruana et al., ICML 2004), by noisy labels.

An ensemble is worth the mean log-likelihood of noisy labels of new inputs (see `likelihood`), with
the likeliest temperature and share that is redrawn. Where labels go wrong by class, a transition
matrix is known first: otherwise labels that always go wrong the same way would be likelier the more
an ensemble doubts between the two. On perturbed training inputs the likelihood is corrected for the
memory that survives, as agreement is (see `memory`): what holds of the mean of one number a sample
holds of that of any other.
"""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..noise.transitions import estimated_transitions
from .likelihood import TEMPERATURES, Likely
from .memorisation import LIMIT, corrected

__all__ = ["STEPS", "Criterion", "Scores", "grown", "thinned"]

# Members of an ensemble, at most; the same candidate may be several of them.
STEPS = 8
# So many of the candidates, the best alone, are tried as further members.
TRIED = 40
# Samples that choose, of each kind; more would change nothing but the time.
_CHOOSING = 10_000
# So many are tried with transition matrices: of the likeliest without, and of the most telling.
_MATRICES = 10
# Steps of EM for one.
_EM = 20

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Scores:
    """Scores of all candidates, each brought to one scale, with the labels of the samples.

    Attributes
    ----------
    plain, moved : list of Tensor of float32, shape (n, K)
        Out of fold, of inputs as they are, and of perturbed ones.
    labels : Tensor of int64, shape (n,)
        Given labels.
    holdout : list of Tensor of float32, shape (m, K)
        Of the hold-out; empty without one.
    held : Tensor of int64, shape (m,), or None
        Its labels.
    held_moved : list of Tensor of float32, shape (m, K)
        Of one perturbed view of the hold-out; empty without one.
    """

    plain: list[Tensor]
    moved: list[Tensor]
    labels: Tensor
    holdout: list[Tensor]
    held: Tensor | None
    held_moved: list[Tensor] = field(default_factory=list)


def thinned(scores: Scores) -> Scores:
    """Return scores of as many samples as choose."""
    step = max(1, len(scores.labels) // _CHOOSING)
    other = 1 if scores.held is None else max(1, len(scores.held) // _CHOOSING)
    return Scores(
        [each[::step] for each in scores.plain],
        [each[::step] for each in scores.moved],
        scores.labels[::step],
        [each[::other] for each in scores.holdout],
        None if scores.held is None else scores.held[::other],
        [each[::other] for each in scores.held_moved],
    )


@dataclass
class Criterion:
    """What says how likely labels of new inputs are, as ensembles' scores have it.

    Attributes
    ----------
    plain, moved, held : Likely or None
        Labels of training inputs as they are and perturbed, and of a hold-out.
    survival : float
        ρ, the share of memory that survives the perturbation.
    trust : float
        Weight of the hold-out beside perturbed training inputs, 0 to 1.
    """

    plain: Likely
    moved: Likely
    held: Likely | None
    survival: float
    trust: float

    @classmethod
    def of(cls, scores: Scores, survival: float, trust: float) -> Self:
        """Return the criterion of all candidates' scores; not all samples count."""
        some = thinned(scores)
        held = None if some.held is None else Likely(some.holdout, some.held)
        plain, moved = (Likely(each, some.labels) for each in (some.plain, some.moved))
        return cls(plain, moved, held, survival, trust if held is not None else 0.0)

    def drawn_by(self, transitions: Tensor | None) -> "Criterion":
        """Return the criterion of labels that a transition matrix draws."""
        plain, moved = (each.drawn_by(transitions) for each in (self.plain, self.moved))
        held = None if self.held is None else self.held.drawn_by(transitions)
        return replace(self, plain=plain, moved=moved, held=held)

    def likelihoods(self, candidates: Sequence[int], members: Sequence[int] = ()) -> list[float]:
        """Return the mean log-likelihood of a label if one candidate joins the members, of each."""

        def of(part: Likely) -> Tensor:
            return part.of(candidates, part.summed(members) if members else None)

        worth = torch.zeros(())
        if self.trust < 1:
            moved = of(self.moved)
            known = corrected(of(self.plain), moved, self.survival) if self.survival else moved
            worth = (1 - self.trust) * known
        if self.trust:
            assert self.held is not None
            worth = worth + self.trust * of(self.held)
        return worth.flatten(1).amax(1).tolist()

    @property
    def _labelled(self) -> list[Likely]:
        """What labels can be compared with: perturbed samples, and the hold-out."""
        counted = [self.moved] if self.trust < 1 else []
        return [*counted, self.held] if self.trust and self.held is not None else counted

    def information(self, candidate: int) -> float:
        """Return how much a candidate's answers tell of labels, whatever way these go wrong."""
        found = []
        for part in self._labelled:
            mine, labels = part.scores[candidate], part.labels
            n_classes = mine.shape[1]
            pairs = mine.argmax(1) * n_classes + labels
            joint = torch.bincount(pairs, minlength=n_classes**2).double().view(n_classes, -1)
            joint /= len(labels)
            alike = torch.outer(joint.sum(1), joint.sum(0))
            found.append(float(torch.xlogy(joint, joint / alike.clamp(min=1e-300)).sum()))
        return max(found)

    def costs(self) -> list[float]:
        """Return what the numbers of a transition matrix cost: Akaike's nat each, over samples."""
        n_classes = self.moved.scores[0].shape[1]
        return [n_classes * (n_classes - 1) / len(part.labels) for part in self._labelled]

    def transitions(self, candidate: int) -> list[Tensor]:
        """Return the likeliest transition matrices of one candidate: one of each kind of labels."""
        found = []
        for part in self._labelled:
            scores, labels = part.scores[candidate], part.labels
            about = scores - scores.mean(1, keepdim=True)
            spread = float(about.std(correction=0)) or 1.0
            best = (-float("inf"), torch.eye(about.shape[1], dtype=torch.float64))
            for temperature in TEMPERATURES:
                chances = torch.softmax(about * (temperature / spread), 1).double()
                matrix, _ = estimated_transitions(chances, labels, 0.2, _EM)
                likely = (chances * matrix.T[labels]).sum(1).clamp(min=1e-12).log().mean()
                best = max(best, (float(likely), matrix), key=lambda each: each[0])
            found.append(best[1])
        return found

    def likeliest_noise(self, among: Collection[int]) -> Float[Tensor, "classes classes"] | None:
        """Return the transition matrix of the labels, or None if all wrong ones are alike.

        That of the candidate with which labels are likeliest. A matrix is taken if labels are
        likelier by more than its K (K - 1) numbers (Akaike's criterion); so none is looked for
        where certainty itself would not be worth as much.
        """
        every = list(among)
        even = dict(zip(every, self.likelihoods(every), strict=True))
        found, best = None, max(even.values())
        if min(self.costs()) >= -best:
            return None
        telling = {each: self.information(each) for each in every}
        tried = set()
        for said in (even, telling):
            tried |= {*sorted(every, key=said.__getitem__, reverse=True)[:_MATRICES]}
        for each in sorted(tried):
            for matrix, cost in zip(self.transitions(each), self.costs(), strict=True):
                likely = self.drawn_by(matrix).likelihoods([each])[0] - cost
                if likely > best:
                    found, best = matrix, likely
        return found

    def ensemble(self, among: Collection[int], most: int = STEPS) -> tuple[list[int], float]:
        """Return the members of the best ensemble of some candidates, and its likelihood.

        Members are added for as long as labels get likelier.

        Parameters
        ----------
        among : collection of int
            Places of the candidates.
        most : int
            Members at most.
        """
        return grown(list(among), self.likelihoods, most)

    def weight_by_cross_fitting(self, among: Collection[int]) -> float:
        """Return how much the hold-out counts: by its precision, or all.

        Its precision is right if perturbed training inputs err by chance only. If the perturbation
        changes what some layers know more than what others know, the hold-out alone says more. Each
        way chooses an ensemble with one half of the hold-out, and is scored by the likelihood of
        the other half's labels; the hold-out counts alone if that is clearly likelier, by two
        standard errors.
        """
        if self.held is None or not 0 < self.trust < 1 or len(self.held.labels) < 2:
            return self.trust
        gains = []
        for half in (0, 1):
            known = replace(self, held=self.held.part(slice(half, None, 2)))
            rest = self.held.part(slice(1 - half, None, 2))
            by_precision, alone = (
                rest.each_label(replace(known, trust=weight).ensemble(among)[0])
                for weight in (self.trust, 1.0)
            )
            gains.append(alone - by_precision)
        gain = torch.cat(gains)
        clearly = LIMIT * float(gain.std(correction=0)) / len(gain) ** 0.5
        return 1.0 if float(gain.mean()) > clearly else self.trust


def grown(
    tried: Sequence[T], worth: Callable[[Sequence[T], Sequence[T]], Sequence[float]], most: int
) -> tuple[list[T], float]:
    """Return an ensemble that grows for as long as it gets better, and what it is worth.

    Parameters
    ----------
    tried : sequence
        What may join it, more than once. Of these the best alone are tried further on.
    worth : callable
        From what is tried, and what is chosen, to what the ensemble is worth with one more, of
        each.
    most : int
        Members at most.
    """
    chosen: list[T] = []
    now = -float("inf")
    for step in range(most):
        values = dict(zip(tried, worth(tried, chosen), strict=True))
        best = max(tried, key=values.__getitem__)
        if values[best] <= now:
            break
        if not step:
            tried = sorted(tried, key=lambda each: -values[each])[:TRIED]
        chosen.append(best)
        now = values[best]
    return chosen, now
