"""What all figures have in common: colours, frames, names of layers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: The colours of every figure. Blue, orange and violet stay apart for all common kinds of colour
#: blindness (each curve has its own marker and dash as well); every text colour has a contrast of
#: at least 4.5 to 1 on white. The report replaces each by a CSS variable of the same name, for dark
#: mode.
COLOURS: Mapping[str, str] = {
    "ink": "#1c2128",
    "muted": "#626b77",
    "faint": "#aab1bb",
    "grid": "#e6e9ed",
    "paper": "#fefefe",
    "given": "#0b63b0",
    "true": "#b04e00",
    "plain": "#6a4fb3",
}

LONGEST_TICK = 16


@contextmanager
def plain_text() -> Iterator[None]:
    """No TeX and no mathematics, whatever the user has set: names may hold `$` and `_`."""
    with mpl.rc_context({"text.usetex": False, "text.parse_math": False}):
        yield


def axes(ax: Axes | None, width: float, height: float) -> tuple[Axes, Figure]:
    """Return the axes and their figure; if there are none, new ones of this size in inches."""
    if ax is None:
        ax = Figure(figsize=(width, height), layout="constrained").subplots()
    figure: Any = ax.get_figure(root=True)
    assert figure is not None
    return ax, figure


def quiet(ax: Axes, title: str, *, grid: str | None = "y") -> None:
    """Set a title, and take away what a figure does not need."""
    ax.set_title(title, loc="left", fontsize=10.5, color=COLOURS["ink"], pad=13)
    ax.tick_params(length=0, pad=6, labelsize=10, labelcolor=COLOURS["muted"])
    if grid == "y":
        ax.grid(axis="y", color=COLOURS["grid"], linewidth=0.9)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set(color=COLOURS["faint"], linewidth=1.0)


def printable(text: str) -> str:
    """Return `text` with what cannot be shown (control and bidirectional marks) as ``�``."""
    return "".join(c if c.isprintable() else "�" for c in text)


def short_names(names: Sequence[str]) -> list[str]:
    """Shorten long dotted names to what tells them apart.

    >>> short_names(["input", "encoder.layer.0.attention.out", "encoder.layer.1.attention.out"])
    ['input', '…0…', '…1…']
    """
    names = [printable(name) for name in names]
    long = [name.split(".") for name in names if len(name) > LONGEST_TICK]
    start = end = 0
    if len(long) > 1:
        fewest = min(map(len, long)) - 1  # something of each name must stay
        while start < fewest and len({parts[start] for parts in long}) == 1:
            start += 1
        while start + end < fewest and len({parts[-1 - end] for parts in long}) == 1:
            end += 1
    shown = []
    for name in names:
        if len(name) > LONGEST_TICK:
            parts = name.split(".")
            name = ".".join(parts[start : len(parts) - end])
            room = LONGEST_TICK - bool(end)
            if start or len(name) > room:
                name = "…" + name[-(room - 1) :]
            name += "…" if end else ""
        shown.append(name)
    return shown


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
