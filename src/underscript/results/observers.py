"""What the chosen decoder says of samples, gathered in one pass over data."""

from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from ..noise.calibration import expected_calibration_error
from ..noise.estimate import Noise
from ..noise.posterior import came_from
from ..probes.ensemble import rows_for
from ..selection.choice import Key
from ..selection.observers import Observed
from ..selection.unseen import Unseen
from .examples import Worst
from .issues import Answers, Gathered

__all__ = ["Confidence", "LabelAnswers"]


class LabelAnswers:
    """What a decoder says of each sample's given label, and which samples are the worst.

    Parameters
    ----------
    key : Key
        The decoder's name; what it predicts is left for the observers that come later.
    decoder : estimator
        The decoder.
    worst : Worst
        Keeps the most suspicious samples.
    noise : Noise or None
        What is known of the labels: it says how good they are.
    unseen : Unseen or None
        What the decoder says of samples whose labels it has not seen.
    """

    def __init__(
        self, key: Key, decoder: Any, worst: Worst, noise: Noise | None, unseen: Unseen | None
    ):
        self.key, self.worst = key, worst
        self._decoder, self._unseen = decoder, unseen
        self._origins = None if noise is None else came_from(noise)
        self._gathered = Gathered()
        self._others: list[Answers] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what other processes have too."""
        kept = {"_decoder": None, "_unseen": None, "_origins": None, "_gathered": Gathered()}
        return {**self.__dict__, **kept, "_others": self.parts()}

    def see(self, batch: Observed) -> None:
        """Ask the decoder about a batch."""
        rows, given = batch.rows, batch.labels["given"]
        mine = rows_for(self.key.layer, rows.layers)
        if self._unseen is not None and self._origins is not None:
            values = self._unseen.of(rows.batch, partial(self._decoder.decide, mine))
            answers = Answers.of_values(values, given, rows.batch, self._origins)
        else:
            answers = Answers.of(self._decoder, mine, given, rows.batch)
        self._gathered.add(answers)
        self.worst.add(rows.batch, answers)
        batch.predicted[self.key] = answers.predicted

    def merge(self, other: Self) -> None:
        """Add another process's answers."""
        self._others += other.parts()
        self.worst.merge(other.worst)

    def parts(self) -> list[Answers]:
        """Return the answers, in parts."""
        return self._gathered.all() + self._others


class Confidence:
    """How sure a decoder is, and whether it is right.

    Parameters
    ----------
    key : Key
        The decoder's name.
    decoder : estimator
        The decoder.
    """

    def __init__(self, key: Key, decoder: Any):
        self._key, self._decoder = key, decoder
        self._parts: list[tuple[Tensor, Tensor]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoder": None}

    def see(self, batch: Observed) -> None:
        """Ask the decoder about a batch."""
        rows = rows_for(self._key.layer, batch.rows.layers)
        highest = self._decoder.closeness(rows).cpu().max(1)
        given = torch.from_numpy(batch.labels["given"])
        self._parts.append((highest.values, highest.indices == given))

    def merge(self, other: Self) -> None:
        """Add what another process saw."""
        self._parts += other._parts

    def calibration_error(self) -> float | None:
        """Return the expected calibration error, 0 to 1; None before anything was seen."""
        if not self._parts:
            return None
        confidence, right = map(torch.cat, zip(*self._parts, strict=True))
        return expected_calibration_error(confidence, right)
