r"""How much of a layer's agreement with the given labels is memory, estimated without clean labels.

Out of fold, a candidate agrees with a share A₀ of the given labels on inputs as they are, and with
A on perturbed ones. A\* is its agreement with labels of new inputs, so A₀ − A\* is due to what the
network memorised. Memory is keyed to the exact input, and a share ρ of it survives the
perturbation: A = (1 − ρ) A\* + ρ A₀. There are two estimates of ρ:

- From samples that are mostly mislabelled. Take the layer that agrees least with the given labels.
  It contradicts a label if none of its candidates predicts it and most of them agree on another;
  its scores and the labels tell how many contradicted labels are wrong. (A layer that knows next to
  nothing agrees least, too, but by its own scores the labels that it contradicts are right. Then
  the next layer counts.) The layer that agrees most repeats some of these labels. What exceeds the
  rate expected without memory is memory; ρ is the share of it that is left on perturbed inputs.
- With a hold-out: the ρ with which A\* of all candidates is closest to their agreement there.

The choice uses the largest plausible ρ. If ρ is too small, candidates win by memory, and an
ensemble of them loses tens of points; if it is too large, candidates that memorise little win,
which costs one or two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "LIMIT",
    "Contradicted",
    "Memory",
    "by_agreement",
    "contradicted",
    "corrected",
    "from_memory",
    "survival_by_contradiction",
    "survival_on_holdout",
    "weight_of_holdout",
]

# Larger ρ are not used: memory that survives nearly whole looks like knowledge, and differences
# would count tenfold.
MOST = 0.9
_GRID = 91
# The 97.5 % limit, in standard errors.
LIMIT = 1.96


@dataclass(frozen=True)
class Memory:
    """How much of the given labels a network's candidates repeat from memory.

    Attributes
    ----------
    plain, moved : Tensor of float64, shape (C,)
        Agreement with the given labels out of fold: on inputs as they are, and perturbed.
    base : Tensor of float64, shape (C,)
        `plain`, which memory may be part of; `moved` for candidates of the input, which memorise
        nothing.
    holdout : Tensor of float64, shape (C,), or None
        Agreement with a hold-out's labels.
    survival : float
        The largest plausible ρ, the share of memory that survives the perturbation: for choosing.
    likely : float
        The likeliest ρ: for estimates.
    trust : float
        The weight of the hold-out beside perturbed training inputs by its precision, 0 to 1.
    weight : float
        Its weight in the choice of members.
    beyond_chance : float
        Standard errors by which the layer that memorises least agrees more often than by chance.
    contradicted : Contradicted or None
        The samples whose labels that layer contradicts.
    own : frozenset of int
        Places of candidates of the input itself, which memorise nothing.
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
        """Corrected agreement with labels of new inputs, float64 (C,)."""
        return corrected(self.base, self.moved, self.survival)


T = TypeVar("T", float, Tensor, NDArray[np.floating[Any]])


def corrected(plain: T, moved: T, survival: float) -> T:
    """Return the agreement with labels of new inputs, A* = (A − ρ A₀) / (1 − ρ)."""
    return (moved - survival * plain) / (1 - survival)


def from_memory(agrees: float, new: float) -> float:
    """Return the share m of samples whose label is predicted from memory.

    `agrees` is the agreement A with labels of training inputs, `new` that with labels of new
    inputs, A*: A = m + (1 − m) A*.
    """
    return max(0.0, agrees - new) / (1 - new) if new < 1 else 0.0


def by_agreement(agree: Float[Tensor, " candidates"], layers: Sequence[str]) -> list[str]:
    """Return layers in order of their candidates' mean agreement with given labels."""
    of_layer = {
        name: float(agree[[at for at, other in enumerate(layers) if other == name]].mean())
        for name in dict.fromkeys(layers)
    }
    return sorted(of_layer, key=lambda name: of_layer[name])


def survival_by_contradiction(
    plain: Int[Tensor, "candidates n"],
    moved: Int[Tensor, "candidates n"],
    labels: Int[Tensor, " n"],
    right: Float[Tensor, " n"],
    layers: Sequence[str],
    perturbed: Sequence[bool],
    n_classes: int,
    reference: str | None = None,
) -> tuple[float, float]:
    """Return the likeliest and the largest plausible ρ, from labels that a layer contradicts.

    Layers are ordered by their agreement on inputs as they are: the first one contradicts labels,
    the last one repeats them from memory. Without memory, how often would the last one predict a
    contradicted label? If the label is wrong: as often as for correctly labelled samples of the
    class that the first layer votes for. If it is right: as often as for any perturbed sample.
    Candidates that were fitted to perturbed rows and those that were not give an estimate each; the
    larger one counts, and the larger 97.5 % limit. Without evidence of memory, ρ is 0.

    Parameters
    ----------
    plain, moved : Tensor of int64, shape (C, n)
        Out-of-fold predictions for inputs as they are, and perturbed.
    labels : Tensor of int64, shape (n,)
        Given labels.
    right : Tensor of float64, shape (n,)
        The probability that each is right, by the first layer.
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
    of_reference = [at for at, name in enumerate(layers) if name == reference]
    against = contradicted(moved[of_reference], labels, right, n_classes)
    if against is None:
        return 0.0, 0.0
    estimates = [(0.0, 0.0)]
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
        estimates.append((share, share + LIMIT * error))
    likely, limit = (max(each[end] for each in estimates) for end in (0, 1))
    return min(MOST, likely), min(MOST, limit)


@dataclass(frozen=True)
class Contradicted:
    """Samples whose given label one layer contradicts.

    No candidate of the layer predicts the label, and most of them agree on another.

    Attributes
    ----------
    labels, vote : Tensor of int64, shape (n,)
        Given labels, and the class that most candidates predict, of all samples.
    against, agreed : Tensor of bool, shape (n,)
        Whether the label is contradicted, and whether the vote is for it.
    right : Tensor of float64, shape (m,)
        The probability that the label is right, for each contradicted sample.
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
        self, predictions: Int[Tensor, "candidates n"], known: float
    ) -> Float[Tensor, " contradicted"]:
        """Return how much more often each contradicted label is predicted than expected.

        Expected is, if the label is wrong, the rate for samples of the class that the vote is for;
        if it is right, `known`.
        """
        vote, labels, against, k = self.vote, self.labels, self.against, self.n_classes
        total = torch.zeros(len(self.right), dtype=torch.float64)
        pairs = vote[against] * k + labels[against]
        agreed = vote[self.agreed]
        of_class = torch.bincount(agreed, minlength=k).double().clamp(min=1)
        for predicted in predictions:
            # How often class k is predicted for correctly labelled samples of each class.
            counts = torch.bincount(agreed * k + predicted[self.agreed], minlength=k**2)
            rates = counts.double() / of_class.repeat_interleave(k)
            total += (predicted[against] == labels[against]).double()
            total -= (1 - self.right) * rates[pairs] + self.right * known
        return total / len(predictions)

    def remembered(self, predictions: Int[Tensor, " n"]) -> float:
        """Return the memorisation rate: the share of wrong labels repeated from memory, 0 to 1."""
        known = float((predictions == self.labels).double().mean())
        wrong = float((1 - self.right).sum())
        excess = float(self.excess(predictions[None], known).sum())
        return min(1.0, max(0.0, excess / wrong)) if wrong > 0 else 0.0


def contradicted(
    predictions: Int[Tensor, "candidates n"],
    labels: Int[Tensor, " n"],
    right: Float[Tensor, " n"],
    n_classes: int,
) -> Contradicted | None:
    """Return the labels that one layer's candidates contradict, or None if there are none.

    Parameters
    ----------
    predictions : Tensor of int64, shape (C, n)
        Out-of-fold predictions of the layer's candidates.
    labels, right, n_classes
        As for `survival_by_contradiction`.
    """
    votes = torch.zeros(len(labels), n_classes)
    for predicted in predictions:
        votes.scatter_add_(1, predicted[:, None], torch.ones(len(labels), 1))
    most, vote = votes.max(1)
    given_votes = votes.gather(1, labels[:, None])[:, 0]
    against = (given_votes == 0) & (2 * most > len(predictions))
    if not bool(against.any()):
        return None
    return Contradicted(labels, vote, against, vote == labels, right[against], n_classes)


def survival_on_holdout(
    plain: Float[Tensor, " candidates"],
    moved: Float[Tensor, " candidates"],
    holdout: Float[Tensor, " candidates"],
) -> float:
    """Return the ρ with which A* of all candidates is closest to their agreement on a hold-out.

    A* and the agreement may differ by a constant: the hold-out's own error is common to all
    candidates, but for the samples on which they differ.

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
        key=lambda share: float((corrected(plain, moved, share) - holdout).var(correction=0)),
    )


def weight_of_holdout(
    plain: Bool[Tensor, "candidates n"],
    moved: Bool[Tensor, "candidates n"],
    holdout: Bool[Tensor, "candidates m"],
    survival: float,
) -> float:
    """Return the weight of a hold-out beside the corrected agreement: each by its precision.

    Only differences of sampling errors between candidates matter.

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
