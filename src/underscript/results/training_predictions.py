"""The chosen decoder's predictions for the training data, and their part of a summary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..noise.estimate import Noise
from ..repair.read_out import ReadOut
from .examples import Example
from .issues import Predictions, summarised

__all__ = ["TrainingPredictions", "accuracy_of", "add_training_predictions", "flagged"]


@dataclass(frozen=True)
class TrainingPredictions:
    """The chosen decoder's predictions for the training data.

    Attributes
    ----------
    records : list of dict
        Rows of the table.
    predictions : Predictions
        The predictions for each sample.
    examples : list of Example
        The most suspicious ones.
    read_out : ReadOut or str
        What can be written into the network's last layer, or why nothing can.
    """

    records: list[dict[str, Any]]
    predictions: Predictions
    examples: Sequence[Example]
    read_out: ReadOut | str


def add_training_predictions(
    summary: dict[str, Any],
    chosen: pd.DataFrame,
    issues: pd.DataFrame,
    noise: Noise | None,
    read_out: ReadOut | str,
) -> None:
    """Add the chosen decoder's predictions for the training data to a summary."""
    for kind in ("given", "true"):
        summary["selected"][f"train_{kind}_accuracy"] = accuracy_of(chosen, "train", kind)
    summary["label_issues"] = summarised(issues, noise)
    transfer = {"impossible": read_out} if isinstance(read_out, str) else read_out.summary()
    summary["transfer"] = transfer


def flagged(examples: Sequence[Example], issues: pd.DataFrame) -> list[Example]:
    """Return the examples whose labels are flagged."""
    indices = set(issues.index[issues["is_label_issue"]])
    return [example for example in examples if example.index in indices]


def accuracy_of(rows: pd.DataFrame, split: str, labels: str) -> float | None:
    """Return the accuracy of one kind of label in one part of the data; None if there is none."""
    accuracies = rows[(rows["split"] == split) & (rows["labels"] == labels)]["accuracy"]
    return float(accuracies.iloc[0]) if len(accuracies) else None
