r"""How much of a layer's agreement with the given labels is memory, estimated without clean labels.

Out of fold, a candidate agrees with a share A₀ of the given labels on inputs as they are, and with
A on perturbed ones. A\* is its agreement with labels of new inputs, so A₀ − A\* is due to what the
network memorised. Memory is keyed to the exact input, and a share ρ of it survives the
perturbation: A = (1 − ρ) A\* + ρ A₀. A perturbation also costs knowledge. Candidates of the input
remember nothing, so what the best of them loses is knowledge, and as much of A₀ − A is taken for
knowledge elsewhere. There are two estimates of ρ:

- From labels that are likely wrong. A layer, the reference, votes for a class, and tells of each
  other label how likely it is wrong, w. The layer that agrees most with the given labels repeats a
  share of the wrong ones (weighted by w). Some of these it predicts because classes are alike: as
  often as it predicts that label for correctly labelled samples of the class that is voted for.
  The rest is memory; ρ is the share of it that is left on perturbed inputs. Candidates read
  different shares; the largest counts, as that candidate could win by memory. The reference looks
  at another perturbed view: what a view hides, it hides from all layers, and labels that look wrong
  there are those that no layer predicts there.

  What the reference does not know looks like memory of the other layer, so ρ comes out too large; a
  better reference lies deeper and may itself remember labels, and these it takes for right. So
  begin with the layer that agrees least, which remembers nothing. This ρ is an upper limit. It
  limits what every other layer remembers on perturbed inputs, μ. Taken as a reference, that layer
  misses at most the share μ of the wrong labels, and the last layer remembers these, too. So its
  own ρ, with μ added to both shares, is an upper limit again. The smallest limit replaces the
  first, until none is smaller.
- With a hold-out: the ρ with which A\* of all candidates is closest to their agreement there.

Memory also makes given labels likelier without their being predicted: it adds to their scores, δ₀
on inputs as they are, δ on perturbed ones. The same reference shows δ₀ − δ, as what it does not
know adds to both. The share δ / δ₀ comes from the last layer, where memory is most of what adds. It
is not ρ, as predictions change by leaps. Nor is the share of what memory adds to a likelihood: what
is left of it may make a label likely that is not predicted any more. So each likelihood is
corrected with a share of its own, measured like ρ.

The choice uses the largest plausible ρ. If ρ is too small, candidates win by memory, and an
ensemble of them loses tens of points; if it is too large, candidates that memorise little win,
which costs one or two.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ..utils.intervals import LIMIT, of_share
from .likelihood import REDRAWN, TEMPERATURES, of_all_labels

__all__ = [
    "TOO_MUCH",
    "Memory",
    "Reference",
    "by_agreement",
    "corrected",
    "from_memory",
    "lost_by",
    "survival_by_references",
    "survival_of_likelihoods",
    "survival_of_scores",
    "without_memory",
]

# Larger ρ are not used: memory that survives nearly whole looks like knowledge, and differences
# would count tenfold.
MOST = 0.9
# If more memory survives, errors of agreement are multiplied by four, and say little.
TOO_MUCH = 0.75
# Limits of ρ that differ by less are the same.
_SETTLED = 1e-3
# Numbers, samples times classes, that the memory in likelihoods is measured with.
_NUMBERS = 1 << 20


@dataclass(frozen=True)
class Memory:
    """How much of the given labels a network's candidates repeat from memory.

    Attributes
    ----------
    plain, moved : Tensor of float64, shape (C,)
        Agreement with the given labels out of fold: on inputs as they are, and perturbed.
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
    reference : Reference or None
        The layer that memory was measured with, for samples that estimate.
    free : tuple of int
        Places of candidates of the input, which remember nothing.
    left : float
        The share δ / δ₀ of what memory adds to scores of given labels that survives; 0 if not
        known.
    of_likelihoods : Tensor of float64, shape (T, S), or None
        The largest plausible share of what memory adds to log-likelihoods of given labels that
        survives, by temperature and share of noise; None if it is ρ.
    of_network : float
        The least plausible ρ of the last layer's candidates that were fitted to the given labels,
        and remember; 0 if none does. What later rounds learn from predicted labels is no memory.
    may_be_wrong : float
        The largest plausible share of wrong labels, by the layer that memorises least; 0 where
        memory is seen. So many labels may be repeated from memory although no layer sees it.
    known : float
        The agreement of the layer that memorises least with given labels, on perturbed inputs.
    """

    plain: Tensor
    moved: Tensor
    holdout: Tensor | None
    survival: float
    likely: float
    trust: float
    weight: float = 0.0
    beyond_chance: float = 0.0
    reference: "Reference | None" = None
    free: tuple[int, ...] = ()
    left: float = 0.0
    of_likelihoods: Tensor | None = None
    of_network: float = 0.0
    may_be_wrong: float = 0.0
    known: float = 0.0

    @property
    def survives(self) -> bool:
        """Whether most of the network's memory survives, and no hold-out tells it apart."""
        return self.holdout is None and self.of_network > TOO_MUCH

    @property
    def lost(self) -> float:
        """The agreement that the perturbation costs the best candidate of the input."""
        return float(lost_by(self.plain[[*self.free]], self.moved[[*self.free]]))

    @property
    def in_likelihoods(self) -> Tensor | float:
        """The largest plausible share of memory that survives in log-likelihoods: for choosing."""
        return self.survival if self.of_likelihoods is None else self.of_likelihoods

    @property
    def expected(self) -> Tensor:
        """Corrected agreement with labels of new inputs, float64 (C,)."""
        return without_memory(self.plain, self.moved, self.survival, self.lost)

    def added(
        self,
        plain: Float[Tensor, "n classes"],
        moved: Float[Tensor, "n classes"],
        lost: float = 0.0,
    ) -> float:
        """Return δ: how much memory adds to scores of given labels on perturbed inputs.

        Parameters
        ----------
        plain, moved : Tensor, shape (n, K)
            Out-of-fold scores of the reference's samples, as they are, and perturbed.
        lost : float
            What the perturbation takes from scores of given labels where nothing is remembered.
        """
        if not self.left or self.reference is None:
            return 0.0
        taken = max(0.0, self.reference.taken(plain, moved) - lost)
        return self.left / (1 - self.left) * taken


T = TypeVar("T", float, Tensor, NDArray[np.floating[Any]])


def corrected(plain: T, moved: T, survival: float) -> T:
    """Return the agreement with labels of new inputs, A* = (A − ρ A₀) / (1 − ρ)."""
    return (moved - survival * plain) / (1 - survival)


def without_memory(plain: T, moved: T, survival: T | float, lost: T | float) -> T:
    r"""Return A\*, where the perturbation costs as much knowledge as `lost`; it is at most A."""
    beyond = plain - moved - lost
    return moved - survival / (1 - survival) * beyond * (beyond > 0)


def lost_by(
    plain: Float[Tensor, "candidates *of"], moved: Float[Tensor, "candidates *of"]
) -> Float[Tensor, "*of"]:
    """Return what the perturbation costs that candidate which is best on perturbed inputs, ≥ 0."""
    if not len(moved):
        return torch.zeros(moved.shape[1:], dtype=moved.dtype)
    best = int(moved.flatten(1).amax(1).argmax()) if moved.ndim > 1 else int(moved.argmax())
    return (plain[best] - moved[best]).clamp(min=0)


def from_memory(agrees: float, new: float) -> float:
    """Return the share m of samples whose label is predicted from memory.

    `agrees` is the agreement A with labels of training inputs, `new` that with labels of new
    inputs, A*: A = m + (1 − m) A*. A correction may take A* below zero; it is zero then.
    """
    new = max(0.0, new)
    return max(0.0, agrees - new) / (1 - new) if new < 1 else 0.0


def by_agreement(agree: Float[Tensor, " candidates"], layers: Sequence[str]) -> list[str]:
    """Return layers in order of their candidates' mean agreement with given labels."""
    of_layer = {
        name: float(agree[[at for at, other in enumerate(layers) if other == name]].mean())
        for name in dict.fromkeys(layers)
    }
    return sorted(of_layer, key=lambda name: of_layer[name])


@dataclass(frozen=True)
class Reference:
    """What one layer says of the given labels, to measure what others remember.

    Attributes
    ----------
    labels, vote : Tensor of int64, shape (n,)
        Given labels, and the classes that the layer predicts on inputs that are perturbed in
        another way than where others are measured.
    right : Tensor of float64, shape (n,)
        The probability that each label is right, by the layer.
    n_classes : int
        Classes that occur.
    every : int
        Every how many of the samples that choose these are.
    hidden : float
        At most this share of the wrong labels the layer remembers itself, μ.
    """

    labels: Tensor
    vote: Tensor
    right: Tensor
    n_classes: int
    every: int = 1
    hidden: float = 0.0

    @property
    def wrong(self) -> Float[Tensor, " n"]:
        """How likely each label is wrong, w; 0 if it is voted for."""
        return torch.where(self.vote == self.labels, 0.0, 1 - self.right)

    @property
    def credible(self) -> bool:
        """Whether most labels that look wrong, weighted by w, are wrong."""
        wrong = self.wrong
        return bool(wrong @ wrong > 0.5 * wrong.sum())

    def excess(
        self, predictions: Int[Tensor, "candidates n"], knows: bool = False
    ) -> Float[Tensor, "candidates n"]:
        """Return how much more often candidates predict each label than classes are alike, times w.

        Alike are classes as far as samples of the class that is voted for, whose labels are right,
        are predicted as the given label. A label that looks wrong may be right, and the candidates
        may know it. If `knows`, such labels are expected to be predicted as often as any right
        label, which is too often: they are hard to tell.
        """
        labels, k, right, wrong = self.labels, self.n_classes, self.right, self.wrong
        of_class = torch.bincount(labels, right, k).clamp(min=1e-9)
        beyond = []
        for predicted in predictions:
            agrees = (predicted == labels).double()
            counts = torch.bincount(labels * k + predicted, right, k**2).view(k, k)
            expected = (counts / of_class[:, None])[self.vote, labels]
            if knows:
                known = (right @ agrees) / right.sum().clamp(min=1e-9)
                expected = (1 - right) * expected + right * known
            beyond.append(wrong * (agrees - expected))
        return torch.stack(beyond)

    def some(self, step: int) -> "Reference":
        """Return what it says of every so many of its samples."""
        labels, vote, right = (each[::step] for each in (self.labels, self.vote, self.right))
        every = self.every * step
        return replace(self, labels=labels, vote=vote, right=right, every=every)

    def raised(self, scores: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
        """Return how much higher than expected each given label's score is, times w.

        Scores count from each row's mean.
        """
        return self.beyond(scores - scores.mean(1, keepdim=True))

    def beyond(self, values: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
        """Return how much higher than expected each given label's value is, times w.

        Expected is its mean for samples of the class that is voted for, whose labels are right.
        """
        values, labels, k = values.double(), self.labels, values.shape[1]
        of_class = torch.bincount(labels, self.right, k).clamp(min=1e-9)
        sums = values.new_zeros(k, k).index_add_(0, labels, self.right[:, None] * values)
        expected = (sums / of_class[:, None])[self.vote, labels]
        return self.wrong * (values.gather(1, labels[:, None])[:, 0] - expected)

    def taken(self, plain: Float[Tensor, "n classes"], moved: Float[Tensor, "n classes"]) -> float:
        """Return how much the perturbation takes from scores of labels that look wrong."""
        before, after = (float(self.raised(each).sum()) for each in (plain, moved))
        return (before - after) / max(1e-9, float(self.wrong.sum()))

    def seen(self, plain: Tensor, moved: Tensor) -> "_Seen | None":
        """Return what it sees that candidates remember, by predictions (C, n); None if none does.

        Those count that repeat labels that look wrong beyond what they may know.
        """
        those = _is_seen(self.excess(plain, knows=True))
        parts = (self.excess(each[those]) / self.wrong.sum() for each in (plain, moved))
        return _Seen(*parts) if bool(those.any()) else None

    def remembered(self, predictions: Int[Tensor, " n"]) -> float:
        """Return the memorisation rate: the share of wrong labels repeated from memory, 0 to 1."""
        wrong = float(self.wrong.sum())
        seen = float(self.excess(predictions[None]).sum()) / wrong if wrong > 0 else 0.0
        return self.hidden + (1 - self.hidden) * min(1.0, max(0.0, seen))


@dataclass(frozen=True)
class _Seen:
    """What a reference sees that candidates remember: (C, n), each sample's part of the share."""

    plain: Tensor
    moved: Tensor

    def survival(self, hidden: float) -> tuple[float, float]:
        """Return ρ and its 97.5 % limit, if the reference itself remembers a share `hidden`.

        Of all candidates the largest, and the largest limit.
        """
        shares, errors = self._shares(hidden)
        return float(shares.max()), float((shares + LIMIT * errors).max())

    def least_survival(self, hidden: float) -> float:
        """Return the 2.5 % limit of ρ, at most 1: of all candidates the largest.

        Even if all of n remembered labels are repeated, no share above n / (n + 1.96²) is sure
        (Wilson 1927). Labels that look wrong count as their weights say.
        """
        shares, errors = self._shares(hidden)
        labels = self.plain.sum(1).square() / self.plain.square().sum(1)
        of_all = shares.new_tensor([of_share(1.0, n)[0] for n in labels.tolist()])
        return float(torch.minimum(shares - LIMIT * errors, of_all).max())

    def _shares(self, hidden: float) -> tuple[Tensor, Tensor]:
        """Return each candidate's ρ, and its standard error."""
        before, after = (
            hidden + (1 - hidden) * each.sum(1, keepdim=True) for each in (self.plain, self.moved)
        )
        shares = after / before
        apart = (1 - hidden) * (self.moved - shares * self.plain)
        errors = apart.std(1, correction=0, keepdim=True) * apart.shape[1] ** 0.5 / before
        return shares[:, 0], errors[:, 0]


def _is_seen(excess: Float[Tensor, "candidates n"]) -> Bool[Tensor, " candidates"]:
    """Return for which candidates an excess is above zero (97.5 %)."""
    errors = excess.std(1, correction=0) / excess.shape[1] ** 0.5
    above: Tensor = excess.mean(1) > LIMIT * errors
    return above


def survival_by_references(
    plain: Int[Tensor, "candidates n"],
    moved: Int[Tensor, "candidates n"],
    references: Mapping[str, Reference],
    agree: Mapping[str, tuple[float, float]],
    free: Collection[str] = (),
) -> tuple[float, float, Reference | None]:
    """Return the likeliest and the largest plausible ρ, and what they were measured with.

    A reference counts if most labels that look wrong to it are wrong, and it sees that the last
    layer remembers them, beyond what that layer may know. Those after the first must see that some
    are remembered on perturbed inputs, too: one that sees none may remember the same labels. If no
    reference counts, ρ is 0.

    Parameters
    ----------
    plain, moved : Tensor of int64, shape (C, n)
        Out-of-fold predictions by candidates of the last layer, for inputs as they are, and
        perturbed.
    references : mapping of str to Reference
        By layer, from the one that agrees least with the given labels.
    agree : mapping of str to tuple of float
        The agreement of each reference with the labels, on inputs as they are, and perturbed.
    free : collection of str
        Layers that remember nothing. The first that counts is taken to remember nothing, too.
    """
    seen: dict[str, _Seen] = {}
    for name, reference in references.items():
        some = reference.seen(plain, moved) if reference.credible else None
        if some is not None and (not seen or bool(_is_seen(some.moved).any())):
            seen[name] = some
    if not seen:
        return 0.0, 0.0, next(iter(references.values()), None)
    best = next(iter(seen))
    free, hidden = {*free, best}, 0.0
    likely, most = seen[best].survival(hidden)
    while True:
        share, limits = min(MOST, likely), {}
        for name, each in seen.items():
            as_it_is, perturbed = agree[name]
            new = corrected(as_it_is, perturbed, share)
            of_own = 0.0 if name in free else from_memory(perturbed, new)
            limits[name] = (*each.survival(of_own), of_own)
        least = min(limits, key=lambda name: limits[name][0])
        if limits[least][0] > likely - _SETTLED:
            likely, most = (min(MOST, max(0.0, end)) for end in (likely, most))
            return likely, most, replace(references[best], hidden=hidden)
        best, (likely, most, hidden) = least, limits[least]


def survival_of_scores(
    reference: Reference,
    plain: Sequence[Float[Tensor, "n classes"]],
    moved: Sequence[Float[Tensor, "n classes"]],
) -> float:
    """Return the share of what memory adds to scores of given labels that survives: the largest.

    Parameters
    ----------
    reference : Reference
        What memory is measured with.
    plain, moved : sequence of Tensor, shape (n, K)
        Out-of-fold scores by candidates of the last layer, for inputs as they are, and perturbed.
    """
    shares = [0.0]
    for before, after in zip(plain, moved, strict=True):
        raised = reference.raised(before)
        if bool(_is_seen(raised[None])):
            shares.append(float(reference.raised(after).sum() / raised.sum()))
    return min(MOST, max(shares))


def survival_of_likelihoods(
    reference: Reference,
    plain: Sequence[Float[Tensor, "n classes"]],
    moved: Sequence[Float[Tensor, "n classes"]],
    otherwise: float,
) -> Float[Tensor, "temperatures shares"]:
    """Return the share of what memory adds to log-likelihoods of given labels that survives.

    It is the largest of all candidates, with its 97.5 % limit, for each temperature and each share
    of noise (see `likelihood`).

    Parameters
    ----------
    reference : Reference
        What memory is measured with.
    plain, moved : sequence of Tensor, shape (n, K)
        Out-of-fold scores by candidates of the last layer, for inputs as they are, and perturbed.
    otherwise : float
        What is returned where no memory is seen.
    """
    largest = torch.full((len(TEMPERATURES) * len(REDRAWN),), -1.0, dtype=torch.float64)
    step = -(-plain[0].numel() // _NUMBERS)
    reference = reference.some(step)
    for before, after in zip(plain, moved, strict=True):
        pairs = zip(of_all_labels(before[::step]), of_all_labels(after[::step]), strict=True)
        for at, likelihoods in enumerate(pairs):
            as_it_is, perturbed = (reference.beyond(each)[None] for each in likelihoods)
            if bool(_is_seen(as_it_is)):
                seen = _Seen(as_it_is / as_it_is.sum(), perturbed / as_it_is.sum())
                largest[at] = max(float(largest[at]), seen.survival(reference.hidden)[1])
    shares = torch.where(largest < 0, otherwise, largest.clamp(0, MOST))
    return shares.view(len(TEMPERATURES), len(REDRAWN))
