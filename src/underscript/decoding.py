"""What a decode run found: table, chosen decoder, verdict; and the folder that keeps them."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import safetensors.torch
from torch import nn

from ._capture import Tap
from ._classifier import SubspaceClassifier
from ._files import RUN_FORMAT, fresh_folder, write_tensors
from ._made_with import machine, versions
from .combined import CombinedDiscriminant
from .decoder import Decoder
from .errors import OutputError
from .issues import COLUMNS, Answers
from .noise import Noise
from .selection import Selection
from .subspace import PROBES

TABLE_COLUMNS = (
    "model", "layer", "width", "probe", "variance", "subspace_labels", "rank", "split", "labels",
    "n", "accuracy", "selected",
)  # fmt: skip


class Decoding:
    """The result of `decode`.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per network (``model``: ``trained`` or its ``random`` twin) × layer × probe ×
        variance share × subspace labels × split × kind of label, with ``rank`` (mean over
        classes), ``n``, ``accuracy`` (0 to 1) and ``selected``. The network's own read-out is the
        probe ``model`` of the layer ``output``.
    best : Decoder
        The decoder chosen without clean labels.
    summary : dict
        Verdict, choice, settings, seeds, versions: what ``results.json`` holds.
    candidates : pandas.DataFrame or None
        What the best decoder was chosen from, one row each: ``round`` (0: fitted to the given
        labels), ``layer``, ``n_features``, ``ridge``, ``criterion`` (the larger, the better),
        ``chosen``, and ``test_accuracy``, which chose nothing. None with ``auto=False``.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        summary: dict[str, Any],
        best: Decoder,
        issues: pd.DataFrame,
        candidates: pd.DataFrame | None,
    ):
        self.table, self.summary, self.best = table, summary, best
        self.candidates = candidates
        self._issues = issues

    def __repr__(self) -> str:
        return f"Decoding({self.summary['verdict']!r})"

    @property
    def verdict(self) -> str:
        """One sentence with its numbers."""
        return str(self.summary["verdict"])

    def label_issues(self, *, sort: bool = False) -> pd.DataFrame:
        """Return what the chosen decoder says of every training label.

        Parameters
        ----------
        sort : bool
            Put the worst first, by quality; otherwise rows are in the data set's order.

        Returns
        -------
        pandas.DataFrame
            One row a sample; the index is the data set's in either order. See `issues.COLUMNS`:

            - `is_label_issue`: the label is probably wrong. Of each class so many as are expected
              to be wrong, those of the lowest quality, and only where the decoder contradicts the
              label; none where the noise is beyond decoding (``summary["noise"]["hopeless"]``).
            - `label_quality`: the probability that the given label is right, 0 to 1. With
              ``auto=False`` there are no probabilities: then (1 + margin) / 2, and every
              contradicted label is an issue.
            - `given_label`, `predicted_label`, `second_label`: the given class, and the decoder's
              first and second choice.
            - `margin`: the decoder's log-odds of the given label against the best other one, at
              most 700 in size; with ``auto=False`` the difference of cos²θ. Negative where it
              contradicts the label.
            - `confidence`: the decoder's probability of `predicted_label` (``auto=False``: cos²θ).
        """
        if sort:
            return self._issues.sort_values(["label_quality", "margin"], kind="stable")
        return self._issues.copy()

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write one offline HTML file.

        Raises
        ------
        OutputError
            If it cannot be written; nothing is left then.
        """
        from .report import write_report  # matplotlib takes a while to import

        write_report(Path(path), self.summary, self.table)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a run folder, whole or not at all; an earlier run there is replaced.

        Raises
        ------
        OutputError
            If the folder exists and is not a run, or cannot be written.
        """
        with fresh_folder(Path(folder), is_run) as work:
            self.write_into(work)

    def write_into(self, folder: Path) -> None:
        """Write the files of a run into an existing empty folder."""
        text = json.dumps(self.summary, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "results.json").write_text(text + "\n", encoding="utf-8")
        self.table.to_csv(folder / "layers.csv", index=False)
        self._issues.to_csv(folder / "label_issues.csv")
        if self.candidates is not None:
            self.candidates.to_csv(folder / "candidates.csv", index=False)
        self.report(folder / "report.html")
        (folder / "decoder").mkdir()
        _save_decoder(self.best, folder / "decoder")


def load(folder: str | os.PathLike[str], model: nn.Module | None = None) -> Decoding:
    """Read a run folder.

    Parameters
    ----------
    folder : path
        Written by `Decoding.save` or the command line.
    model : torch.nn.Module, optional
        The network, for `Decoding.best` to predict with; the folder does not hold it.

    Returns
    -------
    Decoding

    Raises
    ------
    OutputError
        If the folder is not a run, is damaged, or is of a newer format.
    """
    folder = Path(folder)
    if not is_run(folder):
        raise OutputError(f"{folder}: expected an underscript run (a folder with results.json)")
    try:
        summary = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        found = summary["underscript"]["format"]
        if found != RUN_FORMAT:
            raise OutputError(
                f"{folder}: the run has format {found}; this underscript reads format {RUN_FORMAT}"
            )
        summary["verdict"]
        # A layer may be called "nan" or "NA".
        missing_numbers = {key: [""] for key in ("variance", "rank", "subspace_labels")}
        table = pd.read_csv(folder / "layers.csv", keep_default_na=False, na_values=missing_numbers)
        missing = [column for column in TABLE_COLUMNS if column not in table]
        if missing:
            raise ValueError(f"layers.csv lacks {', '.join(missing)}")
        _check_kinds(
            table, "layers.csv", {"width": "iu", "n": "iu", "accuracy": "f", "selected": "b"}
        )
        issues = pd.read_csv(folder / "label_issues.csv", index_col="index")
        if list(issues.columns) != list(COLUMNS):
            raise ValueError(f"label_issues.csv: expected columns {', '.join(COLUMNS)}")
        _check_kinds(issues, "label_issues.csv", COLUMNS)
        candidates = None
        if summary["settings"]["auto"]:
            candidates = pd.read_csv(folder / "candidates.csv", keep_default_na=False,
                                     na_values={"test_accuracy": [""]})  # fmt: skip
            _check_kinds(candidates, "candidates.csv", {"criterion": "f", "chosen": "b"})
        best = _load_decoder(folder / "decoder", model)
    except OutputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OutputError(f"{folder}: the run is damaged: {reason}; make it again") from error
    # pandas reads the model's own rows' missing labels as NaN; decode gives None.
    table["subspace_labels"] = (
        table["subspace_labels"].astype(object).where(table["subspace_labels"].notna(), None)
    )
    return Decoding(table, summary, best, issues, candidates)


def _check_kinds(table: pd.DataFrame, name: str, kinds: Mapping[str, str]) -> None:
    """Raise ValueError for a column with gaps or words: the file was cut or edited."""
    for column, kind in kinds.items():
        if table[column].dtype.kind not in kind or bool(table[column].isna().any()):
            raise ValueError(f"{name}: column {column} has gaps or words in it")


def is_run(folder: Path) -> bool:
    """Say whether a folder is a run of ours."""
    try:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and isinstance(found.get("underscript"), dict)


def describe(
    *,
    model: nn.Module,
    records: list[dict[str, Any]],
    choice: Selection,
    best: Decoder,
    answers: Answers,
    candidates: pd.DataFrame | None,
    layers: list[dict[str, Any]],
    n_classes: int,
    wrong_label_share: float | None,
    noise: Noise | None,
    calibration_error: float | None,
    settings: dict[str, Any],
    seeds: dict[str, int],
    timing: dict[str, float],
    notes: Sequence[str],
) -> Decoding:
    """Put what was counted into a `Decoding`: table, summary and verdict."""
    from . import __version__

    table = pd.DataFrame(records)
    key = choice.key
    table["selected"] = (
        (table["model"] == "trained")
        & (table["layer"] == key.layer)
        & (table["probe"] == key.probe)
        & (table["subspace_labels"] == key.subspace_labels)
        & (
            (table["variance"] == key.variance)
            | (table["variance"].isna() & (key.variance is None))
        )
    )
    table = table[list(TABLE_COLUMNS)]
    own = table[table["probe"] == "model"]
    chosen = table[table["selected"]]
    true_share = _accuracy(own, "train", "true")
    selected: dict[str, Any] = {
        "layer": key.layer,
        "layers": list(best.layers),
        "width": int(chosen["width"].iloc[0]),
        "probe": key.probe,
        "variance": key.variance,
        "rank": float(chosen["rank"].iloc[0]),
        "criterion": choice.criterion,
        "reason": choice.reason,
        "n": choice.score.n,
        "criterion_accuracy": choice.score.accuracy,
        "criterion_standard_error": choice.score.standard_error,
        "test_accuracy": _accuracy(chosen, "test", "given"),
        "test_calibration_error": calibration_error,
        "train_given_accuracy": _accuracy(chosen, "train", "given"),
        "train_true_accuracy": _accuracy(chosen, "train", "true"),
    }
    accuracy = {
        "train_given": _accuracy(own, "train", "given"),
        "train_true": true_share,
        "test": _accuracy(own, "test", "given"),
        "holdout": _accuracy(own, "holdout", "given"),
    }
    oracle = _oracle(table, candidates, selected)
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
            "accuracy": accuracy,
        },
        "selected": selected,
        "oracle": oracle,
        "gain_points": gain,
        "wrong_label_share": wrong_label_share,
        "noise": None if noise is None else noise.summary(),
        "layers": layers,
        "settings": settings,
        "seeds": seeds,
        "versions": versions(),
        "machine": machine(settings["device"]),
        "timing": {stage: round(seconds, 3) for stage, seconds in timing.items()},
        "training": None,
        "warnings": list(notes),
    }
    summary["verdict"] = verdict(summary, table)
    return Decoding(table, summary, best, answers.table(noise), candidates)


def verdict(summary: Mapping[str, Any], table: pd.DataFrame) -> str:
    """Say in one sentence, with numbers, what was found."""
    own, chosen = summary["model"]["accuracy"], summary["selected"]
    wrong = summary["wrong_label_share"]
    labels = f", of which {wrong:.1%} are wrong," if wrong is not None else ""
    what = {"auto": "the refined decoder"}.get(chosen["probe"], chosen["probe"].upper())
    *others, last = chosen["layers"]
    name = f"{what} on {', '.join(others)}{' and ' if others else ''}{last}"
    start = f"The network fits {own['train_given']:.1%} of its training labels{labels}"
    if own["test"] is None:
        return (
            f"{start.rstrip(',')}; {name}, chosen without clean labels, agrees with "
            f"{chosen['criterion_accuracy']:.1%} of {chosen['n']:,} held-out noisy labels."
        )
    gain = summary["gain_points"]
    but = "but only" if own["test"] < own["train_given"] else "and"
    middle = (
        f"{start} {but} {own['test']:.1%} of the test labels; {name}, chosen without "
        f"clean labels, gets {chosen['test_accuracy']:.1%}: {abs(gain):.1f} points "
        f"{'more' if gain >= 0 else 'less'}"
    )
    beside = []
    # The same kind of decoder on the controls: no other comparison is fair.
    control = table[
        (table["split"] == "test")
        & (table["subspace_labels"] == "corrupted")
        & (table["probe"] == chosen["probe"])
    ]
    alone = control[control["layer"] == "input"]["accuracy"]
    if len(alone) and chosen["layer"] != "input":
        beside.append(f"the input alone gives {alone.max():.1%}")
    twin = control[(control["model"] == "random")]["accuracy"]
    if len(twin):
        beside.append(f"an untrained twin's best layer {twin.max():.1%}")
    layers = control[(control["model"] == "trained") & (control["layer"] != "input")]
    if chosen["layers"] == ["input"] and len(layers):
        beside.append("no layer of the network is estimated to know more than its input")
    return middle + (f" ({', '.join(beside)})." if beside else ".")


def _oracle(
    table: pd.DataFrame, candidates: pd.DataFrame | None, selected: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return what is best on the test set of all that was tried; a user cannot know it."""
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


def _accuracy(rows: pd.DataFrame, split: str, labels: str) -> float | None:
    found = rows[(rows["split"] == split) & (rows["labels"] == labels)]["accuracy"]
    return float(found.iloc[0]) if len(found) else None


def _save_decoder(best: Decoder, folder: Path) -> None:
    config = {
        "format": RUN_FORMAT,
        "taps": [asdict(tap) for tap in best.taps],
        "layer": best.layer,
        "probe": best.probe,
        "parameters": best.estimator.get_params(),
        "width": int(best.estimator.n_features_in_),
        "n_classes": len(best.estimator.classes_),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_tensors(folder / "model.safetensors", best.estimator.tensors())


def _load_decoder(folder: Path, model: nn.Module | None) -> Decoder:
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
    found = int(estimator.n_features_in_), len(estimator.classes_)
    if found != (config["width"], config["n_classes"]):
        raise ValueError(
            f"model.safetensors: expected width {config['width']} and {config['n_classes']} "
            f"classes; found {found[0]} and {found[1]}"
        )
    taps = [Tap(**{**tap, "path": tuple(tap["path"])}) for tap in config["taps"]]
    return Decoder(taps, config["layer"], config["probe"], estimator, model)
