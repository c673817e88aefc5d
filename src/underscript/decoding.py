"""What a decode run found: table, chosen decoder, verdict."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._class_names import with_names
from ._contradictions import at_chance, cleaner_holdout
from ._exchange import pred_probs
from ._features import Features
from ._files import RUN_FORMAT, TABLE_COLUMNS, fresh_folder
from ._given_model import as_module
from ._intervals import of_share
from ._made_with import machine, peak_memory, versions
from ._run_folder import Run, is_run, read_run, write_run
from ._twin import weights_of
from .decoder import Decoder
from .errors import DataError, ModelError
from .examples import Example
from .issues import Answers, confused_pairs, posterior, summarised
from .noise import Noise
from .repair import ReadOut, relabelled, transfer
from .selection import Selection
from .selection.memory import Memory


@dataclass(frozen=True)
class Asked:
    """What the chosen decoder says of the training data.

    Attributes
    ----------
    records : list of dict
        Rows of the table.
    answers : Answers
        For each sample.
    examples : list of Example
        The most suspicious ones.
    read_out : ReadOut or str
        What can be written into the network's last layer, or why nothing can.
    """

    records: list[dict[str, Any]]
    answers: Answers
    examples: Sequence[Example]
    read_out: ReadOut | str


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
    candidates : pandas.DataFrame or None
        What the best decoder was chosen from, one row each: ``round`` (0: fitted to the given
        labels), ``layer``, ``n_features``, ``ridge``, ``criterion`` (the larger, the better),
        ``chosen``, and ``test_accuracy``, which chose nothing. None with ``auto=False``.
    geometry : pandas.DataFrame or None
        How large the class subspaces of the trained network's layers are and how they lie to each
        other; see `underscript.geometry.geometry`. None without MASC among the probes.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        summary: dict[str, Any],
        best: Decoder,
        issues: pd.DataFrame | None,
        candidates: pd.DataFrame | None,
        geometry: pd.DataFrame | None = None,
        examples: Sequence[Example] = (),
        read_out: ReadOut | str | None = "",
        odds: Tensor | None = None,
        noise: Noise | None = None,
        later: Callable[[], Asked] | None = None,
    ):
        self.table, self._summary, self.best = table, summary, best
        self.candidates, self.geometry, self._examples = candidates, geometry, list(examples)
        self._known_issues, self._known_read_out, self._later = issues, read_out, later
        # Out-of-fold log-odds (n, K) in the order of the issues, where they are kept.
        self._odds = odds
        self._noise = noise

    def __repr__(self) -> str:
        return f"Decoding({self.verdict!r})"

    @property
    def summary(self) -> dict[str, Any]:
        """Verdict, choice, settings, seeds, versions: what ``results.json`` holds."""
        self._ask()
        return self._summary

    @property
    def examples(self) -> list[Example]:
        """The most suspicious training samples, the worst first, as the report shows them."""
        self._ask()
        return self._examples

    @property
    def _issues(self) -> pd.DataFrame:
        self._ask()
        assert self._known_issues is not None
        return self._known_issues

    @property
    def _read_out(self) -> ReadOut | str:
        self._ask()
        assert self._known_read_out is not None
        return self._known_read_out

    def _ask(self) -> None:
        """Have the chosen decoder answer for the training data, unless it has."""
        if self._later is None:
            return
        asked = self._later()
        self._later = None
        rows = pd.DataFrame(asked.records).assign(selected=True)[list(TABLE_COLUMNS)]
        self.table = pd.concat([self.table, rows], ignore_index=True)
        self._known_issues = issues = asked.answers.table(None)
        self._examples = _flagged(asked.examples, issues)
        self._known_read_out = asked.read_out
        _tell(self._summary, rows, issues, None, asked.read_out)

    def _repr_html_(self) -> str:
        """Return the figure and the table, for a notebook."""
        from .report import notebook  # matplotlib takes a while to import

        self._ask()
        return notebook(self)

    @property
    def verdict(self) -> str:
        """One sentence with its numbers."""
        return str(self._summary["verdict"])

    @property
    def memory(self) -> pd.DataFrame:
        """The memory meter, one row a layer.

        A plain discriminant of each layer, out of fold: how often it agrees with given labels.

        Returns
        -------
        pandas.DataFrame
            `layer`; `plain`: on training inputs as they are; `perturbed`; `holdout`: on a hold-out,
            or missing; `corrected`: what is left of `perturbed` without the memory that survives.
            All from 0 to 1. Empty with ``auto=False``.
        """
        columns = ["layer", "plain", "perturbed", "holdout", "corrected"]
        found = self._summary.get("memory") or {"layers": []}
        return pd.DataFrame(found["layers"], columns=columns)

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

            - `is_label_issue`: the label is probably wrong. Those of the lowest quality, as many as
              make the expected F1 of the flags largest; none where the noise is beyond decoding
              (``summary["noise"]["hopeless"]``).
            - `label_quality`: how right the given label seems, 0 to 1: a score, which in its middle
              is too sure of labels to be a probability. With ``auto=False`` (1 + margin) / 2, and
              every contradicted label is an issue.
            - `given_label`, `predicted_label`, `second_label`: the given class, and the decoder's
              first and second choice; of an issue the first is the likeliest class but the given.
            - `margin`: the decoder's log-odds of the given label against the best other one, at
              most 700 in size; with ``auto=False`` the difference of cos²θ. Negative where its
              first choice is another class.
            - `confidence`: the decoder's probability of `predicted_label` (``auto=False``: cos²θ).
            - `conflicting_duplicate`: the index of another training sample with the same input, or
              (for flagged samples) nearly the same, and another given label; −1 where none was
              found.

            With class names, besides `given_name`, `predicted_name` and `second_name`.
        """
        issues = with_names(self._issues, self.summary["model"]["class_names"])
        return issues.sort_values(["label_quality", "margin"], kind="stable") if sort else issues

    def confused_pairs(self) -> pd.DataFrame:
        """Return the pairs of classes that flagged samples are between, the most frequent first.

        Returns
        -------
        pandas.DataFrame
            `given_label`, `predicted_label`, `n` (flagged samples), and `share` of the samples
            with this given label.
        """
        return confused_pairs(self._issues, len(self._issues))

    def pred_probs(
        self, train: Any, path: str | os.PathLike[str] | None = None
    ) -> NDArray[np.float32]:
        """Return the decoder's probabilities in the form that cleanlab takes.

        Out of fold: of each sample by what was not fitted to its label, on perturbed inputs, so
        they do not repeat what the network memorised. A run that was loaded, or too large for them
        to be kept (256 MiB), has the decoder's own, which it was fitted to.

        Parameters
        ----------
        train : Dataset, DataLoader or pair of arrays
            The training data that were decoded.
        path : path, optional
            A ``.npy`` file to write; a memory map of it is returned. Without it the array is in
            memory, for at most 1 GiB.

        Returns
        -------
        ndarray of float32, shape (n, K)
            Rows in the order of `label_issues`, which sum to one; columns in class order.

        Raises
        ------
        AttributeError
            If the decoder has no probabilities (``auto=False``).
        DataError
            If the data are not those that were decoded, or too large to be held without `path`.
        OutputError
            If the file cannot be written; nothing is left then.
        """
        index = self._issues.index.to_numpy()
        where = None if path is None else Path(path)
        names = self.summary["model"]["class_names"]
        return pred_probs(self.best, train, index, where, names, self._odds)

    def relabel(self) -> pd.DataFrame:
        """Return cleaned labels: the decoder's where a given one is flagged and that is likelier.

        None is changed where nothing seems wrong (``summary["noise"]["nothing_wrong"]``).

        Returns
        -------
        pandas.DataFrame
            One row a sample, in the data set's order and with its index: `given_label`, `label`
            (the cleaned one), `confidence` (the probability that it is right, 0 to 1; with
            ``auto=False`` only a ranking) and `changed`.
        """
        noise = self.summary["noise"]
        nothing = noise is not None and bool(noise["nothing_wrong"])
        return relabelled(self._issues, bool(self.summary["settings"]["auto"]), nothing)

    def soft_labels(self) -> NDArray[np.float32]:
        """Return how likely each class is of each training sample, given also its label.

        The decoder's out-of-fold probabilities and the estimated noise, by Bayes' rule. The best
        labels to train on with.

        Returns
        -------
        ndarray of float32, shape (n, K)
            Rows add up to 1, in the order of `relabel`.

        Raises
        ------
        DataError
            If the probabilities were not kept: after loading a run, with several processes, with
            ``auto=False``, or where they take more than 256 MiB.
        """
        if self._odds is None or self._noise is None:
            raise DataError(
                "soft_labels: the out-of-fold probabilities were not kept (after loading a run, "
                "with several processes, with auto=False, or of too many samples and classes); "
                "relabel() gives labels and confidences"
            )
        given = torch.from_numpy(self._issues["given_label"].to_numpy(np.int64, copy=True))
        return posterior(self._odds, given, self._noise).numpy()

    def transfer(self, weights: str | None = None, bias: str | None = None) -> nn.Module:
        """Return a copy of the model whose last linear layer is rewritten, all else as it was.

        What is written, and why, is in ``summary["transfer"]``.

        Parameters
        ----------
        weights : {"logistic", "velpic", "own"}, optional
            A logistic regression of the layer's input, the class vectors of VeLPIC, or the weights
            as they are; by default what agrees best with the decoded labels, unless a
            hold-out clearly prefers another.
        bias : {"refitted", "zero", "kept"}, optional
            By default as `weights`. A regression's bias is folded into its weights where it is to
            be zero.

        Raises
        ------
        ModelError
            If the last layer is not linear or its input was not decoded; or there is no model, or
            another one than was decoded.
        DataError
            If there is no such option for this layer.
        """
        if isinstance(self._read_out, str):
            raise ModelError(f"nothing can be transferred: {self._read_out}")
        return transfer(self.best._network(), self._read_out, weights, bias)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write one offline HTML file.

        Raises
        ------
        OutputError
            If it cannot be written; nothing is left then.
        """
        from .report import write_report  # matplotlib takes a while to import

        self._ask()
        write_report(Path(path), self)

    def save(self, folder: str | os.PathLike[str], *, onnx: bool = False) -> None:
        """Write a run folder, whole or not at all; an earlier run there is replaced.

        Parameters
        ----------
        folder : path
            A new folder, or an earlier run's.
        onnx : bool
            Also write the decoder with its network as an ONNX file: then `load` can predict where
            the model's class is not at hand. It needs the extra ``onnx``.

        Raises
        ------
        OutputError
            If the folder exists and is not a run, or cannot be written.
        DataError, ModelError
            If an ONNX file is asked for and cannot be made; see `Decoder.export`.
        """
        with fresh_folder(Path(folder), is_run) as work:
            self.write_into(work, onnx=onnx)

    def write_into(self, folder: Path, *, onnx: bool = False) -> None:
        """Write the files of a run into an existing empty folder; see `save`."""
        self._ask()
        run = Run(self.table, self.summary, self.best, self._issues, self.candidates,
                  self.geometry, self.examples, self._read_out)  # fmt: skip
        write_run(run, folder, onnx=onnx)
        self.report(folder / "report.html")


def load(folder: str | os.PathLike[str], model: nn.Module | None = None) -> Decoding:
    """Read a run folder.

    Parameters
    ----------
    folder : path
        Written by `Decoding.save` or the command line.
    model : torch.nn.Module, optional
        The network, for `Decoding.best` to predict with. Without it the ONNX file does that, if
        the run was saved with one (and the extra ``onnx`` is installed).

    Returns
    -------
    Decoding

    Raises
    ------
    OutputError
        If the folder is not a run, is damaged, or is of a newer format.
    ModelError
        If the model has other weights than the one that was decoded.
    """
    if model is not None:
        model = as_module(model)
    found = Decoding(*read_run(Path(folder), model))
    weights = found.summary["model"].get("weights")
    if model is not None and weights is not None and weights_of(model).hex() != weights:
        raise ModelError(
            f"{folder}: this {type(model).__name__} has other weights than the network that was "
            "decoded; load those first (network.load_state_dict, --weights), in the same precision"
        )
    return found


def describe(
    *,
    model: nn.Module,
    records: list[dict[str, Any]],
    choice: Selection,
    best: Decoder,
    answers: Answers | None,
    candidates: pd.DataFrame | None,
    shapes: pd.DataFrame | None,
    examples: Sequence[Example],
    read_out: ReadOut | str | None,
    layers: list[dict[str, Any]],
    n_classes: int,
    class_names: Sequence[str] | None,
    wrong_label_share: float | None,
    noise: Noise | None,
    calibration_error: float | None,
    memory: pd.DataFrame | None,
    survival: Memory | None,
    readers: Sequence[str],
    odds: Tensor | None,
    settings: dict[str, Any],
    seeds: dict[str, int],
    timing: dict[str, float],
    notes: Sequence[str],
    of_class: NDArray[np.int64],
    against: Sequence[str],
    later: Callable[[], Asked] | None = None,
) -> Decoding:
    """Put what was counted into a `Decoding`: table, summary and verdict.

    Without `answers` and `read_out` they are asked for by `later`.
    """
    from . import __version__

    table = pd.DataFrame(records)
    issues = None if answers is None else answers.table(noise)
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
        "width": int(best.estimator.n_features_in_),
        "probe": key.probe,
        "variance": key.variance,
        "rank": float(np.mean(best.estimator.ranks_)),
        "criterion": choice.criterion,
        "reason": choice.reason,
        "n": choice.score.n,
        "criterion_accuracy": choice.score.accuracy,
        "criterion_standard_error": choice.score.standard_error,
        "test_accuracy": _accuracy(chosen, "test", "given"),
        "test_calibration_error": calibration_error,
        "train_given_accuracy": None,
        "train_true_accuracy": None,
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
            "weights": None if isinstance(model, Features) else weights_of(model).hex(),
            "class_names": None if class_names is None else list(class_names),
            "accuracy": accuracy,
        },
        "selected": selected,
        "oracle": oracle,
        "transfer": None,
        "gain_points": gain,
        "wrong_label_share": wrong_label_share,
        "noise": None if noise is None else noise.summary(),
        "memory": None if memory is None or survival is None else _meter(memory, survival, readers),
        "label_issues": None,
        "layers": layers,
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
    fits = None if known is None or own.empty else at_chance(known, of_class)
    lines = [fits, cleaner_holdout(noise), *against]
    summary["contradictions"] = [line for line in lines if line is not None]
    summary["verdict"] = verdict(summary, table)
    shown: Sequence[Example] = ()
    if issues is not None and read_out is not None:
        _tell(summary, chosen, issues, noise, read_out)
        shown = _flagged(examples, issues)
    return Decoding(
        table, summary, best, issues, candidates, shapes, shown, read_out, odds, noise, later
    )  # fmt: skip


def _tell(
    summary: dict[str, Any],
    chosen: pd.DataFrame,
    issues: pd.DataFrame,
    noise: Noise | None,
    read_out: ReadOut | str,
) -> None:
    """Put what the chosen decoder says of the training data into a summary."""
    for kind in ("given", "true"):
        summary["selected"][f"train_{kind}_accuracy"] = _accuracy(chosen, "train", kind)
    summary["label_issues"] = summarised(issues, noise)
    told = {"impossible": read_out} if isinstance(read_out, str) else read_out.summary()
    summary["transfer"] = told


def _flagged(examples: Sequence[Example], issues: pd.DataFrame) -> list[Example]:
    flagged = set(issues.index[issues["is_label_issue"]])
    return [example for example in examples if example.index in flagged]


def _meter(memory: pd.DataFrame, survival: Memory, readers: Sequence[str]) -> dict[str, Any]:
    """Return the memory meter as plain numbers."""
    rows = memory.astype(object).where(memory.notna(), None).to_dict("records")
    return {
        "survival": survival.survival,
        "survival_likely": survival.likely,
        "holdout_weight": survival.weight,
        "readers": list(readers),
        "layers": rows,
    }


def verdict(summary: Mapping[str, Any], table: pd.DataFrame) -> str:
    """Say in one sentence, with numbers, what was found; and in another what contradicts it."""
    lines = [f"But {line}." for line in summary.get("contradictions") or ()]
    return " ".join([_verdict(summary, table), *lines])


def _verdict(summary: Mapping[str, Any], table: pd.DataFrame) -> str:
    own, chosen = summary["model"]["accuracy"], summary["selected"]
    wrong = summary["wrong_label_share"]
    labels = f", of which {wrong:.1%} are wrong," if wrong is not None else ""
    what = {"auto": "the decoded ensemble"}.get(chosen["probe"], chosen["probe"].upper())
    *others, last = chosen["layers"]
    name = f"{what} on {', '.join(others)}{' and ' if others else ''}{last}"
    if own["train_given"] is None:
        return _verdict_on_features(summary, what)
    start = f"The network fits {own['train_given']:.1%} of its training labels{labels}"
    noise = summary["noise"]
    if own["test"] is None:
        start = f"{start.rstrip(',')}; {name}, chosen without clean labels,"
        if noise is None or noise["hopeless"]:
            return (
                f"{start} agrees with {chosen['criterion_accuracy']:.1%} of {chosen['n']:,} noisy "
                "labels that it was not fitted to"
                + ("; the labels say no more than chance." if noise is not None else ".")
            )
        return (
            f"{start} is estimated to be right for {noise['accuracy']:.1%} "
            f"({noise['accuracy_low']:.1%} to {noise['accuracy_high']:.1%}) of {of_what(chosen)}."
        )
    gain = summary["gain_points"]
    tested = table[table["selected"] & (table["split"] == "test") & (table["labels"] == "given")]
    low, high = of_share(chosen["test_accuracy"], int(tested["n"].iloc[0]))
    but = "but only" if own["test"] < own["train_given"] else "and"
    middle = (
        f"{start} {but} {own['test']:.1%} of the test labels; {name}, chosen without "
        f"clean labels, gets {chosen['test_accuracy']:.1%} ({low:.1%} to {high:.1%}): "
        f"{abs(gain):.1f} points {'more' if gain >= 0 else 'less'}"
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


def of_what(selected: Mapping[str, Any]) -> str:
    """Say of which inputs the accuracy is estimated."""
    if selected["criterion"] == "holdout":
        return "new inputs such as the hold-out's"
    return "the training inputs, by fits that have not seen their labels"


def _verdict_on_features(summary: Mapping[str, Any], what: str) -> str:
    """Say what was found where there is no network to compare with."""
    chosen, wrong, noise = summary["selected"], summary["wrong_label_share"], summary["noise"]
    start = f"{what[0].upper()}{what[1:]} of the features, chosen without clean labels,"
    fitted = f" Of the training labels {wrong:.1%} are wrong." if wrong is not None else ""
    if chosen["test_accuracy"] is not None:
        return f"{start} gets {chosen['test_accuracy']:.1%} of the test labels.{fitted}"
    if noise is None or noise["hopeless"]:
        return (
            f"{start} agrees with {chosen['criterion_accuracy']:.1%} of {chosen['n']:,} noisy "
            "labels" + ("; the labels say no more than chance." if noise is not None else ".")
        )
    return (
        f"{start} is estimated to be right for {noise['accuracy']:.1%} "
        f"({noise['accuracy_low']:.1%} to {noise['accuracy_high']:.1%}) of {of_what(chosen)}."
        f"{fitted}"
    )


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
