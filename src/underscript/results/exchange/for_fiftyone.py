"""Label issues as a data set of FiftyOne."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ...errors import OutputError
from ...utils.extras import optional_package
from .samples import class_texts, one_per_sample, written

# The tag of flagged samples.
TAG = "label_issue"


def as_fiftyone(
    issues: pd.DataFrame,
    names: Sequence[str] | None,
    n_classes: int,
    filepaths: Any,
    name: str | None = None,
) -> Any:
    """Return a `fiftyone.Dataset` with a sample for each row; see `Decoding.to_fiftyone`."""
    described = samples(issues, class_texts(names, n_classes), filepaths)
    package = optional_package("fiftyone", "fiftyone", "for data sets of FiftyOne")
    dataset = None
    try:
        if name is not None and package.dataset_exists(name):
            raise OutputError(
                f"to_fiftyone: FiftyOne has a data set {name!r} already; choose another name, or "
                f"delete it: fiftyone.delete_dataset({name!r})"
            )
        dataset = package.Dataset(name)
        dataset.add_samples([_sample(package, fields) for fields in described])
    except BaseException as error:
        if dataset is not None:
            dataset.delete()
        if isinstance(error, OutputError) or not isinstance(error, Exception):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OutputError(f"to_fiftyone: FiftyOne could not make the data set: {reason}") from error
    return dataset


def samples(issues: pd.DataFrame, texts: Sequence[str], filepaths: Any) -> list[dict[str, Any]]:
    """Return the fields of each sample as plain values; a classification is a dict of its own.

    Parameters
    ----------
    issues : pandas.DataFrame
        The table of label issues.
    texts : sequence of str
        The text of each class.
    filepaths : iterable or mapping
        One for each sample, or by the data set's index.

    Raises
    ------
    DataError
        If there is not one file path for each sample.
    """
    entries = one_per_sample(filepaths, issues.index, "to_fiftyone: filepaths")
    paths = written(entries, issues.index, "to_fiftyone: filepaths")
    return [
        {
            "filepath": path,
            "tags": [TAG] if row["is_label_issue"] else [],
            "ground_truth": {"label": texts[row["given_label"]]},
            "prediction": {
                "label": texts[row["predicted_label"]],
                "confidence": float(row["confidence"]),
            },
            "mistakenness": 1 - float(row["label_quality"]),
            "sample_index": int(index),
        }
        for path, index, row in zip(paths, issues.index, issues.to_dict("records"), strict=True)
    ]


def _sample(package: Any, fields: dict[str, Any]) -> Any:
    return package.Sample(
        **{
            name: package.Classification(**value) if isinstance(value, dict) else value
            for name, value in fields.items()
        }
    )
