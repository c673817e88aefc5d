"""Which perturbation suits a network's inputs: by their kind, and by what the network answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from ...data.batches import Batch
from ...data.fingerprints import sample_numbers
from ...data.samples import MASK, named_inputs, word_mask
from ...errors import DataError
from ...utils.notes import Notes
from ...utils.progress import SILENT, Progress
from ..hooks import Tapped, undisturbed
from ..modules import reads_sequences
from ..runner import Runner
from .images import Axes, Shifts, image_axes
from .numbers import Noise, spreads
from .own import changed_by
from .words import WordsDropped

__all__ = ["FLIP_KEEPS", "Perturbation", "choose_perturbation"]

# Flips keep the meaning if a flipped image is answered as a shifted one is, beyond chance, at least
# in this share of the agreement that two shifts of one image have. The share was at most 0.33 for
# digits, which flips make others, and 0.7 to 0.96 for photographs, the less the more was memorised:
# two shifts of an image share what is left of its memory, a flipped one has none.
FLIP_KEEPS = 0.5
# A perturbation must be answered as plain inputs are, beyond chance, by so many standard errors.
_BEYOND = 3.0
# So many views of each sample are answered, so many samples at once.
_VIEWS, _AT_ONCE = 2, 256

_SHOWN = {"own": "your function"}

UserFunction = Callable[[Any], Any]


class Change(Protocol):
    """One kind of change, to the inputs that are of one kind."""

    @property
    def name(self) -> str:
        """What users call it."""

    @property
    def fits(self) -> bool:
        """Whether what it gives means the same."""

    def __call__(self, batch: Batch, numbers: Int[Tensor, "n"], strength: float) -> Batch:
        """Return the batch, changed as each sample's number says."""


@dataclass(frozen=True)
class Perturbation:
    """What is done to a batch's inputs, the same way whenever it is done.

    What happens to a sample depends on its own inputs, the seed, the view and the strength alone:
    not on the batch that it comes in.

    Attributes
    ----------
    name : str
        What users see: "shifts", "shifts and flips", "words dropped", "noise" or "own".
    fits : bool
        Whether its rows may be fitted with. Gaussian noise is only for estimating what memory adds.
    seed : int
        Of its random numbers.
    """

    name: str
    fits: bool
    seed: int
    changes: tuple[Change, ...] = ()
    own: UserFunction | None = None

    def __call__(self, batch: Batch, view: int, strength: float = 1.0) -> Batch:
        """Return one view of a batch: the same samples, index and labels, other inputs.

        Parameters
        ----------
        view : int
            Its number, from 0.
        strength : float
            How far images are shifted, how many words are dropped and how much noise is added, as
            a multiple of what is usual. A user's own function has but one strength.

        Raises
        ------
        DataError
            If a user's function raises or gives something of another form.
        """
        if not strength > 0:
            raise DataError(f"strength: expected a number above 0; found {strength}")
        if self.own is not None:
            return changed_by(self.own, batch, self.seed, view)
        numbers = sample_numbers(batch, self.seed, view)
        for change in self.changes:
            batch = change(batch, numbers, strength)
        return batch


def choose_perturbation(
    choice: str | UserFunction,
    network: nn.Module,
    example: Batch,
    device: torch.device,
    seed: int,
    notes: Notes,
    progress: Progress = SILENT,
) -> Perturbation | None:
    """Return the perturbation that a choice means for a network's inputs, or None.

    Parameters
    ----------
    choice : {"auto", "none"} or callable
        By the inputs' kind, none, or the user's own function.
    network : torch.nn.Module
        It is left as it was.
    example : Batch
        Up to some hundreds of samples that the network takes, for testing the perturbation.
    device : torch.device
        Where the network is.
    seed : int
        Of the random numbers.
    notes : Notes
        Told why there is none.
    progress : Progress
        The job's bar.

    Raises
    ------
    DataError
        If the choice is unknown, or the user's function fails on the example.
    ModelError
        If the network raises.
    """
    if choice == "none":
        return None
    if callable(choice):
        chosen: Perturbation | None = Perturbation("own", True, seed, own=choice)
    elif choice == "auto":
        chosen = _by_kind(network, example, seed, notes)
    else:
        raise DataError(f"perturb: expected auto, none or a function; found {choice!r}")
    if chosen is None:
        return None
    progress.begin("testing the perturbation")
    with undisturbed(network):
        trial = _Trial(network, example, device, progress)
        return trial.passed(chosen, notes)


def _by_kind(network: nn.Module, example: Batch, seed: int, notes: Notes) -> Perturbation | None:
    """Return what suits the kinds of a network's inputs, or None with a note."""
    mask = word_mask(example)
    sequences = reads_sequences(network)
    images: dict[str, Axes] = {}
    numbers: dict[str, Tensor] = {}
    for name, value in named_inputs(example).items():
        if mask is not None and value.ndim > 1 and value.shape[1] == mask.shape[1]:
            continue  # the words, and the mask itself
        axes = None if value.ndim == 3 and sequences else image_axes(value)
        if axes is not None:
            images[name] = axes
        elif value.is_floating_point():
            numbers[name] = value
    changes: list[Change] = [Shifts(images)] if images else []
    if mask is not None:
        changes.append(WordsDropped())
    if numbers:
        changes.append(Noise(spreads(numbers)))
    if changes:
        return _of(changes, seed)
    notes.add(
        f"not perturbed: the inputs are no images or numbers, and no texts with an {MASK}, which "
        "says what words may be left out; what is memorised is told from what is known less "
        f"surely. Give the {MASK}, or a function of your own that keeps the meaning (perturb)"
    )
    return None


def _of(changes: Sequence[Change], seed: int) -> Perturbation:
    name = ", ".join(change.name for change in changes)
    return Perturbation(name, all(change.fits for change in changes), seed, tuple(changes))


class _Trial:
    """What the network answers, on the example's inputs as they are and on changed ones."""

    def __init__(
        self, network: nn.Module, example: Batch, device: torch.device, progress: Progress
    ):
        self.example, self.progress = example, progress
        self.run = Runner(network, Tapped(()), device, divisible=True)
        self.plain = self.answers(example)

    def answers(self, batch: Batch) -> Int[Tensor, "n"]:
        """Return the classes that the network predicts."""
        found = []
        for start in range(0, batch.size, _AT_ONCE):
            numbers = np.arange(batch.size)
            part = batch.take((numbers >= start) & (numbers < start + _AT_ONCE))
            _, logits = self.run(part, "example, perturbed")
            found.append(logits.argmax(1).cpu())
            self.progress.advance(part.size)
        return torch.cat(found)

    def views(self, perturbation: Perturbation, first: int = 0) -> list[Tensor]:
        """Return the answers on some views."""
        return [
            self.answers(perturbation(self.example, view)) for view in range(first, first + _VIEWS)
        ]

    def passed(self, chosen: Perturbation, notes: Notes) -> Perturbation | None:
        """Return the perturbation, with flips if they keep the meaning, or None with a note."""
        shown = _SHOWN.get(chosen.name, chosen.name)
        if all(self._unchanged(chosen(self.example, view)) for view in range(_VIEWS)):
            notes.add(
                f"not perturbed: of {self.example.size} inputs {shown} "
                "changed none. A function of your own that changes them helps (perturb)"
            )
            return None
        views = self.views(chosen)
        agreement, chance, error = _against_shuffled(self.plain, views)
        if agreement - chance < _BEYOND * error:
            notes.add(
                f"not perturbed: the network answers {agreement:.1%} of {self.example.size} inputs "
                f"with {shown} as it does without, {chance:.1%} by "
                "chance; what they mean seems to be lost. A function of your own that keeps it "
                "helps (perturb)"
            )
            return None
        return self._with_flips(chosen, views)

    def _unchanged(self, batch: Batch) -> bool:
        found = named_inputs(batch)
        return all(torch.equal(found[k], value) for k, value in named_inputs(self.example).items())

    def _with_flips(self, chosen: Perturbation, views: list[Tensor]) -> Perturbation:
        shifts = [change for change in chosen.changes if isinstance(change, Shifts)]
        if not shifts:
            return chosen

        def with_shifts(**how: bool) -> Perturbation:
            changes = [
                Shifts(change.axes, **how) if isinstance(change, Shifts) else change
                for change in chosen.changes
            ]
            return _of(changes, chosen.seed)

        # Never a view with its own mirror image: two shifts differ, and so must these.
        flipped = self.views(with_shifts(flipped=True))
        pairs = [(one, other) for one in range(_VIEWS) for other in range(one + 1, _VIEWS)]
        same, by_chance = _mean([_agreement(views[a], views[b]) for a, b in pairs])
        mirrored, mirrored_by_chance = _mean([_agreement(views[a], flipped[b]) for a, b in pairs])
        keeps = mirrored - mirrored_by_chance >= FLIP_KEEPS * (same - by_chance)
        return with_shifts(flips=True) if keeps else chosen


def _agreement(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Return in what share two lists of answers agree, and how much of that is by chance."""
    n_classes = int(max(one.max(), other.max())) + 1
    shares = [torch.bincount(each, minlength=n_classes) / len(each) for each in (one, other)]
    return float((one == other).double().mean()), float(shares[0].double() @ shares[1].double())


def _against_shuffled(plain: Tensor, views: Sequence[Tensor]) -> tuple[float, float, float]:
    """Return how far views are answered as plain inputs are, and the same of shuffled answers.

    Of all orders of the plain answers the mean agreement and its standard deviation (Hoeffding
    1951): several views of one sample are not counted as if they were several samples.

    Returns
    -------
    tuple of float
        Agreement, mean agreement when shuffled, its standard deviation.
    """
    n = len(plain)
    # Row i, column j: how many views of sample i are answered as sample j is.
    alike = sum((view[:, None] == plain[None, :]).double() for view in views) / len(views)
    assert isinstance(alike, Tensor)
    chance = alike.mean()
    centred = alike - alike.mean(0, keepdim=True) - alike.mean(1, keepdim=True) + chance
    error = centred.square().sum().sqrt() / (n * max(n - 1, 1) ** 0.5)
    return float(alike.diagonal().mean()), float(chance), float(error)


def _mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    first, second = np.mean(pairs, axis=0)
    return float(first), float(second)
