"""Checkpoints of one training run: a film strip of their layers, and the curves along training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ...errors import DataError
from ...results.checkpoint_trace import TraceRun
from .film import Curve, Marks, draw_curves, draw_film
from .style import COLOURS

__all__ = ["trace_curves", "trace_map"]


def trace_map(t: TraceRun, ax: Axes | None = None) -> Axes:
    """Draw layers × steps as a film strip: the stronger the colour, the more a layer still knows.

    A cell is the accuracy of a layer's ensemble on test data (its MASC subspaces where it has no
    ensemble), or on the hold-out's labels; with neither it is how often a discriminant agrees with
    the training labels out of fold, without memory. A frame marks the recommended step.

    Parameters
    ----------
    t : Trace
        The trace to draw.
    ax : Axes, optional
        Where to draw; by default a new figure of 6.8 × 3.2 inches.

    Returns
    -------
    Axes

    Raises
    ------
    DataError
        If no layer was measured.
    """
    title, cells = _cells(t.table)
    if not len(cells):
        raise DataError("expected a trace with measured layers; found none in its table")
    steps, layers = _steps(t), [str(name) for name in dict.fromkeys(cells["layer"])]
    values = np.full((len(layers), len(steps)), np.nan)
    for one in cells.to_dict("records"):
        values[layers.index(str(one["layer"])), steps.index(one["step"])] = 100 * one["value"]
    return draw_film(ax, title, layers, steps, values, marks=_marks(t, steps))


def _cells(table: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Return a title, and `step`, `layer` and `value` of the cells, the shallowest layer first."""
    meter = table[table["probe"] == "discriminant"]
    layers = list(dict.fromkeys(table["layer"]))
    for split, what in (("test", "test labels"), ("holdout", "hold-out labels")):
        rows = table[(table["split"] == split) & (table["labels"] == "given")]
        rows = rows[rows["probe"].isin(["auto", "masc"]) & (rows["layer"] != "(combined)")]
        # The ensemble goes before the subspaces.
        rows = rows.sort_values("probe").drop_duplicates(["step", "layer"])
        if len(rows):
            rows = rows.sort_values(["step", "layer"], key=lambda c: c.map(_place(layers, c)))
            return f"Decoded by layer: {what} that are right, %", rows.rename(
                columns={"accuracy": "value"}
            )[["step", "layer", "value"]]
    value = meter["accuracy"] - meter["memory"].fillna(0)
    title = "Training labels that each layer predicts without memory, %"
    return title, meter.assign(value=value)[["step", "layer", "value"]]


def _place(layers: Sequence[Any], column: "pd.Series[Any]") -> dict[Any, int]:
    """Return the places of layers in the order of the table; steps are in their order."""
    values = layers if column.name == "layer" else sorted(column.unique())
    return {value: place for place, value in enumerate(values)}


def trace_curves(t: TraceRun, ax: Axes | None = None) -> Axes:
    """Draw the network, what is decoded, and memory along training.

    Parameters
    ----------
    t : Trace
        The trace to draw. With test data the curves of network and decoder are test accuracies;
        the estimate of the decoder, with its 95 % interval, needs none.
    ax : Axes, optional
        Where to draw; by default a new figure of 6.8 × 3.2 inches.

    Returns
    -------
    Axes
    """
    told, steps = t.steps, _steps(t)
    held = "holdout" if told["network_test"].isna().all() else "test"
    words = {"holdout": "network, hold-out", "test": "network, test"}
    shown: list[tuple[str, str, dict[str, Any]]] = [
        ("memory, last layer", "memory", {"color": COLOURS["true"], "marker": "v"}),
        ("network, its own labels", "network_train", {"color": COLOURS["muted"], "marker": "s"}),
        (words[held], f"network_{held}", {"color": COLOURS["ink"], "marker": "s"}),
        ("decoded, estimated", "estimate", {"color": COLOURS["given"], "marker": "D"}),
        ("decoded, test", "decoded_test", {"color": COLOURS["plain"], "marker": "o"}),
    ]
    curves = [Curve(name, 100 * told[column].to_numpy(float), look) for name, column, look in shown]
    low, high = (100 * told[f"estimate_{end}"].to_numpy(float) for end in ("low", "high"))
    marks = _marks(t, steps)
    return draw_curves(ax, "Along training, %", steps, curves, band=(low, high), marks=marks)


def _steps(t: TraceRun) -> list[int]:
    return [int(step) for step in t.steps["step"]]


def _marks(t: TraceRun, steps: Sequence[int]) -> Marks:
    at = t.recommended["step"]
    return Marks(steps.index(at) if at in steps else None, purpose="to decode")
