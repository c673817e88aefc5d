"""The tables of what `benchmarks.human` kept, in Markdown.

    python -m benchmarks.human_tables worse-50k worse-0 worse-1 … --root ROOT --runs runs/watched \
        --out runs/human

Networks that differ in their seeds alone share a table, of means ± standard deviations. Truth is
used here, and only to score. The budget of the column *missed* is the noise rate that the decoder
found from the training data alone: as many labels as that are looked at, the most suspicious first.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from underscript.corruption import transition_matrix
from underscript.experiments.detection import LabelPrediction, scored
from underscript.experiments.shown import plus_minus

from .human import NAMES, WAYS, Answer, Case, answers, read

COLUMNS = {
    "test accuracy": "right",
    "AUROC": "auroc",
    "AP": "average_precision",
    "F1, own threshold": "f1",
    "F1, proposed ≠ given": "f1_proposed",
    "precision at the number of errors": "precision_at_errors",
    "missed": "missed",
    "noise rate": "rate",
    "T error": "t_error",
    "cost, epochs": "cost",
}
BUDGET = "decoded alone"


def rows(case: Case, out: Path) -> list[dict[str, Any]]:
    """Return a row for each way of a network."""
    given, true = (part.numpy() for part in case.train[1:])
    kept = [answers(path) for way in WAYS if (path := out / case.name / f"{way}.npz").exists()]
    found = [(each, epoch) for some, epoch in kept for each in some]
    rates = [each.rate for each, _ in found if each.way == BUDGET]
    budget = round(rates[0] * len(given)) if rates and rates[0] is not None else None
    told = []
    for each, epoch in found:
        row: dict[str, Any] = {"way": each.way, "cost": each.trained + each.seconds / epoch}
        if each.predicted is not None:
            row["right"] = float((each.predicted == case.test[1].numpy()).mean())
        row |= judged(each, given, true, budget)
        told.append(row)
    return told


def judged(
    answer: Answer, given: np.ndarray, true: np.ndarray, budget: int | None
) -> dict[str, float]:
    """Return how well an answer finds wrong labels, as shares; `budget` is a number of labels."""
    found: dict[str, float] = {}
    if answer.rate is not None:
        found["rate"] = answer.rate
    if answer.transitions is not None:
        right = transition_matrix(true, given, answer.transitions.shape[0])
        found["t_error"] = float(np.abs(answer.transitions - right).sum(1).mean() / 2)
    wrong = given != true
    if answer.quality is None or answer.flags is None or answer.proposed is None:
        return found
    labels = answer.quality, answer.flags, answer.proposed
    found |= scored(LabelPrediction(answer.way, *labels, 0.0, 0.0), given, true)
    contradicted = answer.proposed != given
    if contradicted.any():
        hits = float((contradicted & wrong).sum())
        found["f1_proposed"] = 2 * hits / float(contradicted.sum() + wrong.sum())
    if budget is not None:
        seen = np.argsort(answer.quality, kind="stable")[:budget]
        found["missed"] = 1 - float(wrong[seen].sum() / max(1, wrong.sum()))
    return found


def table(found: pd.DataFrame) -> str:
    """Return a Markdown table of a row for each way; shares in %, means over networks."""
    lines = [f"| way | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for way, group in found.groupby("way", sort=False):
        cells = []
        for name in COLUMNS.values():
            values = group.get(name, pd.Series(dtype=float)).dropna()
            if name == "cost":
                cells.append(f"{values.mean():.2f}")
            else:
                cells.append(plus_minus(values.mean(), values.std()) if len(values) else "")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def described(cases: list[Case]) -> str:
    """Return a line about networks that differ in their seeds alone."""
    told = []
    for case in cases:
        given, true = (part.numpy() for part in case.train[1:])
        last = case.lines[-1]
        test = np.array([line["test"] for line in case.lines])
        told.append(
            {
                "wrong": float((given != true).mean()),
                "fitted": last.get("fitted", np.nan),  # not measured long before the end
                "epochs": len(case.lines),
                "test": last["test"],
                "best": test.max(),
                "best_epoch": 1 + int(test.argmax()),
                "n": len(given),
            }
        )
    facts = pd.DataFrame(told)

    def share(name: str) -> str:
        return plus_minus(facts[name].mean(), facts[name].std())

    fitted = f"{share('fitted')} % fitted " if facts["fitted"].notna().all() else ""
    return (
        f"**{', '.join(case.name for case in cases)}**: {facts['n'][0]:,} images, "
        f"{share('wrong')} % of labels wrong, {fitted}after "
        f"{', '.join(map(str, facts['epochs']))} epochs; test accuracy "
        f"{share('test')} %, at its best epoch (oracle, {facts['best_epoch'].tolist()}) "
        f"{share('best')} %."
    )


def main() -> None:
    """Print a table for each kind of network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    kinds: dict[tuple[Any, ...], list[Case]] = {}
    for name in arguments.names:
        case = read(name, arguments.root, arguments.runs, arguments.runs)
        run = case.recipe
        kinds.setdefault((run.data, run.labels, run.n, run.augment), []).append(case)
    for cases in kinds.values():
        found = [pd.DataFrame(rows(each, arguments.out)) for each in cases]
        print(described(cases), end="\n\n")
        print(table(pd.concat(found)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
