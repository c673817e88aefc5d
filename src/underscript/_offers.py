"""What may answer: ensembles of a round's best, of one layer or of all, and which of them does."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from ._candidates import Candidate, Kept, Work
from ._judges import Ensemble, Judged, summed
from .combined import COMBINED
from .discriminant import Linear
from .noise import SURE, Calibration, Noise, calibrate, estimate_noise
from .selection import CLEARLY, ahead_of, clearly_best

# So many of the best are the answer; fewer where nothing is wrong and the best need no company.
MEMBERS = 8
MEMBERS_CLEAN = 4
# So much better the input must be estimated to be than the layers, to take their place; where the
# hold-out sees a difference of so many standard errors, it decides this one question.
AHEAD = 0.01
SEEN = 2.0
# So many where nothing is wrong with the labels, and training data cannot tell.
SEEN_CLEAN = 1.0
# Layers that echo more of the given labels are not trusted: something in the estimates is wrong.
ECHO = 0.05


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
    echo : float
        How much oftener the layers agree with given labels than that accuracy explains.
    """

    layers: float
    input: float
    echo: float

    @classmethod
    def of(cls, both: float, layers: float, control: float, noise: Noise) -> "Estimates":
        """Return the estimates.

        The input has memorised nothing, so its agreement with the given labels tells its accuracy
        a. The layers echo what the network memorised; but with errors that do not depend on each
        other they agree with the input at the rate of both accuracies' product, so theirs is that
        rate / a. Of an accuracy b, with noise of rate e, (1 − e) b + e (1 − b) / (K − 1) of the
        given labels are agreed with; what is above is memory.

        Parameters
        ----------
        both : float
            The share of samples for which layers and input say the same.
        layers, control : float
            The shares of given labels with which layers and input agree.
        noise : Noise
            Of the given labels.
        """
        accuracy = noise.of_decoder(control, noise.n).accuracy
        found = min(1.0, both / max(accuracy, 1e-9))
        by_chance = noise.rate * (1 - found) / (len(noise.transitions) - 1)
        return cls(found, accuracy, layers - (1 - noise.rate) * found - by_chance)


def estimates(
    work: Work, fitted: dict[Candidate, Linear], ours: Offer, control: Offer, noise: Noise
) -> Estimates:
    """Estimate how right the layers and the input are, on the training data."""
    both = echoed = right = n = 0
    group = {each: fitted[each] for each in (*ours.members, *control.members)}
    with work.task.team.together():
        for seen, labels, _ in work.views(work.train, "comparing with the input"):
            scores = work.scores(seen, group)
            first, second = (
                summed(offer.members, offer.spreads, scores).argmax(1).cpu()
                for offer in (ours, control)
            )
            both += int((first == second).sum())
            echoed += int((first == labels).sum())
            right += int((second == labels).sum())
            n += len(labels)
    parts = work.task.team.gather((both, echoed, right, n))
    both, echoed, right, n = (sum(column) for column in zip(*parts, strict=True))
    return Estimates.of(both / n, echoed / n, right / n, noise)


def input_leads(control: Offer, leading: Offer, beside: Estimates, held: bool) -> bool:
    """Say whether the input's offer is to take the place of the layers'."""
    ahead, error = ahead_of(control.agrees, leading.agrees)
    if held and abs(ahead) > SEEN * error:
        return ahead > 0
    return beside.layers < beside.input - AHEAD or beside.echo > ECHO


def layers_or_input(
    layers: Offer, control: Offer, beside: Estimates, clean: bool, held: bool
) -> Offer:
    """Return which of the layers' offer and the input's answers, or both together.

    Where nothing is wrong both fit all labels, and which of them generalises only a hold-out can
    say.
    """
    if not clean:
        return control if input_leads(control, layers, beside, held) else layers
    both = Offer(
        COMBINED, layers.members + control.members, layers.spreads + control.spreads,
        layers.scores + control.scores, layers.given,
    )  # fmt: skip
    return overruled(both, [layers, control], SEEN_CLEAN) if held else both


def overruled(offer: Offer, others: list[Offer], errors: float = CLEARLY) -> Offer:
    """Return what agrees best with the hold-out, if clearly better than the offer, or the offer.

    With noise that does not depend on the input the share of noisy labels that a decoder predicts
    rises with its accuracy; see the documentation of the method.
    """
    everything = [offer, *others]
    return everything[clearly_best([each.agrees for each in everything], 0, errors)]
