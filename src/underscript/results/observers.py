"""Observers of the chosen decoder's predictions, in one pass over data."""

from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from ..noise.calibration import expected_calibration_error
from ..noise.estimate import Noise
from ..noise.posterior import came_from
from ..probes.ensemble import rows_for
from ..selection.choice import Key
from ..selection.log_odds_lookup import OutOfFoldLogOdds
from ..selection.observers import Observed, Observer
from .examples import Worst
from .issues import PredictionBuffer, Predictions

__all__ = ["Confidence", "PredictionObserver"]


class PredictionObserver(Observer):
    """A decoder's prediction for each sample with its given label, and the worst samples.

    Parameters
    ----------
    key : Key
        The decoder's name; its predictions are kept under it for later observers.
    decoder : estimator
        The decoder.
    worst : Worst
        Keeps the most suspicious samples.
    noise : Noise or None
        The estimated noise of the labels, from which their quality follows.
    unseen : OutOfFoldLogOdds or None
        The decoder's out-of-fold predictions.
    """

    local = ("_decoder", "_unseen", "_origins")

    def __init__(
        self,
        key: Key,
        decoder: Any,
        worst: Worst,
        noise: Noise | None,
        unseen: OutOfFoldLogOdds | None,
    ):
        self.key, self.worst = key, worst
        self._decoder, self._unseen = decoder, unseen
        self._origins = None if noise is None else came_from(noise)
        self._gathered = PredictionBuffer()
        self._others: list[Predictions] = []

    def __getstate__(self) -> dict[str, Any]:
        """Send all predictions in parts."""
        sent = {"_gathered": PredictionBuffer(), "_others": self.parts()}
        return {**super().__getstate__(), **sent}

    def see(self, batch: Observed) -> None:
        """Predict the labels of a batch."""
        rows, given = batch.rows, batch.labels["given"]
        inputs = rows_for(self.key.layer, rows.layers)
        if self._unseen is not None and self._origins is not None:
            odds = self._unseen.of(rows.batch, partial(self._decoder.decide, inputs))
            predictions = Predictions.of_odds(odds, given, rows.batch, self._origins)
        else:
            predictions = Predictions.of(self._decoder, inputs, given, rows.batch)
        self._gathered.add(predictions)
        self.worst.add(rows.batch, predictions)
        batch.predicted[self.key] = predictions.predicted

    def merge(self, other: Self) -> None:
        """Add another process's predictions."""
        self._others += other.parts()
        self.worst.merge(other.worst)

    def parts(self) -> list[Predictions]:
        """Return the predictions, in parts."""
        return self._gathered.all() + self._others


class Confidence(Observer):
    """How sure a decoder is, and whether it is right.

    Parameters
    ----------
    key : Key
        The decoder's name.
    decoder : estimator
        The decoder.
    """

    local = ("_decoder",)

    def __init__(self, key: Key, decoder: Any):
        self._key, self._decoder = key, decoder
        self._parts: list[tuple[Tensor, Tensor]] = []

    def see(self, batch: Observed) -> None:
        """Measure the confidence on a batch."""
        rows = rows_for(self._key.layer, batch.rows.layers)
        highest = self._decoder.closeness(rows).cpu().max(1)
        given = torch.from_numpy(batch.labels["given"])
        self._parts.append((highest.values, highest.indices == given))

    def merge(self, other: Self) -> None:
        """Add another process's measurements."""
        self._parts += other._parts

    def calibration_error(self) -> float | None:
        """Return the expected calibration error, 0 to 1; None before anything was seen."""
        if not self._parts:
            return None
        confidence, right = map(torch.cat, zip(*self._parts, strict=True))
        return expected_calibration_error(confidence, right)
