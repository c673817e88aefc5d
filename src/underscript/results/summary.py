"""The summary of a run: what ``results.json`` holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from .._version import __version__
from ..activations.copies import weights_of
from ..activations.features import Features
from ..noise.estimate import Noise
from ..repair.read_out import ReadOut
from ..selection.choice import Key, Selection
from ..selection.fitting import Candidate
from ..selection.log_odds_lookup import LogOdds
from ..selection.memorisation import Memory
from ..selection.task import Task
from ..utils.files import RUN_FORMAT, TABLE_COLUMNS
from ..utils.versions import machine, peak_memory, versions
from .contradictions import at_chance, cleaner_holdout, surviving_memory
from .decoder import Decoder
from .evaluation import Evaluation
from .examples import Example
from .issues import Predictions
from .training_predictions import (
    TrainingPredictions,
    accuracy_of,
    add_training_predictions,
    flagged,
)
from .verdict import verdict

__all__ = ["Findings", "run_of"]


@dataclass(frozen=True)
class Findings:
    """The results of a decode, except what `Evaluation` holds.

    Attributes
    ----------
    task : Task
        What was decoded and how, without its rows.
    counts : ndarray of int64, shape (K,)
        Number of training labels of each class.
    selection : Selection
        The chosen decoder and why.
    best : Decoder
        The decoder itself.
    geometry : pandas.DataFrame or None
        Geometry of the class subspaces.
    read_out : ReadOut, str or None
        What can be written into the network's last layer, or why nothing can; None if
        `later` finds that out.
    odds : LogOdds or None
        Of the training samples, out of fold, in the order of the label issues.
    noise : Noise or None
        How noisy labels are.
    memory, survival, readers
        The memory meter, how much memory survives the perturbation, and which candidates check the
        training labels; None, None and empty without an ensemble.
    members : dict of str to tuple of Candidate
        The candidates in the ensemble of each layer.
    later : callable or None
        Decodes the training data, if that was put off.
    """

    task: Task
    counts: NDArray[np.int64]
    selection: Selection
    best: Decoder
    geometry: pd.DataFrame | None
    read_out: ReadOut | str | None
    odds: LogOdds | None
    noise: Noise | None
    memory: pd.DataFrame | None
    survival: Memory | None
    readers: Sequence[str]
    members: Mapping[str, Sequence[Candidate]]
    later: Callable[[], TrainingPredictions] | None


def run_of(
    findings: Findings,
    evaluation: Evaluation,
    *,
    model: nn.Module,
    layers: list[dict[str, Any]],
    n_classes: int,
    class_names: Sequence[str] | None,
    settings: dict[str, Any],
    seeds: dict[str, int],
    timing: dict[str, float],
    notes: Sequence[str],
    against: Sequence[str],
    checkpoints: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the parts of a `Run`: its table, its summary with the verdict, ….

    Parameters
    ----------
    layers : list of dict
        Name, width and path of each decoded layer.
    notes, against : sequence of str
        Warnings; and contradictions of the verdict, which it states too.
    checkpoints : dict, optional
        From `Earlier.summary`: the checkpoints that were decoded together with the network.
    """
    noise, best = findings.noise, findings.best
    issues = (
        None
        if findings.later is not None
        else Predictions.together(evaluation.predictions).table(noise)
    )
    table = _table(evaluation.records, findings.selection.key)
    own, chosen = table[table["probe"] == "model"], table[table["selected"]]
    accuracy = {
        "train_given": accuracy_of(own, "train", "given"),
        "train_true": accuracy_of(own, "train", "true"),
        "test": accuracy_of(own, "test", "given"),
        "holdout": accuracy_of(own, "holdout", "given"),
    }
    selected = _selected(findings, chosen, evaluation.calibration_error)
    decoded = selected["test_accuracy"]
    gain = None if accuracy["test"] is None else 100 * (decoded - accuracy["test"])
    summary: dict[str, Any] = {
        "underscript": {"format": RUN_FORMAT, "version": __version__},
        "kind": "decode",
        "command": None,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": "",
        "model": {
            "class": type(model).__name__,
            "parameters": sum(p.numel() for p in model.parameters()),
            "n_classes": n_classes,
            "weights": None if isinstance(model, Features) else weights_of(model).hex(),
            "class_names": None if class_names is None else list(class_names),
            "accuracy": accuracy,
        },
        "selected": selected,
        "oracle": _oracle(table, evaluation.candidates, selected),
        "transfer": None,
        "gain_points": gain,
        "wrong_label_share": evaluation.wrong_label_share,
        "noise": None if noise is None else noise.summary(),
        "memory": _meter(findings),
        "label_issues": None,
        "layers": layers,
        "checkpoints": checkpoints,
        "settings": settings,
        "seeds": seeds,
        "versions": versions(),
        "machine": machine(settings["device"]),
        "timing": {stage: round(seconds, 3) for stage, seconds in timing.items()},
        "peak_memory_bytes": peak_memory(),
        "training": None,
        "warnings": list(notes),
    }
    known = accuracy["train_given"]
    fits = None if known is None or own.empty else at_chance(known, findings.counts)
    survives = surviving_memory(findings.survival, settings["perturb"])
    lines = [fits, cleaner_holdout(noise), survives, *against]
    summary["contradictions"] = [line for line in lines if line is not None]
    shown: Sequence[Example] = ()
    if issues is not None and findings.read_out is not None:
        add_training_predictions(summary, chosen, issues, noise, findings.read_out)
        shown = flagged(evaluation.worst.examples(), issues)
    # After the label issues: it tells how many labels are flagged.
    summary["verdict"] = verdict(summary, table)
    return {
        "table": table,
        "summary": summary,
        "best": best,
        "issues": issues,
        "candidates": evaluation.candidates,
        "geometry": findings.geometry,
        "examples": shown,
        "read_out": findings.read_out,
        "odds": findings.odds,
        "noise": noise,
        "later": findings.later,
    }


def _table(records: Sequence[Mapping[str, Any]], key: Key) -> pd.DataFrame:
    """Return the table of decoders, with the chosen one's rows marked."""
    table = pd.DataFrame(records)
    same_share = table["variance"] == key.variance
    table["selected"] = (
        (table["model"] == "trained")
        & (table["layer"] == key.layer)
        & (table["probe"] == key.probe)
        & (table["subspace_labels"] == key.subspace_labels)
        & (same_share | (table["variance"].isna() & (key.variance is None)))
    )
    return table[list(TABLE_COLUMNS)]


def _selected(
    findings: Findings, chosen: pd.DataFrame, calibration_error: float | None
) -> dict[str, Any]:
    """Return the summary of the chosen decoder."""
    choice, key = findings.selection, findings.selection.key
    return {
        "layer": key.layer,
        "layers": list(findings.best.layers),
        "width": int(findings.best.estimator.n_features_in_),
        "probe": key.probe,
        "variance": key.variance,
        "rank": float(np.mean(findings.best.estimator.ranks_)),
        "criterion": choice.criterion,
        "reason": choice.reason,
        "n": choice.score.n,
        "criterion_accuracy": choice.score.accuracy,
        "criterion_standard_error": choice.score.standard_error,
        "test_accuracy": accuracy_of(chosen, "test", "given"),
        "test_calibration_error": calibration_error,
        "train_given_accuracy": None,
        "train_true_accuracy": None,
    }


def _meter(findings: Findings) -> dict[str, Any] | None:
    """Return the memory meter as plain numbers."""
    memory, survival = findings.memory, findings.survival
    if memory is None or survival is None:
        return None
    return {
        "survival": survival.survival,
        "survival_likely": survival.likely,
        "survival_of_network": survival.of_network,
        "holdout_weight": survival.weight,
        "readers": list(findings.readers),
        "layers": memory.astype(object).where(memory.notna(), None).to_dict("records"),
    }


def _oracle(
    table: pd.DataFrame, candidates: pd.DataFrame | None, selected: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the best of all tried decoders on the test set; a user cannot know it."""
    tried = table[
        (table["split"] == "test")
        & (table["model"] == "trained")
        & (table["subspace_labels"] == "corrupted")
    ][["layer", "probe", "variance", "accuracy"]]
    if len(tried) and candidates is not None:
        rest = candidates[["layer", "test_accuracy"]].rename(columns={"test_accuracy": "accuracy"})
        rest = rest.assign(probe="auto", variance=None).astype({"variance": float})
        tried = pd.concat([tried.astype({"variance": float}), rest], ignore_index=True)
    if not len(tried):
        return None
    row = tried.sort_values("accuracy", ascending=False, kind="stable").iloc[0]
    return {
        "layer": str(row["layer"]),
        "probe": str(row["probe"]),
        "variance": None if pd.isna(row["variance"]) else float(row["variance"]),
        "test_accuracy": float(row["accuracy"]),
        "regret_points": 100 * (float(row["accuracy"]) - selected["test_accuracy"]),
    }
