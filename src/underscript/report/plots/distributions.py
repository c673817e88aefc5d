"""The decoder's confidence in the given labels, and the sizes of class subspaces."""

import numpy as np
from matplotlib.axes import Axes

from ...errors import DataError
from ...results.run import Run
from .style import COLOURS, axes, plain_text, quiet, short_names

__all__ = ["quality_histogram", "rank_curve"]

_BINS = 40


def quality_histogram(d: Run, ax: Axes | None = None) -> Axes:
    """Draw a histogram of label quality, with the labels that are flagged as wrong.

    Parameters
    ----------
    d : Decoding
        The run to draw.
    ax : Axes, optional
        Where to draw; by default a new figure of 6.8 × 2.4 inches.
    """
    issues = d.label_issues()
    quality = issues["label_quality"].to_numpy(float)
    flagged = issues["is_label_issue"].to_numpy(bool)
    edges = np.linspace(0, 1, _BINS + 1)
    kept, _ = np.histogram(quality[~flagged], bins=edges)
    wrong, _ = np.histogram(quality[flagged], bins=edges)
    with plain_text():
        ax, _ = axes(ax, 6.8, 2.4)
        width = 0.92 / _BINS
        parts = (wrong, 0, "true", "flagged as wrong"), (kept, wrong, "given", "not flagged")
        for counts, below, colour, name in parts:
            ax.bar(
                edges[:-1],
                counts,
                width=width,
                bottom=below,
                align="edge",
                color=COLOURS[colour],
                label=f"{name}: {counts.sum():,}",
            )
        counts = wrong + kept
        quiet(ax, "Training labels by quality")
        ax.set_xlim(0, 1)
        # Most labels are clear; those in between would not show on a linear scale.
        ax.set_yscale("symlog", linthresh=10)
        ax.set_ylim(0, max(20, counts.max()))
        ax.set_xlabel("label quality", fontsize=10, color=COLOURS["muted"])
        ax.legend(frameon=False, fontsize=9.5, loc="upper center", labelcolor=COLOURS["ink"])
    return ax


def rank_curve(d: Run, ax: Axes | None = None) -> Axes:
    """Draw the effective rank of the class subspaces by layer: mean over classes, and their range.

    Parameters
    ----------
    d : Decoding
        A run whose probes include MASC.
    ax : Axes, optional
        Where to draw; by default a new figure of 4.6 × 3.2 inches.

    Raises
    ------
    DataError
        If there is no such geometry.
    """
    if d.geometry is None:
        raise DataError("expected a run with class subspaces; decode with probes=('masc',)")
    rows = d.geometry[d.geometry["class_a"] == d.geometry["class_b"]]
    ranks = rows.groupby("layer", sort=False)["effective_rank"].agg(["mean", "min", "max"])
    layers = [str(name) for name in ranks.index]
    at = np.arange(len(layers))
    mean = ranks["mean"].to_numpy(float)
    low, high = ranks["min"].to_numpy(float), ranks["max"].to_numpy(float)
    with plain_text():
        ax, _ = axes(ax, 4.6, 3.2)
        ax.fill_between(at, low, high, color=COLOURS["given"], alpha=0.15, linewidth=0)
        ax.plot(at, mean, color=COLOURS["given"], marker="o", linewidth=2.2, clip_on=False)
        quiet(ax, "Effective rank of the class subspaces")
        step = max(1, -(-len(layers) // 10))
        short = short_names(layers)
        shown = list(range(0, len(layers), step))
        slanted = sum(len(short[i]) + 2 for i in shown) > 44
        ax.set_xticks(
            shown,
            [short[i] for i in shown],
            rotation=45 if slanted else 0,
            ha="right" if slanted else "center",
            rotation_mode="anchor",
        )
        ax.set_ylim(0, None)
        ax.set_xlim(-0.2, max(len(layers) - 0.8, 0.2))
    return ax
