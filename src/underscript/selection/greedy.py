"""Greedy ensemble selection with replacement (Caruana et al., ICML 2004), by noisy labels.

An ensemble's score is the mean log-likelihood of noisy labels of new inputs (see `likelihood`),
with the likeliest temperature and share that is redrawn. If errors depend on the class, a
transition matrix is estimated first. Otherwise an ensemble that doubts between two classes would
win where one is always mislabelled as the other. On perturbed training inputs the likelihood is
corrected for the memory that survives, as agreement is (see `memorisation`): the correction holds
for the mean of any number per sample.
"""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..noise.transitions import estimated_transitions
from ..utils.intervals import LIMIT
from .likelihood import TEMPERATURES, Likely
from .memorisation import lost_by, without_memory

__all__ = ["STEPS", "Criterion", "Scores", "grown", "of_new_inputs", "step_of", "thinned"]

# Members of an ensemble, at most; a candidate may occur several times.
STEPS = 8
# After the first step only this many candidates, the best ones, are tried as further members.
TRIED = 40
# Samples of each kind that choose; more would only take longer.
_CHOOSING = 10_000
# Candidates tried with transition matrices: the likeliest without one, and the most informative.
_MATRICES = 10
# Steps of EM for each matrix.
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


def step_of(n: int) -> int:
    """Return the step at which n samples choose."""
    return max(1, n // _CHOOSING)


def thinned(scores: Scores) -> Scores:
    """Return the scores of the samples that choose."""
    step = step_of(len(scores.labels))
    other = 1 if scores.held is None else step_of(len(scores.held))
    return Scores(
        [each[::step] for each in scores.plain],
        [each[::step] for each in scores.moved],
        scores.labels[::step],
        [each[::other] for each in scores.holdout],
        None if scores.held is None else scores.held[::other],
        [each[::other] for each in scores.held_moved],
    )


def _with(part: Likely, candidates: Sequence[int], members: Sequence[int]) -> Tensor:
    """Return the likelihoods with each candidate added to the members."""
    return part.of(candidates, part.summed(members) if members else None)


def of_new_inputs(
    plain: Likely,
    moved: Likely,
    candidates: Sequence[int],
    members: Sequence[int],
    survival: Tensor | float,
    free: Sequence[int],
) -> Float[Tensor, "candidates temperatures shares"]:
    """Return the likelihoods of labels of new inputs with each candidate added to the members.

    Parameters
    ----------
    plain, moved : Likely
        Labels of training inputs as they are, and perturbed.
    candidates, members : sequence of int
        Places.
    survival : float, or Tensor of float64, shape (T, S)
        The share of memory that survives the perturbation, in each likelihood.
    free : sequence of int
        Places of candidates that remember nothing: what they lose is knowledge.
    """
    known = _with(moved, candidates, members)
    if not torch.as_tensor(survival).any():
        return known
    lost = lost_by(plain.of(free), moved.of(free)) if free else 0.0
    return without_memory(_with(plain, candidates, members), known, survival, lost)


@dataclass
class Criterion:
    """The likelihood of labels of new inputs, given ensembles' scores.

    Attributes
    ----------
    plain, moved, held : Likely or None
        Labels of training inputs as they are and perturbed, and of a hold-out.
    survival : float, or Tensor of float64, shape (T, S)
        The share of memory that survives the perturbation, in each likelihood.
    trust : float
        Weight of the hold-out beside perturbed training inputs, 0 to 1.
    free : tuple of int
        Places of candidates that remember nothing.
    """

    plain: Likely
    moved: Likely
    held: Likely | None
    survival: Tensor | float
    trust: float
    free: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, scores: Scores, survival: Tensor | float, trust: float, free: tuple[int, ...] = ()
    ) -> Self:
        """Return the criterion for all candidates' scores; it uses some of the samples."""
        some = thinned(scores)
        held = None if some.held is None else Likely(some.holdout, some.held)
        plain, moved = (Likely(each, some.labels) for each in (some.plain, some.moved))
        return cls(plain, moved, held, survival, trust if held is not None else 0.0, free)

    def drawn_by(self, transitions: Tensor | None) -> "Criterion":
        """Return the criterion for labels that are drawn by a transition matrix."""
        plain, moved = (each.drawn_by(transitions) for each in (self.plain, self.moved))
        held = None if self.held is None else self.held.drawn_by(transitions)
        return replace(self, plain=plain, moved=moved, held=held)

    def likelihoods(self, candidates: Sequence[int], members: Sequence[int] = ()) -> list[float]:
        """Return the mean log-likelihood of a label with each candidate added to the members."""
        values = torch.zeros(())
        if self.trust < 1:
            known = of_new_inputs(
                self.plain, self.moved, candidates, members, self.survival, self.free
            )
            values = (1 - self.trust) * known
        if self.trust:
            assert self.held is not None
            values = values + self.trust * _with(self.held, candidates, members)
        return values.flatten(1).amax(1).tolist()

    @property
    def _labelled(self) -> list[Likely]:
        """The samples whose labels count: perturbed ones, and the hold-out."""
        counted = [self.moved] if self.trust < 1 else []
        return [*counted, self.held] if self.trust and self.held is not None else counted

    def information(self, candidate: int) -> float:
        """Return the largest mutual information of predictions and labels, in nats."""
        nats = []
        for part in self._labelled:
            candidate_scores, labels = part.scores[candidate], part.labels
            n_classes = candidate_scores.shape[1]
            pairs = candidate_scores.argmax(1) * n_classes + labels
            joint = torch.bincount(pairs, minlength=n_classes**2).double().view(n_classes, -1)
            joint /= len(labels)
            alike = torch.outer(joint.sum(1), joint.sum(0))
            nats.append(float(torch.xlogy(joint, joint / alike.clamp(min=1e-300)).sum()))
        return max(nats)

    def costs(self) -> list[float]:
        """Return Akaike's cost of a transition matrix: one nat for each number, over samples."""
        n_classes = self.moved.scores[0].shape[1]
        return [n_classes * (n_classes - 1) / len(part.labels) for part in self._labelled]

    def transitions(self, candidate: int) -> list[Tensor]:
        """Return one candidate's likeliest transition matrix for each set of labels."""
        matrices = []
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
            matrices.append(best[1])
        return matrices

    def likeliest_noise(self, among: Collection[int]) -> Float[Tensor, "classes classes"] | None:
        """Return the transition matrix of the labels, or None if errors do not depend on the class.

        It is the matrix of the candidate with which labels are likeliest. A matrix is used if it
        raises the likelihood by more than its K (K - 1) numbers cost (Akaike's criterion). None is
        tried if even certain predictions would not gain that much.
        """
        every = list(among)
        likely_alone = dict(zip(every, self.likelihoods(every), strict=True))
        best_matrix, best = None, max(likely_alone.values())
        if min(self.costs()) >= -best:
            return None
        informative = {candidate: self.information(candidate) for candidate in every}
        tried = set()
        for ranking in (likely_alone, informative):
            tried |= {*sorted(every, key=ranking.__getitem__, reverse=True)[:_MATRICES]}
        for candidate in sorted(tried):
            for matrix, cost in zip(self.transitions(candidate), self.costs(), strict=True):
                likely = self.drawn_by(matrix).likelihoods([candidate])[0] - cost
                if likely > best:
                    best_matrix, best = matrix, likely
        return best_matrix

    def ensemble(self, among: Collection[int], most: int = STEPS) -> tuple[list[int], float]:
        """Return the members of the best ensemble of some candidates, and its likelihood.

        Members are added as long as labels get likelier.

        Parameters
        ----------
        among : collection of int
            Places of the candidates.
        most : int
            Members at most.
        """
        return grown(list(among), self.likelihoods, most)

    def weight_by_cross_fitting(self, among: Collection[int]) -> float:
        """Return the weight of the hold-out: by its precision, or 1.

        The weight by precision is right if perturbed training inputs err by chance only. If the
        perturbation harms some layers more than others, the hold-out alone is the better guide.
        Both weights choose an ensemble with one half of the hold-out, and are scored by the
        likelihood of the other half's labels. The weight is 1 if that is clearly likelier, by two
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
    tried: Sequence[T], score: Callable[[Sequence[T], Sequence[T]], Sequence[float]], most: int
) -> tuple[list[T], float]:
    """Return an ensemble that grows as long as its score rises, and that score.

    Parameters
    ----------
    tried : sequence
        The candidates; each may join more than once. Only the best are tried after the first step.
    score : callable
        Takes the candidates and the members; returns the ensemble's score with each candidate
        added.
    most : int
        Members at most.
    """
    chosen: list[T] = []
    best_score = -float("inf")
    for step in range(most):
        values = dict(zip(tried, score(tried, chosen), strict=True))
        best = max(tried, key=values.__getitem__)
        if values[best] <= best_score:
            break
        if not step:
            tried = sorted(tried, key=lambda candidate: -values[candidate])[:TRIED]
        chosen.append(best)
        best_score = values[best]
    return chosen, best_score
