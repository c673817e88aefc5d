r"""Greedy ensemble selection with replacement (Caruana et al., ICML 2004), by noisy labels.

An ensemble is worth the mean log-likelihood of noisy labels of new inputs. A label is what the
ensemble says, or with probability e drawn from all K classes:
:math:`p(y | x) = (1 - e)\, \mathrm{softmax}(t s(x))_y + e / K`, with the likeliest t and e of a
grid. Where noise depends on the class, a label is drawn by a transition matrix T first:
:math:`\sum_z \mathrm{softmax}(t s(x))_z T_{zy}` takes the place of the softmax. Otherwise labels
that always go wrong the same way would be likelier the more an ensemble doubts between the two. On
perturbed training inputs the likelihood is corrected for the memory that survives, as agreement is
(see `memory`): what holds of the mean of one number a sample holds of that of any other.
"""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..noise import estimated_transitions
from .memory import LIMIT, corrected

__all__ = [
    "STEPS",
    "Scores",
    "grown",
    "likeliest_noise",
    "select_ensemble",
    "thinned",
    "weight_by_cross_fitting",
]

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
# Numbers that are worked on at once.
_AT_ONCE = 1 << 18
_TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0)
_REDRAWN = tuple(step / 10 for step in range(10))


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
        [each[::step] for each in scores.plain], [each[::step] for each in scores.moved],
        scores.labels[::step], [each[::other] for each in scores.holdout],
        None if scores.held is None else scores.held[::other],
        [each[::other] for each in scores.held_moved],
    )  # fmt: skip


def likelihoods(
    scores: Float[Tensor, "n classes"], labels: Tensor, transitions: Tensor | None = None
) -> Float[Tensor, "temperatures shares"]:
    """Return the mean log-likelihood of labels for each temperature and share that is redrawn.

    Temperatures are relative to the scores' own spread. `transitions`, shape (K, K): the chance of
    a label (column) given the class (row).
    """
    about, spread = _about(scores)
    given = _given(scores, labels, transitions)
    shares = torch.tensor(_REDRAWN, dtype=torch.float64)[:, None, None]
    kept, even = (1 - shares).to(scores), (shares / scores.shape[1]).to(scores)
    # Several temperatures at once where scores are few: each step costs more than its numbers.
    at_once = max(1, _AT_ONCE // max(1, scores.numel()))
    rows = []
    for start in range(0, len(_TEMPERATURES), at_once):
        some = torch.tensor(_TEMPERATURES[start : start + at_once]).to(scores) / spread
        chance = _chance(about * some[:, None, None], labels, given)
        mixed = kept * chance + even
        rows.append(mixed.clamp_(min=1e-12).log_().mean(2).T)
    return torch.cat(rows).double()


def _likeliest(
    scores: Float[Tensor, "n classes"], labels: Tensor, transitions: Tensor | None
) -> Float[Tensor, " n"]:
    """Return each label's log-likelihood, with the likeliest temperature and share redrawn."""
    found = likelihoods(scores, labels, transitions)
    at, place = divmod(int(found.argmax()), len(_REDRAWN))
    about, spread = _about(scores)
    share = _REDRAWN[place]
    odds = about * (_TEMPERATURES[at] / spread)
    chance = _chance(odds, labels, _given(scores, labels, transitions))
    return ((1 - share) * chance + share / scores.shape[1]).clamp(min=1e-12).log()


def _given(scores: Tensor, labels: Tensor, transitions: Tensor | None) -> Tensor | None:
    """Return of each sample and class the chance of the given label, where it depends on both."""
    return None if transitions is None else transitions.T.to(scores)[labels]


def _chance(
    odds: Float[Tensor, "*ways n classes"], labels: Tensor, given: Tensor | None
) -> Float[Tensor, "*ways n"]:
    """Return the chance of each label, by the classes' log-odds and how labels go wrong."""
    chances = torch.softmax(odds, -1)
    if given is None:
        return chances.gather(-1, labels[:, None].expand(*odds.shape[:-1], 1))[..., 0]
    return (chances * given).sum(-1)


def _about(scores: Tensor) -> tuple[Tensor, float]:
    about = scores - scores.mean(1, keepdim=True)
    return about, float(about.std(correction=0)) or 1.0


class _Criterion:
    """What says how likely labels of new inputs are, as ensembles' scores have it.

    Parameters
    ----------
    scores : Scores
        Of all candidates.
    survival, trust : float
        As for `select_ensemble`.
    """

    def __init__(self, scores: Scores, survival: float, trust: float):
        self.survival, self.trust = survival, trust
        some = thinned(scores)
        parts = (
            (some.plain, some.labels, trust < 1 and survival > 0),
            (some.moved, some.labels, trust < 1),
            (some.holdout, some.held, trust > 0),
        )
        self.parts = [
            None if labels is None or not counts else (mine, labels)
            for mine, labels, counts in parts
        ]

    def summed(self, members: Sequence[int]) -> list[Tensor | None]:
        """Return the summed scores of an ensemble: plain, perturbed, of the hold-out."""
        return [
            torch.stack([part[0][at] for at in members]).sum(0) if part and members else None
            for part in self.parts
        ]

    def likelihood(
        self, candidate: int, total: Sequence[Tensor | None], transitions: Tensor | None
    ) -> float:
        """Return the mean log-likelihood of a label if a candidate joins an ensemble's `total`."""
        worth = torch.zeros(len(_TEMPERATURES), len(_REDRAWN), dtype=torch.float64)
        found: list[Tensor | None] = []
        for part, before in zip(self.parts, total, strict=True):
            if part is None:
                found.append(None)
                continue
            mine = part[0][candidate] if before is None else before + part[0][candidate]
            found.append(likelihoods(mine, part[1], transitions))
        plain, moved, held = found
        if moved is not None:
            mine = moved if plain is None else corrected(plain, moved, self.survival)
            worth += (1 - self.trust) * mine
        if held is not None:
            worth += self.trust * held
        return float(worth.max())

    @property
    def _labelled(self) -> list[tuple[list[Tensor], Tensor]]:
        """What labels can be compared with: perturbed samples, and the hold-out."""
        return [part for part in self.parts[1:] if part is not None]

    def information(self, candidate: int) -> float:
        """Return how much a candidate's answers tell of labels, whatever way these go wrong."""
        found = []
        for mine, labels in self._labelled:
            n_classes = mine[candidate].shape[1]
            pairs = mine[candidate].argmax(1) * n_classes + labels
            joint = torch.bincount(pairs, minlength=n_classes**2).double().view(n_classes, -1)
            joint /= len(labels)
            alike = torch.outer(joint.sum(1), joint.sum(0))
            found.append(float(torch.xlogy(joint, joint / alike.clamp(min=1e-300)).sum()))
        return max(found)

    def transitions(self, candidate: int) -> list[tuple[Tensor, float]]:
        """Return the likeliest transition matrices of one candidate, and what their numbers cost.

        One of perturbed samples, and one of the hold-out. The cost is Akaike's, a nat for each
        number, over the samples.
        """
        found = []
        for mine, labels in self._labelled:
            about, spread = _about(mine[candidate])
            n, n_classes = about.shape
            best = (-float("inf"), torch.eye(n_classes, dtype=torch.float64))
            for temperature in _TEMPERATURES:
                chances = torch.softmax(about * (temperature / spread), 1).double()
                matrix, _ = estimated_transitions(chances, labels, 0.2, _EM)
                likely = (chances * matrix.T[labels]).sum(1).clamp(min=1e-12).log().mean()
                best = max(best, (float(likely), matrix), key=lambda each: each[0])
            found.append((best[1], n_classes * (n_classes - 1) / n))
        return found


def likeliest_noise(
    scores: Scores, survival: float, trust: float, among: Collection[int]
) -> Float[Tensor, "classes classes"] | None:
    """Return the transition matrix of the labels, or None if they go wrong to all classes alike.

    That of the candidate with which labels are likeliest. A matrix is taken if labels are likelier
    by more than its K (K − 1) numbers (Akaike's criterion).

    Parameters
    ----------
    scores, survival, trust, among
        As for `select_ensemble`.
    """
    criterion = _Criterion(scores, survival, trust)
    nothing: list[Tensor | None] = [None, None, None]
    even = {each: criterion.likelihood(each, nothing, None) for each in among}
    found, best = None, max(even.values())
    telling = {each: criterion.information(each) for each in among}
    tried = set()
    for said in (even, telling):
        tried |= {*sorted(among, key=said.__getitem__, reverse=True)[:_MATRICES]}
    for each in sorted(tried):
        for matrix, cost in criterion.transitions(each):
            likely = criterion.likelihood(each, nothing, matrix) - cost
            if likely > best:
                found, best = matrix, likely
    return found


def select_ensemble(
    scores: Scores,
    survival: float,
    trust: float,
    among: Collection[int],
    most: int = STEPS,
    transitions: Float[Tensor, "classes classes"] | None = None,
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
    transitions : Tensor of float64, shape (K, K), optional
        How labels go wrong, if it depends on the class; see `likeliest_noise`.
    """
    criterion = _Criterion(scores, survival, trust)

    def worth(chosen: Sequence[int]) -> Callable[[int], float]:
        total = criterion.summed(chosen)
        return lambda each: criterion.likelihood(each, total, transitions)

    return grown(list(among), worth, most)


def grown(
    tried: Sequence[T], worth: Callable[[Sequence[T]], Callable[[T], float]], most: int
) -> tuple[list[T], float]:
    """Return an ensemble that grows for as long as it gets better, and what it is worth.

    Parameters
    ----------
    tried : sequence
        What may join it, more than once. Of these the best alone are tried further on.
    worth : callable
        From those that are chosen to what the ensemble is worth with one more.
    most : int
        Members at most.
    """
    chosen: list[T] = []
    now = -float("inf")
    for step in range(most):
        with_one = worth(chosen)
        values = {each: with_one(each) for each in tried}
        best = max(tried, key=values.__getitem__)
        if values[best] <= now:
            break
        if not step:
            tried = sorted(tried, key=lambda each: -values[each])[:TRIED]
        chosen.append(best)
        now = values[best]
    return chosen, now


def weight_by_cross_fitting(
    scores: Scores,
    survival: float,
    trust: float,
    among: Collection[int],
    transitions: Float[Tensor, "classes classes"] | None = None,
) -> float:
    """Return how much the hold-out counts: by its precision, or all.

    Its precision is right if perturbed training inputs err by chance only. If the perturbation
    changes what some layers know more than what others know, the hold-out alone says more. Each way
    chooses an ensemble with one half of the hold-out, and is scored by the likelihood of the other
    half's labels; the hold-out counts alone if that is clearly likelier, by two standard errors.

    Parameters
    ----------
    scores, survival, trust, among, transitions
        As for `select_ensemble`; `trust` is by precision.
    """
    if scores.held is None or not 0 < trust < 1 or len(scores.held) < 2:
        return trust
    gains = []
    for half in (0, 1):
        mine, others = slice(half, None, 2), slice(1 - half, None, 2)
        known = replace(
            scores, holdout=[each[mine] for each in scores.holdout], held=scores.held[mine]
        )
        rest = [each[others] for each in scores.holdout]
        found = []
        for weight in (trust, 1.0):
            members, _ = select_ensemble(known, survival, weight, among, transitions=transitions)
            total = torch.stack([rest[at] for at in members]).sum(0)
            found.append(_likeliest(total, scores.held[others], transitions))
        gains.append(found[1] - found[0])
    gain = torch.cat(gains)
    clearly = LIMIT * float(gain.std(correction=0)) / len(gain) ** 0.5
    return 1.0 if float(gain.mean()) > clearly else trust
