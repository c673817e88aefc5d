"""A grid's results as text tables, for the terminal and as Markdown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.table import Table

from .catalogue import EXPERIMENTS
from .comparison import differences
from .plan import Plan
from .tables import probe_name

__all__ = ["Shown", "markdown", "shown_tables"]


# Where accuracies are measured. The test set's labels are the true ones.
WHERE = {
    ("test", "given"): "test accuracy",
    ("train", "true"): "accuracy on training data with their true labels",
    ("train", "given"): "accuracy on training data with the corrupted labels",
}


@dataclass(frozen=True)
class Shown:
    """A table as text.

    Attributes
    ----------
    title : str
        What the table shows, and in which unit.
    columns : sequence of str
        Column heads.
    rows : sequence of sequence of str
        Cells.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self) -> Table:
        """Return the table for the terminal."""
        table = Table(*self.columns, title=self.title)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"**{self.title}**\n\n{body}\n"


def markdown(tables: Sequence[Shown]) -> str:
    """Return tables as one Markdown text."""
    return "\n".join(table.markdown() for table in tables)


def shown_tables(
    plan: Plan,
    summary: pd.DataFrame,
    models: pd.DataFrame,
    retraining: pd.DataFrame,
    choices: pd.DataFrame,
    both: pd.DataFrame | None = None,
    *,
    geometry: pd.DataFrame | None = None,
    training: bool = False,
) -> list[Shown]:
    """Return tables of the networks, of each experiment in the plan, and of the comparison.

    Accuracies are in per cent: mean ± standard deviation over runs.

    Parameters
    ----------
    plan : Plan
        The experiments and degrees to show.
    summary, models, retraining, choices : pandas.DataFrame
        From `summarise`, `models_table`, `retraining_table` and `choices_table`.
    both : pandas.DataFrame, optional
        From `compare`.
    geometry : pandas.DataFrame, optional
        From `geometry_table`; shown with E6.
    training : bool
        Also show accuracies on training data, if there are any.
    """
    shown = [_networks(plan, models[models["corruption"].isin(plan.corruptions)])]
    wanted = dict.fromkeys("E1" if name == "E7" else name for name in plan.only)
    if "E7" in plan.only:
        wanted["E2"] = None
    asked = summary[summary["corruption"].isin(plan.corruptions)]
    for name in wanted:
        if name == "E4" and len(retraining):
            shown.append(_retraining(retraining[retraining["corruption"].isin(plan.corruptions)]))
        if name == "A1" and len(choices):
            shown.append(_choices(choices[choices["corruption"].isin(plan.corruptions)]))
        for (split, labels), what in WHERE.items():
            rows = asked[
                (asked["experiment"] == name)
                & (asked["split"] == split)
                & (asked["labels"] == labels)
            ]
            if len(rows) and (split == "test" or training):
                shown.append(_experiment(name, what, rows))
        if name == "E6" and geometry is not None and len(geometry):
            shown.append(_geometry(geometry[geometry["corruption"].isin(plan.corruptions)]))
    if both is not None:
        shown.append(_comparison(both, differences(plan)))
    return shown


def _networks(plan: Plan, models: pd.DataFrame) -> Shown:
    columns = (
        "corruption",
        "wrong labels",
        "runs",
        "memorised",
        "epochs",
        "running accuracy",
        "training accuracy",
        "test accuracy",
        "best epoch's (oracle)",
    )
    rows = [
        (
            f"{degree:g}",
            f"{100 * group['wrong_labels'].mean():.1f}",
            str(len(group)),
            str(int(group["reached"].sum())),
            f"{group['epochs'].mean():.0f}",
            *(
                plus_minus(group[column].mean(), group[column].std())
                for column in (
                    "running_accuracy",
                    "train_accuracy",
                    "test_accuracy",
                    "oracle_test_accuracy",
                )
            ),
        )
        for degree, group in models.groupby("corruption")
    ]
    return Shown(f"The networks ({plan.set_up}), %", columns, rows)


def _choices(choices: pd.DataFrame) -> Shown:
    columns = (
        "corruption",
        "chosen by",
        "layer",
        "network",
        "auto",
        "estimated",
        "oracle layer",
        "input",
        "best masc (oracle)",
        "wrong labels",
        "estimated",
    )
    rows = []
    for (degree, criterion), group in choices.groupby(["corruption", "chosen_by"], sort=False):

        def cell(name: str, group: pd.DataFrame = group) -> str:
            return plus_minus(group[name].mean(), group[name].std())

        def between(name: str, group: pd.DataFrame = group) -> str:
            low, high = group[f"{name}_low"].mean(), group[f"{name}_high"].mean()
            return f"{cell(name, group)} ({100 * low:.1f} to {100 * high:.1f})"

        layers = ", ".join(dict.fromkeys(group["layer"]))
        best = f"{cell('oracle')} {', '.join(dict.fromkeys(group['oracle_layer']))}"
        rows.append(
            (
                f"{degree:g}",
                str(criterion),
                layers,
                cell("model"),
                cell("accuracy"),
                between("estimated"),
                best,
                cell("input"),
                cell("masc_oracle"),
                cell("wrong_labels"),
                between("rate"),
            )
        )
    return Shown(f"A1: {EXPERIMENTS['A1']}, test accuracy, %", columns, rows)


def _retraining(retraining: pd.DataFrame) -> Shown:
    columns = (
        "corruption",
        "layer that relabels",
        "test accuracy before",
        "after",
        "labels changed to right",
        "to wrong",
        "wrong labels before",
        "after",
    )
    values = ["before", "after", "changed_to_right", "changed_to_wrong"]
    values += ["wrong_before", "wrong_after"]
    rows = []
    for (degree, who), group in retraining.groupby(["corruption", "layer_is"], sort=False):
        layers = ", ".join(dict.fromkeys(group["layer"]))
        shares = [plus_minus(group[value].mean(), group[value].std()) for value in values]
        rows.append((f"{degree:g}", f"{layers} ({who})", *shares))
    return Shown(f"E4: {EXPERIMENTS['E4']}, %", columns, rows)


def _experiment(name: str, what: str, rows: pd.DataFrame) -> Shown:
    degrees = sorted(rows["corruption"].unique())
    columns = ["layer", "probe", *(f"c = {degree:g}" for degree in degrees)]
    timed = name in ("E6", "A2")
    if timed:
        columns += ["fit, s", "predict, s"]
    return Shown(
        f"{name}: {EXPERIMENTS[name]}; {what}, %",
        columns,
        list(_experiment_rows(name, rows, degrees, timed)),
    )


def _experiment_rows(
    name: str, rows: pd.DataFrame, degrees: list[float], timed: bool
) -> Iterator[list[str]]:
    keys = ["model", "layer", "probe", "variance", "subspace_labels"]
    for key, group in rows.groupby(keys, dropna=False, sort=False):
        model, layer, probe, variance, labels = key
        words = probe_name(str(probe), variance)
        if probe == "model":
            words = "the network itself" if model == "trained" else str(model)
        elif model == "random":
            words += ", untrained network"
        if name == "E6":
            words += f", {labels} labels"
        by_degree = group.set_index("corruption")
        cells = [
            plus_minus(by_degree["mean"].get(degree), by_degree["sd"].get(degree))
            for degree in degrees
        ]
        if timed:
            cells += [f"{group[column].mean():.2f}" for column in ("fit_s", "predict_s")]
        yield [str(layer), words, *cells]


def _geometry(geometry: pd.DataFrame) -> Shown:
    columns = (
        "layer",
        "labels",
        "c",
        "rank",
        "effective rank",
        "smallest angle, °",
        "angle of first vectors, °",
        "overlap",
    )
    rows = [
        (
            str(row["layer"]),
            str(row["subspace_labels"]),
            f"{row['corruption']:g}",
            *(
                f"{row[name]:.1f}"
                for name in ("rank", "effective_rank", "smallest_angle", "first_angle")
            ),
            f"{row['overlap']:.2f}",
        )
        for row in geometry.to_dict("records")
    ]
    return Shown("E6: geometry of the class subspaces, means over classes and runs", columns, rows)


def _comparison(both: pd.DataFrame, differ: Sequence[str]) -> Shown:
    columns = [
        "corruption",
        "layer",
        "probe",
        "labels fitted",
        "split",
        "ours",
        "published",
        "difference",
    ]
    rows = [
        [
            f"{row['corruption']:g}",
            str(row["layer"]),
            probe_name(str(row["probe"]), row["variance"]),
            str(row["subspace_labels"]),
            row["split"] if row["split"] == "test" else f"{row['split']}, {row['labels']} labels",
            plus_minus(row["ours_mean"], row["ours_sd"]),
            plus_minus(row["published_mean"], row["published_sd"]),
            f"{100 * row['difference']:+.1f}",
        ]
        for row in both.to_dict("records")
    ]
    title = "Ours beside the published: accuracy, %"
    if differ:
        title += f". The set-up differs ({', '.join(differ)}), so no cell is said to agree"
    else:
        columns.append("agrees")
        for row, agrees in zip(rows, both["agrees"], strict=True):
            row.append("yes" if agrees else "no")
    return Shown(title, columns, rows)


def plus_minus(mean: Any, sd: Any) -> str:
    """Return a share in per cent with its spread."""
    if mean is None or pd.isna(mean):
        return ""
    return (
        f"{100 * mean:.1f}" if sd is None or pd.isna(sd) else f"{100 * mean:.1f} ± {100 * sd:.1f}"
    )
