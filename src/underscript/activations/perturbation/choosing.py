"""Choose a perturbation for a network's inputs, by their kind and by the network's predictions."""

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
from .overlays import Overlays
from .own import changed_by
from .words import WordsDropped

__all__ = [
    "FLIP_KEEPS",
    "WORDS",
    "Perturbation",
    "check_choice",
    "choose_perturbation",
    "perturbation_by_kind",
]

# Flips keep the meaning if predictions for flipped and shifted images agree beyond chance, at least
# this fraction as often as for two shifts of one image. The fraction was at most 0.33 for digits,
# which flips turn into others, and 0.7 to 0.96 for photographs. It falls with memorisation: two
# shifts of an image share what is left of its memory, a flipped image has none.
FLIP_KEEPS = 0.5
# Predictions for perturbed and plain inputs must agree beyond chance by so many standard errors.
_BEYOND = 3.0
# Views of each sample to predict, and samples per run.
_VIEWS, _AT_ONCE = 2, 256

_SHOWN = {"own": "your function"}

# What may be chosen by a word.
WORDS = ("auto", "overlays", "none")

UserFunction = Callable[[Any], Any]


class Change(Protocol):
    """A change to the inputs of one kind."""

    @property
    def name(self) -> str:
        """Name shown to the user."""

    @property
    def fits(self) -> bool:
        """Whether changed inputs keep their meaning."""

    def __call__(self, batch: Batch, numbers: Int[Tensor, "n"], strength: float) -> Batch:
        """Return the changed batch; each sample's number decides its change."""


@dataclass(frozen=True)
class Perturbation:
    """A reproducible change to a batch's inputs.

    The change of a sample depends only on its own inputs, the seed, the view and the strength, not
    on the batch that it comes in.

    Attributes
    ----------
    name : str
        Name shown to the user: "shifts", "shifts and flips", "overlays", "words dropped",
        "noise" or "own"; several are joined by commas.
    fits : bool
        Whether decoders may be fitted to its rows. Gaussian noise only estimates memorisation.
    seed : int
        Seed of its random numbers.
    """

    name: str
    fits: bool
    seed: int
    changes: tuple[Change, ...] = ()
    own: UserFunction | None = None

    @property
    def shifts(self) -> bool:
        """Whether it shifts images."""
        return any(isinstance(change, Shifts) for change in self.changes)

    def __call__(self, batch: Batch, view: int, strength: float = 1.0) -> Batch:
        """Return one view of a batch: the same samples, index and labels, changed inputs.

        Parameters
        ----------
        view : int
            Its number, from 0.
        strength : float
            How far images are shifted, how many words are dropped and how much noise is added, as
            a multiple of the default. A user's own function ignores it.

        Raises
        ------
        DataError
            If a user's function raises or returns something of another form.
        """
        if not strength > 0:
            raise DataError(f"strength: expected a number above 0; found {strength}")
        if self.own is not None:
            return changed_by(self.own, batch, self.seed, view)
        numbers = sample_numbers(batch, self.seed, view)
        for change in self.changes:
            batch = change(batch, numbers, strength)
        return batch


def check_choice(choice: object) -> None:
    """Raise DataError unless a choice is one of the words or a function."""
    if not callable(choice) and choice not in WORDS:
        raise DataError(f"perturb: expected {', '.join(WORDS)} or a function; found {choice!r}")


def choose_perturbation(
    choice: str | UserFunction,
    network: nn.Module,
    example: Batch,
    device: torch.device,
    seed: int,
    notes: Notes,
    progress: Progress = SILENT,
) -> Perturbation | None:
    """Return the perturbation for a network's inputs that a choice selects, or None.

    Parameters
    ----------
    choice : {"auto", "overlays", "none"} or callable
        By the inputs' kind, the same with overlays of images, none, or the user's own function.
    network : torch.nn.Module
        It is left as it was.
    example : Batch
        Up to some hundreds of the network's inputs, for testing the perturbation.
    device : torch.device
        The network's device.
    seed : int
        Seed of the random numbers.
    notes : Notes
        Receives the reason if there is none.
    progress : Progress
        The job's progress bar.

    Raises
    ------
    DataError
        If the choice is unknown, or the user's function fails on the example.
    ModelError
        If the network raises.
    """
    check_choice(choice)
    if choice == "none":
        return None
    if callable(choice):
        chosen: Perturbation | None = Perturbation("own", True, seed, own=choice)
    else:
        chosen = perturbation_by_kind(network, example, seed, notes, choice == "overlays")
    if chosen is None:
        return None
    progress.begin("testing the perturbation")
    with undisturbed(network):
        trial = _Trial(network, example, device, progress)
        return trial.passed(chosen, notes)


def perturbation_by_kind(
    network: nn.Module, example: Batch, seed: int, notes: Notes, overlaid: bool = False
) -> Perturbation | None:
    """Return the perturbation that suits the inputs' kinds, or None with a note.

    If `overlaid`, other images show through images.

    Raises
    ------
    DataError
        If none of the inputs is an image, and `overlaid`.
    """
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
    if overlaid:
        if not images:
            shapes = (tuple(value.shape[1:]) for value in named_inputs(example).values())
            raise DataError(
                "perturb: expected images, for overlays; found samples of shape "
                f"{', '.join(map(str, shapes))}. Take auto, or a function of your own"
            )
        changes.append(Overlays({name: named_inputs(example)[name] for name in images}))
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
    """Compares the network's predictions for the example's plain and perturbed inputs."""

    def __init__(
        self, network: nn.Module, example: Batch, device: torch.device, progress: Progress
    ):
        self.example, self.progress = example, progress
        self.run = Runner(network, Tapped(()), device, divisible=True)
        self.plain = self.predictions(example)

    def predictions(self, batch: Batch) -> Int[Tensor, "n"]:
        """Return the classes that the network predicts."""
        classes = []
        for start in range(0, batch.size, _AT_ONCE):
            numbers = np.arange(batch.size)
            part = batch.take((numbers >= start) & (numbers < start + _AT_ONCE))
            _, logits = self.run(part, "example, perturbed")
            classes.append(logits.argmax(1).cpu())
            self.progress.advance(part.size)
        return torch.cat(classes)

    def views(self, perturbation: Perturbation, first: int = 0) -> list[Tensor]:
        """Return the predictions for some views."""
        return [
            self.predictions(perturbation(self.example, view))
            for view in range(first, first + _VIEWS)
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
        changed = named_inputs(batch)
        return all(
            torch.equal(changed[k], value) for k, value in named_inputs(self.example).items()
        )

    def _with_flips(self, chosen: Perturbation, views: list[Tensor]) -> Perturbation:
        if not chosen.shifts:
            return chosen

        def with_shifts(**how: bool) -> Perturbation:
            changes = [
                Shifts(change.axes, **how) if isinstance(change, Shifts) else change
                for change in chosen.changes
            ]
            return _of(changes, chosen.seed)

        # Never compare a view with its own mirror image: the two shifts must differ.
        flipped = self.views(with_shifts(flipped=True))
        pairs = [(one, other) for one in range(_VIEWS) for other in range(one + 1, _VIEWS)]
        same, by_chance = _mean([_agreement(views[a], views[b]) for a, b in pairs])
        mirrored, mirrored_by_chance = _mean([_agreement(views[a], flipped[b]) for a, b in pairs])
        keeps = mirrored - mirrored_by_chance >= FLIP_KEEPS * (same - by_chance)
        return with_shifts(flips=True) if keeps else chosen


def _agreement(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Return how often two lists of predictions agree, and how often they would by chance."""
    n_classes = int(max(one.max(), other.max())) + 1
    shares = [
        torch.bincount(classes, minlength=n_classes) / len(classes) for classes in (one, other)
    ]
    return float((one == other).double().mean()), float(shares[0].double() @ shares[1].double())


def _against_shuffled(plain: Tensor, views: Sequence[Tensor]) -> tuple[float, float, float]:
    """Return how often predictions for views and plain inputs agree, and after shuffling.

    The mean agreement and its standard deviation are over all orders of the plain predictions
    (Hoeffding 1951): several views of one sample do not count as several samples.

    Returns
    -------
    tuple of float
        Agreement, mean agreement when shuffled, its standard deviation.
    """
    n = len(plain)
    # Row i, column j: share of views of sample i with the same prediction as sample j.
    alike = sum((view[:, None] == plain[None, :]).double() for view in views) / len(views)
    assert isinstance(alike, Tensor)
    chance = alike.mean()
    centred = alike - alike.mean(0, keepdim=True) - alike.mean(1, keepdim=True) + chance
    error = centred.square().sum().sqrt() / (n * max(n - 1, 1) ** 0.5)
    return float(alike.diagonal().mean()), float(chance), float(error)


def _mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    first, second = np.mean(pairs, axis=0)
    return float(first), float(second)
