"""A callback for `lightning.pytorch.Trainer`."""

from typing import Any

from ..utils.extras import optional_package
from .watching_lightning import WatchesLightning

__all__ = ["MonitorCallback"]

_lightning: Any = optional_package(
    "lightning.pytorch", "lightning", "for the callback of Lightning"
)


class MonitorCallback(WatchesLightning, _lightning.Callback):  # type: ignore[misc]
    """Watches a training of Lightning.

    `training_step` must return a dict with ``loss`` and ``logits``. Each batch must say which
    samples it holds: ``(x, y, index)``, as `underscript.adapters.Indexed` gives them, or a dict
    with ``index``. An epoch ends with its last training batch, before validation. Numbers go to
    the logger by `log_dict`, as ``monitor_network_memory`` and the like. Checkpoints hold the
    monitor's state: training that goes on from one takes it back to where it was then.

    Parameters
    ----------
    monitor : Monitor
        What watches. Its steps are Lightning's `global_step`, as in the names of checkpoints.
    stop : bool
        Whether training stops once `monitor.stop` says that it may.
    read : callable, optional
        Returns ``(labels, index)`` of a batch of another form.
    network : str, optional
        The attribute that holds the network, such as ``"model"``, if the module itself has no
        `forward`.
    name : str
        Begins the names of logged numbers, and tells callbacks of several monitors apart.
    """
