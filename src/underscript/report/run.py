"""The report of a decode run."""

import base64
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from ..errors import DataError
from ..results.run import Run
from ..utils.classes import class_names
from ..utils.files import RUN_FORMAT
from .facts import (
    chosen_words,
    confusions,
    key_numbers,
    noise_words,
    oracle_words,
    reading,
)
from .layers import layer_groups
from .memory import Meter, meter
from .page import page_of, write_page
from .plots import (
    angle_map,
    layer_curve,
    memory_meter,
    noise_matrix,
    quality_histogram,
    rank_curve,
)
from .plots.rows import main_rows
from .plots.style import printable
from .steps import cautions, next_steps, no_need
from .svg import inline
from .words import decoder_name, percent, size

__all__ = ["notebook", "render_report", "write_report"]

# Indices that the page itself can give as CSV; the rest are in label_issues.csv.
MOST_INDICES = 20_000
# Rows of candidates.csv that are shown.
MOST_CANDIDATES = 8


@dataclass(frozen=True)
class Card:
    """One suspicious sample of the gallery."""

    index: int
    given: int
    predicted: int
    quality: str
    picture: Markup | None
    small: bool
    text: str | None
    numbers: str
    bars: tuple[tuple[float, float], ...]


def write_report(path: Path, d: Run) -> None:
    """Write the report of a run as one HTML file that needs nothing else.

    Parameters
    ----------
    path : Path
        The file to write; it is written whole or not at all.
    d : Decoding
        The run.

    Raises
    ------
    DataError
        If its parts are not what a run writes.
    OutputError
        If the file cannot be written.
    """
    write_page(path, render_report(d))


def render_report(d: Run) -> str:
    """Return the report of a run as one HTML page without requests.

    The same results give the same text, byte by byte.

    Raises
    ------
    DataError
        If the run's parts are not what a run writes.
    """
    summary, table = d.summary, d.table
    run_format = summary.get("underscript", {}).get("format")
    if run_format != RUN_FORMAT:
        raise DataError(
            f"expected results of format {RUN_FORMAT}, found {run_format}; use the version of "
            "underscript that wrote them, or run again"
        )
    try:
        head, groups = layer_groups(table)
        split, rows = main_rows(summary, table)
        names = [printable(name) for name in class_names(summary)]
        likely, some_pairs = confusions(d)
        memory = meter(d)
        return page_of(
            "report.html.j2",
            summary=summary,
            names=names,
            numbers=key_numbers(d),
            steps=next_steps(d),
            cautions=cautions(d),
            advice=no_need(d),
            chosen=chosen_words(d),
            oracle=oracle_words(d),
            reading=reading(d),
            decoder=decoder_name(summary["selected"]["probe"], summary["selected"]["variance"]),
            candidates=_candidates(d),
            split={"test": "test", "holdout": "held-out", "train": "training"}[split],
            n=int(rows["n"].iloc[0]),
            curves=_curves(d, summary, rows, "main", controls=False),
            all_curves=_curves(d, summary, rows, "all", controls=True),
            memory=memory,
            meters=[] if memory is None else _meters(d, memory),
            shown=_what_is_drawn(summary, table, split),
            noise=noise_words(d),
            likely=likely,
            pairs=some_pairs,
            matrix=_matrix(d, bool(some_pairs)),
            cards=_cards(d),
            review_key=review_key(d),
            issues=_issues(d),
            histogram=_histogram(d),
            shapes=_shapes(d),
            head=head,
            groups=groups,
            settings=_settings(summary),
        )
    except KeyError as error:
        raise DataError(
            f"expected the results of a run, found some without {error}; give the results.json "
            "and layers.csv of one run"
        ) from error


def notebook(d: Run) -> str:
    """Return verdict, key numbers, figure and table as HTML for a notebook's cell."""
    head, groups = layer_groups(d.table)
    _, rows = main_rows(d.summary, d.table)
    return page_of(
        "notebook.html.j2",
        summary=d.summary,
        numbers=key_numbers(d),
        curve=_curves(d, d.summary, rows, "all", controls=True)[0],
        head=head,
        groups=groups,
    )


def _curves(
    d: Run, summary: Mapping[str, Any], rows: pd.DataFrame, name: str, *, controls: bool
) -> tuple[Markup, Markup]:
    """Return the figure for wide windows and paper, and for phones, where text must not shrink."""
    label = _in_words(summary, rows)
    high = 4.1 if controls else 3.6

    def draw(ax: Any) -> None:
        layer_curve(d, ax, controls=controls)

    return (
        inline(draw, f"{name}-wide", (7.6, high), label=label, kind="wide"),
        inline(draw, f"{name}-narrow", (4.2, high), label=label, kind="narrow"),
    )


def _meters(d: Run, memory: Meter) -> list[Markup]:
    """Return the memory meter for wide windows and for phones."""
    return [
        inline(lambda ax: memory_meter(d, ax), name, inches, label=memory.label, kind=kind)
        for name, inches, kind in (
            ("memory", (7.6, 3.0), "wide"),
            ("memory-narrow", (4.2, 3.2), "narrow"),
        )
    ]


def _in_words(summary: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """Return what the figure shows, for those who cannot see it."""
    curve = rows[(rows["model"] == "trained") & (rows["subspace_labels"] == "corrupted")]
    values = ", ".join(
        f"{printable(str(layer))} {percent(accuracy)}"
        for layer, accuracy in zip(curve["layer"], curve["accuracy"], strict=True)
    )
    own = rows.loc[(rows["model"] == "trained") & (rows["probe"] == "model"), "accuracy"]
    itself = f" The model itself: {percent(own.iloc[0])}." if len(own) else ""
    return f"Accuracy in per cent, decoded from the given labels: {values}.{itself}"


def _what_is_drawn(
    summary: Mapping[str, Any], table: pd.DataFrame, split: str
) -> Mapping[str, bool]:
    """Return which curves the figure has, for its caption."""
    rows = table[table["split"] == split]
    decoded = rows[rows["probe"] != "model"]
    return {
        "true": bool((decoded["subspace_labels"] == "true").any()),
        "random": bool((decoded["model"] == "random").any()),
        "plain": summary["selected"]["probe"] == "auto"
        and bool((~decoded["probe"].isin(["auto"])).any()),
    }


def _candidates(d: Run) -> list[tuple[tuple[str, ...], bool]]:
    """Return the best candidates and the chosen ones: as text, and whether they were chosen."""
    table = d.candidates
    if table is None:
        return []
    ranked = table.sort_values("criterion", ascending=False, kind="stable")
    shown = ranked[ranked["chosen"] | (np.arange(len(ranked)) < MOST_CANDIDATES)]
    return [
        (
            (
                printable(str(row["layer"])),
                f"{int(row['n_features']):,} random features" if row["n_features"] else "its rows",
                f"{row['ridge']:g}",
                str(int(row["round"])),
                f"{row['criterion']:.3f}",
                percent(float(row["test_accuracy"])),
            ),
            bool(row["chosen"]),
        )
        for row in shown.to_dict("records")
    ]


def _matrix(d: Run, has_pairs: bool) -> Markup | None:
    if not has_pairs:
        return None
    label = "Estimated probability of each given label for each true class, as a heat map"
    return inline(lambda ax: noise_matrix(d, ax), "matrix", (4.6, 4.4), label=label, kind="half")


def _histogram(d: Run) -> list[Markup]:
    issues = d.label_issues()
    if not len(issues):
        return []
    flagged = int(issues["is_label_issue"].sum())
    label = f"Histogram of label quality: {flagged:,} of {len(issues):,} labels are flagged"
    return [
        inline(lambda ax: quality_histogram(d, ax), name, inches, label=label, kind=f"strip {kind}")
        for name, kind, inches in (
            ("quality", "wide", (7.6, 2.3)),
            ("quality-narrow", "narrow", (4.2, 2.2)),
        )
    ]


def _shapes(d: Run) -> list[tuple[Markup, str]]:
    """Return the pictures of the geometry and their captions."""
    if d.geometry is None or not len(d.geometry):
        return []
    own = d.geometry[d.geometry["class_a"] == d.geometry["class_b"]]
    means = own.groupby("layer", sort=False)["effective_rank"].mean()
    listed = ", ".join(f"{printable(str(layer))} {mean:.1f}" for layer, mean in means.items())
    pictures = []
    if len(means) > 1:
        pictures.append(
            (
                inline(
                    lambda ax: rank_curve(d, ax),
                    "ranks",
                    (4.6, 4.0),
                    kind="half",
                    label=f"Mean effective rank of the class subspaces: {listed}",
                ),
                "How many directions a class really uses in each layer: the mean over classes, and "
                "their range.",
            )
        )
    if len(d.geometry) > len(own):
        pairs = d.geometry[d.geometry["class_a"] != d.geometry["class_b"]]
        low, high = pairs["angle"].min(), pairs["angle"].max()
        label = f"Angles between class subspaces, {low:.0f} to {high:.0f} degrees, as a heat map"
        pictures.append(
            (
                inline(
                    lambda ax: angle_map(d, ax=ax), "angles", (4.6, 4.4), kind="half", label=label
                ),
                "The darker, the nearer two classes lie, and the easier they are confused.",
            )
        )
    return pictures


def _cards(d: Run) -> list[Card]:
    spans = [abs(value) for example in d.examples for value in example.numbers]
    tallest = max(spans, default=0.0) or 1.0
    cards = []
    for example in d.examples:
        picture, small = None, False
        if example.picture is not None:
            drawn = io.BytesIO()
            Image.fromarray(example.picture).save(drawn, format="PNG", optimize=True)
            # Markup: base64 has no character that could end an attribute.
            picture = Markup("data:image/png;base64," + base64.b64encode(drawn.getvalue()).decode())
            small = max(example.picture.shape[:2]) <= 48
        numbers = ", ".join(f"{value:.3g}" for value in example.numbers[:6])
        if example.width > 6:
            numbers += f", … ({example.width:,} values)"
        heights = [max(20 * abs(value) / tallest, 0.4) for value in example.numbers]
        bars = tuple(
            (round(20 - height if value > 0 else 20, 2), round(height, 2))
            for value, height in zip(example.numbers, heights, strict=True)
        )
        cards.append(
            Card(
                example.index,
                example.given,
                example.predicted,
                _quality(example.quality),
                picture,
                small,
                None if example.text is None else printable(example.text),
                numbers,
                bars,
            )
        )
    return cards


def review_key(d: Run) -> str:
    """Return what tells this run's gallery from others, for the browser's notes of its review."""
    shown = [(card.index, card.given, card.predicted) for card in d.examples]
    about = f"{d.summary['created']} {d.summary['verdict']} {shown}"
    return hashlib.sha256(about.encode("utf-8", "replace")).hexdigest()[:16]


def _quality(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _issues(d: Run) -> dict[str, Any]:
    """Return the flagged labels, the worst first, for the page's script."""
    issues = d.label_issues()
    flagged = issues[issues["is_label_issue"]].sort_values("label_quality", kind="stable")
    kept = flagged.head(MOST_INDICES)
    columns = (
        kept.index,
        kept["given_label"],
        kept["predicted_label"],
        (1000 * kept["label_quality"]).round().astype(int),
    )
    return {
        "total": len(flagged),
        "n": len(issues),
        "rows": [list(row) for row in zip(*(c.tolist() for c in columns), strict=True)],
        "given": sorted(flagged["given_label"].unique().tolist()),
        "predicted": sorted(flagged["predicted_label"].unique().tolist()),
    }


def _settings(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings, bytes as text."""
    settings = dict(summary["settings"])
    if isinstance(settings.get("memory"), int):
        settings["memory"] = size(settings["memory"])
    return settings
