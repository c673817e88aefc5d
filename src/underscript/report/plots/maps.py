"""Pictures of tables of classes by classes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ...errors import DataError
from ...results.run import Run
from ...utils.classes import class_names, pairs
from .style import COLOURS, axes, plain_text, printable, quiet

__all__ = ["angle_map", "noise_matrix"]

#: With more classes a picture shows only those of the most remarkable pairs.
MOST = 20
# With at most so many classes, cells are large enough for a number.
_NUMBERED = 12
# Opacity of the darkest cell; and behind a number, which must be readable in light and dark.
_DARKEST, _READABLE = 0.95, 0.5


def noise_matrix(d: Run, ax: Axes | None = None) -> Axes:
    """Draw the estimated probability of each given label (column) for each true class (row).

    The diagonal (labels that are right) is left blank, as it would outshine the rest. Of more than
    20 classes only those of the likeliest confusions are drawn.

    Parameters
    ----------
    d : Decoding
        A run that estimates the noise: ``decode(auto=True)``.
    ax : Axes, optional
        Where to draw; by default a new figure of 4.6 × 4.4 inches.

    Raises
    ------
    DataError
        If the run estimated no noise.
    """
    if d.summary["noise"] is None:
        raise DataError("expected a run that estimates the noise; decode with auto=True")
    names = class_names(d.summary)
    kept, likeliest = list(range(len(names))), pairs(d.summary)
    if len(names) > MOST:
        first = [k for pair in likeliest for k in (pair.true, pair.given)]
        kept = sorted(list(dict.fromkeys(first))[:MOST])
    # With many classes only the largest probabilities are known.
    values = np.full((len(kept), len(kept)), np.nan)
    place = {k: at for at, k in enumerate(kept)}
    for pair in likeliest:
        if pair.true in place and pair.given in place:
            values[place[pair.true], place[pair.given]] = 100 * pair.share
    title = "Probability of a given label for a true class, %"
    with plain_text():
        ax = _map(ax, values, [names[k] for k in kept], title, 0.0, float(np.nanmax(values)))
        ax.set_xlabel("given label", fontsize=10, color=COLOURS["muted"])
        ax.set_ylabel("true class", fontsize=10, color=COLOURS["muted"])
    return ax


def angle_map(d: Run, layer: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the angle between the class subspaces of a layer, in degrees; the darker, the nearer.

    Parameters
    ----------
    d : Decoding
        A run whose probes include MASC.
    layer : str, optional
        Name of a layer whose pairs of classes were compared: by default the first that the chosen
        decoder reads.
    ax : Axes, optional
        Where to draw; by default a new figure of 4.6 × 4.4 inches.

    Raises
    ------
    DataError
        If there is no such geometry.
    """
    shapes = d.geometry
    if shapes is None:
        raise DataError("expected a run with class subspaces; decode with probes=('masc',)")
    rows = shapes[shapes["class_a"] != shapes["class_b"]]
    known = [str(name) for name in rows["layer"].unique()]
    if not known or (layer is not None and layer not in known):
        raise DataError(
            f"layer: expected one of {', '.join(known) or 'none'}, of which pairs of classes are "
            f"kept; found {layer!r}"
        )
    rows = rows[rows["layer"] == (layer or known[0])]
    n = 1 + int(max(rows["class_a"].max(), rows["class_b"].max()))
    matrix = np.full((n, n), np.nan)
    for a, b, angle in zip(rows["class_a"], rows["class_b"], rows["angle"], strict=True):
        matrix[int(a), int(b)] = matrix[int(b), int(a)] = angle
    kept = [k for k in range(n) if np.isfinite(matrix[k]).any()]
    if len(kept) > MOST:
        nearest = np.nanmin(matrix[kept], axis=1)
        kept = sorted(np.asarray(kept)[np.argsort(nearest, kind="stable")[:MOST]].tolist())
    names = class_names(d.summary)
    values = matrix[np.ix_(kept, kept)]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    title = f"Angle between class subspaces in {printable(layer or known[0])}, °"
    with plain_text():
        return _map(ax, values, [names[k] for k in kept], title, high, low)


def _map(
    ax: Axes | None,
    values: NDArray[np.float64],
    names: Sequence[str],
    title: str,
    lightest: float,
    darkest: float,
) -> Axes:
    """Draw a square of cells; one colour of growing opacity, so that it suits light and dark."""
    ax, _ = axes(ax, 4.6, 4.4)
    n = len(values)
    numbered = n <= _NUMBERED
    most = _READABLE if numbered else _DARKEST
    span = darkest - lightest or 1.0
    for row in range(n):
        for column in range(n):
            value = values[row, column]
            if not np.isfinite(value):
                continue
            alpha = 0.04 + (most - 0.04) * min(1.0, max(0.0, (value - lightest) / span))
            ax.add_patch(
                Rectangle(
                    (column - 0.48, row - 0.48),
                    0.96,
                    0.96,
                    facecolor=COLOURS["given"],
                    alpha=alpha,
                    linewidth=0,
                )
            )
            if numbered:
                text = f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:.1f}"
                ax.text(
                    column, row, text, ha="center", va="center", fontsize=9, color=COLOURS["ink"]
                )
    shown = [name if len(name) <= 12 else name[:11] + "…" for name in map(printable, names)]
    slanted = max(map(len, shown), default=0) > 2
    quiet(ax, title, grid=None)
    ax.spines["bottom"].set_visible(False)
    size = 10 if n <= _NUMBERED else 8
    ax.set_xticks(
        range(n),
        shown,
        rotation=45 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor",
        fontsize=size,
    )
    ax.set_yticks(range(n), shown, fontsize=size)
    ax.set_xlim(-0.5, n - 0.5)
    ax.set_ylim(n - 0.5, -0.5)
    ax.set_aspect("equal")
    return ax
