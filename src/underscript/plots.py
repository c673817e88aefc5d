"""Figures as functions: plain results in, matplotlib axes out.

The input is what a run folder holds (``results.json`` as a mapping, ``layers.csv`` as a table), so
that every figure can be made again from the folder alone. Nothing here touches pyplot, the global
settings of matplotlib, or a display.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from .combined import COMBINED
from .errors import DataError

__all__ = ["COLOURS", "layer_curve"]

#: The colours of every figure. Blue and orange stay apart for all common kinds of colour blindness
#: (each curve has its own marker and dash as well); every text colour has a contrast of at least
#: 4.5 to 1 on white. The report replaces each by a CSS variable of the same name, for dark mode.
COLOURS: Mapping[str, str] = {
    "ink": "#1c2128",
    "muted": "#626b77",
    "faint": "#aab1bb",
    "grid": "#e6e9ed",
    "paper": "#fefefe",
    "given": "#0b63b0",
    "true": "#b04e00",
}

#: What a table must have for a figure or a report to be made from it.
TABLE_COLUMNS = (
    "model", "layer", "width", "probe", "variance", "subspace_labels",
    "rank", "split", "labels", "n", "accuracy", "selected",
)  # fmt: skip

SPLIT_TITLES = {
    "test": "Accuracy on test data, %",
    "holdout": "Accuracy on held-out data (given labels), %",
    "train": "Accuracy on training data (given labels), %",
}

_MOST_TICKS = 14
_LONGEST_TICK = 16
_ROOM_FOR_LABELS = 5.0  # inches of figure; below that the curves are named in a legend


@dataclass(frozen=True)
class _Curve:
    """One line of the figure: a value for each layer, in per cent; NaN where there is none."""

    name: str
    heights: Sequence[float]
    style: Mapping[str, Any]

    @property
    def last(self) -> float:
        return next((v for v in reversed(self.heights) if math.isfinite(v)), math.nan)

    @property
    def drawn(self) -> bool:
        return math.isfinite(self.last)


def checked(table: pd.DataFrame) -> pd.DataFrame:
    """Return `table` if it has the columns of a table of layers and a decoded row, else raise.

    Raises
    ------
    DataError
        If a column is missing or nothing was decoded.
    """
    missing = [name for name in TABLE_COLUMNS if name not in table.columns]
    if missing:
        raise DataError(
            f"expected a table of layers with the column {missing[0]!r}, found "
            f"{', '.join(map(str, table.columns)) or 'no columns'}; give layers.csv of a run"
        )
    if not (table["probe"] != "model").any():
        raise DataError(
            f"expected decoded layers in the table, found {len(table)} rows and none of a decoder; "
            "give layers.csv of a run that ended"
        )
    return table


def layer_order(table: pd.DataFrame) -> list[str]:
    """Return the names of the decoded layers, in the order in which they first appear."""
    return [str(name) for name in table.loc[table["probe"] != "model", "layer"].unique()]


def same_variance(column: pd.Series, variance: float | None) -> pd.Series:
    """Say of each row whether its variance share is `variance` (None or NaN: none)."""
    if variance is None or math.isnan(variance):
        return column.isna()
    return (column.astype(float) - variance).abs() < 1e-9


def main_rows(summary: Mapping[str, Any], table: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Return the split that the figure shows, and its rows of the selected decoder and the model.

    That is the test split; without one the held-out data, and without that the training data.

    Returns
    -------
    split : str
        ``"test"``, ``"holdout"`` or ``"train"``.
    rows : DataFrame
        The rows of that split that are scored against the given labels and belong to the selected
        probe and variance share, or to the model itself.
    """
    selected = summary["selected"]
    ours = (table["probe"] == selected["probe"]) & same_variance(
        table["variance"], selected["variance"]
    )
    rows = table[(ours | (table["probe"] == "model")) & (table["labels"] == "given")]
    for split in SPLIT_TITLES:
        found = rows[rows["split"] == split]
        if ((found["probe"] != "model") & found["accuracy"].notna()).any():
            return split, found
    raise DataError(
        f"expected accuracies of the selected decoder {selected['probe']!r} in the table, found "
        "none; results.json and layers.csv must be of the same run"
    )


def printable(text: str) -> str:
    """Return `text` with what cannot be shown (control and bidirectional marks) as ``�``."""
    return "".join(c if c.isprintable() else "�" for c in text)


def layer_curve(summary: Mapping[str, Any], table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw accuracy against depth: what each layer still knows, beside the model itself.

    Drawn are, where the table has them: the layers decoded from the given labels and from the
    true labels, those of the randomly initialised twin, the model's own accuracy (dashed), chance
    (dotted) and a ring around the selected layer. Where the table has several decoders, the
    curves are those of the selected one.

    Parameters
    ----------
    summary : mapping
        The results of a run, as in ``results.json``.
    table : DataFrame
        Its table, as in ``layers.csv``; layers are drawn in the order of first appearance.
    ax : Axes, optional
        Where to draw. By default a new figure of 6.8 × 4 inches that knows nothing of pyplot.

    Returns
    -------
    Axes
        ``.figure.savefig(path)`` writes it. A figure of 5 inches and wider names its curves
        beside their ends, a narrower one in a legend above.

    Raises
    ------
    DataError
        If the table lacks a column, or has no accuracy of the selected decoder.
    """
    split, rows = main_rows(summary, checked(table))
    layers = layer_order(table)
    curves = [curve for curve in _curves(rows, layers) if curve.drawn]
    own = rows.loc[(rows["probe"] == "model") & (rows["model"] == "trained"), "accuracy"].dropna()
    # No TeX and no mathematics, whatever the user has set: layer names may hold `$` and `_`.
    with mpl.rc_context({"text.usetex": False, "text.parse_math": False}):
        if ax is None:
            ax = Figure(figsize=(6.8, 4.0), layout="constrained").subplots()
        figure = ax.get_figure(root=True)
        assert figure is not None
        names_beside = figure.get_figwidth() >= _ROOM_FOR_LABELS
        point = _frame(ax, layers, summary["selected"]["layer"], SPLIT_TITLES[split])

        ends: list[tuple[float, str, str]] = []
        if summary["model"]["n_classes"]:
            chance = 100 / summary["model"]["n_classes"]
            ax.axhline(
                chance, color=COLOURS["faint"], linewidth=1.1, linestyle=(0, (1, 2.2)), zorder=1
            )
            ends.append((chance, f"chance {chance:.3g}", COLOURS["muted"]))
        level = 100 * float(own.iloc[0]) if len(own) else math.nan
        if len(own):
            ax.axhline(
                level,
                label=f"the model itself {level:.1f}",
                color=COLOURS["ink"],
                linewidth=1.6,
                linestyle=(0, (6, 3)),
                zorder=2,
            )
            ends.append((level, f"the model itself {level:.1f}", COLOURS["ink"]))
        # Several layers together are no step deeper: their point stands by itself.
        depth = len(layers) - (layers[-1] == COMBINED)
        for curve in curves:
            ax.plot(range(depth), curve.heights[:depth], label=curve.name, **curve.style)
            if depth < len(layers):
                ax.plot([depth], curve.heights[depth:], **curve.style)
            ends.append((curve.last, curve.name, str(curve.style["color"])))
        if summary["selected"]["layer"] in layers:
            _mark_selected(ax, layers.index(summary["selected"]["layer"]), curves, level, point)
        if names_beside:
            _name_ends(ax, ends, 15 * point)
        else:
            _legend_above(ax, ends)
    return ax


def _curves(rows: pd.DataFrame, layers: Sequence[str]) -> list[_Curve]:
    """Return the three curves, the most important last so that it is drawn on top."""
    line = {"linewidth": 2.0, "markersize": 6 if len(layers) <= 20 else 3.5, "clip_on": False}

    def values(model: str, labels: str) -> list[float]:
        found = rows[(rows["model"] == model) & (rows["subspace_labels"] == labels)]
        by_layer = dict(zip(found["layer"].astype(str), found["accuracy"], strict=True))
        return [100 * float(by_layer.get(name, math.nan)) for name in layers]

    return [
        _Curve(
            "random network",
            values("random", "corrupted"),
            line
            | {"color": COLOURS["muted"], "marker": "^", "linestyle": (0, (3, 1.5)), "zorder": 3}
            | {"linewidth": 1.4, "markerfacecolor": COLOURS["paper"]},
        ),
        _Curve(
            "decoded, true labels",
            values("trained", "true"),
            line
            | {"color": COLOURS["true"], "marker": "s", "zorder": 4}
            | {"markerfacecolor": COLOURS["paper"], "linewidth": 1.8},
        ),
        _Curve(
            "decoded, given labels",
            values("trained", "corrupted"),
            line | {"color": COLOURS["given"], "marker": "o", "linewidth": 2.8, "zorder": 5},
        ),
    ]


def _frame(ax: Axes, layers: Sequence[str], selected: str, title: str) -> float:
    """Set axes, ticks and title; of many layers every k-th is named, and the selected one.

    Returns what one point on paper is on the axis of accuracies, roughly: the layout, which would
    know it, is made when the figure is drawn.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    step = math.ceil(len(layers) / _MOST_TICKS)
    shown = [i for i in range(len(layers)) if i % step == 0]
    if selected in layers and (chosen := layers.index(selected)) not in shown:
        shown = sorted([i for i in shown if abs(i - chosen) >= step / 2] + [chosen])
    short = short_names(layers)
    names = [short[i] for i in shown]
    share = 0.66 if figure.get_figwidth() >= _ROOM_FOR_LABELS else 0.84  # of the width, the axis
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
    ax.tick_params(length=0, pad=6, labelsize=10, labelcolor=COLOURS["muted"])
    for label, i in zip(ax.get_xticklabels(), shown, strict=True):
        if layers[i] == selected:
            label.set(color=COLOURS["given"], fontweight="bold")
    ax.grid(axis="y", color=COLOURS["grid"], linewidth=0.9)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set(color=COLOURS["faint"], linewidth=1.0)
    ax.set_title(title, loc="left", fontsize=10.5, color=COLOURS["ink"], pad=13)
    longest = max(map(len, names)) if slanted else 0
    return 100 / max(72 * 0.8 * figure.get_figheight() - 4.4 * longest, 30)


def short_names(names: Sequence[str]) -> list[str]:
    """Shorten long dotted names to what tells them apart.

    >>> short_names(["input", "encoder.layer.0.attention.out", "encoder.layer.1.attention.out"])
    ['input', '…0…', '…1…']
    """
    names = [printable(name) for name in names]
    long = [name.split(".") for name in names if len(name) > _LONGEST_TICK]
    start = end = 0
    if len(long) > 1:
        fewest = min(map(len, long)) - 1  # something of each name must stay
        while start < fewest and len({parts[start] for parts in long}) == 1:
            start += 1
        while start + end < fewest and len({parts[-1 - end] for parts in long}) == 1:
            end += 1
    shown = []
    for name in names:
        if len(name) > _LONGEST_TICK:
            parts = name.split(".")
            name = ".".join(parts[start : len(parts) - end])
            room = _LONGEST_TICK - bool(end)
            if start or len(name) > room:
                name = "…" + name[-(room - 1) :]
            name += "…" if end else ""
        shown.append(name)
    return shown


def _mark_selected(ax: Axes, at: int, curves: Sequence[_Curve], level: float, point: float) -> None:
    """Ring the selected layer and say its accuracy, and its gain over the model's `level`."""
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
    # Of all places beside the arrow or ring, the one farthest from every line.
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


def _name_ends(ax: Axes, ends: Sequence[tuple[float, str, str]], gap: float) -> None:
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


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending `values` until neighbours are `gap` apart; those that touch share a centre.

    They are kept between `low` and `high` where they fit there.
    """
    groups: list[tuple[float, int]] = []  # centre and number of labels that touch
    for value in values:
        groups.append((value, 1))
        while True:
            centre, size = groups[-1]
            half = gap * (size - 1) / 2
            centre = max(min(centre, high - half), low + half)
            groups[-1] = (centre, size)
            if len(groups) == 1:
                break
            before, many = groups[-2]
            if centre - half - (before + gap * (many - 1) / 2) >= gap:
                break
            groups[-2:] = [((before * many + centre * size) / (many + size), many + size)]
    return [centre + gap * (i - (size - 1) / 2) for centre, size in groups for i in range(size)]


def _legend_above(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
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
        # In points from the corner: of the axes' height little is known before the layout.
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
