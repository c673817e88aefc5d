r"""Estimate label noise and a decoder's accuracy from its scores and noisy labels alone.

A label follows the decoder's calibrated probabilities or, with probability e, is redrawn uniformly
from all K classes: :math:`p(y | x) = (1 - e) \, \mathrm{softmax}(t s(x))_y + e / K`. Temperature t
and share e are fitted together by maximum likelihood. Where the decoder is sure, every
contradiction is noise. So e can be estimated although nobody knows which labels are wrong, and it
is 0 if the labels are as uncertain as the decoder predicts.

If the noise depends on the class, a transition matrix T replaces e:
:math:`p(y | x) = \sum_z \mathrm{softmax}(t s(x))_z T_{zy}`. It is used if it raises the
log-likelihood by more than its K (K − 1) parameters (Akaike's criterion).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ..utils.intervals import LIMIT
from .calibration import _TEMPERATURES, Calibration, calibrate, spread_of
from .transitions import (
    estimated_transitions,
    even_matrix,
    of_labels,
    of_transitions,
    refitted_matrix,
    with_transitions,
)

__all__ = [
    "Noise",
    "beyond_chance",
    "chance_right",
    "estimate_noise",
    "largest_rate",
]

_DRAWS = 200
# Grid of shares e, and the drop in log-likelihood that 95 % confidence allows one parameter.
_SHARES, _AS_LIKELY = 50, 1.92
# Less noise cannot be distinguished from none: decoders are never that well calibrated.
SMALLEST = 0.02
# A less accurate decoder cannot distinguish wrong labels from its own doubt.
SURE = 0.75
# Labels carry information if agreement exceeds chance by this many standard errors.
BEYOND = 3.0
_MATRICES = ("transitions", "transitions_error")
# Matrices up to this many classes are written whole; of larger ones, the largest entries.
_WRITTEN, _LARGEST = 50, 50


def accuracy_from(
    agreement: float, n: int, rates: tuple[float, float, float], per_rate: float
) -> tuple[float, float, float]:
    """Return a decoder's accuracy and a 95 % interval, from its agreement with noisy labels.

    Parameters
    ----------
    agreement : float
        The share of n noisy labels that it predicts.
    n : int
        Number of samples.
    rates : tuple of float
        Noise rate, and the ends of its interval.
    per_rate : float
        The rate at which wrong predictions equal the given label, divided by the noise rate.
    """
    error = LIMIT * (agreement * (1 - agreement) / n) ** 0.5

    def accuracy(rate: float, agreement: float) -> float:
        by_chance = rate * per_rate
        return min(1.0, max(0.0, (agreement - by_chance) / max(1 - rate - by_chance, 1e-6)))

    rate, low, high = rates
    return (
        accuracy(rate, agreement),
        accuracy(low, agreement - error),
        accuracy(high, agreement + error),
    )


@dataclass(frozen=True)
class Noise:
    """Estimated label noise and decoder accuracy, with 95 % bootstrap intervals.

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
        Standard errors by which the agreement of decoder and labels exceeds chance.
    by_class : bool
        Whether the noise depends on the class, so `transitions` has K (K − 1) parameters.
    second_rate : float or None
        A second estimate of the rate, from labels of nearest neighbours.
    remembered : float
        What memorisation adds to the log-odds of a training sample's given label.
    holdout_rate : float or None
        The noise rate of a hold-out, if it is so much cleaner that it contradicts `rate`.
    occurring : int or None
        Number of classes that occur, if not all do.
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
        """Whether nothing shows that the labels carry more information than chance."""
        return self.beyond_chance < BEYOND

    @property
    def n_occurring(self) -> int:
        """How many classes occur."""
        return len(self.transitions) if self.occurring is None else self.occurring

    @property
    def coincidences(self) -> tuple[float, float]:
        """How often a wrong prediction equals the given label, and another wrong prediction.

        Wrong predictions are assumed to follow wrong labels: spread evenly or, if the noise
        depends on the class, by the transition matrix T. For a class z the chances are then
        Σ T_zj² / (1 − T_zz) and Σ T_zj² / (1 − T_zz)², over the j ≠ z.
        """
        n_classes = self.n_occurring
        if not self.by_class:
            return self.rate / (n_classes - 1), 1 / (n_classes - 1)
        wrong = np.square(self.transitions).sum(1) - np.square(self.transitions.diagonal())
        off = np.maximum(1 - self.transitions.diagonal(), 1e-12)
        return float((wrong / off).mean()), float((wrong / off**2).mean())

    def of_decoder(self, agreement: float, n: int) -> "Noise":
        """Return the noise of the same labels with the accuracy of another decoder.

        With accuracy a, noise rate e and the rate s at which wrong predictions equal the given
        label (see `coincidences`), a decoder agrees with A = (1 − e) a + s (1 − a) of the labels.

        Parameters
        ----------
        agreement : float
            The share of noisy labels that it predicts.
        n : int
            Number of samples.
        """
        rates = self.rate, self.rate_low, self.rate_high
        found = accuracy_from(agreement, n, rates, self.per_rate)
        return replace(self, accuracy=found[0], accuracy_low=found[1], accuracy_high=found[2])

    @property
    def per_rate(self) -> float:
        """The rate s of `of_decoder` divided by the noise rate."""
        return self.coincidences[0] / max(self.rate, 1e-12)

    def widened(self, error: float) -> "Noise":
        """Return the noise with intervals widened by a further error of the agreement."""

        def around(value: float, low: float, high: float) -> tuple[float, float]:
            down, up = (float(np.hypot(value - end, LIMIT * error)) for end in (low, high))
            return max(0.0, value - down), min(1.0, value + up)

        rate = around(self.rate, self.rate_low, self.rate_high)
        accuracy = around(self.accuracy, self.accuracy_low, self.accuracy_high)
        return replace(
            self,
            rate_low=rate[0],
            rate_high=rate[1],
            accuracy_low=accuracy[0],
            accuracy_high=accuracy[1],
        )

    def averaged(self, other: "Noise", weight: float) -> "Noise":
        """Return the weighted mean of two estimates; `weight` is that of the other one.

        The ends of the intervals are averaged too. The matrix is that of the larger weight.
        """
        names = ("rate", "accuracy")
        means = {
            name: (1 - weight) * getattr(self, name) + weight * getattr(other, name)
            for name in [f"{stem}{end}" for stem in names for end in ("", "_low", "_high")]
        }
        beyond = max(self.beyond_chance, other.beyond_chance)
        return replace(other if weight > 0.5 else self, **means, beyond_chance=beyond)

    def over(self, classes: Tensor, n_classes: int) -> "Noise":
        """Extend the noise to more classes than occur; the others are never confused."""
        at = np.ix_(classes.numpy(), classes.numpy())
        transitions = np.eye(n_classes)
        error = np.zeros((n_classes, n_classes))
        transitions[at], error[at] = self.transitions, self.transitions_error
        return replace(
            self, transitions=transitions, transitions_error=error, occurring=len(classes)
        )

    def summary(self) -> dict[str, Any]:
        """Return everything as plain numbers and lists, and the two verdicts.

        For more than 50 classes, the largest chances of wrong labels and the mean replace the
        matrices, which could make a file of hundreds of megabytes.
        """
        values = {name: value for name, value in vars(self).items() if name not in _MATRICES}
        values |= {"hopeless": self.hopeless, "nothing_wrong": self.nothing_wrong}
        n_classes = len(self.transitions)
        if n_classes <= _WRITTEN:
            return values | {name: getattr(self, name).tolist() for name in _MATRICES}
        wrong = self.transitions.copy()
        np.fill_diagonal(wrong, -1.0)
        first = np.argsort(-wrong, axis=None, kind="stable")[:_LARGEST]
        places = zip(*(indices.tolist() for indices in np.divmod(first, n_classes)), strict=True)
        off = float(self.transitions.sum() - self.transitions.diagonal().sum())
        return values | {
            "transitions": None,
            "transitions_error": None,
            "largest_transitions": [
                {
                    "true": a,
                    "given": b,
                    "share": float(self.transitions[a, b]),
                    "error": float(self.transitions_error[a, b]),
                }
                for a, b in places
            ],
            "mean_transition": off / (n_classes * (n_classes - 1)),
            "transitions_left_out": f"of {n_classes:,} × {n_classes:,} numbers the {_LARGEST} "
            "largest beside the diagonal are written",
        }

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
    the calibrated probabilities). With e and the agreement A, the share of labels that the decoder
    predicts, the decoder's accuracy a solves :math:`A = (1 - e) a + e / K`.

    Parameters
    ----------
    scores : Tensor, shape (n, K)
        As for `calibrate`.
    labels : Tensor of int64, shape (n,)
        Noisy labels.
    calibration : Calibration
        Calibration of these scores.
    seed : int
        Seed of the bootstrap.
    """
    n, n_classes = scores.shape
    scores = scores.double()
    chances = torch.softmax(scores * calibration.temperature, 1)
    agrees = (scores.argmax(1) == labels).double()
    # How often each sample is drawn; row 0 is the original data.
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.ones(_DRAWS + 1, n, dtype=torch.float64)
    for times in drawn[1:]:
        times.copy_(torch.bincount(torch.randint(n, (n,), generator=generator), minlength=n))
    redrawn = refitted_matrix(scores, labels, calibration, drawn)
    redrawn[0] = calibration.redrawn
    rates = redrawn * (1 - 1 / n_classes)
    accuracies = ((drawn @ agrees / n - redrawn / n_classes) / (1 - redrawn)).clamp(0, 1)
    transitions, expected = estimated_transitions(chances, labels, calibration.redrawn)
    other = with_transitions(scores, labels, calibration)
    if other is not None:
        chances, transitions, expected, _ = other
        rates, accuracies = of_transitions(chances, labels, transitions, drawn)
    as_likely = _as_likely(scores, labels)
    matrix = transitions.numpy()
    error = np.sqrt(matrix * (1 - matrix) / np.maximum(expected.numpy(), 1)[:, None])
    both = torch.stack([rates, accuracies])
    # The draws are refitted on a grid, so an interval may end a step short of the estimate.
    low = torch.minimum(torch.quantile(both[:, 1:], 0.025, dim=1), both[:, 0]).tolist()
    high = torch.maximum(torch.quantile(both[:, 1:], 0.975, dim=1), both[:, 0]).tolist()
    if other is None:
        # The intervals also cover all rates that are nearly as likely as the estimate.
        share = as_likely / (1 - 1 / n_classes)
        right = ((float(agrees.mean()) - share / n_classes) / (1 - share)).clamp(0, 1)
        low = [min(low[0], float(as_likely.min())), min(low[1], float(right.min()))]
        high = [max(high[0], float(as_likely.max())), max(high[1], float(right.max()))]
    return Noise(
        float(rates[0]),
        low[0],
        high[0],
        float(accuracies[0]),
        low[1],
        high[1],
        matrix,
        error,
        n,
        beyond_chance(float(agrees.mean()), scores.argmax(1), labels),
        other is not None,
    )


def _as_likely(
    scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]
) -> Float[Tensor, " rates"]:
    """Return the noise rates under which the labels are nearly as likely as at best.

    Their profile likelihood, with the best temperature for each rate, is less than 1.92 below the
    largest (95 %; Wilks 1938). An unsure decoder with right labels may be as likely as a sure one
    with wrong labels; a bootstrap around the likeliest rate sees only one of the two.
    """
    n_classes = scores.shape[1]
    spread = spread_of(scores)
    shares = torch.linspace(0, 1 - 1 / _SHARES, _SHARES, dtype=torch.float64)
    likelihoods = torch.full((_SHARES,), -torch.inf, dtype=torch.float64)
    for relative in _TEMPERATURES:
        chances = torch.softmax(scores * (relative / spread), 1).gather(1, labels[:, None])
        for at in torch.split(torch.arange(_SHARES), 10):
            some = shares[at]
            likely = ((1 - some) * chances + some / n_classes).clamp(min=1e-300).log().sum(0)
            likelihoods[at] = torch.maximum(likelihoods[at], likely)
    return shares[likelihoods >= likelihoods.max() - _AS_LIKELY] * (1 - 1 / n_classes)


def chance_right(
    scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return the probability that each label is right, under the likelier noise model.

    Parameters are as for `calibrate`.
    """
    scores = scores.double()
    calibration = calibrate(scores, labels)
    other = with_transitions(scores, labels, calibration)
    if other is None:
        chances, share = torch.softmax(scores * calibration.temperature, 1), calibration.redrawn
        matrix = even_matrix(scores.shape[1], share)
    else:
        chances, matrix = other[0], other[1]
    own = chances.gather(1, labels[:, None])[:, 0] * matrix.diagonal()[labels]
    return own / of_labels(chances, labels, matrix)


def largest_rate(scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> float:
    """Return the largest noise rate under which the labels are nearly as likely as at best.

    Parameters are as for `calibrate`; labels are taken to be redrawn evenly.
    """
    return float(_as_likely(scores.double(), labels).max())


def beyond_chance(
    agreement: float, predicted: Int[Tensor, " n"], labels: Int[Tensor, " n"]
) -> float:
    """Return by how many standard errors the agreement exceeds that of shuffled labels.

    Parameters
    ----------
    agreement : float
        The share of labels that equal the prediction.
    predicted, labels : Tensor of int64, shape (n,)
        Predicted classes, and noisy labels.
    """
    n = max(1, len(labels))
    n_classes = 1 + max(int(k.max()) if len(k) else 0 for k in (predicted, labels))
    shares = [
        torch.bincount(values, minlength=n_classes).double() / n for values in (predicted, labels)
    ]
    chance = float(shares[0] @ shares[1])
    # If all predictions and labels are one class, all agreement is chance.
    return (agreement - chance) / float(np.sqrt(max(chance * (1 - chance) / n, 1e-12)))
