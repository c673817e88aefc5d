"""Turn a decoder's scores into probabilities, from noisy labels alone."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "STEPS",
    "Calibration",
    "calibrate",
    "class_bias",
    "expected_calibration_error",
    "label_share",
    "spread_of",
]

# Grid of temperatures times the spread of the scores; the likelihood is flat between two.
_TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0)
STEPS = 100


@dataclass(frozen=True)
class Calibration:
    """How a decoder's scores become probabilities, and the likelihood of the given labels.

    Attributes
    ----------
    temperature : float
        ``softmax(temperature · scores)`` gives the probability of each class being right.
    redrawn : float
        The share e of labels that were redrawn uniformly from all classes, in [0, 1).
    likelihoods : Tensor of float64, shape (n,)
        The log-likelihood of each given label.
    """

    temperature: float
    redrawn: float
    likelihoods: Tensor

    @property
    def mean(self) -> float:
        """The mean log-likelihood of a given label, in nats."""
        return float(self.likelihoods.mean())


def calibrate(scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Calibration:
    """Fit temperature and noise to out-of-fold scores: not fitted to these noisy labels.

    Parameters
    ----------
    scores : Tensor, shape (n, K)
        Larger for likelier classes; −inf for an impossible class.
    labels : Tensor of int64, shape (n,)
        Noisy labels.

    Returns
    -------
    Calibration
    """
    scores = scores.double()
    spread = spread_of(scores)
    of_label = torch.stack(
        [
            torch.softmax(scores * (relative / spread), 1).gather(1, labels[:, None])[:, 0]
            for relative in _TEMPERATURES
        ]
    )
    redrawn, likelihoods = label_share(of_label, scores.shape[1])
    best = int(likelihoods.mean(1).argmax())
    return Calibration(_TEMPERATURES[best] / spread, float(redrawn[best]), likelihoods[best])


def class_bias(
    scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], calibration: Calibration
) -> Float[Tensor, " classes"]:
    """Return the bias of each class's log-odds that matches class frequencies to the labels.

    These are the class priors of maximum likelihood, by EM (Saerens, Latinne and Decaestecker
    2002), with a share of the labels redrawn. The bias is zero unless it raises the
    log-likelihood by more than its K − 1 parameters (Akaike's criterion).

    Returns
    -------
    Tensor of float64, shape (K,)
    """
    odds = scores.double() * calibration.temperature
    n, n_classes = odds.shape
    share = calibration.redrawn
    # A bias only multiplies these exponentials: none is taken again, and sums are products.
    odds = (odds - odds.amax(1, keepdim=True)).exp_()
    own = odds.gather(1, labels[:, None])[:, 0]
    weights = torch.ones(n_classes, dtype=torch.float64)

    def of_labels() -> tuple[Tensor, Tensor, Tensor]:
        """Return each row's sum, and its label's probability before and after the noise."""
        total = odds @ weights
        chance = own * weights[labels] / total
        return total, chance, ((1 - share) * chance + share / n_classes).clamp(min=1e-300)

    before = float(of_labels()[2].log().sum())
    for _ in range(STEPS):
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


def label_share(of_label: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return the likeliest e for each row of probabilities (k, n), and the log-likelihoods (k, n).

    The log-likelihood is concave in e.
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
    # Newton steps; bisection where a step leaves the interval.
    for _ in range(STEPS):
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


def spread_of(scores: Tensor) -> float:
    """Return the standard deviation of scores about each row's mean; 1 if they do not vary."""
    finite = scores[:, torch.isfinite(scores).all(0)]
    spread = float((finite - finite.mean(1, keepdim=True)).std(correction=0))
    return spread if 0 < spread < float("inf") else 1.0


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
