"""The rows of a monitor's history."""

from typing import Any

import numpy as np

from .judgement import Judgement, Reading
from .layers import Epoch

__all__ = ["COLUMNS", "NETWORK", "history_rows"]

# The row that is about the network's own predictions.
NETWORK = "(network)"
COLUMNS = (
    *("step", "epoch", "layer", "plain", "perturbed", "memory"),
    *("accuracy", "accuracy_low", "accuracy_high"),
    *("effective_rank", "angle", "noise_rate", "holdout"),
)


def history_rows(found: Epoch, reading: Reading, judged: Judgement) -> list[dict[str, Any]]:
    """Return a row for each layer, and the network's own, as judged by all readings so far."""
    when = {"step": reading.step, "epoch": reading.epoch}
    rows = [
        {**when, "layer": name, **vars(layer), "memory": layer.plain - layer.perturbed}
        for name, layer in found.layers.items()
    ]
    plain, perturbed = float(reading.agrees.mean()), float(reading.agrees_moved.mean())
    worth = judged.worth(reading)
    own = found.noise.of_decoder(float(np.clip(worth.mean(), 0.0, 1.0)), len(worth))
    rows.append(
        {
            **when,
            "layer": NETWORK,
            "plain": plain,
            "perturbed": perturbed,
            "memory": plain - perturbed,
            "accuracy": own.accuracy,
            "accuracy_low": own.accuracy_low,
            "accuracy_high": own.accuracy_high,
            "noise_rate": reading.rate,
            "holdout": None if reading.holdout is None else float(reading.holdout.mean()),
        }
    )
    return rows
