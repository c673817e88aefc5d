"""The paper's figure: accuracy against depth, one panel for each corruption degree."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..report.plots import COLOURS
from ..utils.files import whole_file
from .plan import Plan
from .shown_dynamics import curves

__all__ = ["depth_figure", "dynamics_figure", "study_figure", "write_figures"]

# Curves of a panel: experiment, network, subspaces, legend, colour, dash, marker.
CURVES = (
    ("E1", "trained", "corrupted", "MASC, corrupted labels", "given", "-", "o"),
    ("E2", "trained", "true", "MASC, true labels", "true", "-", "s"),
    ("E3", "trained", "corrupted", "MASC, corrupted, network of c = 0", "given", ":", "^"),
    ("E1", "random", "corrupted", "MASC, corrupted, untrained network", "muted", "--", "x"),
)


def depth_figure(plan: Plan, summary: pd.DataFrame, most: int = 3) -> Figure:
    """Draw test accuracy against depth; bars are the standard deviation over runs.

    Parameters
    ----------
    plan : Plan
        The plan of the pair and layers to draw.
    summary : pandas.DataFrame
        From `summarise`.
    most : int
        Most panels side by side.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows = summary[(summary["split"] == "test") & summary["experiment"].isin(["E1", "E2", "E3"])]
    degrees = sorted(rows["corruption"].unique())
    layers = [layer for layer in plan.pair.layers if layer in set(rows["layer"])]
    columns = min(most, len(degrees))
    least = 4.2 if most == 1 else 5.2
    figure, panels = _panels(len(degrees), columns, (least, 1.2), (2.5, 2.15), sharex=True)
    figure.patch.set_facecolor(COLOURS["paper"])
    handles: dict[str, Any] = {}
    for place, ax in enumerate(panels):
        handles |= _panel(ax, rows[rows["corruption"] == degrees[place]], layers)
        ax.set_title(f"corruption degree {degrees[place]:g}", fontsize=9, color=COLOURS["ink"])
        # A panel above an empty place has to name its layers itself.
        if place + columns >= len(degrees):
            ax.xaxis.set_tick_params(labelbottom=True)
    _label(figure, panels[::columns], "test accuracy, %", handles, min(3, columns))
    return figure


def _panels(
    n: int,
    columns: int,
    least: tuple[float, float],
    each: tuple[float, float],
    sharex: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its n panels, row by row, with one y-axis.

    `least` is the smallest width of the figure and the height of what is above the panels, `each`
    width and height of a panel, in inches.
    """
    lines = -(-n // columns)
    size = max(least[0], 0.6 + each[0] * columns), least[1] + each[1] * lines
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(lines, columns, sharex=sharex, sharey=True, squeeze=False).flat
    for ax in grid[n:]:
        ax.set_visible(False)
    return figure, list(grid[:n])


def _label(
    figure: Figure, first: Sequence[Axes], what: str, handles: dict[str, Any], columns: int
) -> None:
    """Name the y-axis of each row's first panel, and the curves above all panels."""
    for ax in first:
        ax.set_ylabel(what, fontsize=8, color=COLOURS["ink"])
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper center",
        ncols=columns,
        fontsize=8,
        frameon=False,
    )


def _panel(ax: Axes, rows: pd.DataFrame, layers: list[str]) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    at = np.arange(len(layers))
    for experiment, model, labels, name, colour, dash, marker in CURVES:
        curve = rows[
            (rows["experiment"] == experiment)
            & (rows["model"] == model)
            & (rows["subspace_labels"] == labels)
            & (rows["probe"] == "masc")
        ].set_index("layer")
        if not len(curve):
            continue
        means = 100 * curve["mean"].reindex(layers).to_numpy(float)
        spread = 100 * curve["sd"].reindex(layers).fillna(0).to_numpy(float)
        handles[name] = ax.errorbar(
            at,
            means,
            yerr=spread,
            color=COLOURS[colour],
            linestyle=dash,
            marker=marker,
            markersize=4,
            linewidth=1.4,
            capsize=2,
        )
    own = rows[(rows["probe"] == "model") & (rows["experiment"] == "E1")]
    if len(own):
        level, sd = 100 * float(own["mean"].iloc[0]), 100 * float(own["sd"].fillna(0).iloc[0])
        ax.axhspan(level - sd, level + sd, color=COLOURS["faint"], alpha=0.35, linewidth=0)
        handles["the network itself"] = ax.axhline(level, color=COLOURS["ink"], linewidth=1)
    ax.set_xticks(at, layers, rotation=30 if len(layers) > 5 else 0)
    ax.set_xlim(-0.3, len(layers) - 0.7)
    _quiet(ax)
    return handles


# Curves of a panel of the study: column, chosen by, legend, colour, dash, marker.
STUDY = (
    ("model", None, "the network itself", "ink", (0, (6, 3)), "x"),
    ("masc", None, "MASC 0.99, best layer (oracle)", "plain", (0, (4, 1.2, 1, 1.2)), "D"),
    ("rival", None, "best published-kind probe (oracle)", "true", "-", "s"),
    ("accuracy", "training data", "chosen on the training data", "muted", (0, (3, 1.5)), "^"),
    ("accuracy", "holdout", "chosen on a hold-out", "given", "-", "o"),
)


def study_figure(networks: pd.DataFrame, most: int = 3) -> Figure:
    """Draw test accuracy against the corruption degree, with a panel per setting and noise.

    Parameters
    ----------
    networks : pandas.DataFrame
        From `study_table`. Curves are means over runs; bars are the standard deviation.
    most : int
        Most panels side by side.

    Returns
    -------
    matplotlib.figure.Figure
    """
    shown = list(networks.groupby(["setting", "noise"], sort=False))
    columns = min(most, len(shown))
    figure, panels = _panels(len(shown), columns, (4.2, 1.3), (2.5, 2.15))
    handles: dict[str, Any] = {}
    for ax, ((setting, noise), rows) in zip(panels, shown, strict=True):
        for column, by, name, colour, dash, marker in STUDY:
            some = rows if by is None else rows[rows["chosen_by"] == by]
            if not len(some):
                continue
            points = some.groupby("corruption")[column].agg(["mean", "std"])
            handles[name] = ax.errorbar(
                points.index,
                100 * points["mean"],
                yerr=100 * points["std"].fillna(0),
                color=COLOURS[colour],
                linestyle=dash,
                marker=marker,
                markersize=4,
                linewidth=2.2 if by == "holdout" else 1.3,
                capsize=2,
            )
        ax.set_title(f"{setting}, {noise} noise", fontsize=9, color=COLOURS["ink"])
        _quiet(ax)
        ax.set_xticks(sorted(rows["corruption"].unique()))
        ax.set_xlim(-0.06, 1.06)
        ax.set_xlabel("corruption degree c", fontsize=8, color=COLOURS["muted"])
    _label(figure, panels[::columns], "test accuracy, %", handles, min(3, columns))
    return figure


# Curves of a panel along training, by the beginning of their names: colour, dash, marker.
ALONG = (
    ("the network, training", "muted", (0, (1, 1.5)), None),
    ("the network", "ink", "-", "x"),
    ("MASC", "plain", (0, (4, 1.2, 1, 1.2)), "D"),
    ("VeLPIC on", "true", (0, (3, 1.5)), "s"),
    ("VeLPIC written", "given", "-", "o"),
)


def dynamics_figure(dynamics: pd.DataFrame, most: int = 3) -> Figure:
    """Draw accuracy against the epoch, with a panel for each corruption degree.

    Parameters
    ----------
    dynamics : pandas.DataFrame
        From `dynamics_table`. Curves are means over runs; bars are the standard deviation.
    most : int
        Most panels side by side.

    Returns
    -------
    matplotlib.figure.Figure
    """
    shown = list(dynamics.groupby("corruption"))
    columns = min(most, len(shown))
    least = 4.4 if most == 1 else 6.4
    figure, panels = _panels(len(shown), columns, (least, 1.6), (2.8, 2.3))
    figure.patch.set_facecolor(COLOURS["paper"])
    handles: dict[str, Any] = {}
    for ax, (degree, rows) in zip(panels, shown, strict=True):
        for name, curve in curves(rows).items():
            _, colour, dash, marker = next(style for style in ALONG if name.startswith(style[0]))
            # Panels may have different best layers.
            short = name if len(shown) == 1 else name.partition(" on ")[0]
            handles[short] = ax.errorbar(
                curve["epoch"],
                100 * curve["mean"],
                yerr=100 * curve["sd"].fillna(0),
                color=COLOURS[colour],
                linestyle=dash,
                marker=marker,
                markersize=3.5,
                linewidth=1.4,
                capsize=2,
            )
        ax.set_title(f"corruption degree {degree:g}", fontsize=9, color=COLOURS["ink"])
        _quiet(ax)
        ax.set_xlabel("epoch", fontsize=8, color=COLOURS["muted"])
    _label(figure, panels[::columns], "accuracy, %", handles, 1 if most == 1 else 2)
    return figure


def _quiet(ax: Axes) -> None:
    ax.set_ylim(0, 101)
    ax.grid(axis="y", color=COLOURS["grid"], linewidth=0.8)
    ax.tick_params(labelsize=8, colors=COLOURS["muted"], length=0)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def write_figures(
    plan: Plan, summary: pd.DataFrame, dynamics: pd.DataFrame, out: Path
) -> list[Path]:
    """Write the figures of E1–E3 and of S1 and S2 to ``figures/``, if any of them was run.

    Each is written as SVG and as PNG.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    figures = {}
    if summary["experiment"].isin(["E1", "E2", "E3"]).any():
        figures["depth"] = depth_figure(plan, summary)
    if len(dynamics):
        figures["dynamics"] = dynamics_figure(dynamics)
    written = []
    for name, figure in figures.items():
        for kind in ("svg", "png"):
            path = out / "figures" / f"{name}.{kind}"
            with whole_file(path) as work:
                figure.savefig(work, format=kind, dpi=200)
            written.append(path)
    return written
