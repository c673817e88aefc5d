"""The folder that keeps a run: tables, JSON and safetensors; nothing in it is executed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import safetensors
import safetensors.torch
from torch import nn

from ..activations.hooks import Tap
from ..data.input_form import InputForm
from ..errors import ModelError, OutputError
from ..probes.classifier import SubspaceClassifier
from ..probes.ensemble import CombinedDiscriminant
from ..probes.subspace import PROBES
from ..repair.read_out import ReadOut
from ..repair.recording import RecordedDecoder, record
from ..utils.class_names import with_names
from ..utils.files import RUN_FORMAT, TABLE_COLUMNS, write_tensors
from .decoder import Decoder
from .examples import Example, load_examples, save_examples
from .export import write_spreadsheet
from .geometry import COLUMNS as GEOMETRY
from .issues import COLUMNS, most_suspicious_first
from .monitor.folder import is_monitor

__all__ = ["RunParts", "is_run", "read_run", "results_of", "write_run"]


class RunParts(NamedTuple):
    """What a run folder holds: the attributes of a `Decoding`."""

    table: pd.DataFrame
    summary: dict[str, Any]
    best: Decoder
    issues: pd.DataFrame
    candidates: pd.DataFrame | None
    geometry: pd.DataFrame | None = None
    examples: Sequence[Example] = ()
    read_out: ReadOut | str = ""


def is_run(folder: Path) -> bool:
    """Say whether a folder is a run of ours; that of a trace of checkpoints is none."""
    return _is_run(results_of(folder))


def _is_run(results: Mapping[str, Any]) -> bool:
    return isinstance(results.get("underscript"), dict) and results.get("kind") != "trace"


def results_of(folder: Path) -> dict[str, Any]:
    """Return what ``results.json`` of a folder holds; empty if there is no such file."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}


def write_run(run: RunParts, folder: Path, *, network: bool = True) -> None:
    """Write a run's files, except the report, into an existing empty folder.

    Parameters
    ----------
    run : RunParts
        The run; its summary gains `recorded`: None if the decoder predicts by itself, else why not.
    folder : Path
        An existing empty folder.
    network : bool
        Whether to keep the network with the decoder, so that it predicts by itself.
    """
    (folder / "decoder").mkdir()
    run.summary["recorded"] = _record(run.best, folder / "decoder", network)
    text = json.dumps(run.summary, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    run.table.to_csv(folder / "layers.csv", index=False)
    issues = with_names(most_suspicious_first(run.issues), run.summary["model"]["class_names"])
    write_spreadsheet(issues, folder / "label_issues.csv")
    if run.candidates is not None:
        run.candidates.to_csv(folder / "candidates.csv", index=False)
    if run.geometry is not None:
        run.geometry.to_csv(folder / "geometry.csv", index=False)
    save_examples(run.examples, folder / "examples")
    _write_decoder(run.best, folder / "decoder")
    if isinstance(run.read_out, ReadOut):
        write_tensors(folder / "decoder" / "readout.safetensors", run.read_out.tensors)


def read_run(folder: Path, model: nn.Module | None) -> RunParts:
    """Read what `write_run` wrote.

    Raises
    ------
    OutputError
        If the folder is not a run, is damaged, or is of another format.
    """
    summary = results_of(folder)
    if summary.get("kind") == "trace":
        raise OutputError(
            f"{folder}: expected an underscript run; found a trace of checkpoints, which "
            "us.load_trace reads"
        )
    if not _is_run(summary):
        found = "; found a monitor, which us.load_monitor reads" if is_monitor(folder) else ""
        raise OutputError(
            f"{folder}: expected an underscript run (a folder with results.json){found}"
        )
    try:
        stored = summary["underscript"]["format"]
        if stored != RUN_FORMAT:
            raise OutputError(
                f"{folder}: the run has format {stored}; this underscript reads format {RUN_FORMAT}"
            )
        summary["verdict"]
        table = _read_table(folder / "layers.csv")
        issues = _read_issues(folder / "label_issues.csv")
        candidates = None
        if summary["settings"]["auto"]:
            candidates = pd.read_csv(
                folder / "candidates.csv", keep_default_na=False, na_values={"test_accuracy": [""]}
            )
            _check_kinds(candidates, "candidates.csv", {"criterion": "f", "chosen": "b"})
        shapes = folder / "geometry.csv"
        geometry = _read_geometry(shapes) if shapes.exists() else None
        # Somebody may have removed the examples, to share the run without its data.
        has_examples = (folder / "examples").exists()
        examples = load_examples(folder / "examples") if has_examples else []
        best = _read_decoder(folder / "decoder", model, summary.get("recorded"))
        read_out = _read_read_out(folder / "decoder", summary["transfer"])
    except OutputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OutputError(f"{folder}: the run is damaged: {reason}; make it again") from error
    return RunParts(table, summary, best, issues, candidates, geometry, examples, read_out)


def _read_table(path: Path) -> pd.DataFrame:
    # A layer may be called "nan" or "NA".
    missing_numbers = {key: [""] for key in ("variance", "rank", "subspace_labels")}
    table = pd.read_csv(path, keep_default_na=False, na_values=missing_numbers)
    missing = [column for column in TABLE_COLUMNS if column not in table]
    if missing:
        raise ValueError(f"{path.name} lacks {', '.join(missing)}")
    _check_kinds(table, path.name, {"width": "iu", "n": "iu", "accuracy": "f", "selected": "b"})
    # pandas reads the model's own rows' missing labels as NaN; decode gives None.
    table["subspace_labels"] = (
        table["subspace_labels"].astype(object).where(table["subspace_labels"].notna(), None)
    )
    return table


def _read_geometry(path: Path) -> pd.DataFrame:
    numbers = {key: [""] for key in GEOMETRY[1:]}
    geometry = pd.read_csv(path, keep_default_na=False, na_values=numbers)
    _check_kinds(geometry, path.name, {"class_a": "iu", "class_b": "iu", "angle": "f"})
    return geometry


def _read_issues(path: Path) -> pd.DataFrame:
    # Class names are dropped here: results.json has them unchanged.
    issues = pd.read_csv(path, index_col="index", keep_default_na=False)
    if list(issues.columns)[: len(COLUMNS)] != list(COLUMNS):
        raise ValueError(f"{path.name}: expected columns index, {', '.join(COLUMNS)}")
    issues = issues[list(COLUMNS)].sort_index()
    _check_kinds(issues, path.name, COLUMNS)
    if issues.index.dtype.kind not in "iu" or not issues.index.is_unique:
        raise ValueError(f"{path.name}: expected a different integer for each sample as index")
    return issues


def _check_kinds(table: pd.DataFrame, name: str, kinds: Mapping[str, str]) -> None:
    """Raise ValueError for a column with gaps or words: the file was cut or edited."""
    for column, kind in kinds.items():
        if table[column].dtype.kind not in kind or bool(table[column].isna().any()):
            raise ValueError(f"{name}: column {column} has gaps or words in it")


def _write_decoder(best: Decoder, folder: Path) -> None:
    config = {
        "format": RUN_FORMAT,
        "taps": [asdict(tap) for tap in best.taps],
        "layer": best.layer,
        "probe": best.probe,
        "parameters": best.estimator.get_params(),
        "width": int(best.estimator.n_features_in_),
        "n_classes": len(best.estimator.classes_),
        "inputs": None if best.inputs is None else list(best.inputs.names),
        "shapes": {} if best.inputs is None else best.inputs.shapes,
        "steps": list(best.steps),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_tensors(folder / "model.safetensors", best.estimator.tensors())


def _read_read_out(folder: Path, stored: Mapping[str, Any]) -> ReadOut | str:
    if "impossible" in stored:
        return str(stored["impossible"])
    return ReadOut.restored(stored, safetensors.torch.load_file(folder / "readout.safetensors"))


def _record(best: Decoder, folder: Path, wanted: bool) -> str | None:
    """Write the decoder with its network; return why it cannot predict by itself, if so."""
    if best.reads_only_input:
        return None
    if isinstance(best.recorded, RecordedDecoder):
        best.recorded.write(folder)
        return None
    if not wanted:
        return "the run was saved without its network"
    if best.model is None or best.example is None:
        return best.recorded or "the run was loaded before it was saved again"
    try:
        record(best.new_module(), best.example).write(folder)
    except ModelError as error:
        return f"the network could not be kept in the run: {error}"
    return None


def _read_decoder(folder: Path, model: nn.Module | None, why: str | None = None) -> Decoder:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    try:
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        estimator: SubspaceClassifier | CombinedDiscriminant
        if config["probe"] == "auto":
            estimator = CombinedDiscriminant.restored(config["parameters"], tensors)
        elif config["probe"] in PROBES:
            estimator = PROBES[config["probe"]](**config["parameters"])
            estimator.set_tensors(tensors)
        else:
            raise ValueError(f"config.json: unknown probe {config['probe']!r}")
    except RuntimeError as error:
        raise ValueError(f"model.safetensors: {error}") from error
    shape = int(estimator.n_features_in_), len(estimator.classes_)
    if shape != (config["width"], config["n_classes"]):
        raise ValueError(
            f"model.safetensors: expected width {config['width']} and {config['n_classes']} "
            f"classes; found {shape[0]} and {shape[1]}"
        )
    taps = [Tap(**{**tap, "path": tuple(tap["path"])}) for tap in config["taps"]]
    recorded: RecordedDecoder | str | None = None
    steps = tuple(map(int, config.get("steps", ())))
    if model is None or steps:
        recorded = RecordedDecoder.read(folder) or why
    inputs = config.get("inputs")
    known = dict(config.get("shapes", {}))
    shapes = {name: tuple(map(int, shape)) for name, shape in known.items()}
    return Decoder(
        taps,
        config["layer"],
        config["probe"],
        estimator,
        model,
        recorded=recorded,
        inputs=None if inputs is None else InputForm(tuple(map(str, inputs)), shapes),
        steps=steps,
    )
