"""The memory meter: how much of a layer's agreement with the given labels is memory."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ...errors import DataError
from ...results.run import Run
from .curve import ROOM_FOR_LABELS, frame_layers, legend_above, name_ends
from .style import COLOURS, axes, plain_text

__all__ = ["memory_meter"]


def memory_meter(d: Run, ax: Axes | None = None) -> Axes:
    """Draw how often each layer agrees with the given labels, on exact and on changed inputs.

    For each layer it shows the out-of-fold agreement of a linear discriminant: on the training
    inputs as they are, on the same inputs perturbed, and on a hold-out. A bar marks the gap.

    Parameters
    ----------
    d : Decoding
        The run to draw.
    ax : Axes, optional
        Where to draw; by default a new figure of 6.8 × 3.2 inches.

    Returns
    -------
    Axes

    Raises
    ------
    DataError
        If memory was not measured (``auto=False``).
    """
    table = d.memory
    if not len(table):
        raise DataError("expected a run that measured memory; decode with auto=True")
    layers = [str(name) for name in table["layer"]]
    at = np.arange(len(layers))
    plain = 100 * table["plain"].to_numpy(float)
    beside: list[tuple[str, np.ndarray[Any, Any], dict[str, Any]]] = []
    if d.summary["settings"].get("perturb") is not None:
        moved = 100 * table["perturbed"].to_numpy(float)
        beside.append(("perturbed", moved, {"color": COLOURS["given"], "marker": "v"}))
    if table["holdout"].notna().all():
        held = 100 * table["holdout"].to_numpy(float)
        beside.append(("hold-out", held, {"color": COLOURS["plain"], "marker": "D"}))
    few = len(layers) <= 20
    style: dict[str, Any] = {
        "markersize": 7 if few else 4,
        "linewidth": 0.9,
        "clip_on": False,
        "zorder": 4,
    }
    with plain_text():
        ax, figure = axes(ax, 6.8, 3.2)
        point = frame_layers(ax, layers, "", "Given labels that each layer predicts, %")
        if beside:
            ax.vlines(
                at,
                beside[-1][1],
                plain,
                color=COLOURS["faint"],
                alpha=0.4,
                linewidth=9 if few else 4,
                zorder=1,
            )
        ends = [(float(plain[-1]), "exact inputs", COLOURS["true"])]
        for name, values, look in beside:
            ax.plot(at, values, label=name, linestyle=(0, (1, 2)), **style | look)
            ends.append((float(values[-1]), name, look["color"]))
        ax.plot(
            at,
            plain,
            label="exact inputs",
            color=COLOURS["true"],
            marker="o",
            linestyle=(0, (1, 2)),
            **style,
        )
        if figure.get_figwidth() >= ROOM_FOR_LABELS:
            name_ends(ax, ends, 15 * point)
        else:
            legend_above(ax, ends)
    return ax
