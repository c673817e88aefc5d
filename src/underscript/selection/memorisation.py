r"""How much of a layer's agreement with the given labels is memory, found without clean labels.

Out of fold, a candidate agrees with the share A₀ of the given labels on inputs as they are, and
with A on perturbed ones. What a network memorised is keyed to the exact input; of what a candidate
owes to it (A₀ less A\*, the agreement with labels of new inputs) a share ρ survives the
perturbation: A = (1 − ρ) A\* + ρ A₀. It is found

- from what becomes of memories that are known to be such. Samples whose given label no candidate of
  the layer that agrees least predicts, most of which agree on another, are mostly mislabelled: how
  many of them that layer's scores and the labels tell. (A layer that knows next to nothing agrees
  least, too, but what it contradicts is right by its own scores: then the next layer counts.) How
  often the layer that agrees most still repeats these labels, beyond how often it would without
  memory, is memory; ρ is the share of it that is left on perturbed inputs;
- and with a hold-out, as that with which A\* of all candidates is most nearly their agreement
  there.

To choose by, ρ is taken as large as it may be. Where it is too small, candidates win by what they
remember, and an ensemble of them loses tens of points; where it is too large, those that remember
little win, which costs one or two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "LIMIT",
    "Contradicted",
    "Memory",
    "by_agreement",
    "contradicted",
    "corrected",
    "from_memory",
    "survival_on_holdout",
    "survival_without",
    "weight_of_holdout",
]

# Memory that survives nearly whole cannot be told from knowledge: differences would count tenfold.
MOST = 0.9
_GRID = 91
# Standard errors to the 97.5 % limit.
LIMIT = 1.96


@dataclass(frozen=True)
class Memory:
    """What is known of the memory of a network's candidates.

    Attributes
    ----------
    plain, moved : Tensor of float64, shape (C,)
        Agreement with the given labels out of fold: on inputs as they are, and perturbed.
    base : Tensor of float64, shape (C,)
        What memory may be in: `plain`; of what reads the input alone, which remembers nothing,
        `moved`.
    holdout : Tensor of float64, shape (C,), or None
        Agreement with a hold-out's labels.
    survival : float
        ρ, the share of memory that survives the perturbation, at most: to choose by.
    likely : float
        The same as it most likely is: to estimate by.
    trust : float
        The weight of the hold-out beside perturbed training inputs by its precision, 0 to 1.
    weight : float
        Its weight when members were chosen.
    beyond_chance : float
        Standard errors by which the layer that remembers least agrees more often than by chance.
    contradicted : Contradicted or None
        The samples whose labels that layer contradicts.
    own : frozenset of int
        Places of candidates of the input itself, of which nothing is remembered.
    """

    plain: Tensor
    moved: Tensor
    base: Tensor
    holdout: Tensor | None
    survival: float
    likely: float
    trust: float
    weight: float = 0.0
    beyond_chance: float = 0.0
    contradicted: "Contradicted | None" = None
    own: frozenset[int] = frozenset()

    @property
    def expected(self) -> Tensor:
        """Agreement with labels of new inputs, as corrected, float64 (C,)."""
        return corrected(self.base, self.moved, self.survival)


T = TypeVar("T", float, Tensor)


def corrected(plain: T, moved: T, survival: float) -> T:
    """Return the agreement with labels of new inputs, A* = (A − ρ A₀) / (1 − ρ)."""
    return (moved - survival * plain) / (1 - survival)


def from_memory(agrees: float, new: float) -> float:
    """Return the share of samples whose label is said from memory.

    `agrees` is how often labels of training inputs are predicted, `new` how often those of new
    inputs: A = m + (1 − m) A*.
    """
    return max(0.0, agrees - new) / (1 - new) if new < 1 else 0.0


def by_agreement(agree: Float[Tensor, " candidates"], layers: Sequence[str]) -> list[str]:
    """Return layers by their candidates' mean agreement with given labels, the least first."""
    of_layer = {
        name: float(agree[[at for at, other in enumerate(layers) if other == name]].mean())
        for name in dict.fromkeys(layers)
    }
    return sorted(of_layer, key=lambda name: of_layer[name])


def survival_without(
    plain: Int[Tensor, "candidates n"],
    moved: Int[Tensor, "candidates n"],
    labels: Int[Tensor, " n"],
    right: Float[Tensor, " n"],
    layers: Sequence[str],
    perturbed: Sequence[bool],
    n_classes: int,
    reference: str | None = None,
) -> tuple[float, float]:
    """Return ρ, as it most likely is and at most, from answers as inputs are, and perturbed.

    Layers are ordered by their agreement on inputs as they are: the first one contradicts, the last
    one remembers. Without memory that one would say a contradicted label as often as of rightly
    labelled samples of the class that the first one votes for, if the label is wrong; and as often
    as of any perturbed sample, if it is right. What is fitted to perturbed rows and what is not may
    read more or less of what survives: the larger of the two counts, with its 97.5 % limit for the
    most that ρ may be. If nothing shows that anything is remembered, ρ is 0.

    Parameters
    ----------
    plain, moved : Tensor of int64, shape (C, n)
        Out-of-fold answers.
    labels : Tensor of int64, shape (n,)
        Given labels.
    right : Tensor of float64, shape (n,)
        The probability that each is right, as the first layer has it.
    layers : sequence of str
        Each candidate's layer.
    perturbed : sequence of bool
        Whether each was fitted to perturbed rows, too.
    n_classes : int
        Classes that occur.
    reference : str, optional
        The layer that contradicts; by default the one that agrees least.
    """
    order = by_agreement((plain == labels).double().mean(1), layers)
    if len(order) < 2:
        return 0.0, 0.0
    reference = reference or order[0]
    knowing = [at for at, name in enumerate(layers) if name == reference]
    against = contradicted(moved[knowing], labels, right, n_classes)
    if against is None:
        return 0.0, 0.0
    found = [(0.0, 0.0)]
    n = len(against.right)
    for kind in set(perturbed):
        last = [at for at, name in enumerate(layers) if name == order[-1] and perturbed[at] == kind]
        if not last:
            continue
        known = float((moved[last] == labels).double().mean())
        before, after = (against.excess(each[last], known) for each in (plain, moved))
        if float(before.mean()) <= LIMIT * float(before.std(correction=0)) / n**0.5:
            continue
        share = float(after.sum() / before.sum())
        error = float((after - share * before).std(correction=0)) * n**0.5 / float(before.sum())
        found.append((share, share + LIMIT * error))
    likely, limit = (max(each[end] for each in found) for end in (0, 1))
    return min(MOST, likely), min(MOST, limit)


@dataclass(frozen=True)
class Contradicted:
    """Samples whose given label no candidate of one layer predicts, most of which agree.

    Attributes
    ----------
    labels, vote : Tensor of int64, shape (n,)
        Given labels, and what most candidates predict, of all samples.
    against, agreed : Tensor of bool, shape (n,)
        Which are contradicted, and of which the vote is for the given label.
    right : Tensor of float64, shape (m,)
        The probability that the label is right, of each contradicted sample.
    n_classes : int
        Classes that occur.
    """

    labels: Tensor
    vote: Tensor
    against: Tensor
    agreed: Tensor
    right: Tensor
    n_classes: int

    def excess(
        self, answers: Int[Tensor, "candidates n"], known: float
    ) -> Float[Tensor, " contradicted"]:
        """Return of each contradicted sample how much oftener its label is said than expected.

        Expected is what is said of samples of the class that the vote is for, if the label is
        wrong, and `known`, if it is right.
        """
        vote, labels, against, k = self.vote, self.labels, self.against, self.n_classes
        found = torch.zeros(len(self.right), dtype=torch.float64)
        pairs = vote[against] * k + labels[against]
        agreed = vote[self.agreed]
        of_class = torch.bincount(agreed, minlength=k).double().clamp(min=1)
        for mine in answers:
            # How often the answer k is given to rightly labelled samples of a class.
            counts = torch.bincount(agreed * k + mine[self.agreed], minlength=k**2)
            rates = counts.double() / of_class.repeat_interleave(k)
            found += (mine[against] == labels[against]).double()
            found -= (1 - self.right) * rates[pairs] + self.right * known
        return found / len(answers)

    def remembered(self, answers: Int[Tensor, " n"]) -> float:
        """Return the share of wrong labels that answers repeat from memory, 0 to 1."""
        known = float((answers == self.labels).double().mean())
        wrong = float((1 - self.right).sum())
        found = float(self.excess(answers[None], known).sum())
        return min(1.0, max(0.0, found / wrong)) if wrong > 0 else 0.0


def contradicted(
    answers: Int[Tensor, "candidates n"],
    labels: Int[Tensor, " n"],
    right: Float[Tensor, " n"],
    n_classes: int,
) -> Contradicted | None:
    """Return what one layer's candidates contradict, or None if they contradict nothing.

    Parameters
    ----------
    answers : Tensor of int64, shape (C, n)
        Out-of-fold answers of the layer's candidates.
    labels, right, n_classes
        As for `survival_without`.
    """
    votes = torch.zeros(len(labels), n_classes)
    for each in answers:
        votes.scatter_add_(1, each[:, None], torch.ones(len(labels), 1))
    most, vote = votes.max(1)
    mine = votes.gather(1, labels[:, None])[:, 0]
    against = (mine == 0) & (2 * most > len(answers))
    if not bool(against.any()):
        return None
    return Contradicted(labels, vote, against, vote == labels, right[against], n_classes)


def survival_on_holdout(
    plain: Float[Tensor, " candidates"],
    moved: Float[Tensor, " candidates"],
    holdout: Float[Tensor, " candidates"],
) -> float:
    """Return ρ as that with which A* of all candidates is most nearly that on a hold-out.

    The hold-out's own error is the same for all candidates but for the samples on which they
    differ; so A* and the agreement there may differ by a constant.

    Parameters
    ----------
    plain, moved : Tensor of float64, shape (C,)
        Agreement on training inputs as they are, and perturbed.
    holdout : Tensor of float64, shape (C,)
        Agreement on the hold-out.
    """
    shares = [MOST * step / (_GRID - 1) for step in range(_GRID)]
    return min(
        shares,
        key=lambda each: float((corrected(plain, moved, each) - holdout).var(correction=0)),
    )


def weight_of_holdout(
    plain: Bool[Tensor, "candidates n"],
    moved: Bool[Tensor, "candidates n"],
    holdout: Bool[Tensor, "candidates m"],
    survival: float,
) -> float:
    """Return how much a hold-out counts beside the corrected agreement: each by its precision.

    What matters of sampling errors is what they differ by between candidates.

    Parameters
    ----------
    plain, moved, holdout : Tensor of bool, shapes (C, n) and (C, m)
        Which labels each candidate predicts.
    survival : float
        ρ.
    """
    errors = []
    for agrees in (corrected(plain.float(), moved.float(), survival), holdout.float()):
        apart = (agrees - agrees.mean(0)).var(1, correction=0)
        errors.append(float(apart.mean()) / agrees.shape[1])
    return errors[0] / sum(errors) if sum(errors) > 0 else 0.0
