"""The folder of a monitor: history, JSON and safetensors. It can be killed at any moment.

`monitor.json` is written last, and names the file of state that it belongs to. Until it is
replaced, the earlier state is still there; what was written for a newer one is ignored.
"""

import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import safetensors.torch
from torch import Tensor

from ...errors import DataError, OutputError
from ...utils.files import write_tensors, write_text

__all__ = ["history_in", "is_monitor", "read_folder", "write_folder"]

# Version of the format; raise it when the meaning of the content changes.
FORMAT = 1
_JSON, _HISTORY = "monitor.json", "history.csv"


def is_monitor(folder: Path) -> bool:
    """Say whether a folder holds a monitor's state."""
    return (folder / _JSON).exists()


def write_folder(
    folder: Path, summary: dict[str, Any], history: pd.DataFrame, state: dict[str, Tensor]
) -> None:
    """Write a monitor's state; the folder is made if need be.

    Raises
    ------
    OutputError
        If something cannot be written; the earlier state then is as it was.
    """
    name = f"state-{summary['epoch']:06d}.safetensors"
    write_tensors(folder / name, state)
    write_text(folder / _HISTORY, history.to_csv(index=False))
    whole = {"format": FORMAT, **summary, "state": name}
    text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / _JSON, text + "\n")
    for old in folder.iterdir():
        left = re.fullmatch(r"state-\d+\.safetensors|\..+\.partial-.+", old.name)
        if left is not None and old.name != name:
            old.unlink(missing_ok=True)


def read_folder(folder: Path) -> tuple[dict[str, Any], pd.DataFrame, dict[str, Tensor]]:
    """Return the summary, the history and the state that a folder keeps.

    Raises
    ------
    OutputError
        If the folder is no monitor's, or of a newer version.
    DataError
        If a file is damaged.
    """
    try:
        summary = json.loads((folder / _JSON).read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"{folder} has no {_JSON}: expected the folder of a monitor") from error
    except ValueError as error:
        raise DataError(f"{folder / _JSON}: expected JSON; the file is damaged") from error
    if not isinstance(summary, dict) or summary.get("format") != FORMAT:
        found = summary.get("format") if isinstance(summary, dict) else type(summary).__name__
        raise OutputError(f"{folder / _JSON}: expected format {FORMAT}; found {found!r}")
    name = summary.get("state")
    if not isinstance(name, str) or not re.fullmatch(r"state-\d+\.safetensors", name):
        raise DataError(f"{folder / _JSON}: expected the name of a file of state; found {name!r}")
    try:
        state = safetensors.torch.load((folder / name).read_bytes())
        history = history_in((folder / _HISTORY).read_text(encoding="utf-8"), summary["epoch"])
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise DataError(
            f"{folder}: {name} or {_HISTORY} is missing or damaged ({type(error).__name__})"
        ) from error
    return summary, history, state


def history_in(text: str, epoch: int) -> pd.DataFrame:
    """Read a history from CSV, without rows of an epoch whose summary was never written."""
    history = pd.read_csv(io.StringIO(text))
    return history[history["epoch"] <= epoch].reset_index(drop=True)
