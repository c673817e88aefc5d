"""The table of layers as people read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .plots.rows import checked, layer_order
from .plots.style import printable
from .words import decoder_name, percent

__all__ = ["GROUPS", "NUMERIC", "LayerGroup", "LayerRow", "layer_groups"]

#: The accuracy columns of the table: where they come from and what they are called.
ACCURACY_COLUMNS: Mapping[tuple[str, str], str] = {
    ("test", "given"): "test",
    ("test", "true"): "test, true labels",
    ("holdout", "given"): "held out",
    ("holdout", "true"): "held out, true labels",
    ("train", "given"): "train, given labels",
    ("train", "true"): "train, true labels",
}

NUMERIC = frozenset({*ACCURACY_COLUMNS.values(), "width", "rank"})

#: The parts of the table in their order: (model, subspace labels) and a heading.
GROUPS: Mapping[tuple[str, str | None], str] = {
    ("trained", "corrupted"): "Decoded, given labels",
    ("trained", "true"): "Decoded, true labels",
    ("random", "corrupted"): "Random network",
    ("random", "true"): "Random network, true labels",
    ("trained", None): "The model itself",
    ("random", None): "The random network itself",
}


@dataclass(frozen=True)
class LayerRow:
    """One line of the table, as text in the order of its columns."""

    cells: tuple[str, ...]
    selected: bool


@dataclass(frozen=True)
class LayerGroup:
    """The lines of one model and one kind of subspace labels, in the order of the layers."""

    title: str
    control: bool
    own: bool
    rows: tuple[LayerRow, ...]


def layer_groups(table: pd.DataFrame) -> tuple[list[str], list[LayerGroup]]:
    """Turn the tidy table into the table that people read.

    One line for each layer, decoder, kind of subspace labels and model, with a column for every
    split and kind of labels that has an accuracy.

    Parameters
    ----------
    table : DataFrame
        As in ``layers.csv``.

    Returns
    -------
    head : list of str
        The names of the columns.
    groups : list of LayerGroup
        In the order of `GROUPS`; the model itself comes last, as its output is the last layer.

    Raises
    ------
    DataError
        If a column is missing or nothing was decoded.
    """
    table = checked(table)
    known = table[table["accuracy"].notna()]
    used = set(zip(known["split"], known["labels"], strict=True))
    keys = [key for key in ACCURACY_COLUMNS if key in used]

    # A plain loop, as grouping by columns that hold NaN and None would lose or merge rows.
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in table.to_dict("records"):
        labels = None if pd.isna(row["subspace_labels"]) else row["subspace_labels"]
        variance = None if pd.isna(row["variance"]) else float(row["variance"])
        key = (row["model"], labels, str(row["layer"]), row["probe"], variance)
        line = lines.setdefault(key, {"row": row, "accuracies": {}, "selected": False})
        line["accuracies"][row["split"], row["labels"]] = float(row["accuracy"])
        line["selected"] |= bool(row["selected"])

    order = {name: i for i, name in enumerate(layer_order(table))}
    groups = []
    for group, title in GROUPS.items():
        members = [key for key in lines if key[:2] == group]
        members.sort(key=lambda key: order.get(key[2], len(order)))  # stable: decoders as given
        rows = tuple(_row(lines[key], key, keys) for key in members)
        if rows:
            groups.append(LayerGroup(title, group[0] == "random", group[1] is None, rows))
    return ["layer", "decoder", *(ACCURACY_COLUMNS[key] for key in keys), "width", "rank"], groups


def _row(
    line: Mapping[str, Any], key: tuple[Any, ...], columns: Sequence[tuple[str, str]]
) -> LayerRow:
    _, _, layer, probe, variance = key
    rank = line["row"]["rank"]
    return LayerRow(
        cells=(
            printable(layer),
            decoder_name(probe, variance),
            *(percent(line["accuracies"].get(column)) for column in columns),
            str(int(line["row"]["width"])),
            "–" if pd.isna(rank) else f"{float(rank):.1f}",
        ),
        selected=line["selected"],
    )
