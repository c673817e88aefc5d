"""Chooses a decoder with noisy labels only.

Clean labels and test data never enter here: the scores come from labels as noisy as the training
labels. Under class-independent noise the accuracy on noisy labels rises with the accuracy on clean
ones. So the best decoder on a hold-out that the network was not trained on is the right choice, up
to the hold-out's statistical error. Training data held out from the decoders alone are a poor
substitute: deep layers repeat the labels that the network memorised.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..utils.hashing import mixed

# Standard errors by which a hold-out must prefer another decoder: several, as dozens compete.
CLEARLY = 3.0


class Key(NamedTuple):
    """Names one decoder of a network."""

    layer: str
    probe: str
    variance: float | None
    subspace_labels: str

    @property
    def decoder(self) -> str:
        """Describe the decoder and its layer, such as ``MASC 0.99 on fc2``."""
        share = "" if self.variance is None else f" {self.variance:g}"
        return f"{self.probe.upper()}{share} on {self.layer}"


@dataclass(frozen=True)
class Score:
    """How often a decoder agrees with the noisy labels of n held-out samples."""

    key: Key
    accuracy: float
    n: int

    @property
    def standard_error(self) -> float:
        """Binomial standard error of the accuracy."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / self.n)) if self.n else np.nan


@dataclass(frozen=True)
class Selection:
    """The chosen decoder and why."""

    key: Key
    criterion: str
    score: Score
    runner_up: Score | None
    why: str | None = None

    @property
    def reason(self) -> str:
        """One sentence that a report can print."""
        if self.why is not None:
            return self.why
        where = {
            "holdout": "noisy labels of a hold-out that the network was not trained on",
            "held-out tenth": "noisy labels of a tenth of the training data that the decoders, "
            "but not the network, were kept from",
        }[self.criterion]
        reason = (
            f"Best agreement with the {where}: {self.score.accuracy:.1%} ± "
            f"{self.score.standard_error:.1%} (standard error) of {self.score.n:,}"
        )
        if self.runner_up is not None:
            reason += f"; next is {self.runner_up.key.decoder} with {self.runner_up.accuracy:.1%}"
        return reason + "."


def select(scores: list[Score], criterion: str) -> Selection:
    """Choose the decoder that agrees best with held-out noisy labels.

    Only decoders of the network's own layers, fitted with the given labels, are candidates: the
    input is a control. Ties go to the first, that is to the shallowest layer.

    Parameters
    ----------
    scores : list of Score
        In order of layers.
    criterion : {"holdout", "held-out tenth"}
        Where the scores come from.
    """
    candidates = [s for s in scores if s.key.subspace_labels == "corrupted"]
    deeper = [score for score in candidates if score.key.layer != "input"]
    ranked = sorted(deeper or candidates, key=lambda score: -score.accuracy)
    second = ranked[1] if len(ranked) > 1 else None
    return Selection(ranked[0].key, criterion, ranked[0], second)


def ahead_of(these: Tensor, others: Tensor) -> tuple[float, float]:
    """Return by how much one decoder is right more often than another, and the standard error.

    Parameters
    ----------
    these, others : Tensor of bool or numbers, shape (n,)
        Whether the label is predicted, for each decoder on the same samples.
    """
    difference = these.double() - others.double()
    return float(difference.mean()), float(difference.std(correction=0)) / len(difference) ** 0.5


def clearly_best(right: Sequence[Tensor], ours: int) -> int:
    """Return the decoder that predicts clearly more of a hold-out's labels than ours, else ours.

    Parameters
    ----------
    right : sequence of Tensor, shape (n,) each
        Whether the label is predicted, for each decoder and sample.
    ours : int
        The number of the decoder that another has to beat.
    """
    best, most = ours, 0.0
    for number, predicted in enumerate(right):
        mean, error = ahead_of(predicted, right[ours])
        if mean > max(most, CLEARLY * error):
            best, most = number, mean
    return best


def held_out_tenth(index: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Return which samples belong to the held-out tenth.

    This depends on a sample's index and the seed alone, so the split is the same for any batch
    size, order and number of processes.

    Parameters
    ----------
    index : ndarray of int64, shape (n,)
        Indices in the data set.
    seed : int
        Any integer.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    with np.errstate(over="ignore"):
        seeded = index.astype(np.uint64) + np.uint64(seed % 2**32) * np.uint64(0x9E3779B97F4A7C15)
        numbers = mixed(seeded + np.uint64(0x9E3779B97F4A7C15))
    return np.asarray(numbers % np.uint64(10) == 0)
