"""The folder of a trace: what is kept of each checkpoint, so that none is decoded again."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ._version import __version__
from .activations.hooks import undisturbed
from .data.fingerprints import fingerprints_of
from .data.source import Source
from .repair.checkpoints import Checkpoint
from .results.checkpoint_trace import TRACE_FORMAT
from .results.run_folder import results_of
from .utils.class_names import as_names
from .utils.files import fresh_folder

__all__ = ["digest_of", "read_step", "write_step"]


def _step_folder(folder: Path, checkpoint: Checkpoint) -> Path:
    return folder / "steps" / str(checkpoint.step)


def _is_step(folder: Path) -> bool:
    return results_of(folder).get("kind") == "step of a trace"


def write_step(
    folder: Path | None,
    checkpoint: Checkpoint,
    weights: str,
    key: str | None,
    summary: Mapping[str, Any],
    table: pd.DataFrame,
) -> None:
    """Keep a decoded checkpoint, whole or not at all."""
    if folder is None:
        return
    about = {
        "underscript": {"format": TRACE_FORMAT, "version": __version__},
        "kind": "step of a trace",
        "step": checkpoint.step,
        "source": checkpoint.source,
        "weights": weights,
        "key": key,
        "run": summary,
    }
    with fresh_folder(_step_folder(folder, checkpoint), _is_step) as work:
        table.to_csv(work / "layers.csv", index=False)
        text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False)
        (work / "results.json").write_text(text + "\n", encoding="utf-8")


def read_step(
    folder: Path | None, checkpoint: Checkpoint, weights: str, key: str | None
) -> tuple[dict[str, Any], pd.DataFrame] | None:
    """Return the summary and the table of a checkpoint that is decoded already, else None."""
    if folder is None:
        return None
    place = _step_folder(folder, checkpoint)
    kept = results_of(place)
    version = {"format": TRACE_FORMAT, "version": __version__}
    if [kept.get(name) for name in ("underscript", "weights", "key")] != [version, weights, key]:
        return None
    try:
        return dict(kept["run"]), pd.read_csv(
            place / "layers.csv", keep_default_na=False, na_values={"variance": [""], "rank": [""]}
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def digest_of(network: nn.Module, data: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return a digest of all but the weights on which a decode depends: one pass over the data."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(network).encode())
    names = as_names(settings["class_names"])
    for role, given in data.items():
        digest.update(role.encode())
        if given is None:
            continue
        # Labels in place of the data's are among the settings.
        labels = settings["labels"] if role == "train" else None
        source = Source(
            given, role, labels, batch_size=int(settings["batch_size"]), class_names=names
        )
        with undisturbed(nn.Identity()):
            for batch in source.batches():
                digest.update(fingerprints_of(batch).tobytes())
                digest.update(b"" if batch.labels is None else batch.labels.tobytes())
    for name, value in settings.items():
        digest.update(f"{name}={_written(value)};".encode())
    return digest.hexdigest()


def _written(value: Any) -> str:
    """Return a setting as text that is the same whenever the setting is."""
    if callable(value):
        try:
            return inspect.getsource(value)
        except (OSError, TypeError):
            return repr(value)
    if hasattr(value, "__array__"):
        numbers = np.ascontiguousarray(value)
        if numbers.dtype.hasobject:
            return repr(numbers.tolist())
        return f"{numbers.dtype}{numbers.shape}{hashlib.sha256(numbers.tobytes()).hexdigest()}"
    return repr(value)
