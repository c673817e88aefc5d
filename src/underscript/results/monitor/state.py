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
from ...utils.distributed import Processes
from ...utils.versions import versions
from .folder import forget, history_in, is_monitor, read_folder, shorten, write_folder
from .history import WRITTEN, with_accuracies
from .judgement import Alarm, Judgement, Reading, Recommended, alarm, recommended
from .layers import LayerReader
from .probe import ProbeSet
from .samples import SampleRecords
from .settings import check_same

__all__ = ["MonitorState"]


# Of each reading, one number a sample or several.
_NUMBERS = ("epoch", "step", "known", "rate", "rate_low", "rate_high", "per_rate", "hopeless")
_ARRAYS = ("given", "plain", "moved", "vote", "right", "holdout")


class MonitorState:
    """What a monitor has read so far.

    Of several processes only the first has `_probe`, `_holdout` and records.
    """

    folder: Path | None
    _processes: Processes
    _probe: ProbeSet
    _holdout: ProbeSet | None
    # Of the probe and the hold-out; all processes know them.
    _fingerprints: dict[str, str | None]
    _settings: dict[str, Any]
    _records: SampleRecords
    _steps: list[int]
    _history: list[dict[str, Any]]
    _readings: list[Reading]
    _layers: LayerReader
    _notes: list[str]
    _seconds: dict[str, float]

    @property
    def step(self) -> int | None:
        """The step of the last epoch that has ended; None before the first."""
        return self._steps[-1] if self._steps else None

    @property
    def _epoch(self) -> int:
        """The number of epochs that have ended."""
        return len(self._steps)

    @property
    def _is_first(self) -> bool:
        """Whether this is the process that reads and writes."""
        return self._processes.rank == 0

    @property
    def history(self) -> pd.DataFrame:
        """What was read: one row per epoch and layer.

        `step`, `epoch`, `layer` ("(network)" is the network's own predictions); `plain` and
        `perturbed`, the share of the probe's given labels that a decoder of the layer predicts out
        of fold for exact and for changed inputs; `memory`, their difference; `accuracy`,
        `accuracy_low`, `accuracy_high`, its accuracy with a 95 % interval, estimated with the
        median noise rate of all readings (so it changes with each; `history.csv` is without);
        `effective_rank`; `angle`, the mean principal angle in degrees between the spaces of class
        means of this reading and the last; `noise_rate` and `holdout`, the agreement with its
        labels, of the network only.
        """
        return with_accuracies(self._history, self._judgement())

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
        agreement there.
        """
        return recommended(self._readings)

    def _judgement(self) -> Judgement | None:
        """Judge all readings so far; None before the first."""
        return Judgement(self._readings) if self._readings else None

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the state to a folder: `history.csv`, `monitor.json` and a file of tensors.

        Of several processes the first writes it.

        Raises
        ------
        OutputError
            If it cannot be written; an earlier state there is left as it was.
        """
        if not self._is_first:
            return
        write_folder(Path(folder), self._summary(), self._written(), self._tensors())

    def load(self, folder: str | PathLike[str]) -> None:
        """Take over the state that `save` wrote, in place of this monitor's own.

        So it goes back together with the network, to a checkpoint beside which it was saved. It
        keeps its own folder. Of several processes all call it.

        Raises
        ------
        DataError
            If a setting or the data are not those of the state, or a file is damaged.
        OutputError
            If the folder is no monitor's.
        """
        folder = Path(folder)
        with self._processes.together():
            if self._is_first:
                self._adopt(*read_folder(folder), str(folder))
        self._share()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all epochs that have ended: text and tensors, for a checkpoint."""
        return {
            "summary": json.dumps(self._summary(), allow_nan=False),
            "history": self._written().to_csv(index=False),
            # Copies: training goes on while a checkpoint is written.
            "tensors": {name: part.clone() for name, part in self._tensors().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, in place of this monitor's own state.

        Of several processes all call it; that of the first counts.

        Raises
        ------
        DataError
            If a setting or the data are not those of the state, or a part is missing.
        """
        with self._processes.together():
            if self._is_first:
                try:
                    summary = json.loads(state["summary"])
                    history, tensors = history_in(state["history"]), state["tensors"]
                except (KeyError, TypeError, ValueError) as error:
                    raise DataError(
                        "the checkpoint: a part of the monitor's state is missing or damaged"
                    ) from error
                self._adopt(summary, history, tensors, "the checkpoint")
        self._share()

    def _written(self) -> pd.DataFrame:
        return pd.DataFrame(self._history, columns=list(WRITTEN))

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"samples/{name}": part for name, part in self._records.state().items()}
        tensors |= {f"bases/{name}": basis for name, basis in self._layers.bases.items()}
        for name in _ARRAYS:
            parts = [getattr(reading, name) for reading in self._readings]
            if parts and parts[0] is not None:
                tensors[f"readings/{name}"] = torch.from_numpy(np.stack(parts))
        return tensors

    def _adopt(
        self,
        summary: Mapping[str, Any],
        history: pd.DataFrame,
        state: Mapping[str, Tensor],
        where: str,
    ) -> None:
        """Take over a state, if it is of the same settings and data."""
        settings, data = summary["settings"], summary["data"]
        check_same(settings, self._settings, data, self._fingerprints, where)
        self._take(summary, history, state, where)
        if self.folder is not None and is_monitor(self.folder):
            # What the folder keeps may be of later epochs.
            forget(self.folder)
            self.save(self.folder)

    def _summary(self) -> dict[str, Any]:
        judged = self._judgement()
        when, kept = (judged.alarm, judged.recommended) if judged is not None else (None, None)
        return {
            "versions": versions(),
            "settings": self._settings,
            "data": self._fingerprints,
            "epoch": self._epoch,
            "step": self.step,
            "steps": self._steps,
            "n_classes": self._records.n_classes,
            "readings": [
                {name: getattr(reading, name) for name in _NUMBERS} for reading in self._readings
            ],
            # None after going back: those in the file are of a later network.
            "bases": self._readings[-1].epoch if self._layers.bases else None,
            "alarm": None if when is None else dict(vars(when)),
            "recommended": None if kept is None else dict(vars(kept)),
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
            self._steps = [int(step) for step in summary["steps"]]
            self._seconds = dict(summary["seconds"])
            self._notes = list(summary["notes"])
            self._history = [
                {str(name): value for name, value in row.items()}
                for row in history.to_dict("records")
            ]
            parts = {
                name: state[f"readings/{name}"].numpy()
                for name in _ARRAYS
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
        self._layers.bases = {
            name.removeprefix("bases/"): part
            for name, part in state.items()
            if name.startswith("bases/") and summary["bases"] is not None
        }

    def _go_back(self, step: int) -> None:
        """Forget what was read after a step, here and in the folder."""
        last = self._epoch
        self._steps = [each for each in self._steps if each <= step]
        if self._epoch == last:
            return
        self._readings = [each for each in self._readings if each.epoch <= self._epoch]
        self._history = [row for row in self._history if row["epoch"] <= self._epoch]
        self._layers.bases = {}
        self._notes.append(
            f"resume: went back from epoch {last} to {self._epoch}; the samples' records count the "
            "epochs between twice"
        )
        if self.folder is not None:
            shorten(self.folder, self._summary(), self._written())

    def _share(self) -> None:
        """Tell the other processes what the first has read."""
        known = (self._steps, self._history, self._readings)
        self._steps, self._history, self._readings = self._processes.gather(known)[0]

    def _only_in_first(self, what: str) -> None:
        """Refuse what only the first process knows.

        Raises
        ------
        DataError
            In another process.
        """
        if not self._is_first:
            raise DataError(
                f"{what}: the records of all processes are in process 0; this is process "
                f"{self._processes.rank}"
            )
