"""``make bench-audit``: who finds wrong labels, from one memorised network or by retraining.

``python -m benchmarks.audit --out DIR [--settings …] [--runs N] [--jobs N]``. Networks are trained
on at most 2,000 images with wrong labels until they have memorised these, and every way of finding
the wrong labels is judged by the true ones (see `underscript.experiments.detection`). What is
finished in DIR is not run again, whatever stopped it. DIR then holds ``detection.csv`` (each
network and way), ``detection.md`` (the tables of docs/detection.md) and ``detection.json``
(settings, versions, machine).

``--judge DIR/cells/c0.8-run1`` judges one network of an earlier grid, of whatever size, by all ways
but k-NN and retraining, which take long on much data.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from underscript.experiments.detection import OURS, RETRAINED, fast_ways, scored
from underscript.experiments.grid import run_grid
from underscript.experiments.plan import LABEL_SEED, Cell, Plan
from underscript.experiments.shown import Shown, markdown, plus_minus
from underscript.experiments.tables import finished
from underscript.experiments.work import Work, as_json
from underscript.utils.files import write_text
from underscript.utils.versions import machine, versions

SETTINGS = ("digits-mlp", "mnist-mlp", "fashion-mnist-cnn", "moved-digits-cnn")
# At most; digits has 1,437.
SAMPLES = 2_000
# Kinds of noise, and their degrees.
NOISE = {"symmetric": (0.0, 0.2, 0.4, 0.6, 0.8), "pair": (0.2, 0.4), "instance": (0.3,)}
CELL = ["setting", "noise", "corruption"]
# Ours, measure by measure.
MEASURES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "precision_at_errors": "precision at the number of errors",
    "f1": "F1",
    "proposed_right": "proposed label right, on errors",
    "errors": "errors",
    "flagged": "flagged",
    "class_count_error": "flags against errors, by class",
}


def plans(
    settings: Sequence[str], runs: int, first_run: int, root: Path | None, device: str
) -> dict[str, Plan]:
    """Return the grids by folder; run r has weights, labels and batches of its own."""
    return {
        f"{name}-{noise}": Plan(
            name,
            noise=noise,
            corruptions=degrees,
            runs=runs,
            first_run=first_run,
            only=("D1",),
            samples=SAMPLES,
            new_labels=True,
            root=root,
            device=device,
        )
        for name in settings
        for noise, degrees in NOISE.items()
    }


def table(made: dict[str, Plan], out: Path, runs: Sequence[int]) -> pd.DataFrame:
    """Return a row for each finished network and way, with the measures of `detection.scored`."""
    rows = [
        work.table("detection").assign(
            setting=plan.experiment,
            noise=plan.noise,
            corruption=work.cell.corruption,
            run=work.cell.run,
        )
        for folder, plan in made.items()
        for work in finished(plan, out / folder, "detection")
        if work.cell.run in runs
    ]
    if not rows:
        raise SystemExit("nothing is finished yet")
    found = pd.concat(rows, ignore_index=True)
    return found[[*CELL, "run", *found.columns.difference([*CELL, "run"], sort=False)]]


def bars(found: pd.DataFrame) -> pd.DataFrame:
    """Return what had to be reached and what was; means over runs are taken first."""
    numbers = found.select_dtypes("number").columns.difference(["run", "corruption"])
    means = found.groupby([*CELL, "way"])[list(numbers)].mean()
    wide = means.reset_index().pivot_table(index=CELL, columns="way", values="auroc")
    mine = means.xs(OURS, level="way")
    cells = wide[wide.index.get_level_values("noise") == "symmetric"]
    rivals = cells.drop(columns=[OURS, RETRAINED], errors="ignore").max(axis=1)
    told: list[dict[str, Any]] = []

    def say(bar: str, met: pd.Series, words: str) -> None:
        text = f"{words}; {int(met.sum())} of {len(met)} cells"
        told.append({"bar": bar, "reached": text, "met": bool(met.all())})

    ahead = cells[OURS] - rivals
    say(
        "symmetric: AUROC above every other way on one network",
        ahead > 0,
        f"mean {ahead.mean():+.3f}, worst {ahead.min():+.3f}",
    )
    if RETRAINED in cells:
        beside = (cells[OURS] - cells[RETRAINED]).dropna()
        say(
            "symmetric: AUROC at least that of cleanlab with five retrainings − 0.01",
            beside >= -0.01,
            f"mean {beside.mean():+.3f}, worst {beside.min():+.3f}",
        )
        dear = means.xs(RETRAINED, level="way")["cpu_seconds"]
        times = (dear / mine["cpu_seconds"]).dropna()
        say(
            "at most 1/20 of its time (processor seconds)",
            times >= 20,
            f"median 1/{times.median():.0f}, worst 1/{times.min():.0f}",
        )
    of_mnist = mine[mine.index.get_level_values("setting").str.startswith("mnist")]
    of_mnist = of_mnist[of_mnist.index.get_level_values("noise") == "symmetric"].dropna()
    say(
        "symmetric, MNIST: F1 of the flags at least 0.93",
        of_mnist["f1"] >= 0.93,
        f"mean {of_mnist['f1'].mean():.3f}, worst {of_mnist['f1'].min():.3f}",
    )
    off = (mine["flagged"] / mine["errors"] - 1)[mine["errors"] > 0]
    kinds = off.index.get_level_values("noise") == "symmetric"
    for name, part in (("symmetric", off[kinds]), ("pair and instance", off[~kinds])):
        if len(part):
            say(
                f"{name}: as many flags as errors, ± 10 %",
                part.abs() <= 0.1,
                f"mean {part.abs().mean():.1%}, worst {part[part.abs().idxmax()]:+.1%}",
            )
    clean = mine[mine["errors"] == 0]["flagged"]
    if len(clean):
        say(
            "c = 0: at most 1.5 % flagged",
            clean <= 0.015,
            f"mean {clean.mean():.2%}, most {clean.max():.2%}",
        )
    return pd.DataFrame(told)


def shown(found: pd.DataFrame, reached: pd.DataFrame) -> list[Shown]:
    """Return the measures by way, all of ours, time, and the bars."""
    noisy = found[found["errors"] > 0]
    ways = list(dict.fromkeys(noisy["way"]))
    cells = [
        ((str(key[0]), str(key[1]), f"{key[2]:g}", str(group["run"].nunique())), group)
        for key, group in noisy.groupby(CELL, sort=False)
    ]

    def each(group: pd.DataFrame, measure: str) -> list[str]:
        return [_share(group[group["way"] == way][measure]) for way in ways]

    head = ("setting", "noise", "c", "runs")
    clean = found[(found["errors"] == 0) & (found["way"] == OURS)]
    flagged = [
        (str(setting), str(group["run"].nunique()), _share(group["flagged"]))
        for setting, group in clean.groupby("setting", sort=False)
    ]
    lines = [
        (row["bar"], row["reached"], "yes" if row["met"] else "no")
        for row in reached.to_dict("records")
    ]
    by_way = [
        Shown(f"{what}, %", (*head, *ways), [(*cell, *each(group, name)) for cell, group in cells])
        for name, what in (
            ("auroc", "AUROC of the ranking"),
            ("f1", "F1 of what each way flags"),
            ("precision_at_errors", "Precision of as many as there are errors"),
            ("proposed_right", "Proposed label right, on the errors"),
        )
    ]
    ours = [
        (*cell, *(_share(group[group["way"] == OURS][name]) for name in MEASURES))
        for cell, group in cells
    ]
    seconds = [
        (*cell, *(f"{group[group['way'] == way]['cpu_seconds'].mean():.1f}" for way in ways))
        for cell, group in cells
    ]
    return [
        *by_way,
        Shown("underscript, %", (*head, *MEASURES.values()), ours),
        Shown("Processor seconds, the network given", (*head, *ways), seconds),
        Shown("Nothing wrong (c = 0): flagged, %", ("setting", "runs", "flagged"), flagged),
        Shown("Bars; cells are means over runs", ("bar", "reached", "met"), lines),
    ]


def work_at(folder: Path, root: Path | None, device: str) -> Work:
    """Return a finished cell of any grid; nothing is written there."""
    if not (folder / "model.safetensors").exists():
        raise SystemExit(f"{folder}: no finished cell of a grid, such as DIR/cells/c0.4-run1")
    told = json.loads((folder.parents[1] / "settings.json").read_text(encoding="utf-8"))
    degree, run = folder.name.removeprefix("c").split("-run")
    plan = Plan(
        told["experiment"],
        preset=told["preset"],
        noise=told["noise"],
        root=root,
        device=device,
        corruptions=(float(degree),),
        runs=1,
        first_run=int(run),
        only=("D1",),
        samples=told["recipe"]["samples"],
        width=told["recipe"].get("width", 1.0),
        holdout=told["holdout"] or 0,
        new_labels=told["label_seed"] != LABEL_SEED,
    )
    return Work(plan, Cell(float(degree), int(run)), folder.parents[1], progress=True)


def scored_cell(folder: Path, root: Path | None, device: str) -> pd.DataFrame:
    """Score the fast ways on a finished network of any grid; writes nothing."""
    work = work_at(folder, root, device)
    data = work.data.train
    predictions = fast_ways(work, {}, neighbours=False)
    return pd.DataFrame([scored(each, data.given, data.true) for each in predictions])


def _share(values: pd.Series) -> str:
    return plus_minus(values.mean(), values.std())


def main() -> None:
    """Run what is not finished and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument("--settings", default=",".join(SETTINGS), metavar="NAME,…")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--first-run", type=int, default=2, help="run 1 is what was tuned on")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--root", type=Path, help="where the data sets are")
    parser.add_argument("--tables", action="store_true", help="of what is finished; run nothing")
    parser.add_argument("--judge", type=Path, metavar="CELL", help="one network; writes nothing")
    given = parser.parse_args()
    if given.judge is not None:
        scores = scored_cell(given.judge, given.root, given.device)
        sys.stdout.write(scores.to_csv(index=False, float_format="%.4f"))
        return
    if given.out is None:
        parser.error("expected --out DIR, or --judge CELL")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = given.settings.split(",")
    made = plans(settings, given.runs, given.first_run, given.root, given.device)
    if not given.tables:
        for folder, plan in made.items():
            run_grid(plan, given.out / folder, jobs=given.jobs)
    runs = range(given.first_run, given.first_run + given.runs)
    found = table(made, given.out, runs)
    reached = bars(found)
    about = {
        "settings": settings,
        "runs": [*runs],
        "samples": SAMPLES,
        "versions": versions(),
        "machine": machine(given.device),
    }
    text = markdown(shown(found, reached))
    write_text(given.out / "detection.csv", found.to_csv(index=False))
    write_text(given.out / "detection.md", text)
    write_text(given.out / "detection.json", as_json(about))
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
