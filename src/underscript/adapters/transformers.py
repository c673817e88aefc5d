"""A callback for the Trainer of Hugging Face's transformers.

A callback of Trainer sees neither batches nor logits, so hooks on the model take them while it
trains. The hooks are removed when training ends.
"""

import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import nn

from .._monitor import Monitor
from ..activations.hooks import extract_logits
from ..errors import DataError
from ..results.monitor.folder import is_monitor
from ..utils.device import device_of
from ..utils.extras import optional_package
from .common import any_process, check_goes_on, named_scalars

__all__ = ["MonitorCallback"]

_PURPOSE = "for the callback of Hugging Face's Trainer"
_transformers: Any = optional_package("transformers.trainer_callback", "transformers", _PURPOSE)
# Trainer needs it, and says so in many lines.
optional_package("accelerate", "transformers", _PURPOSE)


_Callback: Any = _transformers.TrainerCallback
_ExportableState: Any = _transformers.ExportableState


class MonitorCallback(_Callback, _ExportableState):  # type: ignore[misc]
    """Watches a training of Hugging Face's Trainer.

    The training data need a column that says which sample is which, and
    ``TrainingArguments(remove_unused_columns=False)``, so that Trainer does not take it away; the
    model does not get to see it. With ``log=trainer.log`` the numbers go to all loggers of
    Trainer, as ``monitor_network_memory`` and the like; else only to `trainer.state.log_history`.
    Each checkpoint holds the monitor's state, in a folder ``monitor``: training that goes on from
    one in the same output folder takes the monitor back to where it was then.

    Parameters
    ----------
    monitor : Monitor
        What watches. Its steps are Trainer's `global_step`, as in the names of checkpoints.
    stop : bool
        Whether training stops once `monitor.stop` says that it may.
    log : callable, optional
        ``trainer.log``.
    index, labels : str
        The columns of the samples' numbers and of the labels. With label smoothing or a loss
        function of one's own, Trainer takes the labels away before the model is run: give a second
        column with the same labels then.
    name : str
        Begins the names of logged numbers, and is that of the folder in checkpoints.
    """

    # Trainer restores a callback as a new one, from what JSON holds; that takes over the parts of
    # the one with the same name.
    _alive: ClassVar["WeakValueDictionary[str, MonitorCallback]"] = WeakValueDictionary()

    def __init__(
        self,
        monitor: Monitor | None = None,
        *,
        stop: bool = False,
        log: Callable[[dict[str, float]], None] | None = None,
        index: str = "index",
        labels: str = "labels",
        name: str = "monitor",
    ):
        before = self._alive.get(name)
        if monitor is None and before is not None:
            self.__dict__.update(vars(before))
        elif monitor is None:
            raise DataError("MonitorCallback: expected a Monitor; found None")
        else:
            self.monitor, self.stop, self.log, self.name = monitor, stop, log, name
            self.index, self.labels = index, labels
            self._batches: _Batches | None = None
            # Whether batches wait for the end of their epoch.
            self._waiting = False
        self._alive[name] = self

    def state(self) -> dict[str, Any]:
        """Return what Trainer writes to `trainer_state.json`: where the monitor is."""
        kept = self.monitor.recommended
        found = {
            "step": self.monitor.step,
            "recommended_step": None if kept is None else kept.step,
            "memorises": self.monitor.alarm is not None,
        }
        return {"args": {"name": self.name}, "attributes": {"saved": found}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the monitor back to the checkpoint from which training goes on; hook the model.

        Raises
        ------
        DataError
            If an epoch would be counted twice.
        """
        saved = self._folder(args, state)
        if is_monitor(saved):
            self.monitor.load(saved)
        check_goes_on(self.monitor, state.global_step)
        # Of a checkpoint that was written without this callback: Trainer looks for it.
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        if self._batches is not None:
            self._batches.remove()
        given = args.label_names or ["labels"]
        taken = [self.index] + [self.labels] * (self.labels not in given)
        self._batches = _Batches(kwargs["model"], self.index, self.labels, taken)
        self._waiting = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to take batches."""
        if self._batches is not None:
            self._batches.open = True

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give batches to the monitor, while gradients accumulate."""
        self._update()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Give batches to the monitor, and end the epoch with its last step."""
        self._update()
        if self._batches is not None:
            self._batches.open = False
        # Not later: checkpoints of this step are written before `on_epoch_end`.
        if self._waiting and float(state.epoch).is_integer():
            self._end_epoch(state, control, kwargs["model"])
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """End an epoch that was stopped before its last step."""
        if self._waiting:
            self._end_epoch(state, control, kwargs["model"])
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the monitor in the checkpoint."""
        folder = self._folder(args, state)
        if args.should_save and self.monitor.step is not None and folder.parent.is_dir():
            self.monitor.save(folder)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the hooks off the model."""
        if self._batches is not None:
            self._batches.remove()
            self._batches = None

    def _folder(self, args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.name

    def _update(self) -> None:
        if self._batches is not None:
            for logits, labels, index in self._batches.take():
                self.monitor.update(logits, labels, index)
                self._waiting = True

    def _end_epoch(self, state: Any, control: Any, model: nn.Module) -> None:
        self._waiting = False
        self.monitor.end_epoch(model, step=state.global_step)
        numbers = named_scalars(self.monitor, self.name)
        if self.log is None:
            about = {"epoch": state.epoch, "step": state.global_step}
            state.log_history.append({**numbers, **about})
        else:
            # Logging resets the flag, and so would take away Trainer's own log of this step.
            asked = control.should_log
            self.log(numbers)
            control.should_log = asked
        if self.stop and any_process(self.monitor.stop is not None, device_of(model)):
            control.should_training_stop = True


class _Batches:
    """The batches that a model runs on while it trains, by hooks.

    Parameters
    ----------
    model : torch.nn.Module
        Its `forward` takes columns by name.
    index, labels : str
        Columns to keep.
    taken : list of str
        Columns that the model does not get, unless its `forward` names them.

    Attributes
    ----------
    open : bool
        Whether batches are kept.
    """

    def __init__(self, model: nn.Module, index: str, labels: str, taken: list[str]):
        self.open = False
        self._index, self._labels = index, labels
        known = inspect.signature(model.forward).parameters
        self._taken = [column for column in taken if column not in known]
        self._found: list[tuple[Any, Any, Any]] = []
        # By thread: DataParallel runs copies of the model, with the same hooks, side by side.
        self._running: dict[int, tuple[Any, Any]] = {}
        self._handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True),
            model.register_forward_hook(self._after),
        ]

    def take(self) -> list[tuple[Any, Any, Any]]:
        """Return logits, labels and index of the batches since the last call."""
        found, self._found = self._found, []
        return found

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if self.open and model.training:
            for column, hint in (
                (
                    self._index,
                    "give the training data such a column, a whole number for each sample, and "
                    "set TrainingArguments(remove_unused_columns=False)",
                ),
                (
                    self._labels,
                    "give the training data such a column. If Trainer takes it away, for label "
                    "smoothing or a loss function, give a copy by another name, "
                    "MonitorCallback(labels=…)",
                ),
            ):
                if column not in kwargs:
                    raise DataError(
                        f"batch: expected the column {column!r}; found {', '.join(kwargs)}: {hint}"
                    )
            self._running[threading.get_ident()] = kwargs[self._labels], kwargs[self._index]
        return args, {name: kwargs[name] for name in kwargs if name not in self._taken}

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after(self, model: nn.Module, args: Any, output: Any) -> None:
        running = self._running.pop(threading.get_ident(), None)
        if running is not None:
            labels, index = running
            logits = extract_logits(output, len(index), "the model").detach()
            self._found.append((logits, labels, index))
