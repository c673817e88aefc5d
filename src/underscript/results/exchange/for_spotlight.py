"""Label issues as a table and issues of Renumics Spotlight."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...errors import DataError
from ...utils.class_names import for_terminals
from ...utils.extras import optional_package
from ..issues import confused_pairs
from .samples import class_texts, one_per_sample, texts_of, without_collision

# Pairs of classes that get an issue of their own.
_PAIRS = 10


def as_spotlight(
    issues: pd.DataFrame, names: Sequence[str] | None, n_classes: int, data: Any = None
) -> tuple[pd.DataFrame, list[Any]]:
    """Return a table and a list of `spotlight.DataIssue`; see `Decoding.to_spotlight`."""
    texts = class_texts(names, n_classes)
    frame = table(issues, texts, data)
    spotlight = optional_package("renumics.spotlight", "spotlight", "for Renumics Spotlight")
    return frame, [spotlight.DataIssue(**fields) for fields in described(issues, texts)]


def table(issues: pd.DataFrame, texts: Sequence[str], data: Any = None) -> pd.DataFrame:
    """Return the user's columns and ours, one row a sample, numbered from 0.

    Parameters
    ----------
    issues : pandas.DataFrame
        The table of label issues.
    texts : sequence of str
        The text of each class.
    data : pandas.DataFrame or mapping of str to iterable, optional
        Columns that show a sample.

    Raises
    ------
    DataError
        If it is none of these, has another number of rows, or a column with a name of ours.
    """
    ours: dict[str, Any] = {"sample_index": issues.index.to_numpy()}
    for name in ("is_label_issue", "label_quality"):
        ours[name] = issues[name].to_numpy()
    for name in ("given_label", "predicted_label"):
        ours[name] = pd.Categorical(texts_of(issues[name], texts), categories=list(texts))
    for name in ("confidence", "conflicting_duplicate"):
        ours[name] = issues[name].to_numpy()
    if data is None:
        return pd.DataFrame(ours)
    if not isinstance(data, pd.DataFrame | Mapping):
        raise DataError(
            "to_spotlight: expected data as a pandas.DataFrame or a dict from names of columns to "
            f"an entry for each sample; found {type(data).__name__}"
        )
    without_collision(data, ours, "to_spotlight: data")
    shown = {
        str(name): one_per_sample(data[name], issues.index, f"to_spotlight: data[{name!r}]")
        for name in data
    }
    return pd.DataFrame({**shown, **ours})


def described(issues: pd.DataFrame, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the fields of each issue: all flagged samples, pairs of classes, duplicates.

    Rows are places in the table, whatever its index.
    """
    flags = issues["is_label_issue"].to_numpy()
    columns = ["given_label", "predicted_label"]
    found = []
    if flags.any():
        found.append(
            {
                "title": "Label is probably wrong",
                "rows": _places(flags),
                "severity": "high",
                "columns": columns,
                "description": f"The decoder flags {flags.sum():,} of {len(issues):,} labels.",
            }
        )
    for pair in confused_pairs(issues, _PAIRS).to_dict("records"):
        given, predicted = int(pair["given_label"]), int(pair["predicted_label"])
        here = flags & (issues["given_label"] == given) & (issues["predicted_label"] == predicted)
        found.append(
            {
                "title": for_terminals(f"Given {texts[given]}, rather {texts[predicted]}"),
                "rows": _places(here),
                "severity": "medium",
                "columns": columns,
                "description": f"{pair['share']:.1%} of the samples of the given class.",
            }
        )
    twins = issues["conflicting_duplicate"].to_numpy() >= 0
    if twins.any():
        found.append(
            {
                "title": "Same input, another label",
                "rows": _places(twins),
                "severity": "medium",
                "columns": ["given_label", "conflicting_duplicate"],
                "description": "conflicting_duplicate is the other's sample_index.",
            }
        )
    return found


def _places(rows: Any) -> list[int]:
    places: list[int] = np.flatnonzero(np.asarray(rows)).tolist()
    return places
