"""Tidy tables of a grid's finished cells, with mean and spread over runs."""

from pathlib import Path
from typing import Any

import pandas as pd

from ..utils.files import TABLE_COLUMNS
from .dynamics import COLUMNS as DYNAMICS
from .plan import Cell, Plan
from .units import ONE_COMPONENT
from .work import Work

__all__ = [
    "choices_table",
    "dynamics_table",
    "geometry_table",
    "models_table",
    "probe_name",
    "results_table",
    "retraining_table",
    "summarise",
]

COLUMNS = (
    "experiment",
    "corruption",
    "run",
    *(column for column in TABLE_COLUMNS if column != "selected"),
    "fit_s",
    "predict_s",
    "fit_flops",
    "predict_flops",
)
# Rows of different runs that agree in these columns belong together.
CELL = (
    "experiment",
    "corruption",
    "model",
    "layer",
    "width",
    "probe",
    "variance",
    "subspace_labels",
    "split",
    "labels",
)


def finished(plan: Plan, out: Path, unit: str) -> list[Work]:
    """Return the cells of a folder in which a unit is finished, in order."""
    works = []
    for path in out.glob(f"cells/*/{unit}.json"):
        name = path.parent.name
        degree, _, run = name.removeprefix("c").partition("-run")
        works.append(Work(plan, Cell(float(degree), int(run)), out))
    return sorted(works, key=lambda work: work.cell)


def results_table(plan: Plan, out: Path) -> pd.DataFrame:
    """Return every accuracy of a grid's finished units.

    Returns
    -------
    pandas.DataFrame
        One row per experiment (E1 …), corruption degree, run, layer, probe and split; columns as
        in `COLUMNS`. The network's own accuracies are rows of E1 with the probe ``model``; E4 has
        its own table.

    Raises
    ------
    OutputError
        If a table cannot be read.
    """
    parts = []
    for unit, name in (
        ("layers", "E1"),
        ("generalised", "E3"),
        ("shares", "E5"),
        ("probes", "E6"),
        ("rivals", "A2"),
    ):
        for work in finished(plan, out, unit):
            table = work.table(unit)
            table.insert(0, "experiment", name)
            if unit == "layers":
                table.loc[table["subspace_labels"] == "true", "experiment"] = "E2"
            if unit in ("shares", "probes", "rivals"):
                # The network's own rows are in E1.
                table = table[table["probe"] != "model"]
            table.insert(1, "corruption", work.cell.corruption)
            table.insert(2, "run", work.cell.run)
            parts.append(table)
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat([part.reindex(columns=list(COLUMNS)) for part in parts], ignore_index=True)


def retraining_table(plan: Plan, out: Path) -> pd.DataFrame:
    """Return E4's table: a row for each cell and for each choice of the layer that relabels.

    Returns
    -------
    pandas.DataFrame
        ``layer_is``: ``oracle`` (best on test data, as in the paper) or ``chosen`` (on noisy
        labels); ``layer``; test accuracy ``before`` and ``after``; shares of all labels that
        ``changed_to_right`` and ``changed_to_wrong``, and of wrong ones before and after.
    """
    columns = (
        "corruption",
        "run",
        "layer_is",
        "layer",
        "before",
        "after",
        "changed_to_right",
        "changed_to_wrong",
        "wrong_before",
        "wrong_after",
        "epochs",
        "train_accuracy",
    )
    rows = [
        {
            **record,
            "corruption": work.cell.corruption,
            "run": work.cell.run,
            "layer_is": role,
            "layer": layer,
            "after": record["test_accuracy"],
        }
        for work in finished(plan, out, "retraining")
        for layer, record in work.record("retraining")["layers"].items()
        for role in record["layer_is"]
    ]
    return pd.DataFrame(rows).reindex(columns=list(columns))


def choices_table(plan: Plan, out: Path) -> pd.DataFrame:
    """Return A1's table: a row for each cell and way to choose, as the unit wrote it."""
    parts = []
    for work in finished(plan, out, "auto"):
        table = work.table("auto")
        table.insert(0, "corruption", work.cell.corruption)
        table.insert(1, "run", work.cell.run)
        parts.append(table)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["corruption"])


def dynamics_table(plan: Plan, out: Path) -> pd.DataFrame:
    """Return what S1 and S2 read along training: a row for each accuracy at an epoch.

    Returns
    -------
    pandas.DataFrame
        Columns as in `dynamics.COLUMNS`. `epoch` 0 is before training. `model` is ``trained``, or
        ``transferred`` with VeLPIC in the read-out; `bias` then says which bias it has.
    """
    parts = [
        work.table("dynamics").assign(corruption=work.cell.corruption, run=work.cell.run)
        for work in finished(plan, out, "dynamics")
    ]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return table.reindex(columns=list(DYNAMICS))


def geometry_table(plan: Plan, out: Path) -> pd.DataFrame:
    """Return sizes of class subspaces and angles between them: means over classes and runs.

    Returns
    -------
    pandas.DataFrame
        For each corruption degree, layer and kind of labels: means over classes of `rank` and
        `effective_rank`, and means over pairs of different classes of `smallest_angle`,
        `first_angle` (degrees) and `overlap`; see `probes.geometry`.
    """
    parts = [
        work.table("geometry").assign(corruption=work.cell.corruption)
        for work in finished(plan, out, "probes")
    ]
    keys = ["layer", "subspace_labels", "corruption"]
    if not parts:
        return pd.DataFrame(columns=keys)
    table = pd.concat(parts, ignore_index=True)
    alone = table["class_a"] == table["class_b"]
    own = table[alone].groupby(keys, sort=False)[["rank", "effective_rank"]].mean()
    pairs = table[~alone].groupby(keys, sort=False)
    return own.join(pairs[["smallest_angle", "first_angle", "overlap"]].mean()).reset_index()


def models_table(plan: Plan, out: Path) -> pd.DataFrame:
    """Return one row for each trained network: epochs, accuracies, share of wrong labels.

    `running_accuracy` is measured on the batches of the last epoch, before each step;
    `train_accuracy` on the finished network.
    """
    columns = (
        "corruption",
        "run",
        "epochs",
        "reached",
        "running_accuracy",
        "train_accuracy",
        "true_accuracy",
        "test_accuracy",
        "oracle_test_accuracy",
        "oracle_epoch",
        "wrong_labels",
        "seconds",
    )
    rows = [work.record("training") for work in finished(plan, out, "training")]
    return pd.DataFrame(rows).reindex(columns=list(columns))


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation (n − 1; missing for one run) of accuracies over runs."""
    grouped = results.groupby(list(CELL), dropna=False, sort=False)
    return grouped.agg(
        mean=("accuracy", "mean"),
        sd=("accuracy", "std"),
        runs=("accuracy", "count"),
        fit_s=("fit_s", "mean"),
        predict_s=("predict_s", "mean"),
    ).reset_index()


def probe_name(probe: str, variance: Any) -> str:
    """Return what a probe is called in tables and figures."""
    if probe != "masc" or variance is None or pd.isna(variance):
        return probe
    return "masc 1 component" if variance == ONE_COMPONENT else f"masc {variance:g}"
