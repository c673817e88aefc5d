"""Run the grid of one of the paper's pairs, and write its results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..utils.files import write_text
from ..utils.versions import machine, versions
from .comparison import compare, differences, read_published, verdict
from .dynamics import peaks
from .figures import write_figures
from .grid import run_grid
from .pages import reproduction_page, write_tables
from .plan import Plan
from .shown import Shown, markdown, shown_tables
from .shown_dynamics import shown_dynamics
from .tables import (
    choices_table,
    dynamics_table,
    geometry_table,
    models_table,
    results_table,
    retraining_table,
    summarise,
)

__all__ = ["Reproduction", "reproduce"]


@dataclass(frozen=True)
class Reproduction:
    """The results of a grid.

    Attributes
    ----------
    models : pandas.DataFrame
        One row for each trained network.
    results : pandas.DataFrame
        One row for each accuracy of each run.
    summary : pandas.DataFrame
        Mean and standard deviation over runs.
    comparison : pandas.DataFrame or None
        Our results beside the published ones, if those were given.
    dynamics : pandas.DataFrame
        One row for each accuracy along training (S1 and S2).
    about : dict
        Settings, versions, machine, verdict.
    tables : list of Shown
        The tables to show.
    """

    models: pd.DataFrame
    results: pd.DataFrame
    summary: pd.DataFrame
    comparison: pd.DataFrame | None
    dynamics: pd.DataFrame
    about: dict[str, Any]
    tables: list[Shown]

    def as_dict(self) -> dict[str, Any]:
        """Return everything except single runs, as numbers and text."""
        content = {**self.about, "models": _records(self.models), "summary": _records(self.summary)}
        if self.comparison is not None:
            content["comparison"] = _records(self.comparison)
        if len(self.dynamics):
            content["dynamics"] = _records(peaks(self.dynamics))
        return content


def reproduce(
    plan: Plan,
    out: Path,
    *,
    published: Sequence[Path] = (),
    jobs: int = 1,
    progress: bool = True,
    command: str | None = None,
) -> Reproduction:
    """Run the unfinished cells of a plan, and write the folder's tables.

    Parameters
    ----------
    plan : Plan
        What to run.
    out : Path
        Folder of the grid. Finished cells are not run again. The tables written there hold all
        its cells, including those of earlier calls.
    published : sequence of Path
        Published result tables to compare with; see `comparison`.
    jobs : int
        Units that run at once.
    progress : bool
        Show progress bars on a terminal.
    command : str, optional
        The command line, to be written into ``results.json``.

    Returns
    -------
    Reproduction

    Raises
    ------
    DataError
        If the data set is not available, or a published table cannot be read.
    OutputError
        If the folder cannot be used; see `run_grid`.
    """
    others = read_published(published, plan) if published else None
    run_grid(plan, out, jobs=jobs, progress=progress)
    results, models = results_table(plan, out), models_table(plan, out)
    retraining, choices = retraining_table(plan, out), choices_table(plan, out)
    geometry, dynamics = geometry_table(plan, out), dynamics_table(plan, out)
    summary = summarise(results)
    differ = differences(plan)
    both = None if others is None else compare(summary, models, others, differ)
    about: dict[str, Any] = {
        "kind": "reproduction",
        **plan.fixed,
        "asked": {
            "corruption": list(plan.corruptions),
            "runs": plan.runs,
            "only": list(plan.only),
            "device": plan.device,
            "jobs": jobs,
        },
        "command": command,
        "versions": versions(),
        "machine": machine(plan.device),
    }
    if both is not None:
        about["verdict"] = verdict(both, differ)
        write_text(out / "comparison.csv", both.to_csv(index=False))
    write_text(out / "results.csv", results.to_csv(index=False))
    write_text(out / "models.csv", models.to_csv(index=False))
    write_text(out / "retraining.csv", retraining.to_csv(index=False))
    write_text(out / "choices.csv", choices.to_csv(index=False))
    write_text(out / "geometry.csv", geometry.to_csv(index=False))
    write_text(out / "summary.csv", summary.to_csv(index=False))
    if len(dynamics):
        write_text(out / "dynamics.csv", dynamics.to_csv(index=False))
    write_figures(plan, summary, dynamics, out)
    parts = summary, models, retraining, choices, both
    tables = shown_tables(plan, *parts) + shown_dynamics(plan, dynamics)
    everything = shown_tables(plan, *parts, geometry=geometry, training=True)
    everything += shown_dynamics(plan, dynamics, epochs=True)
    write_text(out / "tables.md", markdown(everything))
    write_tables(everything, out)
    page = reproduction_page(plan, summary, about, everything, dynamics)
    write_text(out / "report.html", page)
    reproduction = Reproduction(models, results, summary, both, dynamics, about, tables)
    text = json.dumps(reproduction.as_dict(), indent=2, allow_nan=False)
    write_text(out / "results.json", text + "\n")
    return reproduction


def _records(table: pd.DataFrame) -> list[Mapping[str, Any]]:
    """Return rows as dicts, with None in place of NaN, which JSON lacks."""
    records: list[Mapping[str, Any]] = json.loads(
        table.to_json(orient="records", double_precision=10)
    )
    return records
