"""Names of classes: as users give them, and as text that is safe in a spreadsheet."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError, LabelError

# What a spreadsheet takes for the start of a formula, their full-width forms too (OWASP, "CSV
# Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def as_names(names: Any) -> tuple[str, ...] | None:
    """Return names of classes, in the read-out's order; None for None.

    Raises
    ------
    DataError
        If one is not text that can be written.
    """
    if names is None:
        return None
    if isinstance(names, str) or not hasattr(names, "__iter__"):
        raise DataError(f"class_names: expected a list of names; found {type(names).__name__}")
    given = list(names)
    for place, name in enumerate(given):
        if not isinstance(name, str) or not name:
            raise DataError(f"class_names: expected text for class {place}; found {name!r}")
        if not _writable(name):
            raise DataError(f"class_names: that of class {place} is not text that can be written")
    return tuple(str(name) for name in given)


def check_number(names: Sequence[str] | None, n_classes: int, *, alone: bool = False) -> None:
    """Check that there is one name for each class.

    Parameters
    ----------
    names : sequence of str or None
        The names; None is right for any number of classes.
    n_classes : int
        Number of classes.
    alone : bool
        Whether there is no model, only labels.

    Raises
    ------
    DataError
        If there are more or fewer.
    """
    if names is not None and len(names) != n_classes:
        whose = (
            "of the labels, in the order of their numbers"
            if alone
            else "that the model's read-out knows, in its order"
        )
        raise DataError(
            f"class_names: expected {n_classes} names, one for each class {whose}; "
            f"found {len(names)}"
        )


def _writable(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in name


def read_names(path: Path) -> list[Any]:
    """Read names from a file: one per line, or a JSON list, which may hold any text.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except OSError as error:
        raise DataError(f"--classes: cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        kind = "a JSON list" if path.suffix == ".json" else "UTF-8 text"
        raise DataError(f"--classes: {path} is not {kind} ({error})") from None
    if not isinstance(names, list):
        raise DataError(f"--classes: expected a list in {path}; found {type(names).__name__}")
    return names


def as_classes(labels: Any, names: Sequence[str] | None, what: str, start: int = 0) -> Any:
    """Return text labels as class numbers, and other labels unchanged.

    Raises
    ------
    LabelError
        If they are text and there are no names, or a label matches none of the names or two.
    """
    texts = texts_in(labels)
    if texts is None:
        return labels
    if names is None:
        raise LabelError(
            f"{what}: expected integer classes 0 … K−1; found text such as {texts[0]!r}; give "
            "class_names=[…], the names of all classes in the order of the model's read-out (on "
            "the command line --classes FILE, one name a line)"
        )
    places = {name: place for place, name in reversed(list(enumerate(names)))}
    numbers = np.empty(len(texts), dtype=np.int64)
    for at, text in enumerate(texts):
        if text not in places:
            close = difflib.get_close_matches(text, list(places), n=1)
            hint = f"; the closest is {close[0]!r}" if close else ""
            raise LabelError(
                f"{what}: found {text!r} at index {start + at}, which is none of the "
                f"{len(names)} class names{hint}"
            )
        numbers[at] = places[text]
    twice = {name for name in places if names.count(name) > 1}
    if twice & set(texts):
        raise LabelError(
            f"{what}: {sorted(twice & set(texts))[0]!r} names more than one class; give numbers"
        )
    return numbers


def texts_in(labels: Any) -> list[str] | None:
    """Return the labels as a list if they are text, else None."""
    if hasattr(labels, "detach"):  # a tensor holds no text
        return None
    try:
        array = np.asarray(labels)
    except ValueError:
        return None
    if array.ndim != 1 or not array.size or array.dtype.kind not in "OUT":
        return None
    values = array.tolist()
    return values if all(isinstance(value, str) for value in values) else None


def with_names(issues: pd.DataFrame, names: Sequence[str] | None) -> pd.DataFrame:
    """Return a copy of a table with `given_label` and the like, with class names."""
    if names is None:
        return issues.copy()
    by_number = np.asarray(names, dtype=object)
    kinds = [k for k in ("given", "predicted", "second") if f"{k}_label" in issues]
    return issues.assign(**{f"{kind}_name": by_number[issues[f"{kind}_label"]] for kind in kinds})


def for_spreadsheets(text: str) -> str:
    """Return text that a spreadsheet shows but does not compute: formulas get a leading quote."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def for_terminals(text: str) -> str:
    """Return text on one line without control characters, which could steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
