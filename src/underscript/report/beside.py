"""Several runs side by side."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..errors import DataError
from ..results.run import Run
from .facts import chosen_words, key_numbers
from .page import page_of
from .plots import layer_curve
from .plots.style import printable
from .svg import inline
from .words import percent, plain

__all__ = ["render_beside"]

# The parts of results.json that say how a run was made.
PARTS = ("settings", "seeds", "training", "versions", "machine")


def render_beside(runs: Mapping[str, Run]) -> str:
    """Return runs side by side as one HTML page.

    Parameters
    ----------
    runs : mapping of str to Decoding
        At least two, by name.

    Raises
    ------
    DataError
        If there are fewer, or their parts are not what a run writes.
    """
    if len(runs) < 2:
        raise DataError(f"expected at least two runs to compare; found {len(runs)}")
    all_runs = list(runs.values())
    names = [printable(name) for name in runs]
    try:
        differ = _differ(all_runs)
        same_kind = {row[0].split(": ")[0] for row in differ} <= {"seeds"}
        label = "Accuracy by layer of {}"
        curves = [
            inline(partial(layer_curve, d), f"run{place}", (4.2, 4.1), label=label.format(name))
            for place, (name, d) in enumerate(zip(names, all_runs, strict=True))
        ]
        together = None
        if same_kind:
            together = inline(
                lambda ax: layer_curve(all_runs, ax),
                "all",
                (7.6, 4.1),
                label=label.format("all runs, mean and spread"),
            )
        return page_of(
            "beside.html.j2",
            names=names,
            verdict=_verdict(names, all_runs),
            numbers=_numbers(all_runs),
            curves=curves,
            together=together,
            differ=differ,
            verdicts=[(name, d.verdict) for name, d in zip(names, all_runs, strict=True)],
        )
    except KeyError as error:
        raise DataError(f"expected the results of runs, found some without {error}") from error


def _verdict(names: Sequence[str], runs: Sequence[Run]) -> str:
    """Return the runs by accuracy: on test data if all have some, else as estimated."""
    values = [run.summary["selected"]["test_accuracy"] for run in runs]
    what = "of the test labels"
    if any(value is None for value in values):
        noises = [run.summary["noise"] for run in runs]
        values = [None if noise is None else noise["accuracy"] for noise in noises]
        what = "as estimated"
    if any(value is None for value in values):
        return f"{len(runs)} runs side by side; not all say how right they are."
    order = sorted(range(len(runs)), key=lambda i: -values[i])
    listed = ", ".join(f"{names[i]} {percent(values[i])}%" for i in order)
    return f"Decoded, {what}: {listed}."


def _numbers(runs: Sequence[Run]) -> list[list[str]]:
    by_name = [{number.name: number for number in key_numbers(run)} for run in runs]
    names = dict.fromkeys(name for numbers in by_name for name in numbers)
    rows = [
        [name, *(f"{numbers[name].value}" if name in numbers else "–" for numbers in by_name)]
        for name in names
    ]
    return [*rows, ["Chosen", *(chosen_words(run) for run in runs)]]


def _differ(runs: Sequence[Run]) -> list[list[str]]:
    """Return the settings in which runs differ: the name, and each run's value."""
    rows = []
    for part in PARTS:
        settings: list[Mapping[str, Any]] = [run.summary.get(part) or {} for run in runs]
        for name in dict.fromkeys(key for some in settings for key in some):
            values = [plain(some.get(name)) for some in settings]
            if len(set(values)) > 1:
                rows.append([f"{part}: {name.replace('_', ' ')}", *values])
    return rows
