"""The transition matrix of label noise: which labels are given in place of which."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .calibration import STEPS, Calibration, label_share

__all__ = [
    "AROUND",
    "NEARBY",
    "WIDER",
    "estimated_transitions",
    "even_matrix",
    "of_labels",
    "of_transitions",
    "refitted_matrix",
    "with_transitions",
]

# Factors around the likeliest temperature, for the bootstrap.
NEARBY = (0.35, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8)
# Factors as far as temperature and a transition matrix may trade off.
WIDER = (0.7, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0, 10.0)
AROUND = 0.15


def with_transitions(
    scores: Tensor, labels: Tensor, calibration: Calibration
) -> tuple[Tensor, Tensor, Tensor, float] | None:
    """Return class probabilities, T, class counts and mean log-likelihood if noise is by class."""
    n, n_classes = scores.shape
    numbers = n_classes * (n_classes - 1)
    needed = float(calibration.likelihoods.sum()) + numbers
    best = None
    if needed >= 0:
        # Not even a perfect fit would justify so many parameters.
        return None
    for factor in WIDER:
        chances = torch.softmax(scores * (factor * calibration.temperature), 1)
        redrawn, _ = label_share(chances.gather(1, labels[:, None]).T, n_classes)
        matrix, expected = estimated_transitions(chances, labels, float(redrawn))
        likelihood = float(of_labels(chances, labels, matrix).log().sum())
        if likelihood > needed:
            needed = likelihood
            best = chances, matrix, expected, (likelihood - numbers) / n
    return best


def of_labels(chances: Tensor, labels: Tensor, matrix: Tensor) -> Tensor:
    """Return the probability of each given label, from class probabilities and a matrix, (n,)."""
    return (chances * matrix.T[labels]).sum(1).clamp(min=1e-300)


def of_transitions(
    chances: Tensor, labels: Tensor, matrix: Tensor, drawn: Tensor
) -> tuple[Tensor, Tensor]:
    """Return noise rate and accuracy of each draw (draws, n), from each sample's posterior."""
    joint = chances * matrix.T[labels]
    joint /= joint.sum(1, keepdim=True).clamp(min=1e-300)
    wrong = 1 - joint.gather(1, labels[:, None])[:, 0]
    right = joint.gather(1, chances.argmax(1)[:, None])[:, 0]
    n = drawn.sum(1)
    return drawn @ wrong / n, drawn @ right / n


def refitted_matrix(
    scores: Tensor, labels: Tensor, calibration: Calibration, drawn: Tensor
) -> Float[Tensor, " draws"]:
    """Return the likeliest e of each draw (draws, n), on a grid around that of all samples.

    Temperature and noise trade off against each other, so both are fitted again.
    """
    even, e = 1.0 / scores.shape[1], calibration.redrawn
    grid = torch.linspace(max(0.0, e - AROUND), min(0.999, e + AROUND), 61, dtype=torch.float64)
    best = torch.full((len(drawn),), -torch.inf, dtype=torch.float64)
    likeliest = torch.zeros_like(best)
    for factor in NEARBY:
        tempered = torch.softmax(scores * (factor * calibration.temperature), 1)
        of_label = tempered.gather(1, labels[:, None])[:, 0]
        mixed = of_label[:, None] + (even - of_label)[:, None] * grid
        values, places = (drawn @ mixed.clamp(min=1e-300).log()).max(1)
        likeliest = torch.where(values > best, grid[places], likeliest)
        best = torch.maximum(best, values)
    return likeliest


def even_matrix(n_classes: int, redrawn: float) -> Tensor:
    """Return the transition matrix if a share of labels is redrawn uniformly from all classes."""
    matrix = torch.full((n_classes, n_classes), redrawn / n_classes, dtype=torch.float64)
    matrix.diagonal().add_(1 - redrawn)
    return matrix


def estimated_transitions(
    chances: Float[Tensor, "n classes"],
    labels: Int[Tensor, " n"],
    redrawn: float,
    steps: int = STEPS,
) -> tuple[Tensor, Tensor]:
    """Return the likeliest transition matrix, and the expected samples of each true class.

    EM, starting from even noise. K pseudo-samples are added to each row, spread as if the noise
    were the same for all classes, because a row of few samples is uncertain.

    Parameters
    ----------
    chances : Tensor of float64, shape (n, K)
        Probability of each class.
    labels : Tensor of int64, shape (n,)
        Noisy labels.
    redrawn : float
        Starting share of redrawn labels.
    steps : int
        Most EM steps.
    """
    n_classes = chances.shape[1]
    # A zero would stay zero.
    share = max(redrawn, 0.2)
    matrix = even_matrix(n_classes, share)
    given = torch.zeros(n_classes, n_classes, dtype=torch.float64)
    for _ in range(steps):
        joint = chances * matrix.T[labels]
        joint /= joint.sum(1, keepdim=True).clamp(min=1e-300)
        given.zero_().index_add_(0, labels, joint)
        kept = float(given.diagonal().sum() / given.sum())
        share = min(1.0, (1 - kept) * n_classes / (n_classes - 1))
        updated = given.T + n_classes * even_matrix(n_classes, share)
        updated /= updated.sum(1, keepdim=True)
        done = float((updated - matrix).abs().max()) < 1e-5
        matrix = updated
        if done:
            break
    return matrix, given.sum(0)
