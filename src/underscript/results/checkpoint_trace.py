"""What a trace of checkpoints tells: its table, the step to decode, the step to keep."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..utils.intervals import of_share

__all__ = ["COLUMNS", "TRACE_FORMAT", "TraceRun", "network_step", "recommend", "rows_of", "step_of"]

# Version of the folder of a trace; raise it when the meaning of the content changes.
TRACE_FORMAT = 1
#: Columns of ``trace.csv``.
COLUMNS = ("step", "layer", "probe", "split", "labels", "accuracy", "memory")
# What is known of a checkpoint as a share, 0 to 1.
_SHARES = (
    "estimate",
    "estimate_low",
    "estimate_high",
    "noise_rate",
    "memory",
    "network_train",
    "network_holdout",
    "network_test",
    "decoded_test",
)


class TraceRun:
    """The checkpoints of one training run, each decoded: what the folder of a trace keeps.

    Its attributes are described where users meet them, in `underscript.Trace`.
    """

    def __init__(self, table: pd.DataFrame, summary: dict[str, Any]):
        self.table, self.summary = table, summary

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.verdict!r})"

    @property
    def recommended(self) -> dict[str, Any]:
        """The checkpoint to decode: its `step`, None if no labels can be decoded, and `why`."""
        return dict(self.summary["recommended"])

    @property
    def network(self) -> dict[str, Any]:
        """The checkpoint to keep as it is: its `step`, None without a hold-out, and `why`."""
        return dict(self.summary["network"])

    @property
    def verdict(self) -> str:
        """The result in a few sentences with their numbers."""
        return str(self.summary["verdict"])

    @property
    def steps(self) -> pd.DataFrame:
        """One row a checkpoint, in the order of the steps.

        Returns
        -------
        pandas.DataFrame
            `step`; `source`: its file; `estimate`, `estimate_low`, `estimate_high`: the estimated
            accuracy of what is decoded, with its 95 % interval; `noise_rate`: the estimated share
            of wrong labels; `memory`: of the deepest layer, see `table`; `network_train`,
            `network_holdout`, `network_test`: how often the network agrees with the labels there;
            `decoded_test`: how often the decoder is right on test data; `seconds`. Shares are from
            0 to 1, missing where they are not known.
        """
        steps = pd.DataFrame(self.summary["steps"])
        numbers = [*_SHARES, "seconds"]
        steps[numbers] = steps[numbers].astype(float)
        return steps[["step", "source", *numbers]]


def rows_of(step: int, summary: Mapping[str, Any], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of ``trace.csv`` of one checkpoint.

    Parameters
    ----------
    step : int
        Its step.
    summary, table
        Of the run that decoded it.
    """
    meter = summary["memory"]
    memory = {} if meter is None else {row["layer"]: _memory(row) for row in meter["layers"]}

    def row(layer: str, probe: str, split: str, labels: str, accuracy: float) -> dict[str, Any]:
        values = (step, layer, probe, split, labels, accuracy, memory.get(layer, math.nan))
        return dict(zip(COLUMNS, values, strict=True))

    shown = table[table["model"] == "trained"]
    rows = [
        row(one["layer"], one["probe"], one["split"], one["labels"], one["accuracy"])
        for one in shown.to_dict("records")
    ]
    for layer in () if meter is None else meter["layers"]:
        rows.append(row(layer["layer"], "discriminant", "train", "given", layer["plain"]))
    noise = summary["noise"]
    if noise is not None:
        chosen = summary["selected"]
        split = "holdout" if chosen["criterion"] == "holdout" else "train"
        rows.append(row(chosen["layer"], chosen["probe"], split, "estimated", noise["accuracy"]))
    return rows


def _memory(row: Mapping[str, Any]) -> float:
    """Return how much of a layer's agreement with the training labels is memory, 0 to 1."""
    without = row["corrected"] if row["corrected"] is not None else row["perturbed"]
    if without is None:
        without = row["holdout"]
    return math.nan if without is None else max(0.0, float(row["plain"]) - float(without))


def step_of(step: int, summary: Mapping[str, Any], *, reused: bool) -> dict[str, Any]:
    """Return what ``results.json`` says of one checkpoint; see `TraceRun.steps`."""
    own, noise, meter = summary["model"]["accuracy"], summary["noise"] or {}, summary["memory"]
    layers = [] if meter is None else meter["layers"]
    deepest = _memory(layers[-1]) if layers else math.nan
    return {
        "step": step,
        "estimate": noise.get("accuracy"),
        "estimate_low": noise.get("accuracy_low"),
        "estimate_high": noise.get("accuracy_high"),
        "noise_rate": noise.get("rate"),
        "memory": None if math.isnan(deepest) else deepest,
        "network_train": own["train_given"],
        "network_holdout": own["holdout"],
        "network_test": own["test"],
        "decoded_test": summary["selected"]["test_accuracy"],
        "seconds": round(sum(summary["timing"].values()), 3),
        "hopeless": bool(noise.get("hopeless", False)),
        "reused": reused,
    }


def recommend(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the step to decode, chosen without a clean label, and why.

    Of the steps whose estimated accuracy is below the largest by at most half the width of its
    interval, it is the earliest: it has memorised least.

    Parameters
    ----------
    steps : sequence of mapping
        From `step_of`, in the order of the steps.
    """
    usable = [one for one in steps if one["estimate"] is not None and not one["hopeless"]]
    if not usable:
        why = "at no step do the labels fit the inputs better than by chance"
        return {"step": None, "why": why}
    best = max(usable, key=lambda one: float(one["estimate"]))
    half = (best["estimate_high"] - best["estimate_low"]) / 2
    first = next(one for one in usable if one["estimate"] >= best["estimate"] - half)
    between = f"{_percent(first['estimate_low'])} to {_percent(first['estimate_high'])}"
    why = f"decoded, it is estimated to be right for {_percent(first['estimate'])} ({between})"
    if first is best:
        why += ", the most of all steps"
    else:
        why += (
            f"; step {best['step']} has the most, {_percent(best['estimate'])}, but no more than "
            "the estimate is unsure of, and the earlier one has memorised less"
        )
    return {"step": first["step"], "why": why}


def network_step(steps: Sequence[Mapping[str, Any]], n: int | None) -> dict[str, Any]:
    """Return the step to keep if the network itself is to be used, and why.

    Parameters
    ----------
    steps : sequence of mapping
        From `step_of`, in the order of the steps.
    n : int or None
        Number of labels of the hold-out.
    """
    known = [one for one in steps if one["network_holdout"] is not None]
    if not known or n is None:
        return {"step": None, "why": "not known without a hold-out, whose labels choose it"}
    best = max(known, key=lambda one: float(one["network_holdout"]))
    share = float(best["network_holdout"])
    low, high = of_share(share, n)
    why = (
        f"its own read-out agrees with the most labels of the hold-out, {_percent(share)} "
        f"({_percent(low)} to {_percent(high)}, {n:,} labels)"
    )
    return {"step": best["step"], "why": why}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
