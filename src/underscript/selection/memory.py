r"""How much of a layer's agreement with the given labels is memory, found without clean labels.

Out of fold, a candidate agrees with the share A₀ of the given labels on inputs as they are, and
with A on perturbed ones. What a network memorised is keyed to the exact input; of what a candidate
owes to it (A₀ less A\*, the agreement with labels of new inputs) a share ρ survives the
perturbation: A = (1 − ρ) A\* + ρ A₀. ρ is the same for all candidates of a network. It is found

- with a hold-out, as that with which A\* of all candidates is most nearly their agreement there;
- without one, from what becomes of memories that are known to be such. Samples whose given label
  no candidate of the layers that agree least predicts, most of which agree on another, are mostly
  mislabelled. How often the layer that agrees most still repeats these labels,
  beyond how often it says so of rightly labelled samples of the class, is memory; ρ is the share of
  it that is left on perturbed inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Memory", "by_agreement", "corrected", "survival_on_holdout", "survival_without"]

# Memory that survives nearly whole cannot be told from knowledge: differences would count tenfold.
MOST = 0.9
_GRID = 91


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
        ρ, the share of memory that survives the perturbation.
    survival_without : float
        The same as found without the hold-out.
    trust : float
        How much the hold-out counts beside the corrected agreement, 0 to 1.
    """

    plain: Tensor
    moved: Tensor
    base: Tensor
    holdout: Tensor | None
    survival: float
    survival_without: float
    trust: float

    @property
    def expected(self) -> Tensor:
        """Agreement with labels of new inputs, as corrected, float64 (C,)."""
        return corrected(self.base, self.moved, self.survival)


T = TypeVar("T", float, Tensor)


def corrected(plain: T, moved: T, survival: float) -> T:
    """Return the agreement with labels of new inputs, A* = (A − ρ A₀) / (1 − ρ)."""
    return (moved - survival * plain) / (1 - survival)


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
    layers: Sequence[str],
    n_classes: int,
) -> float:
    """Return ρ from the answers of all candidates on inputs as they are, and perturbed.

    Layers are ordered by their agreement on inputs as they are. The last one remembers most. What
    contradicts labels is the first layer alone, and the first half of the layers: the first knows
    little, so that some labels that it contradicts are right, and ρ comes out too large; the half
    knows more, so that what stands against a memory is strong, and ρ comes out too small. Their
    geometric mean is taken.

    Parameters
    ----------
    plain, moved : Tensor of int64, shape (C, n)
        Out-of-fold answers.
    labels : Tensor of int64, shape (n,)
        Given labels.
    layers : sequence of str
        Each candidate's layer.
    n_classes : int
        Classes that occur.
    """
    order = by_agreement((plain == labels).double().mean(1), layers)
    if len(order) < 2:
        return 0.0
    last = [at for at, name in enumerate(layers) if name == order[-1]]
    found = []
    for knowing in (order[:1], order[: len(order) // 2]):
        those = [at for at, name in enumerate(layers) if name in knowing]
        votes = torch.zeros(len(labels), n_classes)
        for answers in moved[those]:
            votes.scatter_add_(1, answers[:, None], torch.ones(len(labels), 1))
        most, vote = votes.max(1)
        mine = votes.gather(1, labels[:, None])[:, 0]
        wrong, right = (mine == 0) & (2 * most > len(those)), vote == labels
        before, after = (
            _repeated(each[last], labels, vote, wrong, right, n_classes) for each in (plain, moved)
        )
        found.append(min(MOST, max(0.0, after / before)) if before > 0 else 0.0)
    return float((found[0] * found[1]) ** 0.5)


def _repeated(
    answers: Int[Tensor, "candidates n"],
    labels: Int[Tensor, " n"],
    vote: Int[Tensor, " n"],
    wrong: Bool[Tensor, " n"],
    right: Bool[Tensor, " n"],
    n_classes: int,
) -> float:
    """Return how much oftener than without memory given labels are repeated that look wrong."""
    found = 0.0
    pairs = vote[wrong] * n_classes + labels[wrong]
    of_class = torch.bincount(vote[right], minlength=n_classes).double().clamp(min=1)
    for mine in answers:
        repeats = float((mine[wrong] == labels[wrong]).double().sum())
        # How often the answer k is given to rightly labelled samples of a class.
        counts = torch.bincount(vote[right] * n_classes + mine[right], minlength=n_classes**2)
        rates = counts.double() / of_class.repeat_interleave(n_classes)
        found += repeats - float(rates[pairs].sum())
    return found


def survival_on_holdout(
    plain: Float[Tensor, " candidates"],
    moved: Float[Tensor, " candidates"],
    agrees: Bool[Tensor, "candidates m"],
) -> tuple[float, float]:
    """Return ρ, and how much the hold-out counts beside the corrected agreement.

    The hold-out's own error is the same for all candidates but for the samples on which they
    differ; so A* and the agreement there may differ by a constant. What their difference varies
    beyond the hold-out's sampling error is the error of A*: each of the two counts by its
    precision.

    Parameters
    ----------
    plain, moved : Tensor of float64, shape (C,)
        Agreement on training inputs as they are, and perturbed.
    agrees : Tensor of bool, shape (C, m)
        Which of the hold-out's labels each candidate predicts.
    """
    held = agrees.double()
    on_holdout = held.mean(1)
    # The sampling variance of a candidate's agreement about the mean of all.
    sampling = float((held - held.mean(0)).var(1, correction=0).mean()) / held.shape[1]
    best = (float("inf"), 0.0)
    for step in range(_GRID):
        survival = MOST * step / (_GRID - 1)
        differ = float((corrected(plain, moved, survival) - on_holdout).var(correction=0))
        best = min(best, (differ, survival))
    differ, survival = best
    trust = max(0.0, differ - sampling) / differ if differ > 0 else 0.0
    return survival, trust
