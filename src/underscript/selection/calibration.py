"""Estimates the noise and an ensemble's calibration from its scores and noisy labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..noise.calibration import calibrate, class_bias
from ..noise.estimate import SMALLEST, SURE, Noise, beyond_chance, estimate_noise
from ..utils.intervals import LIMIT
from .budget import ESTIMATED_WITH
from .greedy import Scores, step_of
from .memorisation import Memory, corrected, from_memory, without_memory

__all__ = ["Estimates", "estimate", "rate_of_neighbours"]

# This many samples get their two nearest neighbours, out of all samples used for estimates.
_NEIGHBOURS_OF = 4_000
_STEPS = 300
# A hold-out is cleaner if its noise rate is below this share of the training data's, and the
# intervals do not overlap.
_FAR = 0.5


@dataclass(frozen=True)
class Estimates:
    """Estimates about the labels and about an ensemble.

    Attributes
    ----------
    noise : Noise
        Of the classes that occur.
    temperature, out_of_fold_temperature : float
        Factors for the summed scores of new inputs, and of training inputs.
    bias, out_of_fold_bias : Tensor of float64, shape (C,)
        Added to the classes' log-odds afterwards.
    """

    noise: Noise
    temperature: float
    bias: Tensor
    out_of_fold_temperature: float
    out_of_fold_bias: Tensor


def estimate(
    scores: Scores,
    memory: Memory,
    members: Sequence[int],
    averaged: tuple[Float[Tensor, "m classes"], Int[Tensor, " m"]],
    readers: Sequence[int],
    remembered: float,
    seed: int,
    most: int = ESTIMATED_WITH,
) -> Estimates:
    """Estimate noise and calibration of an ensemble's summed scores.

    They come from the readers' out-of-fold scores of training inputs, and from a hold-out, which
    has the same weight as in the choice of members. Where perturbed inputs or a hold-out show
    clearly more noise (the intervals do not overlap), the readers remember labels, and the noise is
    theirs. A far cleaner hold-out gives the accuracy alone.

    Some training inputs whose label is predicted are left out: as many as are predicted from
    memory. If the decoder then still finds wrong labels, or is not sure, what memory adds to scores
    of given labels is taken off instead (see `memorisation`). The labels of nearest neighbours give
    a second estimate of the rate; the interval includes it.

    Parameters
    ----------
    scores : Scores
        Of all candidates.
    memory : Memory
        How much memory survives.
    members : sequence of int
        The ensemble.
    averaged : tuple of Tensor, shapes (m, K) and (m,)
        The readers' out-of-fold scores of training inputs (see `readers`); their given labels.
    readers : sequence of int
        The readers' places among the candidates, whichever rows they read.
    remembered : float
        The share of these labels that they predict from memory.
    seed : int
        Of random draws.
    most : int
        Samples that noise is estimated with.
    """
    plain, moved = (_summed(each, members) for each in (scores.plain, scores.moved))
    before, perturbed = (
        float((each.argmax(1) == scores.labels).double().mean()) for each in (plain, moved)
    )
    over_views, labels = averaged
    agrees = over_views.argmax(1) == labels
    share = float(agrees.double().mean())
    expected = _without(share, remembered)
    kept = _thinned(agrees, expected)
    noise, temperature, bias = _fitted(over_views[kept], labels[kept], seed, most)
    # Memory is not known exactly: half of what was left out counts as an error, and all that no
    # layer sees.
    doubt = max((share - expected) / 2, _unseen(memory, share) / LIMIT)
    # A decoder that is sure, and finds nothing wrong, shows that memory hides nothing.
    added = of_members = 0.0
    if memory.left and not (noise.rate < SMALLEST and noise.accuracy > SURE):
        lost = _lost(scores, memory)
        of_readers = _summed(scores.plain, readers)
        added = _added(memory, of_readers, over_views, len(readers) * lost)
        of_members = _added(memory, plain, moved, len(members) * lost)
    if added:
        first = noise
        noise, temperature, bias = _fitted(_less(over_views, labels, added), labels, seed, most)
        # Half of what it changes counts as an error, too.
        doubt = (noise.rate - first.rate) / 2
    # Memory only makes labels look right: a reader that remembers is surer where a label is right,
    # and doubts where it is wrong. Inputs without memory that show clearly more noise are believed.
    held = None
    if scores.held is not None:
        held = _fitted(_summed(scores.holdout, members), scores.held, seed, most)
    known = _less(moved, scores.labels, of_members)
    freer = [_fitted(known, scores.labels, seed, most)[0], *([] if held is None else [held[0]])]
    shown = max(freer, key=lambda each: each.rate_low)
    if shown.rate_low > noise.rate_high:
        noise = shown
    out_of_fold = temperature, bias
    noise = noise.widened(doubt)
    # Surviving memory must not make labels look better than chance.
    least = corrected(before, perturbed, memory.survival)
    beyond = beyond_chance(least, moved.argmax(1), scores.labels) * (1 - memory.survival)
    noise = replace(noise, beyond_chance=max(beyond, memory.beyond_chance))
    # New inputs resemble those of a hold-out, or one perturbed view.
    if held is not None and scores.held is not None:
        new, temperature, bias = held
        far = new.rate_high < noise.rate_low and new.rate < _FAR * noise.rate
        # Cleaner labels are predicted more often. An unsure decoder alone may also seem to see less
        # noise in few labels.
        if far and _more_often(_summed(scores.holdout, members), scores.held, share):
            # Far less noisy than the training labels: it gives the accuracy, not their noise.
            noise = replace(
                noise,
                accuracy=new.accuracy,
                accuracy_low=new.accuracy_low,
                accuracy_high=new.accuracy_high,
                holdout_rate=new.rate,
            )
        else:
            noise = noise.averaged(new, memory.weight)
    elif of_members:
        temperature, bias = _calibrated(known, scores.labels, most)
    else:
        of_one = moved.argmax(1) == scores.labels
        unseen = without_memory(before, perturbed, memory.likely, memory.lost)
        memorised = from_memory(perturbed, unseen)
        kept = _thinned(of_one, _without(perturbed, memorised))
        temperature, bias = _calibrated(moved[kept], scores.labels[kept], most)
    second = rate_of_neighbours(over_views, labels, seed, most)
    noise = replace(
        noise,
        second_rate=second,
        rate_low=min(noise.rate_low, second),
        rate_high=max(noise.rate_high, second),
    )
    return Estimates(noise, temperature, bias, *out_of_fold)


def _more_often(
    scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], share: float
) -> bool:
    """Return whether labels are predicted clearly more often than a share of them (95 %)."""
    agreed = (scores.argmax(1) == labels).double().mean().item()
    error = (agreed * (1 - agreed) / len(labels)) ** 0.5
    return bool(agreed - LIMIT * error > share)


def _without(agrees: float, remembered: float) -> float:
    """Return the agreement without the labels that are predicted from memory."""
    return max(0.0, agrees - remembered) / (1 - remembered) if remembered < 1 else 0.0


def _summed(scores: Sequence[Tensor], members: Sequence[int]) -> Float[Tensor, "n classes"]:
    return torch.stack([scores[at] for at in members]).sum(0)


def _unseen(memory: Memory, share: float) -> float:
    """Return how much of an agreement may be memory, although no layer sees any.

    At most as many labels as may be wrong, and none of those that the layer agrees with which
    memorises least.
    """
    return max(0.0, min(memory.may_be_wrong, share - memory.known))


def _added(memory: Memory, plain: Tensor, moved: Tensor, lost: float) -> float:
    """Return what memory adds to scores of given labels; the scores are of all samples."""
    return memory.added(_of_reference(plain, memory), _of_reference(moved, memory), lost)


def _of_reference(rows: Tensor, memory: Memory) -> Tensor:
    """Return the rows of the samples that memory was measured with."""
    every = 1 if memory.reference is None else memory.reference.every
    return rows[:: step_of(len(rows))][::every]


def _lost(scores: Scores, memory: Memory) -> float:
    """Return what the perturbation takes from the best input candidate's scores of given labels."""
    if not memory.free or memory.reference is None:
        return 0.0
    best = max(memory.free, key=lambda at: float(memory.moved[at]))
    as_it_is, after = (_of_reference(each[best], memory) for each in (scores.plain, scores.moved))
    return max(0.0, memory.reference.taken(as_it_is, after))


def _less(
    scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], added: float
) -> Float[Tensor, "n classes"]:
    """Return scores of which something is taken off that of each given label."""
    return scores - added * torch.nn.functional.one_hot(labels, scores.shape[1])


def _thinned(agrees: Tensor, expected: float) -> Int[Tensor, " kept"]:
    """Return samples of which a share `expected` agree; agreeing ones are left out evenly."""
    agreeing, others = torch.nonzero(agrees)[:, 0], torch.nonzero(~agrees)[:, 0]
    if not len(others) or expected >= 1:
        return torch.arange(len(agrees))
    number = min(len(agreeing), round(len(others) * expected / (1 - expected)))
    if number:
        agreeing = agreeing[torch.linspace(0, len(agreeing) - 1, number).round().long()]
    return torch.cat([agreeing[:number], others]).sort().values


def _fitted(
    scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], seed: int, most: int
) -> tuple[Noise, float, Tensor]:
    """Return noise, temperature and biases, estimated from some samples' scores."""
    step = max(1, len(labels) // most)
    scores, labels = scores[::step].double(), labels[::step]
    temperature, bias = _calibrated(scores, labels, most)
    shifted = scores + bias / temperature
    return estimate_noise(shifted, labels, calibrate(shifted, labels), seed), temperature, bias


def _calibrated(
    scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], most: int
) -> tuple[float, Tensor]:
    """Return the temperature and the classes' biases, which are added to log-odds."""
    step = max(1, len(labels) // most)
    scores, labels = scores[::step].double(), labels[::step]
    calibration = calibrate(scores, labels)
    bias = class_bias(scores, labels, calibration)
    again = calibrate(scores + bias / calibration.temperature, labels)
    return again.temperature, bias * (again.temperature / calibration.temperature)


def rate_of_neighbours(
    scores: Float[Tensor, "n classes"],
    labels: Int[Tensor, " n"],
    seed: int,
    most: int = ESTIMATED_WITH,
) -> float:
    """Return the noise rate estimated from labels of two nearest neighbours.

    A sample and its two nearest neighbours (by the angle between scores) are taken to be of one
    class. EM fits priors and a transition matrix to their three labels (HOC: Zhu, Song and Liu,
    ICML 2021, arXiv 2102.05291). If neighbours are of several classes, the rate is too large.

    Parameters
    ----------
    scores : Tensor, shape (n, C)
        Out-of-fold scores.
    labels : Tensor of int64, shape (n,)
        Noisy labels.
    seed : int
        Of the draw of samples.
    most : int
        Samples among which neighbours are searched.
    """
    step = max(1, len(labels) // most)
    rows = torch.nn.functional.normalize((scores - scores.mean(1, True))[::step].float(), dim=1)
    labels = labels[::step]
    if len(labels) < 3:
        return 0.0
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[:_NEIGHBOURS_OF]
    triples = []
    for some in torch.split(chosen, 512):
        near = rows[some] @ rows.T
        near[torch.arange(len(some)), some] = -torch.inf
        triples.append(torch.cat([some[:, None], near.topk(2, dim=1).indices], 1))
    seen = labels[torch.cat(triples)]
    n_classes = scores.shape[1]
    matrix = 0.7 * torch.eye(n_classes, dtype=torch.float64) + 0.3 / n_classes
    priors = torch.full((n_classes,), 1 / n_classes, dtype=torch.float64)
    for _ in range(_STEPS):
        of_labels = matrix.T.contiguous()
        joint = priors * of_labels[seen[:, 0]]
        joint *= of_labels[seen[:, 1]]
        joint *= of_labels[seen[:, 2]]
        joint /= joint.sum(1, keepdim=True).clamp(min=1e-300)
        counts = torch.zeros(n_classes, n_classes, dtype=torch.float64)
        for place in range(3):
            counts.index_add_(0, seen[:, place], joint)
        before, priors = priors, joint.mean(0)
        matrix = (counts.T + 1e-9) / (counts.T + 1e-9).sum(1, keepdim=True)
        if float((priors - before).abs().max()) < 1e-6:
            break
    return float(1 - (priors * matrix.diagonal()).sum())
