"""The state of a monitor: what is written to its folder, and taken from it."""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...errors import DataError
from ...utils.versions import versions
from .folder import history_in, read_folder, write_folder
from .history import COLUMNS
from .judgement import Alarm, Reading, Recommended, alarm, recommended
from .probe import ProbeSet
from .samples import SampleRecords

__all__ = ["MonitorState"]


class MonitorState:
    """What a monitor has read so far."""

    folder: Path | None
    _probe: ProbeSet
    _holdout: ProbeSet | None
    _settings: dict[str, Any]
    _records: SampleRecords
    _epoch: int
    _step: int | None
    _history: list[dict[str, Any]]
    _readings: list[Reading]
    _bases: dict[str, Tensor]
    _notes: list[str]
    _seconds: dict[str, float]

    @property
    def step(self) -> int | None:
        """The step of the last epoch that has ended; None before the first."""
        return self._step

    @property
    def history(self) -> pd.DataFrame:
        """What was read: one row per epoch and layer.

        `step`, `epoch`, `layer` ("(network)" is the network's own predictions); `plain` and
        `perturbed`, the share of the probe's given labels that a decoder of the layer predicts out
        of fold for exact and for changed inputs; `memory`, their difference; `accuracy`,
        `accuracy_low`, `accuracy_high`, its estimated accuracy with a 95 % interval;
        `effective_rank`; `angle`, the mean principal angle in degrees between the spaces of class
        means of this reading and the last; `noise_rate` and `holdout`, the agreement with its
        labels, of the network only.
        """
        return pd.DataFrame(self._history, columns=list(COLUMNS))

    @property
    def alarm(self) -> Alarm | None:
        """When memorising started, with the evidence; None if nothing shows it.

        The network then predicts labels that look wrong more often for the exact training inputs
        than for slightly changed ones, by more than two standard errors and in two readings in a
        row, while more than 2 % of the labels are surely wrong. See `judgement` for the formula.
        """
        return alarm(self._readings)

    @property
    def recommended(self) -> Recommended | None:
        """The epoch to keep, and why; None before the first reading.

        It has the largest A* = (A − ρ A₀) / (1 − ρ): the agreement A with given labels on changed
        inputs, less the memory that survives the change. With a hold-out it has the largest
        agreement there. The earliest epoch within one standard error is taken.
        """
        return recommended(self._readings)

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the state to a folder: `history.csv`, `monitor.json` and a file of tensors.

        Raises
        ------
        OutputError
            If it cannot be written; an earlier state there is left as it was.
        """
        write_folder(Path(folder), self._summary(), self.history, self._tensors())

    def load(self, folder: str | PathLike[str]) -> None:
        """Take over the state that `save` wrote, in place of this monitor's own.

        So it goes back together with the network, to a checkpoint beside which it was saved. It
        keeps its own folder.

        Raises
        ------
        DataError
            If a setting or the data are not those of the state, or a file is damaged.
        OutputError
            If the folder is no monitor's.
        """
        folder = Path(folder)
        summary, history, tensors = read_folder(folder)
        self._check_same(summary, str(folder))
        self._take(summary, history, tensors, str(folder))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all epochs that have ended: text and tensors, for a checkpoint."""
        return {
            "summary": json.dumps(self._summary(), allow_nan=False),
            "history": self.history.to_csv(index=False),
            # Copies: training goes on while a checkpoint is written.
            "tensors": {name: part.clone() for name, part in self._tensors().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, in place of this monitor's own state.

        Raises
        ------
        DataError
            If a setting or the data are not those of the state, or a part is missing.
        """
        where = "the checkpoint"
        try:
            summary = json.loads(state["summary"])
            history = history_in(state["history"], summary["epoch"])
            tensors = state["tensors"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where}: a part of the monitor's state is missing or damaged") from (
                error
            )
        self._check_same(summary, where)
        self._take(summary, history, tensors, where)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"samples/{name}": part for name, part in self._records.state().items()}
        tensors |= {f"bases/{name}": basis for name, basis in self._bases.items()}
        for name in ("plain", "perturbed", "right", "holdout"):
            parts = [getattr(reading, name) for reading in self._readings]
            if parts and parts[0] is not None:
                tensors[f"readings/{name}"] = torch.from_numpy(np.stack(parts))
        return tensors

    def _check_same(self, summary: Mapping[str, Any], where: str) -> None:
        """Check that a state is of the same settings and data.

        Raises
        ------
        DataError
            If one is not.
        """
        for setting, value in self._settings.items():
            before = summary["settings"].get(setting)
            if value != before:
                raise DataError(
                    f"{setting}: expected {before!r}, as in {where}; found {value!r}. Start a new "
                    "monitor for other settings"
                )
        for role, mark in self._fingerprints().items():
            if mark != summary["data"].get(role):
                raise DataError(
                    f"{role}: expected the same samples and labels as in {where}; found others"
                )

    def _fingerprints(self) -> dict[str, str | None]:
        holdout = None if self._holdout is None else self._holdout.fingerprint
        return {"probe": self._probe.fingerprint, "holdout": holdout}

    def _summary(self) -> dict[str, Any]:
        when, kept = self.alarm, self.recommended
        return {
            "versions": versions(),
            "settings": self._settings,
            "data": self._fingerprints(),
            "epoch": self._epoch,
            "step": self._step,
            "n_classes": self._records.n_classes,
            "readings": [
                {
                    name: getattr(reading, name)
                    for name in ("epoch", "step", "n_classes", "rate", "rate_low", "hopeless")
                }
                for reading in self._readings
            ],
            "alarm": None if when is None else dict(vars(when)),
            "recommended": None if kept is None else kept.as_dict(),
            "notes": list(dict.fromkeys([*self._notes, *self._records.notes.values()])),
            "seconds": {name: round(value, 3) for name, value in self._seconds.items()},
        }

    def _take(
        self,
        summary: Mapping[str, Any],
        history: pd.DataFrame,
        state: Mapping[str, Tensor],
        where: str,
    ) -> None:
        """Take over a state.

        Raises
        ------
        DataError
            If parts are missing.
        """
        try:
            self._epoch, self._step = summary["epoch"], summary["step"]
            self._seconds = dict(summary["seconds"])
            self._notes = list(summary["notes"])
            self._history = [
                {str(name): value for name, value in row.items()}
                for row in history.to_dict("records")
            ]
            parts = {
                name: state[f"readings/{name}"].numpy()
                for name in ("plain", "perturbed", "right", "holdout")
                if f"readings/{name}" in state
            }
            self._readings = [
                Reading(**{name: part[at] for name, part in parts.items()}, **each)
                for at, each in enumerate(summary["readings"])
            ]
            samples = {
                name.removeprefix("samples/"): part
                for name, part in state.items()
                if name.startswith("samples/")
            }
            self._records = SampleRecords(self._records.keep_logits)
            self._records.load_state(samples, summary["n_classes"])
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{where}: a part of the state is missing ({error})") from error
        self._bases = {
            name.removeprefix("bases/"): part
            for name, part in state.items()
            if name.startswith("bases/")
        }
