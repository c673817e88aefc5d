"""The rows of a monitor's history."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from .judgement import Judgement, Reading
from .layers import Epoch

__all__ = ["COLUMNS", "NETWORK", "WRITTEN", "history_rows", "with_accuracies"]

# The row that is about the network's own predictions.
NETWORK = "(network)"
ACCURACIES = ("accuracy", "accuracy_low", "accuracy_high")
_MEASURED = ("step", "epoch", "layer", "plain", "perturbed", "memory")
_OTHERS = ("effective_rank", "angle", "noise_rate", "holdout")
COLUMNS = (*_MEASURED, *ACCURACIES, *_OTHERS)
# What is written down: accuracies change with each reading, for all of them tell the noise rate.
WRITTEN = (*_MEASURED, *_OTHERS)


def history_rows(found: Epoch, reading: Reading) -> list[dict[str, Any]]:
    """Return a row for each layer, and the network's own; accuracies come later."""
    when = {"step": reading.step, "epoch": reading.epoch}
    rows = [
        {**when, "layer": name, **vars(layer), "memory": layer.plain - layer.perturbed}
        for name, layer in found.layers.items()
    ]
    plain, perturbed = float(reading.agrees.mean()), float(reading.agrees_moved.mean())
    rows.append(
        {
            **when,
            "layer": NETWORK,
            "plain": plain,
            "perturbed": perturbed,
            "memory": plain - perturbed,
            "noise_rate": reading.rate,
            "holdout": None if reading.holdout is None else float(reading.holdout.mean()),
        }
    )
    return rows


def with_accuracies(rows: Iterable[dict[str, Any]], judged: Judgement | None) -> pd.DataFrame:
    """Return a history with accuracies, all by one noise rate; see `Judgement`."""
    if judged is None:
        return pd.DataFrame(rows, columns=list(COLUMNS))
    epochs = [reading.epoch for reading in judged.readings]
    own = dict(zip(epochs, judged.means, strict=True))
    whole = []
    for row in rows:
        agreement = own[row["epoch"]] if row["layer"] == NETWORK else row["perturbed"]
        found = zip(ACCURACIES, judged.accuracy(agreement), strict=True)
        whole.append({**row, **dict(found)})
    return pd.DataFrame(whole, columns=list(COLUMNS))
