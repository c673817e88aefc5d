"""What every export needs: a text for each class, and the user's entry for each sample."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...errors import DataError


def class_texts(names: Sequence[str] | None, n_classes: int) -> list[str]:
    """Return a different text for each class: its name, or its number without names.

    Other tools know a class by its text alone. So of classes with the same name each but the first
    gets its number added.

    Parameters
    ----------
    names : sequence of str, or None
        The names of the classes, in the order of their numbers.
    n_classes : int
        How many classes there are.

    Returns
    -------
    list of str, of length n_classes
    """
    if names is None:
        return [str(number) for number in range(n_classes)]
    taken, texts = set(names), []
    seen: set[str] = set()
    for number, name in enumerate(names):
        text = name
        while text in seen or (text != name and text in taken):
            text = f"{text} ({number})"
        seen.add(text)
        texts.append(text)
    return texts


def texts_of(labels: "pd.Series[Any]", texts: Sequence[str]) -> NDArray[Any]:
    """Return the text of each label, an array of objects of shape (n,)."""
    found: NDArray[Any] = np.asarray(texts, dtype=object)[labels.to_numpy()]
    return found


def one_per_sample(values: Any, index: "pd.Index[Any]", what: str) -> list[Any]:
    """Return what the user gave for each sample, in the order of the label issues.

    Parameters
    ----------
    values : iterable or mapping
        One entry for each sample in that order; or a mapping from the data set's index to entries,
        which may hold more than these samples.
    index : pandas.Index
        The label issues' index.
    what : str
        The parameter's name, for messages.

    Raises
    ------
    DataError
        If it is no such collection, or a sample has no entry or there are too many.
    """
    n = len(index)
    if isinstance(values, Mapping):
        lacking = [number for number in index.tolist() if number not in values]
        if lacking:
            raise DataError(
                f"{what}: expected an entry for each of the {n:,} samples; found none for "
                f"{len(lacking):,} of them, the first at index {lacking[0]}"
            )
        return [values[number] for number in index.tolist()]
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise DataError(
            f"{what}: expected a list with an entry for each sample, or a dict from the data set's "
            f"index; found {type(values).__name__}"
        )
    entries = list(values)
    if len(entries) != n:
        raise DataError(
            f"{what}: expected {n:,} entries, one for each sample in the order of label_issues(); "
            f"found {len(entries):,}"
        )
    return entries


def written(entries: Sequence[Any], index: "pd.Index[Any]", what: str) -> list[str]:
    """Return entries as text; paths become text.

    Raises
    ------
    DataError
        If an entry is no text and no path, is empty, or cannot be written as UTF-8.
    """
    texts = []
    for number, entry in zip(index.tolist(), entries, strict=True):
        text = os.fspath(entry) if isinstance(entry, os.PathLike) else entry
        if not isinstance(text, str) or not text:
            found = "an empty text" if text == "" else type(text).__name__
            raise DataError(
                f"{what}: expected text or a path for the sample at index {number}; found {found}"
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{what}: the text for the sample at index {number} cannot be written as UTF-8"
            ) from error
        texts.append(str(text))
    return texts


def without_collision(present: Iterable[Any], added: Iterable[str], what: str) -> None:
    """Check that none of the columns to add is there already.

    Raises
    ------
    DataError
        If one is.
    """
    there = set(present)
    both = [name for name in added if name in there]
    if both:
        raise DataError(
            f"{what}: it has a column {both[0]!r} already, which would be overwritten; rename or "
            "remove it"
        )


def worst_first(issues: pd.DataFrame) -> pd.DataFrame:
    """Return flagged samples, then the others, each with the lowest quality first."""
    order = issues.assign(_rest=~issues["is_label_issue"])
    columns = [name for name in ("_rest", "label_quality", "margin") if name in order]
    return issues.iloc[np.lexsort([order[name].to_numpy() for name in reversed(columns)])]
