r"""When memorising starts, and which epoch to keep; both without clean labels.

*Which labels are wrong.* Of all readings, the one whose best layer knows most (the largest
2 A − A₀) tells for all epochs how likely each given label is wrong, w, and for which class it
votes; from a decoder that has not seen the label. On inputs as they are the network predicts a
share S₀ of the wrong labels (weighted by w), on perturbed inputs a share S.

*Alarm.* Knowledge predicts a wrong label no more often on the exact input than on a perturbed one;
memory does. Memorising has started when S₀ − S is above zero by more than two standard errors, in
two readings in a row, while some labels are surely wrong (the lower limit of the median reading's
noise rate is above 2 %). With clean labels the latter never holds.

*Epoch to keep.* Of the wrong labels the network remembers a share m, and a share m' on perturbed
inputs. Others it predicts at a rate of b, by confusion of classes: people confuse some classes more
often than others, and so do networks. So S₀ = m + (1 − m) b and S = m' + (1 − m') b. Samples of the
class that the decoder votes for, whose labels are right, are remembered as well; on perturbed
inputs they are predicted as the wrong label at a rate of (1 − m') b, which can be counted. That
gives m', b and m, and the share ρ = m' / m of memory that survives the perturbation. It belongs to
the perturbation and the network, so one ρ serves all epochs: that of the reading that remembers
most, where it is known best. Let A₀ and A be the agreement with given labels, on inputs as they are
and perturbed. Then A\* = (A − ρ A₀) / (1 − ρ) is the agreement with labels of new inputs. The epoch
with the largest A\* is kept, or with a hold-out that with the largest agreement there: that makes
the expected loss smallest. Epochs within one standard error (of the difference, sample by sample)
are named.

*Stop.* Once the alarm has gone off, training may stop when two readings in a row are worse than the
epoch to keep by more than two standard errors of the difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ...noise.estimate import SMALLEST, accuracy_from
from ...selection.memorisation import corrected
from ...utils.labels import Labels

__all__ = ["Alarm", "Judgement", "Reading", "Recommended", "Stop", "alarm", "recommended", "stop"]

# Standard errors beyond which a difference counts.
_BEYOND = 2.0
# A larger share ρ is not used: differences would count tenfold.
_MOST = 0.9


@dataclass(frozen=True)
class Reading:
    """The network's predictions for the probe at one epoch, and what the best layer says.

    Attributes
    ----------
    epoch, step : int
        When.
    given : ndarray of int64, shape (n,)
        Given labels.
    plain : ndarray of int64, shape (n,)
        The network's predictions for inputs as they are.
    moved : ndarray of int64, shape (n, views)
        The same for perturbed inputs.
    vote : ndarray of int64, shape (n,)
        The class that the best layer's decoder predicts.
    right : ndarray of float32, shape (n,)
        The probability by that layer that each given label is right.
    known : float
        2 A − A₀ of that layer.
    rate, rate_low, rate_high : float
        Estimated noise rate, and a 95 % interval.
    per_rate : float
        See `accuracy_from`.
    hopeless : bool
        Whether labels seem to say no more than chance.
    holdout : ndarray of float32, shape (m,), or None
        Whether the network predicts each label of the hold-out.
    """

    epoch: int
    step: int
    given: Labels
    plain: Labels
    moved: Labels
    vote: Labels
    right: NDArray[np.float32]
    known: float
    rate: float
    rate_low: float
    rate_high: float
    per_rate: float
    hopeless: bool
    holdout: NDArray[np.float32] | None = field(default=None)

    @property
    def agrees(self) -> NDArray[np.float64]:
        """Whether the network predicts each given label for inputs as they are, float64 (n,)."""
        return np.asarray(self.plain == self.given, dtype=np.float64)

    @property
    def agrees_moved(self) -> NDArray[np.float64]:
        """The share of perturbed views for which it predicts each given label, float64 (n,)."""
        return np.asarray((self.moved == self.given[:, None]).mean(1), dtype=np.float64)


@dataclass(frozen=True)
class Alarm:
    """When memorising started: the `epoch` and its `step`, and the `evidence` in a sentence."""

    epoch: int
    step: int
    evidence: str


@dataclass(frozen=True)
class Recommended:
    """The epoch to keep.

    Attributes
    ----------
    epoch, step : int
        When.
    agreement, error : float
        Agreement with noisy labels of new inputs that is expected of it, and its standard error.
    why : str
        The reason in a sentence.
    """

    epoch: int
    step: int
    agreement: float
    error: float
    why: str


@dataclass(frozen=True)
class Stop:
    """When training may stop: the `epoch` and its `step`, and `why` in a sentence."""

    epoch: int
    step: int
    why: str


class Judgement:
    """What all readings so far say together.

    Parameters
    ----------
    readings : sequence of Reading
        At least one, in order.

    Attributes
    ----------
    reference : Reading
        The one whose best layer knows most: which labels are wrong is taken from it.
    noise : Reading
        The one whose noise rate is the median of those that labels tell more than chance in: the
        labels are the same at all epochs, so is their noise.
    survival : float
        The share ρ of memory that survives the perturbation; 0 without memory.
    """

    def __init__(self, readings: Sequence[Reading]):
        self.readings = readings
        self.reference = max(readings, key=lambda reading: reading.known)
        fit = [reading for reading in readings if not reading.hopeless] or list(readings)
        self.noise = sorted(fit, key=lambda reading: reading.rate)[(len(fit) - 1) // 2]
        self._wrong = 1.0 - self.reference.right.astype(np.float64)
        self._of_wrong = [self._wrong_labels(reading) for reading in readings]
        surely_wrong = self.noise.rate_low > SMALLEST and not self.reference.hopeless
        # Where more wrong labels are predicted on exact inputs than on perturbed ones.
        self._memorises = [
            surely_wrong and plain - moved > _BEYOND * error
            for plain, moved, error in self._of_wrong
        ]
        self.survival = self._survival()

    def _wrong_labels(self, reading: Reading) -> tuple[float, float, float]:
        """Return S₀, S, and the standard error of their difference; NaN if no label looks wrong."""
        total = self._wrong.sum()
        if total <= 0:
            return float("nan"), float("nan"), float("nan")
        plain, moved = (
            float(self._wrong @ each / total) for each in (reading.agrees, reading.agrees_moved)
        )
        apart = self._wrong * (reading.agrees - reading.agrees_moved - (plain - moved))
        return plain, moved, float(np.sqrt(np.square(apart).sum()) / total)

    def worth(self, reading: Reading) -> Float[np.ndarray, " n"]:
        """Return what each sample adds to the mean A*, or to the agreement on the hold-out."""
        if reading.holdout is not None:
            return reading.holdout.astype(np.float64)
        worth = corrected(reading.agrees, reading.agrees_moved, self.survival)
        return np.asarray(worth, dtype=np.float64)

    def accuracy(self, agreement: float) -> tuple[float, float, float]:
        """Return the accuracy, with a 95 % interval, that agreement with the labels means."""
        noise, n = self.noise, len(self.noise.given)
        agreement = min(1.0, max(0.0, agreement))
        rates = noise.rate, noise.rate_low, noise.rate_high
        return accuracy_from(agreement, n, rates, noise.per_rate)

    def _survival(self) -> float:
        memorising = [at for at, known in enumerate(self._memorises) if known]
        if not memorising:
            return 0.0
        most = max(memorising, key=lambda at: self._of_wrong[at][0] - self._of_wrong[at][1])
        plain, moved, _ = self._of_wrong[most]
        confused = self._without_memory(self.readings[most])
        survives = moved - confused
        by_chance = confused / max(1.0 - survives, 1e-9)
        remembered = (plain - by_chance) / max(1.0 - by_chance, 1e-9)
        if remembered <= 0:
            return 0.0
        return float(np.clip(survives / remembered, 0.0, _MOST))

    def _without_memory(self, reading: Reading) -> float:
        """Return (1 − m') b: how often the wrong labels are predicted by confusion of classes."""
        given, vote, right = (getattr(self.reference, name) for name in ("given", "vote", "right"))
        size = 1 + int(max(given.max(), vote.max(), reading.moved.max()))
        views = reading.moved.shape[1]
        # Weights of pairs (given label, which is right; predicted class), and of labels.
        pairs, places = np.unique(
            (given[:, None] * size + reading.moved).ravel(), return_inverse=True
        )
        weights = np.bincount(places, np.repeat(right.astype(np.float64) / views, views))
        of_class = np.bincount(given, right.astype(np.float64), minlength=size)
        wanted = vote * size + given
        at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        found = np.where(pairs[at] == wanted, weights[at], 0.0)
        rates = found / np.maximum(of_class[vote], 1e-9)
        return float(self._wrong @ np.minimum(rates, 1.0) / self._wrong.sum())

    @cached_property
    def alarm(self) -> Alarm | None:
        """When memorising started; None if nothing shows it."""
        for at, (one, other) in enumerate(pairwise(self._memorises)):
            if one and other:
                reading, (plain, moved, error) = self.readings[at], self._of_wrong[at]
                return Alarm(
                    reading.epoch,
                    reading.step,
                    f"from epoch {reading.epoch} on, the network predicts {plain:.1%} of the "
                    f"labels that look wrong for exact inputs, and {moved:.1%} for slightly "
                    f"changed ones (difference {plain - moved:.1%} ± {error:.1%}); at least "
                    f"{self.noise.rate_low:.0%} of the labels look wrong",
                )
        return None

    @cached_property
    def recommended(self) -> Recommended:
        """The epoch to keep."""
        best = self._best
        reading, means, worths = self.readings[best], self.means, self._worths
        own = _standard_error(worths[best])
        labels = "the hold-out's labels" if reading.holdout is not None else "labels of new inputs"
        why = f"epoch {reading.epoch} agrees with {means[best]:.1%} ± {own:.1%} of {labels}"
        if reading.holdout is None:
            why += ", estimated from slightly changed inputs less memory"
        near = [
            other.epoch
            for other, worth, mean in zip(self.readings, worths, means, strict=True)
            if other is not reading and means[best] - mean <= _standard_error(worths[best] - worth)
        ]
        if near:
            shown = ", ".join(map(str, near[:5])) + (" …" if len(near) > 5 else "")
            why += f", the most; within one standard error: epoch {shown}"
        else:
            why += "; no other epoch is within one standard error"
        return Recommended(reading.epoch, reading.step, means[best], own, why)

    @cached_property
    def stop(self) -> Stop | None:
        """When training may stop; None if it should go on."""
        if self.alarm is None or len(self.readings) < 2:
            return None
        best = self._worths[self._best]
        apart = [best - worth for worth in self._worths[-2:]]
        if not all(float(each.mean()) > _BEYOND * _standard_error(each) for each in apart):
            return None
        last = self.readings[-1]
        return Stop(
            last.epoch,
            last.step,
            f"memorising since epoch {self.alarm.epoch}; epoch {last.epoch} agrees with "
            f"{float(apart[-1].mean()):.1%} ± {_standard_error(apart[-1]):.1%} fewer labels of new "
            f"inputs than epoch {self.recommended.epoch}, which is the one to keep",
        )

    @cached_property
    def _worths(self) -> list[Float[np.ndarray, " n"]]:
        return [self.worth(reading) for reading in self.readings]

    @cached_property
    def means(self) -> list[float]:
        """The mean A* of each reading, or its agreement with the hold-out's labels."""
        return [float(worth.mean()) for worth in self._worths]

    @property
    def _best(self) -> int:
        return int(np.argmax(self.means))


def alarm(readings: Sequence[Reading]) -> Alarm | None:
    """Return when memorising started; None if nothing shows it."""
    return Judgement(readings).alarm if readings else None


def recommended(readings: Sequence[Reading]) -> Recommended | None:
    """Return the epoch to keep; None before the first reading."""
    return Judgement(readings).recommended if readings else None


def stop(readings: Sequence[Reading]) -> Stop | None:
    """Return when training may stop; None if it should go on."""
    return Judgement(readings).stop if readings else None


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std() / len(values) ** 0.5)
