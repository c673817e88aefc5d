r"""The likelihood of the given labels, for a grid of temperatures and shares of noise.

A label follows the scores, or with probability e is drawn from all K classes:
:math:`p(y | x) = (1 - e)\, \mathrm{softmax}(t s(x))_y + e / K`. If noise depends on the class, a
transition matrix T draws the label first: :math:`\sum_z \mathrm{softmax}(t s(x))_z T_{zy}` takes
the place of the softmax.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["REDRAWN", "TEMPERATURES", "Likely", "likelihoods", "of_all_labels"]

# Each is twice the one before, so one exponential serves all: squaring gives the next.
TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0)
REDRAWN = tuple(step / 10 for step in range(10))
# Numbers in a block.
_AT_ONCE = 1 << 17
_LEAST = 1e-12


def likelihoods(
    scores: Float[Tensor, "*ways n classes"],
    labels: Int[Tensor, " n"],
    transitions: Float[Tensor, "classes classes"] | None = None,
) -> Float[Tensor, "*ways temperatures shares"]:
    """Return the mean log-likelihood of labels for each temperature and share that is redrawn.

    Temperatures are relative to the scores' own spread. `transitions`: the chance of a label
    (column) given the class (row).
    """
    means = _averaged(
        _chances(scores.reshape(-1, *scores.shape[-2:]), labels, _given(labels, transitions)),
        scores.shape[-1],
    )
    return means.view(*scores.shape[:-2], len(TEMPERATURES), len(REDRAWN))


def of_all_labels(scores: Float[Tensor, "n classes"]) -> Iterator[Float[Tensor, "n classes"]]:
    """Yield the log-likelihood of each class as the label, for each temperature and each share."""
    scaled = scores.float() / _spread(scores)
    for temperature in TEMPERATURES:
        chances = torch.softmax(temperature * scaled, 1)
        for share in REDRAWN:
            yield _redrawn(chances, share, scores.shape[1])


def _given(labels: Tensor, transitions: Tensor | None) -> Tensor | None:
    """Return the chance of each given label by class, (K, n), or None without transitions."""
    return None if transitions is None else transitions.float()[:, labels]


def _chances(
    scores: Float[Tensor, "ways n classes"], labels: Tensor, given: Tensor | None
) -> Float[Tensor, "temperatures ways n"]:
    """Return the chance of each label without redrawing, for each temperature."""
    ways, n, n_classes = scores.shape
    spread = torch.stack([_spread(each) for each in scores])
    chances = torch.empty(len(TEMPERATURES), ways, n, device=scores.device)
    # A block stays in the processor's cache.
    size = max(1, _AT_ONCE // max(1, ways * n_classes))
    for start in range(0, n, size):
        at = slice(start, start + size)
        # Classes first: sums over them then add whole rows of samples.
        powers = scores[:, at].permute(2, 0, 1).float().contiguous()
        powers -= powers.amax(0)
        powers.mul_((TEMPERATURES[0] / spread)[:, None]).exp_()
        given_labels = labels[at].expand(1, *powers.shape[1:])
        for number in range(len(TEMPERATURES)):
            if number:
                powers *= powers
            if given is None:
                of_label = powers.gather(0, given_labels)[0]
            else:
                of_label = (powers * given[:, None, at]).sum(0)
            torch.div(of_label, powers.sum(0), out=chances[number, :, at])
    return chances


def _spread(scores: Float[Tensor, "n classes"]) -> Tensor:
    """Return the root mean square of scores about each row's mean; 1 if all are equal."""
    about = scores.float() - scores.float().mean(1, keepdim=True)
    spread = about.square_().mean().sqrt()
    return torch.where(spread > 0, spread, 1.0)


def _averaged(chances: Tensor, n_classes: int) -> Float[Tensor, "ways temperatures shares"]:
    """Return the mean log-likelihood for each share that is redrawn."""
    rows = []
    for share in REDRAWN:
        rows.append(_redrawn(chances, share, n_classes).mean(2))
    return torch.stack(rows, 2).transpose(0, 1).double()


def _redrawn(chances: Float[Tensor, "*of"], share: float, n_classes: int) -> Float[Tensor, "*of"]:
    """Return the log-likelihood of labels with these chances, if a share of them is redrawn."""
    return (chances * (1 - share)).add_(share / n_classes).clamp_(min=_LEAST).log_()


@dataclass
class Likely:
    """Labels of some samples, with the scores of all candidates there.

    Attributes
    ----------
    scores : list of Tensor of float32, shape (n, K)
        Of all candidates.
    labels : Tensor of int64, shape (n,)
        Noisy labels.
    transitions : Tensor of float64, shape (K, K), or None
        How labels go wrong, if it depends on the class.
    """

    scores: Sequence[Tensor]
    labels: Tensor
    transitions: Tensor | None = None
    _alone: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def of(
        self, candidates: Sequence[int], total: Tensor | None = None
    ) -> Float[Tensor, "candidates temperatures shares"]:
        """Return the likelihoods of candidates, alone or added to an ensemble's summed scores."""
        if total is None:
            missing = [each for each in candidates if each not in self._alone]
            self._alone |= zip(missing, self._many(missing, None), strict=True)
            return torch.stack([self._alone[each] for each in candidates])
        return self._many(candidates, total)

    def _many(self, candidates: Sequence[int], total: Tensor | None) -> Tensor:
        parts = [torch.empty(0, len(TEMPERATURES), len(REDRAWN), dtype=torch.float64)]
        at_once = max(1, _AT_ONCE // max(1, self.scores[0].numel()))
        for start in range(0, len(candidates), at_once):
            some = torch.stack([self.scores[at] for at in candidates[start : start + at_once]])
            if total is not None:
                some += total
            parts.append(_averaged(_chances(some, self.labels, self._given), some.shape[2]))
        return torch.cat(parts)

    def summed(self, members: Sequence[int]) -> Float[Tensor, "n classes"]:
        """Return the summed scores of an ensemble."""
        return torch.stack([self.scores[at] for at in members]).sum(0)

    def each_label(self, members: Sequence[int]) -> Float[Tensor, " n"]:
        """Return each label's log-likelihood, at an ensemble's best temperature and noise share."""
        total = self.summed(members)
        chances = _chances(total[None], self.labels, self._given)
        best = int(_averaged(chances, total.shape[1]).argmax())
        temperature, share = divmod(best, len(REDRAWN))
        return _redrawn(chances[temperature, 0], REDRAWN[share], total.shape[1])

    @cached_property
    def _given(self) -> Tensor | None:
        return _given(self.labels, self.transitions)

    def part(self, some: slice) -> "Likely":
        """Return some of the samples."""
        return Likely([each[some] for each in self.scores], self.labels[some], self.transitions)

    def drawn_by(self, transitions: Tensor | None) -> "Likely":
        """Return the same labels, drawn by another transition matrix."""
        if transitions is self.transitions:
            return self
        return Likely(self.scores, self.labels, transitions)
