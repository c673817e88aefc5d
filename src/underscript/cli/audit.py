"""What `underscript audit` shows of a run: how many labels are wrong, confused pairs, the worst."""

from typing import Any

import pandas as pd
from rich.table import Table

from ..decoding import Decoding
from ..utils.class_names import for_terminals

# Rows and pairs that are shown.
WORST = 20
_PAIRS = 10


def said(decoding: Decoding) -> str:
    """Return how many labels are flagged, beside how many are expected to be wrong."""
    issues, noise = decoding.summary["label_issues"], decoding.summary["noise"]
    flagged, n = issues["flagged"], issues["n"]
    text = f"{flagged:,} of {n:,} labels flagged ({flagged / n:.1%})"
    if noise is None:
        return f"{text}: all that the decoder contradicts; without auto the noise is not estimated."
    rate = (
        f"{noise['rate']:.1%} of the labels are estimated to be wrong "
        f"({noise['rate_low']:.1%} to {noise['rate_high']:.1%})"
    )
    if issues["beyond_decoding"]:
        return (
            f"The labels say no more than chance: {rate}, and which ones cannot be decoded. "
            "None is flagged."
        )
    text = f"{text}; {rate}"
    if noise["nothing_wrong"]:
        text += ", so few that flags are hints at most"
    twins = issues["conflicting_duplicates"]
    if twins:
        have = "sample has" if twins == 1 else "samples have"
        text += f"; {twins:,} {have} a (near) duplicate with another label"
    return f"{text}."


def tables(decoding: Decoding) -> list[Table]:
    """Return the pairs of classes confused most, and the worst labels."""
    names = decoding.summary["model"]["class_names"]
    shown = []
    pairs = decoding.summary["label_issues"]["confused_pairs"][:_PAIRS]
    if pairs:
        table = Table("given", "should be", "flagged", "of the given class")
        table.title = "Classes confused most"
        for pair in pairs:
            table.add_row(
                _class(pair["given_label"], names),
                _class(pair["predicted_label"], names),
                f"{pair['n']:,}",
                f"{pair['share']:.1%}",
            )
        shown.append(table)
    table = Table(
        "index", "given", "should be", "or", "label quality", "confidence", "duplicate", "flagged"
    )
    table.title = f"The worst {min(WORST, decoding.summary['label_issues']['n'])}"
    for row in worst(decoding):
        twin = row["conflicting_duplicate"]
        table.add_row(
            str(row["index"]),
            *(_class(row[f"{kind}_label"], names) for kind in ("given", "predicted", "second")),
            f"{row['label_quality']:.2g}",
            f"{row['confidence']:.3f}",
            "" if twin < 0 else str(twin),
            "yes" if row["is_label_issue"] else "",
        )
    return [*shown, table]


def worst(decoding: Decoding) -> list[dict[str, Any]]:
    """Return the rows of the worst labels, flagged ones first, as numbers and text."""
    issues = decoding.label_issues(sort=True)
    issues = issues.sort_values("is_label_issue", ascending=False, kind="stable").head(WORST)
    rows: pd.DataFrame = issues.reset_index()
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def _class(label: int, names: list[str] | None) -> str:
    # Brackets are rich's markup.
    return str(label) if names is None else for_terminals(names[label]).replace("[", r"\[")
