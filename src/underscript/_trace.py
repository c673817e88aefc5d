"""Checkpoints that a training run kept, each decoded: which one to decode, which one to keep."""

import contextlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ._decode import decoded
from ._decode_request import Request
from ._trace_folder import digest_of, read_step, write_step
from ._version import __version__
from .activations.copies import copied, weights_of
from .activations.given_model import as_module
from .activations.layers import LayerChoice
from .activations.pooling import PoolChoice
from .errors import OutputError, UnderscriptError, UnderscriptWarning
from .repair.checkpoints import Checkpoint, find_checkpoints
from .results.checkpoint_trace import (
    COLUMNS,
    TRACE_FORMAT,
    TraceRun,
    network_step,
    recommend,
    rows_of,
    step_of,
)
from .results.run_folder import results_of
from .selection.known_fits import KnownFits
from .utils.files import whole_file, write_text
from .utils.hints import TRACE_ARGUMENTS
from .utils.memory_size import MEMORY
from .utils.near_names import with_argument_hints
from .utils.progress import RUNS, Progress, Stage
from .utils.versions import machine, peak_memory, versions

__all__ = ["Trace", "load_trace", "trace"]

logger = logging.getLogger("underscript")

# Arguments of `decode` that each checkpoint is decoded with.
_DEFAULTS: dict[str, Any] = {
    "probes": None,
    "variance": 0.99,
    "evaluate": None,
    "group": None,
    "auto": True,
    "show": None,
    "checkpoints": None,
}
# The part of the memory that fits of the input may take from one checkpoint to the next (1 / 16).
_FOR_INPUT = 16
# The files of a trace; a folder that holds others is not ours.
_FILES = {"steps", "trace.csv", "results.json", "report.html"}


class Trace(TraceRun):
    """The result of `trace`.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per ``step`` × ``layer`` × ``probe`` × ``split`` × ``labels``, with ``accuracy`` and
        ``memory`` (both 0 to 1). Probes are those of `Decoding.table`; besides, ``discriminant``
        agrees out of fold with the given training labels. Labels are ``given`` or ``true``; the row
        with ``estimated`` is the accuracy of the chosen decoder as it is estimated without clean
        labels. ``memory`` is the share of training labels with which a layer agrees only because it
        memorised them: the agreement that perturbing the inputs takes away. It is missing where
        it was not measured.
    summary : dict
        What ``results.json`` holds: verdict, `recommended`, `network`, a dict for each of `steps`,
        settings, versions.
    """

    def _repr_html_(self) -> str:
        """Return the verdict and the figures, for a notebook."""
        from .report import trace_notebook  # matplotlib takes a while to import

        return trace_notebook(self)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write one offline HTML file.

        Raises
        ------
        OutputError
            If it cannot be written; nothing is left then.
        """
        from .report import render_trace, write_page  # matplotlib takes a while to import

        write_page(Path(path), render_trace(self))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``trace.csv``, ``results.json`` and ``report.html``; an earlier trace is replaced.

        Raises
        ------
        OutputError
            If the folder holds anything else, or cannot be written.
        """
        out = Path(folder)
        _check_folder(out)
        self.summary["written_to"] = str(out)
        from .report import render_trace, write_page  # matplotlib takes a while to import

        page = render_trace(self)
        with whole_file(out / "trace.csv") as work:
            self.table.to_csv(work, index=False)
        write_page(out / "report.html", page)
        # Last: with it the folder is complete.
        text = json.dumps(self.summary, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(out / "results.json", text + "\n")


def load_trace(folder: str | os.PathLike[str]) -> Trace:
    """Read the folder of a trace.

    Parameters
    ----------
    folder : path
        Written by `Trace.save` or the command line.

    Raises
    ------
    OutputError
        If the folder is no trace, is unfinished or damaged, or is of another format.
    """
    folder = Path(folder)
    summary = results_of(folder)
    if summary.get("kind") != "trace":
        unfinished = (folder / "steps").is_dir() and not summary
        hint = "; it is unfinished: run the same trace again" if unfinished else ""
        raise OutputError(f"{folder}: expected a trace of checkpoints (its results.json){hint}")
    try:
        stored = summary["underscript"]["format"]
        if stored != TRACE_FORMAT:
            raise OutputError(
                f"{folder}: the trace has format {stored}; this underscript reads {TRACE_FORMAT}"
            )
        table = pd.read_csv(folder / "trace.csv", keep_default_na=False, na_values={"memory": [""]})
        if list(table.columns) != list(COLUMNS) or table["accuracy"].dtype.kind != "f":
            raise ValueError(f"trace.csv: expected columns {', '.join(COLUMNS)}, with numbers")
        found = Trace(table, summary)
        found.steps, found.recommended, found.network, found.verdict  # noqa: B018 - complete?
    except OutputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OutputError(f"{folder}: the trace is damaged: {reason}; make it again") from error
    # It may have been moved since it was written.
    summary["written_to"] = str(folder)
    return found


@with_argument_hints(TRACE_ARGUMENTS)
def trace(
    model: nn.Module,
    checkpoints: Any,
    train: Any,
    test: Any = None,
    holdout: Any = None,
    *,
    layers: LayerChoice = None,
    labels: Any = None,
    true_labels: Any = None,
    device: torch.device | str | None = None,
    batch_size: int = 512,
    seed: int = 0,
    progress: bool = True,
    memory: int | str = MEMORY,
    pool: PoolChoice = None,
    class_names: Sequence[str] | None = None,
    perturb: str | Callable[[Any], Any] = "auto",
    views: int = 3,
    out: str | os.PathLike[str] | None = None,
) -> Trace:
    """Decode every checkpoint that a training run kept.

    While a network memorises wrong labels, what can be decoded from it rises early and fades later.
    This shows when, and recommends a checkpoint, without a clean label. Each checkpoint costs about
    as much as `decode` with ``controls=False``.

    Parameters
    ----------
    model : torch.nn.Module
        The architecture; it is left as it was. Its own weights do not matter.
    checkpoints : path, str, sequence or mapping
        A folder: of Lightning (``….ckpt``), of Hugging Face's Trainer (``checkpoint-500/…``), or of
        files of weights; a pattern such as ``"ckpt/*.safetensors"``; a sequence of files, folders
        or state dicts; or a mapping from step to one of these. Steps are in the names of the files,
        else in the files themselves, else 0, 1, 2 … in the order given. No code in them is run.
    train, test, holdout, layers, labels, true_labels, device, batch_size, seed, memory, pool, \
class_names, perturb, views
        As `decode` takes them.
    progress : bool
        Show which checkpoint is decoded, and a bar.
    out : path, optional
        A folder to keep the result in, and each checkpoint as soon as it is decoded. A trace that
        was stopped goes on there: a checkpoint is not decoded again if its weights, the data and
        the settings are the same.

    Returns
    -------
    Trace

    Raises
    ------
    DataError, ModelError
        If there are no checkpoints, two have one step, or one cannot be read or belongs to another
        architecture; all are checked before the first is decoded. Otherwise as `decode`.
    OutputError
        If `out` holds anything but a trace, or cannot be written.
    """
    began = time.perf_counter()
    network = copied(as_module(model))
    folder = None if out is None else Path(out)
    if folder is not None:
        _check_folder(folder)
    found, notes = find_checkpoints(checkpoints)
    # All are read before the first is decoded: an error must not come after hours.
    digests = []
    for place, checkpoint in enumerate(found):
        checkpoint.load_into(network, quiet=place > 0)
        digests.append(weights_of(network).hex())
    settings = {
        "layers": layers,
        "labels": labels,
        "true_labels": true_labels,
        "batch_size": batch_size,
        "seed": seed,
        "memory": memory,
        "pool": pool,
        "class_names": None if class_names is None else list(class_names),
        "perturb": perturb,
        "views": views,
    }
    key = None
    if folder is not None:
        key = digest_of(network, {"train": train, "test": test, "holdout": holdout}, settings)
    request = Request.checked(
        model=network,
        train=train,
        test=test,
        holdout=holdout,
        controls=False,
        device=device,
        progress=progress,
        subspace_labels=("corrupted",),
        **_DEFAULTS,
        **settings,
    )
    if len(found) > 1:
        # The input is the same for all: it is fitted once.
        request = replace(request, known=KnownFits(request.memory // _FOR_INPUT))
    steps: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    last: dict[str, Any] = {}
    # What the decodes warn of, and at which steps.
    told: dict[str, list[int]] = {}
    numbers = [f"checkpoint {place + 1} of {len(found)}" for place in range(len(found))]
    bar = Progress([Stage(number, {RUNS: 1.0}) for number in numbers], shown=progress)
    with bar:
        for number, checkpoint, weights in zip(numbers, found, digests, strict=True):
            bar.begin(number, 1.0)
            kept = read_step(folder, checkpoint, weights, key)
            if kept is None:
                logger.info("%s: step %s, %s", number, checkpoint.step, checkpoint.source)
                with _named(checkpoint), _gathered(told, checkpoint.step):
                    checkpoint.load_into(network, quiet=True)
                    decoding = decoded(request)
                summary, table = decoding.summary, decoding.table
                write_step(folder, checkpoint, weights, key, summary, table)
            else:
                logger.info("%s: step %s is decoded already", number, checkpoint.step)
                summary, table = kept
                for line in summary["warnings"]:
                    told.setdefault(line, []).append(checkpoint.step)
            bar.advance()
            about = step_of(checkpoint.step, summary, reused=kept is not None)
            steps.append({**about, "source": checkpoint.source, "file": checkpoint.file})
            rows += rows_of(checkpoint.step, summary, table)
            last = {"summary": summary, "table": table}
    notes += [_at_steps(line, where, len(found)) for line, where in told.items()]
    found_trace = Trace(
        pd.DataFrame(rows, columns=list(COLUMNS)),
        _summary(steps, last["summary"], last["table"], notes, time.perf_counter() - began),
    )
    for line in notes:
        warnings.warn(line, UnderscriptWarning, stacklevel=3)
    if folder is not None:
        found_trace.save(folder)
    return found_trace


def _summary(
    steps: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any],
    table: pd.DataFrame,
    notes: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """Return what ``results.json`` holds; `run` and `table` are those of the last checkpoint."""
    held = table[(table["probe"] == "model") & (table["split"] == "holdout")]["n"]
    recommended = recommend(steps)
    network = network_step(steps, int(held.iloc[0]) if len(held) else None)
    return {
        "underscript": {"format": TRACE_FORMAT, "version": __version__},
        "kind": "trace",
        "command": None,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": _verdict(steps, recommended, network),
        "recommended": recommended,
        "network": network,
        "steps": list(steps),
        "model": {key: run["model"][key] for key in ("class", "parameters", "n_classes")},
        "settings": run["settings"],
        "seeds": run["seeds"],
        "versions": versions(),
        "machine": machine(run["settings"]["device"]),
        "timing": {"all": round(seconds, 3)},
        "peak_memory_bytes": peak_memory(),
        "warnings": list(notes),
    }


def _verdict(
    steps: Sequence[Mapping[str, Any]], recommended: Mapping[str, Any], network: Mapping[str, Any]
) -> str:
    at = recommended["step"]
    if at is None:
        return f"{len(steps)} checkpoints; none is worth decoding: {recommended['why']}."
    chosen = next(one for one in steps if one["step"] == at)
    count = "Of one checkpoint" if len(steps) == 1 else f"Of {len(steps)} checkpoints"
    lines = [f"{count}, decode step {at}: {recommended['why']}."]
    if chosen["decoded_test"] is not None:
        last = "" if steps[-1] is chosen else f" (the last step: {_percent(steps[-1])})"
        lines.append(f"On test data it is right for {_percent(chosen)}{last}.")
    if network["step"] is not None:
        lines.append(f"To keep the network itself, take step {network['step']}.")
    return " ".join(lines)


def _percent(step: Mapping[str, Any]) -> str:
    return f"{100 * step['decoded_test']:.1f}%"


@contextlib.contextmanager
def _named(checkpoint: Checkpoint) -> Iterator[None]:
    """Name the checkpoint in an error about it."""
    try:
        yield
    except UnderscriptError as error:
        raise type(error)(f"{checkpoint.source} (step {checkpoint.step}): {error}") from error


@contextlib.contextmanager
def _gathered(told: dict[str, list[int]], step: int) -> Iterator[None]:
    """Collect what the decode of a step warns of, so that it is told once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnderscriptWarning)
        yield
    for warning in caught:
        message = str(warning.message)
        if not issubclass(warning.category, UnderscriptWarning):
            warnings.warn_explicit(message, warning.category, warning.filename, warning.lineno)
        elif step not in told.setdefault(message, []):
            told[message].append(step)


def _at_steps(line: str, steps: Sequence[int], n: int) -> str:
    """Return a warning with the steps that it is about, if it is not about all of them."""
    if len(steps) == n:
        return line
    shown = ", ".join(map(str, steps[:5])) + (" …" if len(steps) > 5 else "")
    return f"step {shown}: {line}"


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but a trace."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file; expected a new folder or an earlier trace's")
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if "results.json" in names:
        ours = results_of(folder).get("kind") == "trace"
    else:
        ours = not names or "steps" in names or _is_table(folder / "trace.csv")
    if names - _FILES or not ours:
        raise OutputError(
            f"{folder} exists and is not an underscript trace; choose another --out, or empty it"
        )


def _is_table(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as opened:
            return opened.readline().strip() == ",".join(COLUMNS)
    except (OSError, UnicodeDecodeError):
        return False
