"""A watched training run: a film strip of its layers, and the curves along training."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ...errors import DataError
from ...results.monitor.history import NETWORK
from ...results.monitor.record import MonitorRecord
from .film import Curve, Marks, draw_curves, draw_film
from .style import COLOURS

__all__ = ["MAPS", "monitor_curves", "monitor_map"]

#: The columns of the history that a film strip can show, and what they are.
MAPS = {
    "accuracy": "estimated accuracy",
    "memory": "memory",
    "perturbed": "given labels predicted on changed inputs",
    "plain": "given labels predicted on exact inputs",
}
# A film of less memory than this many per cent stays faint.
_LEAST_MEMORY = 20.0


def monitor_map(monitor: MonitorRecord, ax: Axes | None = None, *, of: str = "accuracy") -> Axes:
    """Draw layers × epochs as a film strip: the stronger the colour, the more.

    The row on top is the network's own predictions. A frame marks the epoch to keep so far, a
    dashed line the epoch in which memorising starts.

    Parameters
    ----------
    monitor : Monitor
        The monitor, or what `load_monitor` gives.
    ax : Axes, optional
        Where to draw; by default a new figure, 6.8 inches wide, higher for more layers.
    of : {"accuracy", "memory", "perturbed", "plain"}
        The column of `Monitor.history`: the estimated accuracy of a decoder of each layer; the
        share of given labels that are predicted for exact inputs and not for changed ones; the
        share for either.

    Returns
    -------
    Axes

    Raises
    ------
    DataError
        If no epoch was read, or `of` is another word.
    """
    if of not in MAPS:
        raise DataError(f"of: expected {', '.join(MAPS)}; found {of!r}")
    history = _history(monitor)
    table = 100 * history.pivot(index="layer", columns="epoch", values=of)
    layers = [str(name) for name in dict.fromkeys(history["layer"]) if name != NETWORK]
    values = table.loc[[*layers, NETWORK]].to_numpy(float)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    look: dict[str, Any] = {}
    if of == "memory":
        low, high = 0.0, max(high, _LEAST_MEMORY)
        look = {"colour": "true"}
    epochs = [int(epoch) for epoch in table.columns]
    title = f"{MAPS[of][0].upper()}{MAPS[of][1:]}: {low:.0f} (faint) to {high:.0f} % (strong)"
    return draw_film(
        ax,
        title,
        [*layers, "network"],
        epochs,
        values,
        marks=_marks(monitor, epochs),
        unit="epoch",
        limits=(low, high),
        apart=1,
        **look,
    )


def monitor_curves(monitor: MonitorRecord, ax: Axes | None = None) -> Axes:
    """Draw what the network repeats, what is decoded, and memory along training.

    Parameters
    ----------
    monitor : Monitor
        The monitor, or what `load_monitor` gives. The network's own curves are the share of given
        labels that it predicts on exact and on changed inputs, its estimated accuracy, its memory
        and, if there is one, its agreement with the hold-out. What is decoded is the largest
        estimated accuracy of a layer, with its 95 % interval.
    ax : Axes, optional
        Where to draw; by default a new figure of 6.8 × 3.2 inches.

    Returns
    -------
    Axes

    Raises
    ------
    DataError
        If no epoch was read.
    """
    history = _history(monitor)
    own = history[history["layer"] == NETWORK].set_index("epoch").sort_index()
    layers = history[history["layer"] != NETWORK]
    best = layers.loc[layers.groupby("epoch")["accuracy"].idxmax()].set_index("epoch")
    epochs = [int(epoch) for epoch in own.index]

    def curve(name: str, column: str, colour: str, marker: str, **style: Any) -> Curve:
        values = 100 * (best if name == "decoded" else own)[column].to_numpy(float)
        return Curve(name, values, {"color": COLOURS[colour], "marker": marker, **style})

    dotted, dashed = (0, (1, 1.6)), (0, (4, 1.6))
    curves = [
        curve("memory", "memory", "true", "v"),
        curve("network, exact inputs", "plain", "muted", "s", linestyle=dotted),
        curve("network, changed inputs", "perturbed", "muted", "s", markerfacecolor="none"),
        curve("network, hold-out", "holdout", "plain", "o", linestyle=dashed),
        curve("network, estimated", "accuracy", "ink", "s"),
        curve("decoded", "accuracy", "given", "D"),
    ]
    low, high = (100 * best[f"accuracy_{end}"].to_numpy(float) for end in ("low", "high"))
    return draw_curves(
        ax,
        "Along training, %",
        epochs,
        curves,
        band=(low, high),
        marks=_marks(monitor, epochs),
        unit="epoch",
    )


def _history(monitor: MonitorRecord) -> Any:
    history = monitor.history
    if history.empty:
        raise DataError("expected a monitor that has read an epoch; found none in its history")
    return history


def _marks(monitor: MonitorRecord, epochs: list[int]) -> Marks:
    kept, when = monitor.recommended, monitor.alarm
    return Marks(
        None if kept is None else epochs.index(kept.epoch),
        None if when is None else epochs.index(when.epoch),
    )
