"""A callback for `lightning.pytorch.Trainer`."""

from typing import Any

from ..utils.extras import optional_package
from .watching_lightning import WatchesLightning

__all__ = ["MonitorCallback"]

_lightning: Any = optional_package(
    "lightning.pytorch", "lightning", "for the callback of Lightning"
)


class MonitorCallback(WatchesLightning, _lightning.Callback):  # type: ignore[misc]  # noqa: D101
    __doc__ = WatchesLightning.__doc__
