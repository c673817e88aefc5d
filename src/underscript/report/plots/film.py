"""A training run drawn: layers × steps as a film strip, and curves along the steps."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from .curve import ROOM_FOR_LABELS, legend_above, name_ends
from .style import COLOURS, axes, plain_text, quiet, short_names

__all__ = ["Curve", "Marks", "draw_curves", "draw_film", "film_height"]

# With at most so many steps and layers, cells are large enough for a number.
_NUMBERED, _NUMBERED_LAYERS = 16, 24
_MOST_TICKS = 12
_STRONGEST, _READABLE, _FAINTEST = 0.95, 0.5, 0.04
# With more steps, markers of curves would be one band.
_MOST_MARKERS = 40
# Points that a layer's name needs, and a letter of a step's.
_LINE, _LETTER = 11.5, 5.6
# Of a figure's width, what a line of text may take; and points of its letters.
_TEXT, _TEXT_LETTER = 0.68, 5.3


@dataclass(frozen=True)
class Marks:
    """Places of the steps that a figure marks: the recommended one, and where memorising starts.

    `purpose` says below the figure what the one is recommended for.
    """

    kept: int | None = None
    alarm: int | None = None
    purpose: str = "to keep"


@dataclass(frozen=True)
class Curve:
    """A line of the figure: a name, a value for each step (per cent, may be NaN), and its style."""

    name: str
    values: NDArray[np.float64]
    style: dict[str, Any]


def film_height(n_layers: int, least: float = 3.6) -> float:
    """Return how high a figure of so many layers should be, in inches."""
    return float(np.clip(1.2 + 0.2 * n_layers, least, 7.2))


def draw_film(
    ax: Axes | None,
    title: str,
    layers: Sequence[str],
    steps: Sequence[int],
    values: NDArray[np.float64],
    *,
    marks: Marks,
    unit: str = "step",
    colour: str = "given",
    limits: tuple[float, float] | None = None,
    apart: int = 0,
) -> Axes:
    """Draw layers × steps: the stronger the colour, the larger a value.

    Parameters
    ----------
    ax : Axes or None
        Where to draw; by default a new figure, 6.8 inches wide.
    title : str
        The title.
    layers, steps : sequence
        Names of the rows, the lowest first, and of the columns.
    values : ndarray of float64, shape (layers, steps)
        In per cent; NaN is left blank.
    marks : Marks
        A frame is drawn around the step to keep, a dashed line before the first of memorising.
    unit : str
        What a step is called.
    colour : str
        One of `COLOURS`.
    limits : pair of float, optional
        The faintest and the strongest value; by default the smallest and the largest.
    apart : int
        So many rows at the top are set apart from those below.
    """
    limits = limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    numbered = len(steps) <= _NUMBERED and len(layers) <= _NUMBERED_LAYERS
    shares = np.clip((values - limits[0]) / ((limits[1] - limits[0]) or 1.0), 0.0, 1.0)
    if limits[1] <= limits[0]:
        shares = np.where(np.isfinite(values), 1.0, np.nan)
    at = np.arange(len(layers), dtype=float)
    at[len(layers) - apart :] += max(0.35, 0.012 * len(layers))
    top = at[-1] + 0.5
    with plain_text():
        ax, figure = axes(ax, 6.8, film_height(len(layers), 3.2))
        quiet(ax, _filled(title, figure), grid=None)
        ax.spines["bottom"].set_visible(False)
        if numbered:
            _paint_numbers(ax, at, values, shares, colour)
        else:
            _paint(ax, at, shares, colour, apart)
        if marks.alarm is not None:
            style: dict[str, Any] = {"color": COLOURS["ink"], "linestyle": (0, (3, 2)), "zorder": 6}
            ax.plot([marks.alarm - 0.5] * 2, [-0.5, top], linewidth=1.4, clip_on=False, **style)
        if marks.kept is not None:
            frame = Rectangle((marks.kept - 0.5, -0.5), 1, top + 0.5, fill=False)
            width = 2.0 if numbered else 1.4
            frame.set(edgecolor=COLOURS["true"], linewidth=width, clip_on=False, zorder=5)
            ax.add_patch(frame)
        # The axes as they are now: a layout may move them a little.
        height = 72 * figure.get_figheight() * ax.get_position().height
        every = max(1, int(np.ceil(_LINE * (top + 0.5) / max(height, 1.0))))
        own = len(layers) - apart
        shown = [*reversed(range(own - 1, -1, -every)), *range(own, len(layers))]
        names = short_names(layers)
        ax.set_yticks([at[place] for place in shown])
        ax.set_yticklabels([names[place] for place in shown], parse_math=False)
        _name_steps(ax, steps, unit, marks, "frame")
        ax.set_ylim(-0.5, top)  # the deepest on top
    return ax


def _paint_numbers(
    ax: Axes,
    at: NDArray[np.float64],
    values: NDArray[np.float64],
    shares: NDArray[np.float64],
    colour: str,
) -> None:
    """Draw a box and a number for each cell."""
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        height = float(at[row])
        box = Rectangle((column - 0.48, height - 0.46), 0.96, 0.92, linewidth=0)
        alpha = _FAINTEST + (_READABLE - _FAINTEST) * shares[row, column]
        box.set(facecolor=COLOURS[colour], alpha=alpha)
        ax.add_patch(box)
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}
        ax.text(column, height, f"{round(value)}", color=COLOURS["ink"], **style)


def _paint(
    ax: Axes,
    at: NDArray[np.float64],
    shares: NDArray[np.float64],
    colour: str,
    apart: int,
) -> None:
    """Draw the cells as pictures of one colour and many opacities; ten thousand stay small."""
    pixels = np.zeros((*shares.shape, 4))
    pixels[..., :3] = to_rgb(COLOURS[colour])
    alphas = _FAINTEST + (_STRONGEST - _FAINTEST) * shares
    pixels[..., 3] = np.where(np.isfinite(shares), alphas, 0.0)
    rows, columns = shares.shape
    for begin, end in ((0, rows - apart), (rows - apart, rows)):
        if begin < end:
            extent = (-0.5, columns - 0.5, at[begin] - 0.5, at[end - 1] + 0.5)
            # "none" keeps the cells as they are in vector formats.
            how: Any = {"aspect": "auto", "interpolation": "none", "origin": "lower"}
            ax.imshow(pixels[begin:end], extent=extent, **how)
    if rows <= _NUMBERED_LAYERS:
        for place in (*(at - 0.5), *(at + 0.5)):
            ax.axhline(place, color=COLOURS["paper"], linewidth=1.8, zorder=2)


def draw_curves(
    ax: Axes | None,
    title: str,
    steps: Sequence[int],
    curves: Sequence[Curve],
    *,
    band: tuple[NDArray[np.float64], NDArray[np.float64]],
    marks: Marks,
    unit: str = "step",
) -> Axes:
    """Draw curves along training, in per cent.

    Parameters
    ----------
    ax : Axes or None
        Where to draw; by default a new figure of 6.8 × 3.2 inches.
    title : str
        The title.
    steps : sequence of int
        Names of the steps.
    curves : sequence of Curve
        The most important last; those without a value are left out.
    band : pair of ndarray of float64, shape (steps,)
        Lower and upper end of the estimate, in per cent.
    marks : Marks
        A line is drawn at the step to keep, a dashed one at the first of memorising.
    unit : str
        What a step is called.
    """
    at = np.arange(len(steps))
    with plain_text():
        ax, figure = axes(ax, 6.8, 3.2)
        quiet(ax, title)
        ax.fill_between(at, *band, color=COLOURS["given"], alpha=0.12, linewidth=0)
        ends = []
        for curve in curves:
            finite = np.isfinite(curve.values)
            if finite.any():
                style = {"markersize": 5, "linewidth": 1.6, "clip_on": False, **curve.style}
                if len(steps) > _MOST_MARKERS:
                    style["marker"] = ""
                ax.plot(at, curve.values, label=curve.name, **style)
                ends.append((float(curve.values[finite][-1]), curve.name, curve.style["color"]))
        if marks.kept is not None:
            ax.axvline(marks.kept, color=COLOURS["true"], linewidth=1.2, zorder=0)
        if marks.alarm is not None:
            dashed: Any = (0, (3, 2))
            ax.axvline(marks.alarm, color=COLOURS["ink"], linewidth=1.2, linestyle=dashed, zorder=0)
        _name_steps(ax, steps, unit, marks, "line")
        ax.set_ylim(0, 100)
        ax.set_yticks(range(0, 101, 20))
        if figure.get_figwidth() >= ROOM_FOR_LABELS:
            name_ends(ax, ends, 15 * 100 / max(72 * 0.8 * figure.get_figheight(), 30))
        else:
            legend_above(ax, ends)
    return ax


def _name_steps(ax: Axes, steps: Sequence[int], unit: str, marks: Marks, mark: str) -> None:
    """Name the steps, all of a few and the round ones of many, and say what is marked."""
    figure: Any = ax.get_figure(root=True)
    room = 72 * figure.get_figwidth() * ax.get_position().width
    longest = _LETTER * (2 + max(len(f"{step}") for step in steps))
    shown = _round(steps, max(2, min(_MOST_TICKS, int(room / longest))))
    ax.set_xticks(shown, [f"{steps[place]}" for place in shown])
    ax.set_xlim(-0.5, len(steps) - 0.5)
    words = [unit]
    if marks.kept is not None:
        words.append(f"{mark}: {steps[marks.kept]}, {marks.purpose}")
    if marks.alarm is not None:
        words.append(f"dashes: {steps[marks.alarm]}, memorises")
    # Lines are broken between these, not within.
    whole = _filled(" · ".join(word.replace(" ", "\xa0") for word in words), figure)
    ax.set_xlabel(whole.replace("\xa0", " "), fontsize=10, color=COLOURS["muted"])


def _filled(text: str, figure: Any) -> str:
    """Break a text into lines that have room: long names of layers take some of the width."""
    return textwrap.fill(text, int(72 * figure.get_figwidth() * _TEXT / _TEXT_LETTER))


def _round(steps: Sequence[int], most: int) -> list[int]:
    """Return the places of at most so many steps, those that are round numbers if there are."""
    if len(steps) <= most:
        return [*range(len(steps))]
    for power in range(10):
        for base in (1, 2, 5):
            round_ones = [at for at, step in enumerate(steps) if step % (base * 10**power) == 0]
            if len(round_ones) <= most:
                if len(round_ones) >= min(3, most):
                    return round_ones
                break
        else:
            continue
        break
    return [*range(0, len(steps), -(-len(steps) // most))]
