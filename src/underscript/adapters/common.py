"""What the callbacks have in common."""

from typing import Any

import torch
import torch.distributed as dist

from .._monitor import Monitor
from ..data.batches import INDEX_KEYS, LABEL_KEYS, is_mapping
from ..errors import DataError

__all__ = ["any_process", "check_goes_on", "labels_and_index", "named_scalars"]


def labels_and_index(batch: Any) -> tuple[Any, Any]:
    """Return the labels and indices of a batch ``(x, y, index)``, or of a dict with both.

    Raises
    ------
    DataError
        If it has others.
    """
    if is_mapping(batch):
        labels = next((batch[key] for key in LABEL_KEYS if key in batch), None)
        index = next((batch[key] for key in INDEX_KEYS if key in batch), None)
        if labels is not None and index is not None:
            return labels, index
        found = f"a dict of {', '.join(map(str, batch)) or 'nothing'}"
    elif isinstance(batch, tuple | list):
        if len(batch) == 3:
            return batch[1], batch[2]
        found = f"{type(batch).__name__} of {len(batch)}"
    else:
        found = type(batch).__name__
    raise DataError(
        "batch: expected (x, y, index), or a dict with labels and index; found "
        f"{found}. Wrap the training data in underscript.adapters.Indexed, or say where labels and "
        "index are: MonitorCallback(monitor, read=lambda batch: (labels, index))"
    )


def check_goes_on(monitor: Monitor, step: int) -> None:
    """Check that training goes on no earlier than where a monitor is.

    Raises
    ------
    DataError
        If it does: the monitor would count epochs twice.
    """
    if monitor.step is not None and monitor.step > step:
        raise DataError(
            f"monitor: expected one that has read up to step {step}, where training goes on; found "
            f"one that has read up to step {monitor.step}, so epochs would count twice. Train from "
            "a later checkpoint, or start a new Monitor in another folder"
        )


def named_scalars(monitor: Monitor, name: str) -> dict[str, float]:
    """Return the numbers of the last reading, as a logger gets them."""
    return {f"{name}_{key}": value for key, value in monitor.scalars().items()}


def any_process(says: bool, device: torch.device) -> bool:
    """Return whether one of the processes that train together says so; all must ask."""
    if not (dist.is_available() and dist.is_initialized()):
        return says
    flag = torch.tensor(float(says), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)
