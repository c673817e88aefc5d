"""A network decoded together with earlier checkpoints of it, and alone.

    python -m benchmarks.together --root ROOT --runs runs/watched [--kept 5] worse-0 …

The runs are those of `benchmarks.watched`. The network is that of the last epoch; with it are
decoded the checkpoints of evenly spaced epochs, `--kept` in all with the last one. Each decode runs
in a process of its own, whose peak memory is printed, and is judged with clean labels that it never
sees: test accuracy, and how wrong labels are found (AUROC of the quality, F1 of the flags).
"""

import argparse
import json
import multiprocessing
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import underscript as us

from .watched import Kept, load, run_of


def evenly(last: int, kept: int) -> list[int]:
    """Return so many evenly spaced epochs up to the last one, which is among them.

    >>> evenly(60, 5)
    [12, 24, 36, 48, 60]
    """
    return sorted({max(1, round(k * last / kept)) for k in range(1, kept + 1)})


def judge(name: str, root: Path, runs: Path, kept: int, held: bool, memory: str) -> dict[str, Any]:
    """Decode the last epoch of a run with earlier checkpoints (none for one), and judge that."""
    from sklearn.metrics import roc_auc_score

    model, data = load(run_of(name), root)
    run = Kept(runs / name)
    epochs = evenly(len(run.lines), kept)
    model.load_state_dict(run.weights(epochs[-1]))
    x, given, true = data.train
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        d = us.decode(
            model.eval(),
            (x, given),
            data.test,
            (data.holdout[0], data.holdout[1]) if held else None,
            checkpoints={step: run.weights(step) for step in epochs[:-1]} or None,
            controls=False,
            evaluate=("test", "candidates"),
            progress=False,
            memory=memory,
        )
    seconds = time.perf_counter() - began
    issues = d.label_issues()
    wrong = (given != true).numpy()
    flagged = issues["is_label_issue"].to_numpy()
    own, selected, noise = d.summary["model"], d.summary["selected"], d.summary["noise"]
    assert d.candidates is not None
    return {
        "run": name,
        "holdout": held,
        "epochs": epochs,
        "test_by_epoch": [float(run.test[step - 1]) for step in epochs],
        "best_epoch": float(run.test.max()),
        "network": own["accuracy"]["test"],
        "decoded": selected["test_accuracy"],
        "estimate": noise["accuracy"],
        "best_candidate": float(d.candidates["test_accuracy"].max()),
        "auroc": float(roc_auc_score(wrong, -issues["label_quality"])),
        "f1": 2 * float((flagged & wrong).sum()) / float(flagged.sum() + wrong.sum()),
        "wrong": float(wrong.mean()),
        "rate": noise["rate"],
        "layers": selected["layers"],
        "reason": selected["reason"],
        "readers": d.summary["memory"]["readers"],
        "meter": d.summary["memory"]["layers"],
        "survival": d.summary["memory"]["survival"],
        "candidates": d.candidates.to_dict("list"),
        "seconds": seconds,
        "timing": d.summary["timing"],
        "peak_bytes": d.summary["peak_memory_bytes"],
        "threads": torch.get_num_threads(),
    }


def line(found: dict[str, Any]) -> str:
    """Say in one line what was reached."""
    names = ("network", "best_epoch", "decoded", "estimate", "best_candidate", "auroc", "f1")
    shown = [f"{name} {100 * found[name]:.1f}" for name in (*names, "wrong", "rate")]
    kind = "hold-out" if found["holdout"] else "alone"
    return (
        f"{found['run']} {kind}, epochs {found['epochs']}: {', '.join(shown)}; "
        f"{found['seconds']:.0f} s, {found['peak_bytes'] / 1e9:.1f} GB"
    )


def main() -> None:
    """Decode each run alone and together; print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["worse-0"])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--kept", type=int, nargs="+", default=[1, 5], help="checkpoints in all")
    parser.add_argument("--holdout", action="store_true")
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--out", type=Path, help="folder for a JSON file each")
    arguments = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    for name in arguments.names:
        for kept in arguments.kept:
            given = (name, arguments.root, arguments.runs, kept, arguments.holdout)
            with processes.Pool(1) as pool:
                found = pool.apply(judge, (*given, arguments.memory))
            if arguments.out is not None:
                arguments.out.mkdir(parents=True, exist_ok=True)
                kind = "holdout" if arguments.holdout else "alone"
                path = arguments.out / f"{name}-{kept}-{kind}.json"
                path.write_text(json.dumps(found, default=np.ndarray.tolist))
            print(line(found), flush=True)


if __name__ == "__main__":
    main()
