"""What `Monitor` does while a network trains; what it shows is added in `_monitor.py`."""

import math
import time
import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from torch import Tensor, nn

from ...activations.given_model import as_module
from ...activations.layers import LayerChoice
from ...errors import ArgumentError, DataError, OutputError, UnderscriptWarning
from ...noise.estimate import SMALLEST
from .exports import KeptLogits, write_aum, write_cartography
from .folder import is_monitor, read_folder
from .history import NETWORK, history_rows
from .judgement import Reading, Stop, stop
from .label_issues import issues_of
from .layers import read_layers
from .probe import ProbeReader, ProbeSet
from .samples import SampleRecords
from .state import MonitorState
from .transfer import transferred

__all__ = ["MonitorRun"]

_OWN = "a function"


class MonitorRun(MonitorState):
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
    def samples(self) -> pd.DataFrame:
        """One row per training sample, in the order of the index.

        `index`, `epochs`, `aum`, `forgetting_events`, `learned_epoch` (0: never), `confidence`,
        `variability`, `correctness`, `given_label`, `predicted_label`.
        """
        return self._records.table()

    @property
    def stop(self) -> Stop | None:
        """Whether training may stop, and why; None as long as it should go on.

        The network memorises (`alarm`), and the last two readings agree with fewer labels of new
        inputs than the recommended epoch, by more than two standard errors of the difference.
        """
        return stop(self._readings)

    def scalars(self) -> dict[str, float]:
        """Return the numbers of the last reading, for a logger; empty before the first.

        Returns
        -------
        dict of str to float
            `network_plain`, `network_perturbed`, `network_memory`, `network_accuracy`: the row of
            the network in `history`. `decoded_accuracy`: the largest estimated accuracy of a layer.
            `noise_rate`. `alarm`: 1 once memorising has started, else 0. `recommended_step`. With a
            hold-out, `network_holdout`.
        """
        last = self._readings[-1] if self._readings else None
        kept = self.recommended
        if last is None or kept is None:
            return {}
        rows = [row for row in self._history if row["epoch"] == last.epoch]
        own = next(row for row in rows if row["layer"] == NETWORK)
        of_layers = [row["accuracy"] for row in rows if row["layer"] != NETWORK]
        found = {
            f"network_{name}": float(own[name])
            for name in ("plain", "perturbed", "memory", "accuracy", "holdout")
            if own[name] is not None and not math.isnan(own[name])
        }
        return {
            **found,
            "decoded_accuracy": float(max(of_layers)),
            "noise_rate": last.rate,
            "alarm": float(self.alarm is not None),
            "recommended_step": float(kept.step),
        }

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

    def transfer(
        self, model: nn.Module, *, method: str = "discriminant", in_place: bool = False
    ) -> nn.Module:
        """Write what the last hidden layer knows now into the network's last linear layer.

        The new weights are fitted to the rows of that layer for the probe, as it is and slightly
        changed, with its given labels. Nothing but the weights and bias of the last linear layer
        changes. Whether that helps now, `history` tells: compare the estimated accuracy of the
        last layer with that of the network.

        Parameters
        ----------
        model : torch.nn.Module
            The network, as it is at this moment. Its mode, hooks and the random states are left
            as they are.
        method : {"discriminant", "velpic"}
            The linear discriminant by which the monitor reads layers; or the class vectors of
            VeLPIC with bias zero, as in arXiv 2603.19865. A read-out without a bias takes up the
            discriminant's bias in its weights.
        in_place : bool
            Whether to change the network itself. This intervenes in training: the loss jumps, and
            the optimiser's state (such as momentum) still belongs to the old weights. In
            distributed training call it in every process; all write the same numbers.

        Returns
        -------
        torch.nn.Module
            A copy with the new read-out, or `model`.

        Raises
        ------
        DataError
            If the method is unknown, or the probe has changed.
        ModelError
            If the last layer is not linear or cannot be rewritten, or the network raises or gives
            values that are not finite.
        """
        changed = transferred(model, self._reader, method, in_place)
        if in_place:
            self._notes.append(f"transfer: a new read-out ({method}) after epoch {self._epoch}")
        return changed

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

    def _warn(self, note: str) -> None:
        """Warn once of each thing."""
        if note not in self._notes:
            self._notes.append(note)
            warnings.warn(note, UnderscriptWarning, stacklevel=4)
