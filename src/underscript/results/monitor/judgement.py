r"""When memorising starts, and which epoch to keep; both without clean labels.

Let w be the probability that a given label is wrong, by the layer that knows most at that epoch,
from a decoder that has not seen the label. On inputs as they are the network predicts a share S₀ of
the wrong labels (weighted by w), on perturbed inputs a share S.

*Alarm.* Knowledge predicts a wrong label no more often on the exact input than on a perturbed one;
memory does. Memorising has started when S₀ − S is above zero by more than two standard errors, in
two readings in a row, while some labels are surely wrong (the noise rate's lower limit is above
2 %). With clean labels the latter never holds.

*Epoch to keep.* Let A₀ and A be the agreement with given labels, on inputs as they are and
perturbed, and R the agreement on perturbed inputs with right labels (weighted by 1 − w). Without
memory a wrong label of K classes would be predicted at a rate of b = (1 − R) / (K − 1). So a share
ρ = (S − b) / (S₀ − b) of what is remembered survives the perturbation, and
A\* = (A − ρ A₀) / (1 − ρ) is the agreement with labels of new inputs. The epoch with the largest
A\* is kept, or with a hold-out that with the largest agreement there: that makes the expected loss
smallest. Epochs within one standard error (of the difference, sample by sample) are named.

*Stop.* Once the alarm has gone off, training may stop when two readings in a row are worse than the
epoch to keep by more than two standard errors of the difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ...noise.estimate import SMALLEST
from ...selection.memorisation import corrected

__all__ = ["Alarm", "Reading", "Recommended", "Stop", "alarm", "recommended", "stop"]

# Standard errors beyond which a difference counts.
_BEYOND = 2.0
# A larger share ρ is not used: differences would count tenfold.
_MOST = 0.9


@dataclass(frozen=True)
class Reading:
    """The network's agreement with the probe's labels at one epoch.

    Attributes
    ----------
    epoch, step : int
        When.
    plain, perturbed, right : ndarray of float32, shape (n,)
        Whether the network predicts each given label, as it is, and perturbed (a share of views);
        and the probability that the label is right.
    n_classes : int
        Classes that occur.
    rate, rate_low : float
        Estimated noise rate, and the lower end of its interval.
    hopeless : bool
        Whether labels seem to say no more than chance.
    holdout : ndarray of float32, shape (m,), or None
        Whether the network predicts each label of the hold-out.
    """

    epoch: int
    step: int
    plain: NDArray[np.float32]
    perturbed: NDArray[np.float32]
    right: NDArray[np.float32]
    n_classes: int
    rate: float
    rate_low: float
    hopeless: bool
    holdout: NDArray[np.float32] | None = field(default=None)

    @property
    def wrong_labels(self) -> tuple[float, float, float]:
        """S₀, S, and the standard error of their difference; NaN if no label looks wrong."""
        wrong = 1.0 - self.right.astype(np.float64)
        total = wrong.sum()
        if total <= 0:
            return float("nan"), float("nan"), float("nan")
        plain, perturbed = (
            float(wrong @ each.astype(np.float64) / total) for each in (self.plain, self.perturbed)
        )
        apart = wrong * (self.plain - self.perturbed - (plain - perturbed))
        return plain, perturbed, float(np.sqrt(np.square(apart).sum()) / total)

    @property
    def memorises(self) -> bool:
        """Whether more wrong labels are predicted on exact inputs than on perturbed ones."""
        plain, perturbed, error = self.wrong_labels
        surely_wrong = self.rate_low > SMALLEST and not self.hopeless
        return surely_wrong and plain - perturbed > _BEYOND * error

    @property
    def survival(self) -> float:
        """The share ρ of memory that survives the perturbation; 0 without memory."""
        plain, perturbed, _ = self.wrong_labels
        right = self.right.astype(np.float64)
        if not self.memorises or right.sum() <= 0:
            return 0.0
        agreement = float(right @ self.perturbed.astype(np.float64) / right.sum())
        by_chance = (1 - agreement) / max(1, self.n_classes - 1)
        if plain <= by_chance:
            return 0.0
        return float(np.clip((perturbed - by_chance) / (plain - by_chance), 0.0, _MOST))

    def worth(self) -> Float[NDArray[np.float64], " n"]:
        """Return what each sample adds to the mean A*, or to the agreement on the hold-out."""
        if self.holdout is not None:
            return self.holdout.astype(np.float64)
        return corrected(self.plain, self.perturbed, self.survival).astype(np.float64)


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

    def as_dict(self) -> dict[str, Any]:
        """Return the parts by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class Stop:
    """When training may stop: the `epoch` and its `step`, and `why` in a sentence."""

    epoch: int
    step: int
    why: str


def alarm(readings: Sequence[Reading]) -> Alarm | None:
    """Return when memorising started; None if nothing shows it."""
    for one, other in pairwise(readings):
        if one.memorises and other.memorises:
            plain, perturbed, error = one.wrong_labels
            return Alarm(
                one.epoch,
                one.step,
                f"from epoch {one.epoch} on, the network predicts {plain:.1%} of the labels that "
                f"look wrong for exact inputs, and {perturbed:.1%} for slightly changed ones "
                f"(difference {plain - perturbed:.1%} ± {error:.1%}); at least "
                f"{one.rate_low:.0%} of the labels look wrong",
            )
    return None


def recommended(readings: Sequence[Reading]) -> Recommended | None:
    """Return the epoch to keep; None before the first reading."""
    if not readings:
        return None
    worths = [reading.worth() for reading in readings]
    means = [float(worth.mean()) for worth in worths]
    best = int(np.argmax(means))
    reading, own = readings[best], _standard_error(worths[best])
    labels = "the hold-out's labels" if reading.holdout is not None else "labels of new inputs"
    why = f"epoch {reading.epoch} agrees with {means[best]:.1%} ± {own:.1%} of {labels}"
    if reading.holdout is None:
        why += ", estimated from slightly changed inputs less memory"
    near = [
        other.epoch
        for other, worth, mean in zip(readings, worths, means, strict=True)
        if other is not reading and means[best] - mean <= _standard_error(worths[best] - worth)
    ]
    if near:
        shown = ", ".join(map(str, near[:5])) + (" …" if len(near) > 5 else "")
        why += f", the most; within one standard error: epoch {shown}"
    else:
        why += "; no other epoch is within one standard error"
    return Recommended(reading.epoch, reading.step, means[best], own, why)


def stop(readings: Sequence[Reading]) -> Stop | None:
    """Return when training may stop; None if it should go on."""
    kept, when = recommended(readings), alarm(readings)
    if kept is None or when is None or len(readings) < 2:
        return None
    best = next(reading for reading in readings if reading.epoch == kept.epoch).worth()
    apart = [best - reading.worth() for reading in readings[-2:]]
    if not all(float(each.mean()) > _BEYOND * _standard_error(each) for each in apart):
        return None
    last = readings[-1]
    return Stop(
        last.epoch,
        last.step,
        f"memorising since epoch {when.epoch}; epoch {last.epoch} agrees with "
        f"{float(apart[-1].mean()):.1%} ± {_standard_error(apart[-1]):.1%} fewer labels of new "
        f"inputs than epoch {kept.epoch}, which is the one to keep",
    )


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std() / len(values) ** 0.5)
