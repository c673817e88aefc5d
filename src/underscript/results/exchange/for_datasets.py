"""Label issues as columns of a Hugging Face data set."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ...errors import DataError
from ...utils.extras import optional_package
from .samples import class_texts, without_collision

# The names of our columns in the other's data set.
COLUMNS = {
    "label_issue": "is_label_issue",
    "label_quality": "label_quality",
    "given_label": "given_label",
    "predicted_label": "predicted_label",
    "predicted_confidence": "confidence",
    "conflicting_duplicate": "conflicting_duplicate",
}
INDEX = "sample_index"


def as_datasets(
    issues: pd.DataFrame, names: Sequence[str] | None, n_classes: int, dataset: Any = None
) -> Any:
    """Return label issues as a `datasets.Dataset`, or a data set with their columns added.

    Parameters
    ----------
    issues : pandas.DataFrame
        The table of label issues.
    names : sequence of str, or None
        The names of the classes.
    n_classes : int
        How many classes there are.
    dataset : datasets.Dataset, optional
        The user's, with one row for each sample, in the same order.

    Raises
    ------
    DataError
        If the data set is no `datasets.Dataset`, has another number of rows, or has such a column.
    PackageError
        If `datasets` is not installed.
    """
    package = optional_package("datasets", "datasets", "for Hugging Face data sets")
    if dataset is not None:
        _check(package, dataset, len(issues))
    kinds = {"b": "bool", "f": "float64", "i": "int64", "u": "int64"}
    columns: dict[str, Any] = {INDEX: issues.index.to_numpy()}
    columns |= {new: issues[old].to_numpy() for new, old in COLUMNS.items()}
    features = {name: package.Value(kinds[values.dtype.kind]) for name, values in columns.items()}
    if names is not None:
        classes = package.ClassLabel(names=class_texts(names, n_classes))
        features |= {"given_label": classes, "predicted_label": classes}
    ours = package.Dataset.from_dict(columns, features=package.Features(features))
    if dataset is None:
        return ours
    without_collision(dataset.column_names, columns, "to_datasets: dataset")
    together = package.concatenate_datasets([dataset, ours], axis=1)
    # Concatenation forgets how rows are shown: keep that they are, for example, torch's tensors.
    shown = dataset.format
    return together.with_format(shown["type"], **shown["format_kwargs"])


def _check(package: Any, dataset: Any, n: int) -> None:
    if not isinstance(dataset, package.Dataset):
        split = "; give one split, such as dataset['train']" * isinstance(dataset, dict)
        raise DataError(
            "to_datasets: expected a datasets.Dataset, which knows its rows; found "
            f"{type(dataset).__name__}{split}"
        )
    if len(dataset) != n:
        raise DataError(
            f"to_datasets: expected a data set of {n:,} rows, one for each sample in the order of "
            f"label_issues(); found {len(dataset):,}"
        )
