"""What may answer: ensembles of a round's best, of one layer or of all, and which of them does."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ._candidates import Candidate, Kept, Work
from ._crossfit import CrossFitted
from ._judges import Ensemble, Judged, as_one, said, summed
from .combined import COMBINED
from .discriminant import Linear
from .noise import SURE, Calibration, Noise, calibrate, estimate_noise
from .selection import ahead_of, clearly_best

# So many of the best are the answer; fewer where nothing is wrong and the best need no company.
MEMBERS = 8
MEMBERS_CLEAN = 4
# Standard errors from which on layers and input are told apart; closer ones answer together.
TOLD = 1.5
# By less than this neither is clearly better: they err on different samples, and together on fewer.
CLOSE = 0.03
# Layers that repeat more of the given labels from memory answer only where they are told to know
# more.
ECHO = 0.17


class Offer(NamedTuple):
    """An ensemble of a round's best, of one layer or of all (`COMBINED`).

    Attributes
    ----------
    place : str
        The layer.
    members : tuple of Candidate
        The best first.
    spreads : tuple of float
        What each member's scores are divided by.
    scores : Tensor, shape (n, K)
        Their sum for some samples: the hold-out's, or else of the training data.
    given : Tensor of int64, shape (n,)
        These samples' noisy labels.
    """

    place: str
    members: Ensemble
    spreads: tuple[float, ...]
    scores: Tensor
    given: Tensor

    @property
    def agrees(self) -> Tensor:
        """For each sample whether the label is predicted, 0 or 1 (n,)."""
        return (self.scores.argmax(1) == self.given).double()

    def noise(self, seed: int) -> tuple[Calibration, Noise]:
        """Return temperature and noise."""
        calibration = calibrate(self.scores, self.given)
        return calibration, estimate_noise(self.scores, self.given, calibration, seed)


def offers_of(
    judged: Judged, kept: Kept, places: Mapping[str, Sequence[str]], clean: bool
) -> dict[str, Offer]:
    """Return the best of a round for each layer and for all together."""
    number = MEMBERS_CLEAN if clean else MEMBERS
    return {
        place: offer_of(place, judged.best(layers, number, clean=clean), judged, kept)
        for place, layers in places.items()
    }


def offer_of(place: str, members: Ensemble, judged: Judged, kept: Kept) -> Offer:
    spreads = judged.spreads_of(members)
    scores = summed(members, spreads, {each: kept.of(each) for each in members})
    return Offer(place, members, spreads, scores, kept.given)


def is_clean(
    noise: Noise | None,
    judged: Judged,
    kept: Kept,
    own: Sequence[str],
    held: bool,
    seed: int,
) -> bool:
    """Say whether nothing is wrong with the labels: by the input if that can tell at all."""
    if held and (noise is None or noise.accuracy <= SURE):
        best = offers_of(judged, kept, {COMBINED: own}, clean=True)[COMBINED]
        return best.noise(seed)[1].nothing_wrong
    return noise is not None and noise.nothing_wrong


class Estimates(NamedTuple):
    """How right the layers together and the input are, estimated on the training data.

    Attributes
    ----------
    layers, input : float
        Accuracies, 0 to 1.
    error : float
        The standard error of their difference.
    echo : float
        How much oftener the layers agree with given labels than that accuracy explains.
    slope : float
        How fast agreement with given labels rises with accuracy.
    """

    layers: float
    input: float
    error: float
    echo: float
    slope: float

    @classmethod
    def of(cls, both: float, layers: float, control: float, n: int, noise: Noise) -> "Estimates":
        """Return the estimates.

        What reads the input and has not seen the labels agrees with them as often as its accuracy
        a says. The layers echo what the network memorised; but their accuracy b follows from how
        often they say what the input says: a b + t (1 − a) (1 − b), as errors that do not depend
        on each other coincide at the rate t. They then have reason to agree with (1 − e) b + s (1
        − b) of the given labels, of which e are wrong; what is above is memory. See
        `Noise.coincidences` for s and t.

        Parameters
        ----------
        both : float
            The share of samples for which layers and input say the same.
        layers, control : float
            The shares of given labels with which layers and input agree.
        n : int
            Samples.
        noise : Noise
            Of the given labels.
        """
        by_chance, alike = noise.coincidences
        of_input = noise.of_decoder(control, n)
        accuracy = of_input.accuracy

        def found(accuracy: float) -> float:
            wrong = alike * (1 - accuracy)
            return min(1.0, max(0.0, (both - wrong) / max(accuracy - wrong, 1e-9)))

        ahead = [found(a) - a for a in (of_input.accuracy_low, of_input.accuracy_high)]
        counted = (both * (1 - both) / n) ** 0.5 / max(accuracy, 1e-9)
        error = float(np.hypot((ahead[0] - ahead[1]) / (2 * 1.96), counted))
        right = found(accuracy)
        explained = (1 - noise.rate) * right + by_chance * (1 - right)
        slope = max(1 - noise.rate - by_chance, 1e-6)
        return cls(right, accuracy, error, layers - explained, slope)

    @classmethod
    def between(
        cls, both: float, layers: float, control: float, n: int, noise: Noise
    ) -> "Estimates":
        """Return the middle of what follows from the rate as estimated and from the largest.

        Noise that comes from the input is partly hidden: what reads the input predicts it. At most
        all of the labels that this contradicts are wrong. How far the two are apart counts as an
        error.
        """
        found = cls.of(both, layers, control, n, noise)
        most = max(noise.rate, 1 - control)
        other = cls.of(
            both, layers, control, n, replace(noise, rate=most, rate_low=most, rate_high=most)
        )
        apart = (found.layers - found.input) - (other.layers - other.input)
        middle = [(a + b) / 2 for a, b in zip(found, other, strict=True)]
        return cls(*middle)._replace(error=float(np.hypot(found.error, apart / 2)))


def estimates(
    work: Work,
    fitted: dict[Candidate, Linear],
    ours: Offer,
    blind: CrossFitted,
    noise: Noise,
) -> Estimates:
    """Estimate how right the layers and the input are, on the training data.

    Parameters
    ----------
    blind : CrossFitted
        What is read from the input without knowledge of the labels.
    """
    both = echoed = n = 0
    # Read before this pass begins.
    control = blind.answers
    together = as_one(ours.members, ours.spreads, fitted)
    with work.task.team.together():
        for (seen, labels, _), of_input in zip(
            work.views(work.train, "comparing with the input"), control, strict=True
        ):
            of_layers = said(seen, together).cpu()
            both += int((of_layers == of_input).sum())
            echoed += int((of_layers == labels).sum())
            n += len(labels)
    parts = work.task.team.gather((both, echoed, n))
    both, echoed, n = (sum(column) for column in zip(*parts, strict=True))
    return Estimates.between(both / n, echoed / n, blind.agreement, n, noise)


def layers_or_input(
    layers: Offer, control: Offer, beside: Estimates, clean: bool, held: bool
) -> tuple[Offer, str]:
    """Return which of the layers' offer and the input's answers, or both together; and why.

    By their difference in accuracy, as estimated, and as seen on the hold-out where there is one;
    each counts as much as it is certain. If that does not tell, or they are close, both answer; the
    input where it does not tell and layers repeat much from memory. Where nothing is wrong both fit
    all labels, and only a hold-out can say which generalises.
    """
    both = Offer(
        COMBINED, layers.members + control.members, layers.spreads + control.spreads,
        layers.scores + control.scores, layers.given,
    )  # fmt: skip
    # Sums of differences by their precisions, and of precisions.
    weighed = precision = 0.0
    if not clean:
        precision = 1 / max(beside.error, 1e-9) ** 2
        weighed = (beside.layers - beside.input) * precision
    if held:
        seen, error = ahead_of(layers.agrees, control.agrees)
        certain = (beside.slope / max(error, 1 / len(layers.given))) ** 2
        precision += certain
        weighed += seen / beside.slope * certain
    ahead = weighed / max(precision, 1e-12)
    told = abs(weighed) > TOLD * precision**0.5
    if not told and not clean and beside.echo > ECHO:
        return control, "memory counts against the layers, so the input answers"
    if not told or abs(ahead) < CLOSE:
        return both, "neither is known to be clearly better, so both answer"
    return (layers, "the layers answer") if ahead > 0 else (control, "the input answers")


def overruled(offer: Offer, others: list[Offer]) -> Offer:
    """Return what agrees best with the hold-out, if clearly better than the offer, or the offer.

    With noise that does not depend on the input the share of noisy labels that a decoder predicts
    rises with its accuracy; see the documentation of the method.
    """
    everything = [offer, *others]
    return everything[clearly_best([each.agrees for each in everything], 0)]
