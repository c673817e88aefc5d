"""What a person decided about single labels: the review that the report's page exports."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError

__all__ = ["COLUMNS", "DECISIONS", "with_review"]

#: The columns of a review. Others, such as class names, are for people and are not read.
COLUMNS = ("index", "given_label", "decision", "label")

DECISIONS = ("keep", "change", "skip")


@dataclass(frozen=True)
class _Entry:
    """One line of a review, and where it is, as an error names it."""

    where: str
    cells: Mapping[str, Any]

    def error(self, column: str, expected: str) -> DataError:
        """Return the error that names row and column, what was expected and what was found."""
        cell = self.cells[column]
        found = "nothing" if _empty(cell) else repr(cell)[:60]
        return DataError(f"{self.where}, column {column}: expected {expected}; found {found}")

    def number(self, column: str, expected: str) -> int:
        value = _whole(self.cells[column])
        if value is None:
            raise self.error(column, expected)
        return value


def with_review(
    cleaned: pd.DataFrame, review: str | os.PathLike[str] | pd.DataFrame, n_classes: int
) -> pd.DataFrame:
    """Return cleaned labels in which a person's decisions replace the decoder's.

    Parameters
    ----------
    cleaned : DataFrame
        As `Decoding.relabel` gives it without a review.
    review : path or DataFrame
        See `Decoding.relabel`.
    n_classes : int
        Number of classes.

    Returns
    -------
    DataFrame
        `cleaned` with the column `reviewed`: whether a person decided.

    Raises
    ------
    DataError
        If the review cannot be read, or is not one of this run. Nothing is changed then.
    """
    places = {int(index): place for place, index in enumerate(cleaned.index)}
    given = cleaned["given_label"].to_numpy()
    label, sure = cleaned["label"].to_numpy(copy=True), cleaned["confidence"].to_numpy(copy=True)
    reviewed = np.zeros(len(cleaned), dtype=bool)
    seen: dict[int, str] = {}
    for entry in _entries(review):
        index = entry.number("index", "the index of a training sample")
        if index not in places:
            raise entry.error("index", f"one of the {len(places):,} samples of this run")
        if index in seen:
            raise entry.error("index", f"each sample once, and it is in {seen[index]} too")
        seen[index] = entry.where.split(": ", 1)[-1]
        place = places[index]
        own = int(given[place])
        if entry.number("given_label", f"{own}, the given label in this run") != own:
            raise entry.error(
                "given_label",
                f"{own}, the given label of sample {index} in this run (is this the review of "
                "another run?)",
            )
        decided = _decided(entry, own, n_classes)
        if decided is not None:
            label[place], sure[place], reviewed[place] = decided, 1.0, True
    return cleaned.assign(label=label, confidence=sure, changed=label != given, reviewed=reviewed)


def _decided(entry: _Entry, given: int, n_classes: int) -> int | None:
    """Return the label that a person chose, or None if the sample was skipped."""
    decision = str(entry.cells["decision"]).strip().lower()
    if decision not in DECISIONS:
        raise entry.error("decision", f"{', '.join(DECISIONS[:-1])} or {DECISIONS[-1]}")
    if decision == "skip":
        return None
    if decision == "keep":
        empty = _empty(entry.cells["label"])
        if not empty and _whole(entry.cells["label"]) != given:
            raise entry.error("label", f"{given}, the given label, or nothing, as it is kept")
        return given
    expected = f"a class from 0 to {n_classes - 1}"
    label = entry.number("label", expected)
    if not 0 <= label < n_classes:
        raise entry.error("label", expected)
    if label == given:
        raise entry.error("label", "another class than the given one (or the decision keep)")
    return label


def _entries(review: str | os.PathLike[str] | pd.DataFrame) -> Iterator[_Entry]:
    if isinstance(review, pd.DataFrame):
        table = review
        if "index" not in table.columns and table.index.name == "index":
            table = review.reset_index()
        _check_columns(list(map(str, table.columns)), "review")
        columns = [table[name].tolist() for name in COLUMNS]
        for row, cells in enumerate(zip(*columns, strict=True)):
            values = ("" if _empty(cell) else cell for cell in cells)
            yield _Entry(f"review: row {row}", dict(zip(COLUMNS, values, strict=True)))
        return
    path = Path(review)
    head: Sequence[str] = ()
    # As a spreadsheet counts: the heading is row 1.
    for row, line in enumerate(_lines(path), 1):
        if row == 1:
            head = [cell.strip() for cell in line]
            _check_columns(head, str(path))
        elif any(cell.strip() for cell in line):
            if len(line) != len(head):
                raise DataError(
                    f"{path}: row {row}: expected {len(head)} columns, as in the heading; found "
                    f"{len(line)}"
                )
            yield _Entry(f"{path}: row {row}", dict(zip(head, line, strict=True)))


def _lines(path: Path) -> Iterator[Sequence[str]]:
    """Yield the rows of a CSV file, the heading among them."""
    try:
        # With or without the mark that spreadsheets put at the start.
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            first = next(rows, None)
            if first is None:
                raise DataError(
                    f"{path}: expected a review with the columns {', '.join(COLUMNS)}; the file "
                    "is empty"
                )
            yield first
            yield from rows
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot read the review {path}: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8; {error}") from None


def _check_columns(found: Sequence[str], what: str) -> None:
    for name in COLUMNS:
        if found.count(name) != 1:
            many = "no column" if name not in found else "more than one column"
            raise DataError(
                f"{what}: row 1: expected a review with the columns {', '.join(COLUMNS)}; found "
                f"{many} {name} among {', '.join(found)[:120] or 'none'}"
            )


def _empty(value: Any) -> bool:
    return value is None or value is pd.NA or value != value or not str(value).strip()


def _whole(value: Any) -> int | None:
    """Return a whole number, also from text and from 3.0, as tables with gaps write it; or None."""
    text = str(value).strip()
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None
