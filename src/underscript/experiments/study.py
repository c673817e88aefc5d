"""The study of A1: test the decoder that chooses itself over data, networks and noise.

Networks of several data sets, architectures, noise kinds, degrees and seeds are trained with a
hold-out. A1 and the published kinds of probe (A2) decode them, and one table compares the results
with bars that were set before. Run 1 is for tuning; reported results come from later runs, which
have their own weights, labels and hold-outs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import DataError
from ..utils.files import write_text
from ..utils.versions import machine, versions
from .catalogue import SETTINGS
from .grid import run_grid
from .pages import study_page, write_tables
from .plan import Plan
from .shown import Shown, markdown, plus_minus
from .tables import finished
from .work import as_json

__all__ = ["Study", "bars", "run_study", "study_table"]

KEYS = ["setting", "noise", "corruption"]
# The units of a cell of the study.
ONLY = ("A1", "A2")


@dataclass(frozen=True)
class Study:
    """The results of a study.

    Attributes
    ----------
    networks : pandas.DataFrame
        One row for each network and way to choose; see `study_table`.
    bars : pandas.DataFrame
        See `bars`.
    about : dict
        Settings, versions, machine.
    tables : list of Shown
        The tables to show.
    """

    networks: pd.DataFrame
    bars: pd.DataFrame
    about: dict[str, Any]
    tables: list[Shown]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as numbers and text."""
        return {
            **self.about,
            "bars": self.bars.to_dict("records"),
            "networks": self.networks.astype(object)
            .where(self.networks.notna(), None)
            .to_dict("records"),
        }


def plans(
    settings: Sequence[str], runs: int, first_run: int, root: Path | None, device: str
) -> dict[str, Plan]:
    """Return the grids of a study, by folder.

    Raises
    ------
    DataError
        If a setting is unknown, or a number of runs out of range.
    """
    unknown = [name for name in settings if name not in SETTINGS]
    if unknown or not settings:
        raise DataError(f"settings: expected some of {', '.join(SETTINGS)}; found {settings!r}")
    if first_run < 1:
        raise DataError(f"first-run: expected at least 1; found {first_run}")
    made = {}
    for name in settings:
        samples, holdout, by_noise = SETTINGS[name]
        for noise, degrees in by_noise.items():
            made[f"{name}-{noise}"] = Plan(
                name,
                runs=runs,
                first_run=first_run,
                only=ONLY,
                samples=samples,
                holdout=holdout,
                new_labels=True,
                test_curve=False,
                root=root,
                device=device,
                noise=noise,
                corruptions=degrees,
            )
    return made


def run_study(
    out: Path,
    *,
    settings: Sequence[str] = tuple(SETTINGS),
    runs: int = 3,
    first_run: int = 2,
    root: Path | None = None,
    device: str = "cpu",
    jobs: int = 1,
    progress: bool = True,
    command: str | None = None,
) -> Study:
    """Run the unfinished cells of a study, and write its tables.

    Parameters
    ----------
    out : Path
        Folder of the study, with a grid's folder for each setting and noise kind. Finished cells
        are not run again.
    settings : sequence of str
        Names from `SETTINGS`.
    runs, first_run : int
        Networks for each cell, and the number of the first. Choices were tuned on run 1.
    root, device, jobs, progress, command
        As for `reproduce`.

    Raises
    ------
    DataError
        If a setting is unknown, or a data set is not available.
    OutputError
        If a folder cannot be used; see `run_grid`.
    """
    made = plans(settings, runs, first_run, root, device)
    for folder, plan in made.items():
        run_grid(plan, out / folder, jobs=jobs, progress=progress)
    wanted = range(first_run, first_run + runs)
    networks = study_table({out / folder: plan for folder, plan in made.items()}, wanted)
    reached = bars(networks)
    tables = [_shown(networks), _shown_bars(reached)]
    about: dict[str, Any] = {
        "kind": "study",
        "settings": list(settings),
        "runs": [*wanted],
        "command": command,
        "versions": versions(),
        "machine": machine(device),
    }
    write_text(out / "study.csv", networks.to_csv(index=False))
    write_text(out / "bars.csv", reached.to_csv(index=False))
    write_text(out / "study.md", markdown(tables))
    write_tables(tables, out)
    write_text(out / "report.html", study_page(networks, reached, about, tables))
    write_text(out / "study.json", as_json(about))
    return Study(networks, reached, about, tables)


def study_table(folders: dict[Path, Plan], runs: Sequence[int]) -> pd.DataFrame:
    """Return one table of all finished cells.

    Returns
    -------
    pandas.DataFrame
        One row for each network and way to choose. Accuracies are on test data, 0 to 1: `model`:
        the network; `clean`: the network trained with the same seed and no wrong labels;
        `accuracy`: A1; `input`: the input alone, also refined; `masc`: MASC 0.99 at its best layer;
        `rival`: the best published kind of probe on any layer or the input, named in `rival_probe`
        (MASC at five variance shares, VeLPIC, k-NN, LDA, QDA, nearest class mean, logistic
        regression, the robust generative classifier RoG, and FINE, which aligns rows with class
        eigenvectors); `rival_on_layers`: the same without the input; `oracle`: the best of all
        that A1 tried, on layers and input. All but `accuracy` choose with clean test labels.
        `recovered`: the share of memorisation's loss that A1 regains, (accuracy − model) /
        (clean − model).
    """
    rows = []
    for out, plan in folders.items():
        compared = {work.cell for work in finished(plan, out, "rivals")}
        for work in finished(plan, out, "auto"):
            if work.cell.run not in runs or work.cell not in compared:
                continue
            tried = pd.concat([work.table("rivals"), work.table("subspaces")])
            best = tried.iloc[int(tried["accuracy"].to_numpy().argmax())]
            own = tried[tried["layer"] != "input"]["accuracy"].max()
            for row in work.table("auto").to_dict("records"):
                rows.append(
                    {
                        "setting": plan.experiment,
                        "noise": plan.noise,
                        "corruption": work.cell.corruption,
                        "run": work.cell.run,
                        **row,
                        "masc": row["masc_oracle"],
                        "rival": float(best["accuracy"]),
                        "rival_probe": f"{best['probe']} on {best['layer']}",
                        "rival_on_layers": float(own),
                    }
                )
    table = pd.DataFrame(rows)
    clean = table[table["corruption"] == 0].drop_duplicates(["setting", "run"])
    clean = clean[["setting", "run", "model"]].rename(columns={"model": "clean"})
    table = table.merge(clean, on=["setting", "run"], how="left")
    lost = table["clean"] - table["model"]
    table["recovered"] = ((table["accuracy"] - table["model"]) / lost).where(lost > 0)
    table["regret"] = table["oracle"] - table["accuracy"]
    table["rate_error"] = table["rate"] - table["wrong_labels"]
    table["cost"] = table["choose_s"] / (table["fit_s"] + table["evaluate_s"])
    return table


def bars(networks: pd.DataFrame) -> pd.DataFrame:
    """Compare a study with the bars that were set before it.

    Returns
    -------
    pandas.DataFrame
        `bar`, `chosen_by`, `reached` (text), `cells`, `met`. Values are means over seeds first.
    """
    verdicts: list[dict[str, Any]] = []

    def add(bar: str, by: str, rows: pd.DataFrame, reached: str, met: Any) -> None:
        verdicts.append(
            {"bar": bar, "chosen_by": by, "reached": reached, "cells": len(rows), "met": bool(met)}
        )

    numbers = networks.select_dtypes("number").columns.difference(["run", "corruption"])
    for by, group in networks.groupby("chosen_by"):
        cells = group.groupby(KEYS)[list(numbers)].mean().reset_index()
        even = cells["noise"] == "symmetric"
        some = even & cells["corruption"].between(0, 0.8)
        part, name = cells[some], str(by)
        if len(part):
            for rival, where in (
                ("rival", "input or layer"),
                ("rival_on_layers", "layer of the network"),
            ):
                ahead = 100 * (part["accuracy"] - part[rival])
                add(
                    "symmetric, c ≤ 0.8: at least the best published-kind probe at its best "
                    f"{where} (oracle) − 0.5 points in every cell, above it on average",
                    name,
                    part,
                    f"mean {ahead.mean():+.1f}, worst {ahead.min():+.1f}; "
                    f"{(ahead >= -0.5).sum()} of {len(part)} cells",
                    ahead.min() >= -0.5 and ahead.mean() > 0,
                )
            off = 100 * part["rate_error"].abs()
            add(
                "symmetric, c ≤ 0.8: noise rate within 3 points",
                name,
                part,
                f"mean {off.mean():.1f}, worst {off.max():.1f}",
                off.max() <= 3,
            )
        part = cells[cells["corruption"] < 1]
        regret = 100 * part["regret"]
        mean, worst = (1.0, 3.0) if name == "holdout" else (2.5, 6.0)
        add(
            f"regret against the best of all that was tried: mean ≤ {mean:g}, worst ≤ {worst:g}",
            name,
            part,
            f"mean {regret.mean():.1f}, worst {regret.max():.1f}",
            regret.mean() <= mean and regret.max() <= worst,
        )
        part = cells[~even]
        if len(part):
            ahead = 100 * (part["accuracy"] - part["model"])
            add(
                "pair and instance noise: not below the network by more than 0.5 points",
                name,
                part,
                f"mean {ahead.mean():+.1f}, worst {ahead.min():+.1f}",
                ahead.min() >= -0.5,
            )
        part = cells[even & (cells["corruption"] == 0)]
        if len(part):
            ahead = 100 * (part["accuracy"] - part["model"])
            reported = group[(group["corruption"] == 0)]["nothing_wrong"].astype(bool)
            add(
                "c = 0: within 0.5 points of the network, and it says that nothing is to repair",
                name,
                part,
                f"worst {ahead.min():+.1f}; said for {reported.sum()} of {len(reported)}",
                ahead.min() >= -0.5 and reported.all(),
            )
        part = group[group["corruption"] == 1]
        if len(part):
            reported = part["hopeless"].astype(bool)
            add(
                "c = 1: it says that nothing can be decoded",
                name,
                part,
                f"said for {reported.sum()} of {len(reported)}",
                reported.all(),
            )
        cost = cells["cost"].median()
        add(
            "refining costs at most twice the decode pass",
            name,
            cells,
            f"median {cost:.1f} times",
            cost <= 2,
        )
    return pd.DataFrame(verdicts)


def _shown(networks: pd.DataFrame) -> Shown:
    columns = (
        "setting",
        "noise",
        "c",
        "wrong labels",
        "network",
        "MASC 0.99 (oracle layer)",
        "best published-kind probe (oracle)",
        "the same on the network's layers",
        "auto, hold-out",
        "auto, training data",
        "input alone",
        "best of all tried (oracle)",
        "regret, hold-out",
        "regret, training data",
        "recovered, hold-out",
        "noise rate, hold-out",
        "noise rate, training data",
    )
    rows = []
    for key, group in networks.groupby(KEYS, sort=False):
        setting, noise, degree = key
        by = {name: group[group["chosen_by"] == name] for name in ("holdout", "training data")}

        def mean(name: str, rows: pd.DataFrame) -> str:
            return plus_minus(rows[name].mean(), rows[name].std()) if len(rows) else ""

        held, alone = by["holdout"], by["training data"]
        first = held if len(held) else alone
        probes = ", ".join(dict.fromkeys(first["rival_probe"]))
        rows.append(
            (
                str(setting),
                str(noise),
                f"{degree:g}",
                mean("wrong_labels", first),
                mean("model", first),
                mean("masc", first),
                f"{mean('rival', first)} {probes}",
                mean("rival_on_layers", first),
                mean("accuracy", held),
                mean("accuracy", alone),
                mean("input", first),
                mean("oracle", first),
                mean("regret", held),
                mean("regret", alone),
                mean("recovered", held),
                mean("rate", held),
                mean("rate", alone),
            )
        )
    return Shown("The study: test accuracy, %", columns, rows)


def _shown_bars(reached: pd.DataFrame) -> Shown:
    rows = [
        (row["bar"], row["chosen_by"], row["reached"], "yes" if row["met"] else "no")
        for row in reached.to_dict("records")
    ]
    return Shown("Bars", ("bar", "chosen by", "reached", "met"), rows)
