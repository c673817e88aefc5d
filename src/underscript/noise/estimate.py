r"""How noisy labels are, and how right a decoder is, from its scores and noisy labels alone.

A label is taken to be right, as the decoder's calibrated probabilities have it, or, with
probability e, drawn from all K classes alike: :math:`p(y | x) = (1 - e) \, \mathrm{softmax}(t
s(x))_y + e / K`. Temperature t and share e are fitted together by maximum likelihood. Where the
decoder is sure, every contradiction is noise; so e is found although nobody knows which labels are
wrong, and it is 0 where the labels are as uncertain as the decoder says.

Where noise depends on the class, a transition matrix T takes the place of this:
:math:`p(y | x) = \sum_z \mathrm{softmax}(t s(x))_z T_{zy}`, if the labels are likelier by more than
its K (K − 1) numbers (Akaike's criterion).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "Calibration",
    "Noise",
    "beyond_chance",
    "calibrate",
    "chance_right",
    "class_bias",
    "estimate_noise",
    "estimated_transitions",
    "expected_calibration_error",
]

# Temperatures times the spread of the scores; between two the likelihood is flat.
_TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0)
_STEPS = 100
# Around the likeliest one, for the bootstrap.
_NEARBY = (0.35, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8)
# As far as temperature and a transition matrix may trade off.
_WIDER = (0.7, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0, 10.0)
_DRAWS = 200
# Shares that are redrawn, of which those count that are likely enough (95 % of one number).
_SHARES, _AS_LIKELY = 50, 1.92
_AROUND = 0.15
# Noise below this is not told from none: decoders and labels are never that well calibrated.
SMALLEST = 0.02
# A decoder that may be right less often cannot tell wrong labels from its own doubt.
SURE = 0.75
# Standard errors of agreement beyond chance that show that labels say something.
BEYOND = 3.0
_MATRICES = ("transitions", "transitions_error")
# Matrices of so many classes are written whole; of larger ones so many of the largest numbers.
_WRITTEN, _LARGEST = 50, 50


@dataclass(frozen=True)
class Calibration:
    """How a decoder's scores become probabilities, and what noisy labels say of these.

    Attributes
    ----------
    temperature : float
        ``softmax(temperature · scores)`` are the probabilities of the right class.
    redrawn : float
        The share e of labels that were drawn from all classes alike, in [0, 1).
    likelihoods : Tensor of float64, shape (n,)
        The log-likelihood of each given label.
    """

    temperature: float
    redrawn: float
    likelihoods: Tensor

    @property
    def mean(self) -> float:
        """The mean log-likelihood of a label, in nats."""
        return float(self.likelihoods.mean())


def calibrate(scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Calibration:
    """Fit temperature and noise to scores of samples whose noisy labels they were not fitted to.

    Parameters
    ----------
    scores : Tensor, shape (n, K)
        The larger, the likelier the class; −inf for a class that cannot be.
    labels : Tensor of int64, shape (n,)
        Noisy labels.

    Returns
    -------
    Calibration
    """
    scores = scores.double()
    spread = _spread(scores)
    of_label = torch.stack(
        [
            torch.softmax(scores * (relative / spread), 1).gather(1, labels[:, None])[:, 0]
            for relative in _TEMPERATURES
        ]
    )
    redrawn, likelihoods = _share(of_label, scores.shape[1])
    best = int(likelihoods.mean(1).argmax())
    return Calibration(_TEMPERATURES[best] / spread, float(redrawn[best]), likelihoods[best])


def class_bias(
    scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], calibration: Calibration
) -> Float[Tensor, " classes"]:
    """Return what is added to each class's log-odds so that classes are as frequent as labels say.

    The priors that make the labels likeliest, by EM (Saerens, Latinne and Decaestecker 2002), with
    a share of the labels redrawn. Zero where labels are not likelier by more than K − 1 numbers
    (Akaike's criterion): classes then count as equally likely.

    Returns
    -------
    Tensor of float64, shape (K,)
    """
    odds = scores.double() * calibration.temperature
    n, n_classes = odds.shape
    share = calibration.redrawn
    # A bias multiplies what is below: no exponential is taken again, and sums are products.
    odds = (odds - odds.amax(1, keepdim=True)).exp_()
    mine = odds.gather(1, labels[:, None])[:, 0]
    weights = torch.ones(n_classes, dtype=torch.float64)

    def of_labels() -> tuple[Tensor, Tensor, Tensor]:
        """Return each row's sum, the chance of its label as class, and of its label as drawn."""
        total = odds @ weights
        chance = mine * weights[labels] / total
        return total, chance, ((1 - share) * chance + share / n_classes).clamp(min=1e-300)

    before = float(of_labels()[2].log().sum())
    for _ in range(_STEPS):
        total, chance, drawn = of_labels()
        expected = weights * (odds.T @ (1 / total))
        posterior = share / n_classes * weights * (odds.T @ (1 / (total * drawn)))
        posterior.index_add_(0, labels, (1 - share) * chance / drawn)
        moved = (posterior / n + 1e-9) / (expected / n + 1e-9)
        weights *= moved
        weights /= weights.log().mean().exp()
        if float(moved.log().abs().max()) < 1e-4:
            break
    after = float(of_labels()[2].log().sum())
    bias = weights.log()
    return bias if after - before > n_classes - 1 else torch.zeros_like(bias)


def _share(of_label: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return the likeliest e of each row of chances (k, n), and each label's log-likelihood (k, n).

    The problem is concave in e.
    """
    apart = 1.0 / n_classes - of_label
    low = torch.zeros(len(of_label), 1, dtype=of_label.dtype)
    high = torch.full_like(low, 1.0 - 1e-6)
    none, all_drawn = low, high

    def relative(share: Tensor) -> Tensor:
        return apart / (of_label + share * apart)

    falls = relative(none).mean(1, keepdim=True) <= 0
    rises = relative(all_drawn).mean(1, keepdim=True) >= 0
    share = (low + high) / 2
    # Newton's steps, or half of what is left where they lead out of it.
    for _ in range(_STEPS):
        ratio = relative(share)
        slope = ratio.mean(1, keepdim=True)
        low, high = torch.where(slope > 0, share, low), torch.where(slope > 0, high, share)
        step = share + slope / ratio.square().mean(1, keepdim=True)
        step = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
        moved = (step - share).abs().masked_fill(falls | rises, 0)
        share = step
        if float(moved.max()) < 1e-8:
            break
    share = torch.where(falls, none, torch.where(rises, all_drawn, share))
    return share[:, 0], (of_label + share * apart).clamp(min=1e-300).log()


def _spread(scores: Tensor) -> float:
    """Return the standard deviation of scores about each row's mean; 1 where they do not vary."""
    finite = scores[:, torch.isfinite(scores).all(0)]
    spread = float((finite - finite.mean(1, keepdim=True)).std(correction=0))
    return spread if 0 < spread < float("inf") else 1.0


@dataclass(frozen=True)
class Noise:
    """What a decoder and noisy labels say of the labels, with 95 % intervals of the bootstrap.

    Attributes
    ----------
    rate, rate_low, rate_high : float
        Share of labels that are wrong.
    accuracy, accuracy_low, accuracy_high : float
        Share of samples for which the decoder is right.
    transitions : ndarray of float64, shape (K, K)
        The probability of a given label (column) for a true one (row).
    transitions_error : ndarray of float64, shape (K, K)
        Standard errors.
    n : int
        Samples.
    beyond_chance : float
        Standard errors by which decoder and labels agree more often than by chance.
    by_class : bool
        Whether the noise depends on the class: `transitions` was fitted with K (K − 1) numbers.
    second_rate : float or None
        The rate by another way, from labels of nearest neighbours.
    remembered : float
        What memory adds to the log-odds of a training sample's given label.
    holdout_rate : float or None
        The share of wrong labels of a hold-out that contradicts `rate`, being far cleaner.
    occurring : int or None
        Classes that occur, if not all do.
    """

    rate: float
    rate_low: float
    rate_high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    transitions: NDArray[np.float64]
    transitions_error: NDArray[np.float64]
    n: int
    beyond_chance: float
    by_class: bool
    second_rate: float | None = None
    remembered: float = 0.0
    holdout_rate: float | None = None
    occurring: int | None = None

    @property
    def hopeless(self) -> bool:
        """Whether nothing shows that the labels say more than chance."""
        return self.beyond_chance < BEYOND

    @property
    def n_occurring(self) -> int:
        """How many classes occur."""
        return len(self.transitions) if self.occurring is None else self.occurring

    @property
    def coincidences(self) -> tuple[float, float]:
        """How often a wrong answer is nevertheless the given label, and another wrong answer.

        Wrong answers are taken to go where wrong labels go: to all classes alike, or with noise
        that depends on the class to those that the transition matrix T names. Of a class z the
        chances are then Σ T_zj² / (1 − T_zz) and Σ T_zj² / (1 − T_zz)², over the j ≠ z.
        """
        n_classes = self.n_occurring
        if not self.by_class:
            return self.rate / (n_classes - 1), 1 / (n_classes - 1)
        wrong = np.square(self.transitions).sum(1) - np.square(self.transitions.diagonal())
        off = np.maximum(1 - self.transitions.diagonal(), 1e-12)
        return float((wrong / off).mean()), float((wrong / off**2).mean())

    def of_decoder(self, agreement: float, n: int) -> "Noise":
        """Return the same labels' noise with the accuracy of another decoder.

        Of an accuracy a, noise of rate e and wrong answers that are the given label at the rate s
        (see `coincidences`), it agrees with A = (1 − e) a + s (1 − a) of the labels.

        Parameters
        ----------
        agreement : float
            The share of noisy labels that it predicts.
        n : int
            Of so many samples.
        """
        error = 1.96 * (agreement * (1 - agreement) / n) ** 0.5
        per_rate = self.coincidences[0] / max(self.rate, 1e-12)

        def accuracy(rate: float, agreement: float) -> float:
            by_chance = rate * per_rate
            return min(1.0, max(0.0, (agreement - by_chance) / max(1 - rate - by_chance, 1e-6)))

        return replace(
            self,
            accuracy=accuracy(self.rate, agreement),
            accuracy_low=accuracy(self.rate_low, agreement - error),
            accuracy_high=accuracy(self.rate_high, agreement + error),
        )

    def widened(self, error: float) -> "Noise":
        """Return the same with intervals that a further error, of the agreement, is added to."""

        def around(value: float, low: float, high: float) -> tuple[float, float]:
            down, up = (float(np.hypot(value - end, 1.96 * error)) for end in (low, high))
            return max(0.0, value - down), min(1.0, value + up)

        rate = around(self.rate, self.rate_low, self.rate_high)
        accuracy = around(self.accuracy, self.accuracy_low, self.accuracy_high)
        return replace(
            self, rate_low=rate[0], rate_high=rate[1],
            accuracy_low=accuracy[0], accuracy_high=accuracy[1],
        )  # fmt: skip

    def averaged(self, other: "Noise", weight: float) -> "Noise":
        """Return the mean of two estimates, the other's by weight; its matrix where that is half.

        The intervals' ends are averaged alike.
        """
        names = ("rate", "accuracy")
        found = {
            name: (1 - weight) * getattr(self, name) + weight * getattr(other, name)
            for name in [f"{each}{end}" for each in names for end in ("", "_low", "_high")]
        }
        beyond = max(self.beyond_chance, other.beyond_chance)
        return replace(other if weight > 0.5 else self, **found, beyond_chance=beyond)

    def over(self, classes: Tensor, n_classes: int) -> "Noise":
        """Return the same for more classes than occur: the others are never mistaken."""
        at = np.ix_(classes.numpy(), classes.numpy())
        transitions = np.eye(n_classes)
        error = np.zeros((n_classes, n_classes))
        transitions[at], error[at] = self.transitions, self.transitions_error
        return replace(
            self, transitions=transitions, transitions_error=error, occurring=len(classes)
        )

    def summary(self) -> dict[str, Any]:
        """Return everything as plain numbers and lists, and the two verdicts.

        Of matrices of more than 50 classes the largest chances of wrong labels take the place, and
        the mean of all: they would make a file of hundreds of megabytes.
        """
        told = {name: value for name, value in vars(self).items() if name not in _MATRICES}
        told |= {"hopeless": self.hopeless, "nothing_wrong": self.nothing_wrong}
        n_classes = len(self.transitions)
        if n_classes <= _WRITTEN:
            return told | {name: getattr(self, name).tolist() for name in _MATRICES}
        wrong = self.transitions.copy()
        np.fill_diagonal(wrong, -1.0)
        first = np.argsort(-wrong, axis=None, kind="stable")[:_LARGEST]
        places = zip(*(each.tolist() for each in np.divmod(first, n_classes)), strict=True)
        off = float(self.transitions.sum() - self.transitions.diagonal().sum())
        return told | {
            "transitions": None, "transitions_error": None,
            "largest_transitions": [
                {"true": a, "given": b, "share": float(self.transitions[a, b]),
                 "error": float(self.transitions_error[a, b])}
                for a, b in places
            ],
            "mean_transition": off / (n_classes * (n_classes - 1)),
            "transitions_left_out": f"of {n_classes:,} × {n_classes:,} numbers the {_LARGEST} "
            "largest beside the diagonal are written",
        }  # fmt: skip

    @property
    def nothing_wrong(self) -> bool:
        """Whether so few labels are wrong that there is nothing to repair."""
        return self.rate < SMALLEST and self.accuracy_low > SURE


def estimate_noise(
    scores: Float[Tensor, "n classes"],
    labels: Int[Tensor, " n"],
    calibration: Calibration,
    seed: int = 0,
) -> Noise:
    r"""Estimate noise rate, class transitions and the decoder's accuracy.

    The transition matrix T maximises :math:`\sum_i \log \sum_z p(z | x_i) T_{z y_i}` (EM, from
    what the calibration says). With agreement A, the share of labels that the decoder predicts,
    and e, the decoder's accuracy a solves :math:`A = (1 - e) a + e / K`.

    Parameters
    ----------
    scores : Tensor, shape (n, K)
        As for `calibrate`.
    labels : Tensor of int64, shape (n,)
        Noisy labels.
    calibration : Calibration
        Of these scores.
    seed : int
        Of the bootstrap.
    """
    n, n_classes = scores.shape
    scores = scores.double()
    chances = torch.softmax(scores * calibration.temperature, 1)
    agrees = (scores.argmax(1) == labels).double()
    # How often each sample is drawn; the first time all of them once.
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.ones(_DRAWS + 1, n, dtype=torch.float64)
    for times in drawn[1:]:
        times.copy_(torch.bincount(torch.randint(n, (n,), generator=generator), minlength=n))
    redrawn = _refitted(scores, labels, calibration, drawn)
    redrawn[0] = calibration.redrawn
    rates = redrawn * (1 - 1 / n_classes)
    accuracies = ((drawn @ agrees / n - redrawn / n_classes) / (1 - redrawn)).clamp(0, 1)
    transitions, expected = estimated_transitions(chances, labels, calibration.redrawn)
    other = _with_transitions(scores, labels, calibration)
    if other is not None:
        chances, transitions, expected, _ = other
        rates, accuracies = _of_transitions(chances, labels, transitions, drawn)
    as_likely = _as_likely(scores, labels)
    matrix = transitions.numpy()
    error = np.sqrt(matrix * (1 - matrix) / np.maximum(expected.numpy(), 1)[:, None])
    both = torch.stack([rates, accuracies])
    # The draws are refitted on a grid, so an interval may end a step short of the estimate.
    low = torch.minimum(torch.quantile(both[:, 1:], 0.025, dim=1), both[:, 0]).tolist()
    high = torch.maximum(torch.quantile(both[:, 1:], 0.975, dim=1), both[:, 0]).tolist()
    if other is None:
        # What the labels do not tell from the estimate belongs to the intervals as well.
        share = as_likely / (1 - 1 / n_classes)
        right = ((float(agrees.mean()) - share / n_classes) / (1 - share)).clamp(0, 1)
        low = [min(low[0], float(as_likely.min())), min(low[1], float(right.min()))]
        high = [max(high[0], float(as_likely.max())), max(high[1], float(right.max()))]
    return Noise(
        float(rates[0]), low[0], high[0], float(accuracies[0]), low[1], high[1],
        matrix, error, n, beyond_chance(float(agrees.mean()), scores.argmax(1), labels),
        other is not None,
    )  # fmt: skip


def _as_likely(
    scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]
) -> Float[Tensor, " rates"]:
    """Return the noise rates with which labels are nearly as likely as with the likeliest.

    The profile likelihood: with the temperature that suits each rate, less than 1.92 below the
    largest (95 %; Wilks 1938). A decoder that is unsure of right labels may be as likely as one
    that is sure of wrong ones; a bootstrap around the likeliest sees only one of the two.
    """
    n_classes = scores.shape[1]
    spread = _spread(scores)
    shares = torch.linspace(0, 1 - 1 / _SHARES, _SHARES, dtype=torch.float64)
    found = torch.full((_SHARES,), -torch.inf, dtype=torch.float64)
    for relative in _TEMPERATURES:
        chances = torch.softmax(scores * (relative / spread), 1).gather(1, labels[:, None])
        for at in torch.split(torch.arange(_SHARES), 10):
            some = shares[at]
            likely = ((1 - some) * chances + some / n_classes).clamp(min=1e-300).log().sum(0)
            found[at] = torch.maximum(found[at], likely)
    return shares[found >= found.max() - _AS_LIKELY] * (1 - 1 / n_classes)


def chance_right(
    scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return the probability that each label is right, as the likelier model of noise has it.

    Parameters are as for `calibrate`.
    """
    scores = scores.double()
    calibration = calibrate(scores, labels)
    other = _with_transitions(scores, labels, calibration)
    if other is None:
        chances, share = torch.softmax(scores * calibration.temperature, 1), calibration.redrawn
        matrix = _even(scores.shape[1], share)
    else:
        chances, matrix = other[0], other[1]
    mine = chances.gather(1, labels[:, None])[:, 0] * matrix.diagonal()[labels]
    return mine / _of_labels(chances, labels, matrix)


def beyond_chance(
    agreement: float, predicted: Int[Tensor, " n"], labels: Int[Tensor, " n"]
) -> float:
    """Return how many standard errors more agree than if labels were dealt out anew.

    Parameters
    ----------
    agreement : float
        The share of labels that is predicted.
    predicted, labels : Tensor of int64, shape (n,)
        What is predicted, and noisy labels.
    """
    n = max(1, len(labels))
    n_classes = 1 + max(int(each.max()) if len(each) else 0 for each in (predicted, labels))
    each = [
        torch.bincount(values, minlength=n_classes).double() / n for values in (predicted, labels)
    ]
    chance = float(each[0] @ each[1])
    # All of one class, predicted and given: agreement is all chance.
    return (agreement - chance) / float(np.sqrt(max(chance * (1 - chance) / n, 1e-12)))


def _with_transitions(
    scores: Tensor, labels: Tensor, calibration: Calibration
) -> tuple[Tensor, Tensor, Tensor, float] | None:
    """Return probabilities, T, expected counts of classes and likelihood if noise is by class."""
    n, n_classes = scores.shape
    numbers = n_classes * (n_classes - 1)
    needed = float(calibration.likelihoods.sum()) + numbers
    found = None
    if needed >= 0:
        # Not even certainty would be worth so many numbers.
        return None
    for factor in _WIDER:
        chances = torch.softmax(scores * (factor * calibration.temperature), 1)
        redrawn, _ = _share(chances.gather(1, labels[:, None]).T, n_classes)
        matrix, expected = estimated_transitions(chances, labels, float(redrawn))
        likelihood = float(_of_labels(chances, labels, matrix).log().sum())
        if likelihood > needed:
            needed = likelihood
            found = chances, matrix, expected, (likelihood - numbers) / n
    return found


def _of_labels(chances: Tensor, labels: Tensor, matrix: Tensor) -> Tensor:
    return (chances * matrix.T[labels]).sum(1).clamp(min=1e-300)


def _of_transitions(
    chances: Tensor, labels: Tensor, matrix: Tensor, drawn: Tensor
) -> tuple[Tensor, Tensor]:
    """Return rate and accuracy of each draw (draws, n), from what each sample most likely is."""
    joint = chances * matrix.T[labels]
    joint /= joint.sum(1, keepdim=True).clamp(min=1e-300)
    wrong = 1 - joint.gather(1, labels[:, None])[:, 0]
    right = joint.gather(1, chances.argmax(1)[:, None])[:, 0]
    n = drawn.sum(1)
    return drawn @ wrong / n, drawn @ right / n


def _refitted(
    scores: Tensor, labels: Tensor, calibration: Calibration, drawn: Tensor
) -> Float[Tensor, " draws"]:
    """Return the likeliest e of each draw (draws, n), on a grid around the one of all samples.

    Temperature and noise trade off against each other, so both are fitted anew.
    """
    even, e = 1.0 / scores.shape[1], calibration.redrawn
    grid = torch.linspace(max(0.0, e - _AROUND), min(0.999, e + _AROUND), 61, dtype=torch.float64)
    best = torch.full((len(drawn),), -torch.inf, dtype=torch.float64)
    likeliest = torch.zeros_like(best)
    for factor in _NEARBY:
        tempered = torch.softmax(scores * (factor * calibration.temperature), 1)
        of_label = tempered.gather(1, labels[:, None])[:, 0]
        mixed = of_label[:, None] + (even - of_label)[:, None] * grid
        values, places = (drawn @ mixed.clamp(min=1e-300).log()).max(1)
        likeliest = torch.where(values > best, grid[places], likeliest)
        best = torch.maximum(best, values)
    return likeliest


def _even(n_classes: int, redrawn: float) -> Tensor:
    """Return the transition matrix of labels of which a share is drawn from all classes alike."""
    matrix = torch.full((n_classes, n_classes), redrawn / n_classes, dtype=torch.float64)
    matrix.diagonal().add_(1 - redrawn)
    return matrix


def estimated_transitions(
    chances: Float[Tensor, "n classes"],
    labels: Int[Tensor, " n"],
    redrawn: float,
    steps: int = _STEPS,
) -> tuple[Tensor, Tensor]:
    """Return the likeliest transition matrix, and the expected samples of each true class.

    By EM, from labels of which a share is redrawn. As many samples as there are classes are added
    to each row, spread as if the noise were the same for all classes: a row of few samples says
    little.

    Parameters
    ----------
    chances : Tensor of float64, shape (n, K)
        Of each class.
    labels : Tensor of int64, shape (n,)
        Noisy labels.
    redrawn : float
        Where to start.
    steps : int
        Of EM, at most.
    """
    n_classes = chances.shape[1]
    # A zero would stay zero.
    share = max(redrawn, 0.2)
    matrix = _even(n_classes, share)
    given = torch.zeros(n_classes, n_classes, dtype=torch.float64)
    for _ in range(steps):
        joint = chances * matrix.T[labels]
        joint /= joint.sum(1, keepdim=True).clamp(min=1e-300)
        given.zero_().index_add_(0, labels, joint)
        kept = float(given.diagonal().sum() / given.sum())
        share = min(1.0, (1 - kept) * n_classes / (n_classes - 1))
        updated = given.T + n_classes * _even(n_classes, share)
        updated /= updated.sum(1, keepdim=True)
        done = float((updated - matrix).abs().max()) < 1e-5
        matrix = updated
        if done:
            break
    return matrix, given.sum(0)


def expected_calibration_error(
    confidence: Float[Tensor, " n"], right: Bool[Tensor, " n"], bins: int = 15
) -> float:
    """Return the mean distance between confidence and accuracy over equal bins of confidence.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.

    Parameters
    ----------
    confidence : Tensor, shape (n,)
        The probability of the predicted class, in [0, 1].
    right : Tensor of bool, shape (n,)
        Whether the prediction is right.
    bins : int
        Number of bins.
    """
    confidence = confidence.double()
    place = (confidence * bins).long().clamp(max=bins - 1)
    sums = torch.zeros(bins, dtype=torch.float64)
    sums.index_add_(0, place, right.double() - confidence)
    return float(sums.abs().sum() / len(right))
