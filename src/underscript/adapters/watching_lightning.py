"""What the callback of Lightning does, for each of the two packages that Lightning comes in."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from .._monitor import Monitor
from ..activations.hooks import extract_logits
from ..errors import DataError
from .common import any_process, check_goes_on, labels_and_index, named_scalars

__all__ = ["WatchesLightning"]


class WatchesLightning:
    """What a `MonitorCallback` of Lightning does; see `underscript.adapters.lightning`."""

    def __init__(
        self,
        monitor: Monitor,
        *,
        stop: bool = False,
        read: Callable[[Any], tuple[Any, Any]] = labels_and_index,
        network: str | None = None,
        name: str = "monitor",
    ):
        self.monitor, self.stop, self.read = monitor, stop, read
        self.network, self.name = network, name
        # Whether batches wait for the end of their epoch.
        self._waiting = False

    @property
    def state_key(self) -> str:
        """The name of the state in a checkpoint."""
        return f"underscript.{type(self).__name__}.{self.name}"

    def state_dict(self) -> dict[str, Any]:
        """Return the monitor's state; empty before its first epoch has ended."""
        return {} if self.monitor.step is None else self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the monitor back to a checkpoint.

        Raises
        ------
        DataError
            If it has other settings or data.
        """
        self.monitor.load_state_dict(state_dict)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Check that no epoch is counted twice.

        Raises
        ------
        DataError
            If one would be.
        """
        self._waiting = False
        check_goes_on(self.monitor, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Give a batch to the monitor, and end the epoch with the last one.

        Raises
        ------
        DataError
            If there are no logits, labels or index.
        """
        if outputs is None:
            return  # the step was skipped
        if not isinstance(outputs, Mapping) or "logits" not in outputs:
            raise DataError(
                "training_step: expected a dict with loss and logits, for the monitor; found "
                f"{_form(outputs)}. Return {{'loss': loss, 'logits': logits}}"
            )
        labels, index = self.read(batch)
        logits = extract_logits(outputs, len(index), "training_step")
        self.monitor.update(logits, labels, index)
        self._waiting = True
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if last or batch_idx + 1 >= trainer.num_training_batches:
            self._end_epoch(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """End an epoch that was stopped before its last batch."""
        if self._waiting:
            self._end_epoch(trainer, pl_module)

    def _end_epoch(self, trainer: Any, pl_module: Any) -> None:
        self._waiting = False
        self.monitor.end_epoch(self._network_of(pl_module), step=trainer.global_step)
        numbers = named_scalars(self.monitor, self.name)
        pl_module.log_dict(numbers, on_step=False, on_epoch=True, batch_size=1)
        if self.stop and any_process(self.monitor.stop is not None, pl_module.device):
            trainer.should_stop = True

    def _network_of(self, pl_module: nn.Module) -> nn.Module:
        if self.network is None:
            return pl_module
        try:
            return pl_module.get_submodule(self.network)
        except AttributeError as error:
            children = ", ".join(name for name, _ in pl_module.named_children())
            raise DataError(
                f"network: expected the name of a part of {type(pl_module).__name__} ({children}); "
                f"found {self.network!r}"
            ) from error


def _form(outputs: Any) -> str:
    if isinstance(outputs, Mapping):
        return f"a dict of {', '.join(map(str, outputs))}"
    return type(outputs).__name__
