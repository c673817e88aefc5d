"""`Monitor`: watches a network while it trains, and says when it begins to memorise labels."""

import time
import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ...activations.given_model import as_module
from ...activations.layers import LayerChoice
from ...errors import ArgumentError, DataError, OutputError, UnderscriptWarning
from ...noise.estimate import SMALLEST
from ...utils.versions import versions
from .exports import KeptLogits, write_aum, write_cartography
from .folder import is_monitor, read_folder, write_folder
from .history import COLUMNS, history_rows
from .judgement import Alarm, Reading, Recommended, alarm, recommended
from .label_issues import issues_of
from .layers import read_layers
from .probe import ProbeReader, ProbeSet
from .samples import SampleRecords

__all__ = ["Monitor"]

_OWN = "a function"


class Monitor:
    """Watches a network while it trains.

    Call `update` for each batch and `end_epoch` after each epoch. What each sample did (margins,
    forgetting, confidence) comes from the batches. What each layer knows, and how much of it is
    memory, comes from a fixed part of the training data, as it is and slightly changed. No clean
    label is used, and the network is left as it was.

    Parameters
    ----------
    probe : Dataset, DataLoader or pair of arrays
        Training data with the labels that the network is trained on, without random augmentation.
    folder : path, optional
        Where the state is written after each epoch. It can be killed at any moment; see `resume`.
    n_probe : int
        So many samples of `probe` are read, chosen by the seed.
    every : int
        The layers are read after each so many epochs.
    layers : str, iterable of str or callable, optional
        Layers to read; see `decode`.
    perturb : {"auto", "none"} or callable
        How inputs are changed; see `decode`. That the network keeps its predictions is not tested,
        and images are not flipped.
    views : int
        Changed copies of each sample.
    holdout : Dataset, DataLoader or pair of arrays, optional
        Data with equally noisy labels that the network is not trained on; at most `n_probe`
        samples are read. It then decides alone which epoch to keep; with a few hundred samples its
        standard error is larger than that of the probe.
    keep_logits : bool
        Whether to keep all logits of `update`, for `to_cartography_jsonl`: n × K numbers an epoch,
        in the folder if there is one, else in memory.
    seed : int
        Seed of all choices.

    Raises
    ------
    DataError, LabelError
        If settings or data cannot be used.
    OutputError
        If the folder already holds a monitor.
    """

    def __init__(
        self,
        probe: Any,
        *,
        folder: str | PathLike[str] | None = None,
        n_probe: int = 2000,
        every: int = 1,
        layers: LayerChoice = None,
        perturb: str | Callable[[Any], Any] = "auto",
        views: int = 1,
        holdout: Any = None,
        keep_logits: bool = False,
        seed: int = 0,
    ):
        for name, value, least in (
            ("n_probe", n_probe, 2),
            ("every", every, 1),
            ("views", views, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise DataError(
                    f"{name}: expected a whole number of at least {least}; found {value!r}"
                )
        if not callable(perturb) and perturb not in ("auto", "none"):
            raise DataError(f"perturb: expected auto, none or a function; found {perturb!r}")
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None and is_monitor(self.folder):
            raise OutputError(
                f"{self.folder} holds a monitor already: go on with it by "
                "Monitor.resume(folder, probe), or choose another folder"
            )
        if layers is not None and not isinstance(layers, str) and not callable(layers):
            layers = list(layers)
        self._probe = ProbeSet(probe, n_probe, seed)
        self._holdout = None if holdout is None else ProbeSet(holdout, n_probe, seed, "holdout")
        self._reader = ProbeReader(self._probe, layers, perturb, views, seed)
        self._settings: dict[str, Any] = {
            "n_probe": n_probe,
            "every": every,
            "layers": _OWN if callable(layers) else layers,
            "perturb": _OWN if callable(perturb) else perturb,
            "views": views,
            "keep_logits": keep_logits,
            "seed": seed,
        }
        self._records = SampleRecords(keep_logits)
        self._epoch = 0
        self._step: int | None = None
        self._history: list[dict[str, Any]] = []
        self._readings: list[Reading] = []
        self._bases: dict[str, Tensor] = {}
        self._logits = KeptLogits()
        self._logits.folder = self.folder
        self._notes: list[str] = []
        self._seconds = {"update": 0.0, "end_epoch": 0.0}

    @classmethod
    def resume(
        cls,
        folder: str | PathLike[str],
        probe: Any,
        *,
        holdout: Any = None,
        **settings: Any,
    ) -> Self:
        """Go on with the monitor that a folder keeps, after its last whole epoch.

        Parameters
        ----------
        folder : path
            Its folder.
        probe, holdout
            The same data as before.
        **settings
            Other arguments of `Monitor`. Those left out are as before; functions must be given
            again.

        Raises
        ------
        ArgumentError
            If a setting is unknown.
        DataError
            If a setting or the data are not as before, or a file is damaged.
        OutputError
            If the folder is no monitor's.
        """
        folder = Path(folder)
        summary, history, state = read_folder(folder)
        before = summary["settings"]
        for name in settings:
            if name not in before:
                raise ArgumentError(f"resume: unknown setting {name!r}; known: {', '.join(before)}")
        for name in ("layers", "perturb"):
            if before[name] == _OWN and not callable(settings.get(name)):
                raise DataError(f"{name}: was a function; give the same again to resume {folder}")
        monitor = cls(probe, holdout=holdout, **{**before, **settings})
        for setting, value in monitor._settings.items():
            if value != before[setting]:
                raise DataError(
                    f"{setting}: expected {before[setting]!r}, as in {folder}; found {value!r}. "
                    "Start a new monitor for other settings"
                )
        for role, mark in monitor._fingerprints().items():
            if mark != summary["data"].get(role):
                raise DataError(
                    f"{role}: expected the same samples and labels as in {folder}; found others"
                )
        monitor.folder = monitor._logits.folder = folder
        monitor._take(summary, history, state)
        return monitor

    def update(self, logits: Any, labels: Any, index: Any) -> None:
        """Add a training batch to the samples' records.

        Of a sample that is seen several times in an epoch the last time counts.

        Parameters
        ----------
        logits : Tensor or array, shape (n, K)
            What the network returned in training, on any device.
        labels : Tensor or array of int, shape (n,)
            Given labels. Of soft labels (n, K) the largest counts, with a warning.
        index : Tensor or array of int, shape (n,)
            The samples' numbers in the data set.

        Raises
        ------
        DataError, LabelError
            If something has another shape or type, or a label is out of range.
        """
        began = time.perf_counter()
        self._records.update(logits, labels, index)
        self._seconds["update"] += time.perf_counter() - began

    def end_epoch(self, model: nn.Module, step: int | None = None) -> None:
        """End an epoch: read the layers, and write the state.

        Parameters
        ----------
        model : torch.nn.Module
            The network. Its mode, weights, hooks and the random states are left as they are.
        step : int, optional
            What the epoch is called, such as the number of batches so far; larger than the last. By
            default the number of the epoch, from 1.

        Raises
        ------
        DataError
            If the step is not larger, or the probe has changed.
        LayerError, ModelError
            If a layer is not there, or the network raises.
        OutputError
            If the folder cannot be written.
        """
        began = time.perf_counter()
        network = as_module(model)
        epoch = self._epoch + 1
        step = epoch if step is None else int(step)
        if self._step is not None and step <= self._step:
            raise DataError(
                f"step: expected more than {self._step}, that of the last epoch; found {step}"
            )
        found = None
        if epoch % self._settings["every"] == 0:
            found = self._read(network, epoch, step)
        kept = self._records.end_epoch(epoch)
        self._epoch, self._step = epoch, step
        if kept is not None:
            self._logits.add(epoch, *kept)
        self._history += found or []
        self._seconds["end_epoch"] += time.perf_counter() - began
        if self.folder is not None:
            # What writing costs is in the next epoch's file.
            began = time.perf_counter()
            self.save(self.folder)
            self._seconds["end_epoch"] += time.perf_counter() - began

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
    def samples(self) -> pd.DataFrame:
        """One row per training sample, in the order of the index.

        `index`, `epochs`, `aum`, `forgetting_events`, `learned_epoch` (0: never), `confidence`,
        `variability`, `correctness`, `given_label`, `predicted_label`.
        """
        return self._records.table()

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

    def label_issues(self, sort: bool = False) -> pd.DataFrame:
        """Return which labels look wrong by the area under the margin.

        Parameters
        ----------
        sort : bool
            The most suspicious labels first.

        Returns
        -------
        pandas.DataFrame
            Indexed by the samples' index: `is_label_issue`; `label_quality`, the probability that
            the label is right if margins of right and wrong labels are two normal distributions;
            `given_label`; `predicted_label`, by the mean probabilities over epochs, for flagged
            samples the best other class; `margin`, the area under the margin; `confidence`, the
            mean probability of the predicted label.

        Raises
        ------
        DataError
            If no epoch has ended.
        """
        kept = self.recommended
        reading = (
            None
            if kept is None
            else next(each for each in self._readings if each.epoch == kept.epoch)
        )
        nothing_wrong = reading is not None and reading.rate < SMALLEST and not reading.hopeless
        issues = issues_of(
            self.samples, self._records.mean_chances(), nothing_wrong, self._settings["seed"]
        )
        return issues.sort_values("label_quality", kind="stable") if sort else issues

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the state to a folder: `history.csv`, `monitor.json` and a file of tensors.

        Raises
        ------
        OutputError
            If it cannot be written; an earlier state there is left as it was.
        """
        state = {f"samples/{name}": part for name, part in self._records.state().items()}
        state |= {f"bases/{name}": basis for name, basis in self._bases.items()}
        for name in ("plain", "perturbed", "right", "holdout"):
            parts = [getattr(reading, name) for reading in self._readings]
            if parts and parts[0] is not None:
                state[f"readings/{name}"] = torch.from_numpy(np.stack(parts))
        write_folder(Path(folder), self._summary(), self.history, state)

    def to_aum_csv(self, path: str | PathLike[str]) -> None:
        """Write `sample_id` and `aum`, sorted by it in descending order, as the package aum does.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        write_aum(self.samples, Path(path))

    def to_cartography_jsonl(self, folder: str | PathLike[str]) -> None:
        """Write each epoch's logits as cartography reads them: `dynamics_epoch_0.jsonl`, ….

        Raises
        ------
        DataError
            If logits were not kept (`keep_logits=True`), or an epoch's file is missing.
        OutputError
            If a file cannot be written.
        """
        if not self._settings["keep_logits"]:
            raise DataError("to_cartography_jsonl: no logits were kept: Monitor(keep_logits=True)")
        write_cartography(self._logits, self._epoch, Path(folder))

    def _read(self, network: nn.Module, epoch: int, step: int) -> list[dict[str, Any]]:
        """Read the layers and return the history's rows."""
        rows = self._reader.read(network)
        parts = [*rows.logits, *(each for views in rows.layers.values() for each in views)]
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            self._warn(
                f"end_epoch: the network gives NaN or infinite values in epoch {epoch}; its layers "
                "were not read. Check the loss and the step size"
            )
            return []
        found = read_layers(rows, torch.from_numpy(self._probe.labels), self._bases)
        for note in self._reader.notes.messages:
            self._warn(note)
        holdout = None
        if self._holdout is not None:
            holdout = self._reader.agrees(network, self._holdout)
        self._bases = found.bases
        noise = found.noise
        reading = Reading(
            epoch,
            step,
            found.plain.numpy(),
            found.perturbed.numpy(),
            found.right.numpy(),
            len(noise.transitions),
            noise.rate,
            noise.rate_low,
            noise.hopeless,
            holdout,
        )
        self._readings.append(reading)
        return history_rows(found, reading)

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
        self, summary: dict[str, Any], history: pd.DataFrame, state: dict[str, Tensor]
    ) -> None:
        """Take over what a folder keeps.

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
            self._records.load_state(samples, summary["n_classes"])
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{self.folder}: a part of the state is missing ({error})") from error
        self._bases = {
            name.removeprefix("bases/"): part
            for name, part in state.items()
            if name.startswith("bases/")
        }

    def _warn(self, note: str) -> None:
        """Warn once of each thing."""
        if note not in self._notes:
            self._notes.append(note)
            warnings.warn(note, UnderscriptWarning, stacklevel=4)
