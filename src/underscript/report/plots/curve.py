"""Accuracy against depth: what each layer still knows, beside the network and the controls."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from ...activations.together import checkpoint_of
from ...probes.ensemble import COMBINED
from ...results.run import Run
from .rows import SPLIT_TITLES, checked, layer_order, main_rows, plain_rows
from .style import COLOURS, axes, plain_text, quiet, short_names, spread

__all__ = ["layer_curve"]

_MOST_TICKS = 14
_DECODED = "decoded, given labels"
ROOM_FOR_LABELS = 5.0  # inches of figure; below that the curves are named in a legend


@dataclass(frozen=True)
class _Curve:
    """One line of the figure: a value for each layer, in per cent; NaN where there is none.

    For several runs it is their mean, and `spreads` are their standard deviations.
    """

    name: str
    heights: Sequence[float]
    style: Mapping[str, Any]
    spreads: Sequence[float] = ()

    @property
    def last(self) -> float:
        return next((v for v in reversed(self.heights) if math.isfinite(v)), math.nan)

    @property
    def drawn(self) -> bool:
        return math.isfinite(self.last)


def _by_checkpoint(
    layers: Sequence[str], heights: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return places and heights of a line with a gap behind each checkpoint of a network."""
    places: list[float] = []
    values: list[float] = []
    for place, (name, height) in enumerate(zip(layers, heights, strict=False)):
        if place and checkpoint_of(name) != checkpoint_of(layers[place - 1]):
            places.append(math.nan)
            values.append(math.nan)
        places.append(place)
        values.append(height)
    return places, values


def layer_curve(d: Run | Sequence[Run], ax: Axes | None = None, *, controls: bool = True) -> Axes:
    """Draw accuracy against depth: what each layer still knows, beside the model itself.

    The figure shows what the table has: the layers decoded from the given labels by the chosen kind
    of decoder, and by MASC if that is another; from the true labels; the layers of the randomly
    initialised twin; the model's own accuracy (dashed), chance (dotted) and a ring around the
    chosen layer.

    Parameters
    ----------
    d : Decoding or sequence of Decoding
        The run to draw. Of several, such as of several seeds, the mean is drawn with the standard
        deviation (n − 1) as bars.
    ax : Axes, optional
        Where to draw. By default a new figure of 6.8 × 4 inches, without pyplot.
    controls : bool
        Draw all that the table has. If false there are two lines: the model's own accuracy and
        what is decoded from the given labels.

    Returns
    -------
    Axes
        ``.figure.savefig(path)`` writes it. A figure of 5 inches and wider names its curves
        beside their ends, a narrower one in a legend above.

    Raises
    ------
    DataError
        If a table lacks a column, or has no accuracy of the chosen decoder.
    """
    runs = list(d) if isinstance(d, Sequence) else [d]
    parts = [main_rows(run.summary, checked(run.table)) for run in runs]
    split = parts[0][0]
    layers = list(dict.fromkeys(name for run in runs for name in layer_order(run.table)))
    layers = sorted(layers, key=COMBINED.__eq__)  # stable: the combined layers come last
    main = [rows for _, rows in parts]
    beside = [plain_rows(run.summary, run.table, split) for run in runs]
    curves = [curve for curve in _curves(main, beside, layers) if curve.drawn]
    if not controls:
        curves = [curve for curve in curves if curve.name == _DECODED]
    own = [
        rows.loc[(rows["probe"] == "model") & (rows["model"] == "trained"), "accuracy"].dropna()
        for rows in main
    ]
    levels = [100 * float(values.iloc[0]) for values in own if len(values)]
    chosen = runs[0].summary["selected"]["layer"] if len(runs) == 1 else ""
    with plain_text():
        ax, figure = axes(ax, 6.8, 4.0)
        names_beside = figure.get_figwidth() >= ROOM_FOR_LABELS
        point = frame_layers(ax, layers, chosen, SPLIT_TITLES[split])

        ends: list[tuple[float, str, str]] = []
        n_classes = runs[0].summary["model"]["n_classes"]
        if controls and n_classes:
            chance = 100 / n_classes
            ax.axhline(
                chance, color=COLOURS["faint"], linewidth=1.1, linestyle=(0, (1, 2.2)), zorder=1
            )
            ends.append((chance, f"chance {chance:.3g}", COLOURS["muted"]))
        level = float(np.mean(levels)) if levels else math.nan
        if levels:
            name = f"the model itself {level:.1f}"
            style: dict[str, Any] = {
                "color": COLOURS["ink"],
                "linewidth": 1.6,
                "linestyle": (0, (6, 3)),
            }
            ax.axhline(level, label=name, zorder=2, **style)
            if len(levels) > 1:
                sd = float(np.std(levels, ddof=1))
                ax.axhspan(level - sd, level + sd, color=COLOURS["grid"], linewidth=0, zorder=0)
            ends.append((level, name, COLOURS["ink"]))
        # Combined layers are no step deeper: their point is drawn apart.
        depth = len(layers) - (layers[-1] == COMBINED)
        for curve in curves:
            line = _by_checkpoint(layers[:depth], curve.heights)
            ax.plot(*line, label=curve.name, **curve.style)
            if depth < len(layers):
                ax.plot([depth], curve.heights[depth:], **curve.style)
            if len(curve.spreads):
                ax.errorbar(
                    range(len(layers)),
                    curve.heights,
                    yerr=curve.spreads,
                    fmt="none",
                    capsize=2.5,
                    ecolor=curve.style["color"],
                    elinewidth=1.2,
                    zorder=curve.style["zorder"],
                    clip_on=False,
                )
            ends.append((curve.last, curve.name, str(curve.style["color"])))
        if chosen in layers:
            _mark_selected(ax, layers.index(chosen), curves, level, point)
        if names_beside:
            name_ends(ax, ends, 15 * point)
        else:
            legend_above(ax, ends)
    return ax


def _curves(
    main: Sequence[pd.DataFrame], beside: Sequence[pd.DataFrame], layers: Sequence[str]
) -> list[_Curve]:
    """Return the curves, the most important last so that it is drawn on top.

    `main` holds the rows of the chosen kind of decoder, `beside` those of MASC or VeLPIC if the
    chosen one is another; one table for each run.
    """
    line = {"linewidth": 2.0, "markersize": 6 if len(layers) <= 20 else 3.5, "clip_on": False}
    hollow = {"markerfacecolor": COLOURS["paper"]}

    def curve(
        name: str, tables: Sequence[pd.DataFrame], model: str, labels: str, **style: Any
    ) -> _Curve:
        values = []
        for rows in tables:
            matching = rows[(rows["model"] == model) & (rows["subspace_labels"] == labels)]
            by_layer = dict(zip(matching["layer"].astype(str), matching["accuracy"], strict=True))
            values.append([100 * float(by_layer.get(layer, math.nan)) for layer in layers])
        known = pd.DataFrame(values).astype(float)
        spreads = known.std().tolist() if len(values) > 1 else ()
        return _Curve(name, known.mean().tolist(), line | style, spreads)

    plain = beside if any(len(rows) for rows in beside) else None
    kind = "decoded"
    if plain is not None:
        kind = {"masc": "MASC", "velpic": "VeLPIC"}[
            next(str(rows["probe"].iloc[0]) for rows in plain if len(rows))
        ]
    curves = [
        curve(
            "random network",
            main,
            "random",
            "corrupted",
            color=COLOURS["muted"],
            marker="^",
            linestyle=(0, (3, 1.5)),
            linewidth=1.4,
            zorder=3,
            **hollow,
        ),
        curve(
            f"{kind}, true labels",
            plain or main,
            "trained",
            "true",
            color=COLOURS["true"],
            marker="s",
            linewidth=1.8,
            zorder=4,
            **hollow,
        ),
    ]
    if plain is not None:
        curves.append(
            curve(
                f"{kind}, given labels",
                plain,
                "trained",
                "corrupted",
                color=COLOURS["plain"],
                marker="D",
                linewidth=1.6,
                linestyle=(0, (4, 1.2, 1, 1.2)),
                zorder=4,
                **hollow,
            )
        )
    curves.append(
        curve(
            _DECODED,
            main,
            "trained",
            "corrupted",
            color=COLOURS["given"],
            marker="o",
            linewidth=2.8,
            zorder=5,
        )
    )
    return curves


def frame_layers(ax: Axes, layers: Sequence[str], selected: str, title: str) -> float:
    """Set axes, ticks and title; of many layers every k-th and the selected one are named.

    Returns roughly how much one point on paper is on the axis of accuracies: the exact value is
    known only when the figure is drawn.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    step = math.ceil(len(layers) / _MOST_TICKS)
    shown = [i for i in range(len(layers)) if i % step == 0]
    if selected in layers and (chosen := layers.index(selected)) not in shown:
        shown = sorted([i for i in shown if abs(i - chosen) >= step / 2] + [chosen])
    short = short_names(layers)
    names = [short[i] for i in shown]
    share = 0.66 if figure.get_figwidth() >= ROOM_FOR_LABELS else 0.84  # of the width, the axis
    room = share * 72 * figure.get_figwidth() / 6.2  # in characters of a tick's name
    # Centred names must leave each other room; those at the ends may stand out a little.
    lengths = [len(name) for name in names]
    widest = max([(a + b) / 2 for a, b in pairwise(lengths)], default=lengths[0])
    slanted = len(shown) * (widest + 1) > room
    ax.set_xticks(shown)
    ax.set_xticklabels(
        names,
        rotation=45 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor" if slanted else "default",
        parse_math=False,
    )
    margin = 0.5 if len(layers) == 1 else 0.03 * (len(layers) - 1) + 0.05
    ax.set_xlim(-margin, len(layers) - 1 + margin)
    ax.set_ylim(0, 100)
    ax.set_yticks(range(0, 101, 20))
    quiet(ax, title)
    for label, i in zip(ax.get_xticklabels(), shown, strict=True):
        if layers[i] == selected:
            label.set(color=COLOURS["given"], fontweight="bold")
    longest = max(map(len, names)) if slanted else 0
    return 100 / max(72 * 0.8 * figure.get_figheight() - 4.4 * longest, 30)


def _mark_selected(ax: Axes, at: int, curves: Sequence[_Curve], level: float, point: float) -> None:
    """Ring the selected layer, and write its accuracy and its gain over the model's `level`."""
    given = next((curve for curve in curves if curve.style["color"] == COLOURS["given"]), None)
    if given is None or not math.isfinite(given.heights[at]):
        return
    figure = ax.get_figure(root=True)
    assert figure is not None
    colour, value = COLOURS["given"], given.heights[at]
    ax.plot(
        [at],
        [value],
        marker="o",
        markersize=13,
        markerfacecolor="none",
        markeredgewidth=1.8,
        markeredgecolor=colour,
        clip_on=False,
        zorder=6,
    )
    text, places = f"{value:.1f}", np.linspace(value - 20 * point, value + 20 * point, 21)
    if value - level > 45 * point:  # an arrow from the model to what was decoded has room
        text += f"\n+{value - level:.1f} points"
        places = np.linspace(level + 18 * point, value - 18 * point, 21)
        ax.annotate(
            "",
            (at, value - 7.5 * point),
            xytext=(at, level),
            arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.3, "shrinkA": 0}
            | {"shrinkB": 0, "mutation_scale": 11},
            zorder=5,
        )
    # Of all places beside the arrow or ring, take the one farthest from every line.
    low, high = ax.get_xlim()
    width = 75 / (72 * 0.72 * figure.get_figwidth()) * (high - low)
    best = (-math.inf, 1, value)
    for side in (1, -1):
        if not low <= at + side * width <= high:
            continue
        span = at + side * np.linspace(0.1, 1, 10) * width
        lines = [np.full(10, 101.0), np.full(10, 0.0), np.full(10, level)]
        for curve in curves:
            known = [i for i, height in enumerate(curve.heights) if math.isfinite(height)]
            lines.append(np.interp(span, known, [curve.heights[i] for i in known]))
        for place in places:
            free = float(np.nanmin(np.abs(np.stack(lines) - place)))
            best = max(best, (free, side, float(place)))
    _, side, place = best
    ax.annotate(
        text,
        (at, place),
        xytext=(11 * side, 0),
        textcoords="offset points",
        ha="left" if side > 0 else "right",
        va="center",
        fontsize=11,
        fontweight="bold",
        color=colour,
        zorder=7,
    )


def name_ends(ax: Axes, ends: Sequence[tuple[float, str, str]], gap: float) -> None:
    """Write each curve's name to the right of its end, moved apart where they would overlap."""
    order = sorted(ends, key=lambda end: end[0])
    places = spread([value for value, _, _ in order], gap, 0.0, 100.0)
    for place, (_, name, colour) in zip(places, order, strict=True):
        ax.annotate(
            name,
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            fontsize=10.5,
            color=colour,
            annotation_clip=False,
        )


def legend_above(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Name the curves in two columns above the title; chance is named at its line."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    for value, name, colour in ends:
        if name.startswith("chance"):
            ax.annotate(
                name,
                (1, value),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                fontsize=9,
                color=colour,
            )
    handles, names = ax.get_legend_handles_labels()
    ax.legend(
        handles[::-1],
        names[::-1],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        # In points from the corner, as the axes' height is not known before the layout.
        bbox_transform=ax.transAxes + ScaledTranslation(-30 / 72, 32 / 72, figure.dpi_scale_trans),
        ncols=2,
        frameon=False,
        fontsize=min(2.25 * figure.get_figwidth(), 9.5),
        labelcolor=COLOURS["ink"],
        handlelength=1.8,
        handletextpad=0.5,
        columnspacing=1.0,
        borderaxespad=0,
        borderpad=0,
    )
