"""The rows of the table of layers that a figure is made from, checked."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ...errors import DataError
from ...utils.files import TABLE_COLUMNS

SPLIT_TITLES = {
    "test": "Accuracy on test data, %",
    "holdout": "Accuracy on held-out data (given labels), %",
    "train": "Accuracy on training data (given labels), %",
}


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
    rows = table[table["probe"] != "model"]
    # The ensemble is there at all layers, in their order; other decoders need not be.
    everywhere = rows[rows["probe"] == "auto"]
    return [str(name) for name in dict.fromkeys([*everywhere["layer"], *rows["layer"]])]


def same_variance(column: pd.Series, variance: float | None) -> pd.Series:
    """Return for each row whether its variance share is `variance` (None or NaN: none)."""
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
        of_split = rows[rows["split"] == split]
        if ((of_split["probe"] != "model") & of_split["accuracy"].notna()).any():
            return split, of_split
    raise DataError(
        f"expected accuracies of the selected decoder {selected['probe']!r} in the table, found "
        "none; results.json and layers.csv must be of the same run"
    )


def plain_rows(summary: Mapping[str, Any], table: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return the rows of a published kind of decoder, if the chosen one is of another kind.

    It takes the first kind in the table, MASC unless only VeLPIC was asked for, at its first
    variance share, and the rows of the split that are scored against the given labels. There are
    none if the chosen decoder is of these kinds itself.
    """
    others = table[~table["probe"].isin(["model", "auto"])]
    if summary["selected"]["probe"] != "auto" or not len(others):
        return table.iloc[:0]
    probe, variance = others["probe"].iloc[0], others["variance"].iloc[0]
    same = (others["probe"] == probe) & same_variance(others["variance"], variance)
    rows: pd.DataFrame = others[same & (others["split"] == split) & (others["labels"] == "given")]
    return rows
