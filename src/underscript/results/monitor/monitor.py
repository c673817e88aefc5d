"""What `Monitor` does while a network trains; what it shows is added in `_monitor.py`."""

import time
import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from ...activations.hooks import plain_torch
from ...activations.layers import LayerChoice
from ...errors import DataError, OutputError, UnderscriptWarning
from .checks import as_step, read_same_layers, warn_of_other_labels
from .exports import KeptLogits
from .folder import check_new, read_folder
from .history import NETWORK, history_rows
from .judgement import Reading
from .layers import LayerReader
from .probe import ProbeReader, ProbeSet
from .record import MonitorRecord
from .samples import SampleRecords
from .settings import checked_settings, settings_to_resume
from .together import gather_epoch, processes_of, unwrapped
from .transfer import transferred

__all__ = ["MonitorRun"]


class MonitorRun(MonitorRecord):
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
    perturb : {"auto", "overlays", "none"} or callable
        How inputs are changed; see `decode`. Take ``"overlays"`` if the network is trained with
        shifts and flips: they are not added by themselves. That the network keeps its predictions
        is not tested, and images are not flipped.
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
    live : bool
        Whether to show each epoch as it is read: in a notebook the film strip and the curves, which
        are drawn anew; elsewhere a line on standard error.
    group : "all", torch.distributed.ProcessGroup or None
        The processes that train the network together, each with a monitor: by default all of
        torch.distributed, if it is running. Process 0 reads the network, has the records of all
        and writes the folder; `history`, `alarm`, `recommended` and `stop` are the same in all.
        None: this process alone has a monitor.

    Raises
    ------
    DataError, LabelError
        If settings or data cannot be used.
    OutputError
        If the folder already holds a monitor, or cannot be written.
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
        live: bool = False,
        group: Any = "all",
    ):
        if layers is not None and not isinstance(layers, str) and not callable(layers):
            layers = list(layers)
        self._settings = checked_settings(
            n_probe=n_probe,
            every=every,
            layers=layers,
            perturb=perturb,
            views=views,
            keep_logits=keep_logits,
            seed=seed,
        )
        # What only concerns the display is no setting: a run may be resumed with another.
        self._live = live
        self.folder = None if folder is None else Path(folder)
        self._group, self._processes = group, processes_of(group)
        marks: dict[str, str | None] = {}
        with self._processes.together():
            if self._is_first:
                if self.folder is not None:
                    check_new(self.folder)
                self._probe = ProbeSet(probe, n_probe, seed)
                self._holdout = None
                if holdout is not None:
                    self._holdout = ProbeSet(holdout, n_probe, seed, "holdout")
                self._reader = ProbeReader(self._probe, layers, perturb, views, seed)
                held = None if self._holdout is None else self._holdout.fingerprint
                marks = {"probe": self._probe.fingerprint, "holdout": held}
        self._fingerprints = self._processes.gather(marks)[0]
        self._records = SampleRecords(keep_logits)
        self._steps: list[int] = []
        self._history: list[dict[str, Any]] = []
        self._readings: list[Reading] = []
        self._layers = LayerReader()
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
        step: int | None = None,
        group: Any = "all",
        **settings: Any,
    ) -> Self:
        """Go on with the monitor that a folder keeps, after its last whole epoch.

        Parameters
        ----------
        folder : path
            Its folder.
        probe, holdout
            The same data as before.
        step : int, optional
            The step of the checkpoint that training goes on from, if that is an earlier one. What
            was read after it is forgotten; the samples' records cannot be taken back.
        group
            As for `Monitor`.
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
        folder, processes = Path(folder), processes_of(group)
        found = None
        with processes.together():
            if processes.rank == 0:
                found = read_folder(folder)
        # Other processes may not see the folder.
        own: Any = None if found is None else found[0]["settings"]
        before: dict[str, Any] = processes.gather(own)[0]
        complete = settings_to_resume(before, settings, folder)
        monitor = cls(probe, holdout=holdout, group=group, **complete)
        with processes.together():
            if found is not None:
                monitor._adopt(*found, str(folder))
        # Only now: what is taken over is there already.
        monitor.folder = monitor._logits.folder = folder
        with processes.together():
            if found is not None and step is not None:
                monitor._go_back(step)
        monitor._share()
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

        Notes
        -----
        A folder that cannot be written, such as on a full disk, is a warning: everything stays in
        memory, and the next epoch tries again. After an error the epoch has not ended; `end_epoch`
        may be called again.
        """
        began = time.perf_counter()
        epoch = self._epoch + 1
        found = None
        if self._processes.size == 1:
            # A trainer may start the other processes after its monitor was made.
            self._processes = processes_of(self._group)
        with self._processes.together():
            network = unwrapped(model)
            step = epoch if step is None else as_step(step)
            if self.step is not None and step <= self.step:
                raise DataError(
                    f"step: expected more than {self.step}, that of the last epoch; found "
                    f"{step}. After going back to an earlier checkpoint: Monitor.resume(folder, "
                    "probe, step=…)"
                )
            self._records.count()
            if self._is_first and epoch % self._settings["every"] == 0:
                # Not in the autocast or with the defaults that the user trains with.
                with plain_torch():
                    found = self._read(network, epoch, step)
        if self._processes.size > 1:
            gather_epoch(self._records, self._processes)
            found = self._processes.gather(found)[0]
        self._steps.append(step)
        if found is not None:
            self._readings.append(found[0])
            self._history += found[1]
        if not self._is_first:
            return
        kept = self._records.end_epoch(epoch)
        warn_of_other_labels(self._records, self._probe)
        try:
            if kept is not None:
                self._logits.add(epoch, *kept)
            self._seconds["end_epoch"] += time.perf_counter() - began
            if self.folder is not None:
                # What writing costs is in the next epoch's file.
                began = time.perf_counter()
                self.save(self.folder)
                self._seconds["end_epoch"] += time.perf_counter() - began
        except OutputError as error:
            # Nobody wants to lose a long training because of its record.
            self._records.notes.warn(
                "not written",
                f"end_epoch: {error}. Training goes on, and after the next epoch it is tried again",
                level=3,
            )
        if found is not None and self._live:
            self._show()

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
            the optimiser's state (such as momentum) still belongs to the old weights. Of several
            processes the first alone can: give its last layer to the others.

        Returns
        -------
        torch.nn.Module
            A copy with the new read-out, or `model`.

        Raises
        ------
        DataError
            If the method is unknown, the probe has changed, or this is not the first process.
        ModelError
            If the last layer is not linear or cannot be rewritten, or the network raises or gives
            values that are not finite.
        """
        self._only_in_first("transfer")
        changed = transferred(model, self._reader, method, in_place)
        if in_place:
            self._notes.append(f"transfer: a new read-out ({method}) after epoch {self._epoch}")
        return changed

    def _show(self) -> None:
        """Show the epoch that was read; `_monitor.py` can, which is above the report."""

    def _read(
        self, network: nn.Module, epoch: int, step: int
    ) -> tuple[Reading, list[dict[str, Any]]] | None:
        """Read the layers, and return the reading and the history's rows; None if there is NaN."""
        last = self._readings[-1].epoch if self._readings else None
        before = [row["layer"] for row in self._history if row["epoch"] == last]
        rows = read_same_layers(
            self._reader, network, [x for x in before if x != NETWORK], self._layers.bases
        )
        parts = [*rows.logits, *(each for views in rows.layers.values() for each in views)]
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            self._warn(
                f"end_epoch: the network gives NaN or infinite values in epoch {epoch}; its layers "
                "were not read. Check the loss and the step size"
            )
            return None
        found = self._layers.read(rows, torch.from_numpy(self._probe.labels))
        for note in self._reader.notes.messages:
            self._warn(note)
        holdout = None
        if self._holdout is not None:
            holdout = self._reader.agrees(network, self._holdout)
        noise = found.noise
        reading = Reading(
            epoch,
            step,
            self._probe.labels,
            found.plain.numpy(),
            found.moved.numpy(),
            found.vote.numpy(),
            found.right.numpy(),
            found.known,
            noise.rate,
            noise.rate_low,
            noise.rate_high,
            noise.per_rate,
            noise.hopeless,
            holdout,
        )
        return reading, history_rows(found, reading)

    def _warn(self, note: str) -> None:
        """Warn once of each thing."""
        if note not in self._notes:
            self._notes.append(note)
            warnings.warn(note, UnderscriptWarning, stacklevel=4)
