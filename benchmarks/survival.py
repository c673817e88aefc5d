"""ρ, the share of memory that survives a perturbation, as the decoder finds it.

    python -m benchmarks.watched tune-random1-10 … --root ROOT --out runs/watched
    python -m benchmarks.survival tune-random1-10 … --root ROOT --runs runs/watched

The last network of each run that `benchmarks.watched` kept is decoded by its training data alone,
and with its hold-out, whose noisy labels were not trained on. A line each, in Markdown: ρ by both,
and what it costs: the regret, in points of test accuracy, of the single candidate with the largest
corrected agreement, and of what was chosen (below zero if an ensemble beats every single one).
Clean test labels only score.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import underscript as us
from underscript.experiments.shown import Shown

from .human import Case, read

HEADS = [
    "network",
    "wrong",
    "ρ alone",
    "its limit",
    "ρ by held-out labels",
    "regret of one",
    "chosen",
]


def decoded(case: Case, **more: Any) -> us.Decoding:
    """Decode a network, and try every candidate on test data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return us.decode(
            case.model,
            case.train[:2],
            test=case.test,
            evaluate=("test", "candidates"),
            controls=False,
            progress=False,
            **more,
        )


def line(case: Case) -> list[str]:
    """Return a network's line."""
    alone = decoded(case)
    memory, tried = alone.summary["memory"], alone.candidates
    best = tried.test_accuracy.max()
    one = tried.test_accuracy.iloc[int(tried.criterion.argmax())]
    chosen = np.mean(alone.best.predict(case.test[0]) == case.test[1].numpy())
    held = "none"
    if case.holdout is not None:
        there = decoded(case, holdout=case.holdout[:2])
        held = f"{there.summary['memory']['survival_likely']:.2f}"
    return [
        case.name,
        f"{100 * float((case.train[1] != case.train[2]).double().mean()):.0f} %",
        f"{memory['survival_likely']:.2f}",
        f"{memory['survival']:.2f}",
        held,
        f"{100 * (best - one):.1f}",
        f"{100 * (best - chosen):.1f}",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.names:
        rows.append(line(read(name, arguments.root, arguments.runs, Path())))
        print(rows[-1], flush=True)
    title = f"Torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(Shown(title, HEADS, rows).markdown())


if __name__ == "__main__":
    main()
