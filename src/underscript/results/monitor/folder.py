"""The folder of a monitor: history, JSON and safetensors. It can be killed at any moment.

`monitor.json` is written last, and names the file of state and the part of the history that it
belongs to. Until it is replaced, the earlier state is still there; what was written for a newer one
is ignored.
"""

import hashlib
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import safetensors.torch
from torch import Tensor

from ...errors import DataError, OutputError
from ...utils.files import write_tensors, write_text

__all__ = [
    "check_new",
    "forget",
    "history_in",
    "is_monitor",
    "read_folder",
    "shorten",
    "write_folder",
]

# Version of the format; raise it when the meaning of the content changes.
FORMAT = 1
_JSON, _HISTORY = "monitor.json", "history.csv"


def is_monitor(folder: Path) -> bool:
    """Say whether a folder holds a monitor's state."""
    return (folder / _JSON).exists()


def check_new(folder: Path) -> None:
    """Check that a new monitor can write its state to a folder, which is made if need be.

    Raises
    ------
    OutputError
        If the folder holds a monitor, or nothing can be written there.
    """
    if is_monitor(folder):
        raise OutputError(
            f"{folder} holds a monitor already: go on with it by Monitor.resume(folder, probe), or "
            "choose another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write in {folder}: {error.strerror or error}") from error


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
    rows = history.to_csv(index=False)
    write_text(folder / _HISTORY, rows)
    _write_summary(folder, summary, rows, name)
    for old in folder.iterdir():
        left = re.fullmatch(r"state-\d+\.safetensors|\..+\.partial-.+", old.name)
        if left is not None and old.name != name:
            old.unlink(missing_ok=True)


def shorten(folder: Path, summary: dict[str, Any], history: pd.DataFrame) -> None:
    """Take back the last epochs of what a folder keeps.

    One file is replaced, so there is never a mixture.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    before = json.loads((folder / _JSON).read_text(encoding="utf-8"))
    # The rows that are left begin the file; `state` has readings of more epochs than are used.
    _write_summary(folder, summary, history.to_csv(index=False), before["state"])


def forget(folder: Path) -> None:
    """Make what a folder keeps no monitor's state any more; the next one is written anew."""
    (folder / _JSON).unlink(missing_ok=True)


def _write_summary(folder: Path, summary: dict[str, Any], rows: str, state: str) -> None:
    marks = {"characters": len(rows), "sha256": _hashed(rows)}
    whole = {"format": FORMAT, **summary, "state": state, "history": marks}
    text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / _JSON, text + "\n")


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
    missing = {"settings", "data", "epoch", "steps", "history", "readings", "bases"} - {*summary}
    if missing:
        raise DataError(f"{folder / _JSON}: has no {min(missing)!r}; the file is damaged")
    name = summary.get("state")
    if not isinstance(name, str) or not re.fullmatch(r"state-\d+\.safetensors", name):
        raise DataError(f"{folder / _JSON}: expected the name of a file of state; found {name!r}")
    try:
        state = safetensors.torch.load((folder / name).read_bytes())
        # Not rows of an epoch whose summary was never written.
        marks = summary["history"]
        rows = (folder / _HISTORY).read_text(encoding="utf-8")[: marks["characters"]]
        if _hashed(rows) != marks["sha256"]:
            raise DataError(
                f"{folder / _HISTORY}: expected the rows that the monitor wrote; the file is "
                "damaged or was edited"
            )
        history = history_in(rows)
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise DataError(
            f"{folder}: {name} or {_HISTORY} is missing or damaged ({type(error).__name__})"
        ) from error
    return summary, history, state


def history_in(text: str) -> pd.DataFrame:
    """Return a history that was written as CSV, with every digit.

    Raises
    ------
    ValueError, KeyError
        If it is none.
    """
    # As text first: pandas may round, and take a layer's name for a missing one.
    history = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    for column in history.columns.drop("layer"):
        history[column] = [float(value or "nan") for value in history[column]]
    return history.astype({"step": "int64", "epoch": "int64"})
