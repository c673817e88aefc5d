"""Checkpoints of one training run: a film strip of their layers, and the curves along training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ...errors import DataError
from ...results.checkpoint_trace import TraceRun
from .curve import ROOM_FOR_LABELS, legend_above, name_ends
from .style import COLOURS, axes, plain_text, quiet, short_names

__all__ = ["trace_curves", "trace_map"]

# With at most so many steps, cells are wide enough for a number.
_NUMBERED = 16
_MOST_TICKS = 12
_DARKEST, _READABLE = 0.95, 0.5


def trace_map(t: TraceRun, ax: Axes | None = None) -> Axes:
    """Draw layers × steps as a film strip: the darker, the more generalization a layer holds.

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
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    numbered = len(steps) <= _NUMBERED
    most = _READABLE if numbered else _DARKEST
    with plain_text():
        ax, _ = axes(ax, 6.8, 3.2)
        quiet(ax, title, grid=None)
        ax.spines["bottom"].set_visible(False)
        for (row, column), value in np.ndenumerate(values):
            if not np.isfinite(value):
                continue
            share = (value - low) / (high - low) if high > low else 1.0
            box = Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, linewidth=0)
            box.set(facecolor=COLOURS["given"], alpha=0.04 + (most - 0.04) * share)
            ax.add_patch(box)
            if numbered:
                style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}
                ax.text(column, row, f"{value:.0f}", color=COLOURS["ink"], **style)
        at = t.recommended["step"]
        if at in steps:
            frame = Rectangle((steps.index(at) - 0.5, -0.5), 1, len(layers), fill=False)
            frame.set(edgecolor=COLOURS["true"], linewidth=2.0, clip_on=False, zorder=5)
            ax.add_patch(frame)
        ax.set_yticks(range(len(layers)), short_names(layers))
        _name_steps(ax, steps)
        ax.set_ylim(-0.5, len(layers) - 0.5)  # the deepest on top
    return ax


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
    at = np.arange(len(steps))
    held = "holdout" if told["network_test"].isna().all() else "test"
    words = {"holdout": "network, hold-out", "test": "network, test"}
    shown: list[tuple[str, str, dict[str, Any]]] = [
        ("memory, last layer", "memory", {"color": COLOURS["true"], "marker": "v"}),
        ("network, its own labels", "network_train", {"color": COLOURS["muted"], "marker": "s"}),
        (words[held], f"network_{held}", {"color": COLOURS["ink"], "marker": "s"}),
        ("decoded, estimated", "estimate", {"color": COLOURS["given"], "marker": "D"}),
        ("decoded, test", "decoded_test", {"color": COLOURS["plain"], "marker": "o"}),
    ]
    with plain_text():
        ax, figure = axes(ax, 6.8, 3.2)
        quiet(ax, "Along training, %")
        low, high = (100 * told[f"estimate_{end}"].to_numpy(float) for end in ("low", "high"))
        ax.fill_between(at, low, high, color=COLOURS["given"], alpha=0.12, linewidth=0)
        ends = []
        for name, column, look in shown:
            values = 100 * told[column].to_numpy(float)
            if np.isfinite(values).any():
                style = {"markersize": 5, "linewidth": 1.6, "clip_on": False, **look}
                ax.plot(at, values, label=name, **style)
                ends.append((float(values[np.isfinite(values)][-1]), name, look["color"]))
        best = t.recommended["step"]
        if best in steps:
            ax.axvline(steps.index(best), color=COLOURS["true"], linewidth=1.2, zorder=0)
        _name_steps(ax, steps)
        ax.set_ylim(0, 100)
        ax.set_yticks(range(0, 101, 20))
        if figure.get_figwidth() >= ROOM_FOR_LABELS:
            name_ends(ax, ends, 15 * 100 / max(72 * 0.8 * figure.get_figheight(), 30))
        else:
            legend_above(ax, ends)
    return ax


def _steps(t: TraceRun) -> list[int]:
    return [int(step) for step in t.steps["step"]]


def _name_steps(ax: Axes, steps: Sequence[int]) -> None:
    every = -(-len(steps) // _MOST_TICKS)
    shown = range(0, len(steps), every)
    ax.set_xticks(shown, [f"{steps[place]}" for place in shown])
    ax.set_xlim(-0.5, len(steps) - 0.5)
    ax.set_xlabel("step", fontsize=10, color=COLOURS["muted"])
