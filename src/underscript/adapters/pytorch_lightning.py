"""A callback for `pytorch_lightning.Trainer`."""

from typing import Any

from ..utils.extras import optional_package
from .watching_lightning import WatchesLightning

__all__ = ["MonitorCallback"]

_lightning: Any = optional_package(
    "pytorch_lightning", "lightning", "for the callback of Lightning"
)


class MonitorCallback(WatchesLightning, _lightning.Callback):  # type: ignore[misc]
    """As `underscript.adapters.lightning.MonitorCallback`, for the package pytorch_lightning."""
