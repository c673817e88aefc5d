"""How often labels of a given quality are right, and how often intervals hold the truth.

    python -m benchmarks.reliability FOLDER [--settings NAME,…] [--holdout]

FOLDER is what `underscript study --out FOLDER` wrote: networks, and labels whose truth is known.
All are decoded again, with the training data alone, or with the hold-out too.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import underscript as us
from underscript.experiments.plan import Cell
from underscript.experiments.study import plans
from underscript.experiments.work import Work

EDGES = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)


def works(folder: Path, settings: list[str] | None) -> list[tuple[str, Work]]:
    """Return the networks of a study whose weights are there."""
    found = []
    for name in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        setting, _, noise = name.rpartition("-")
        if settings is not None and setting not in settings:
            continue
        for run in (2, 3, 4):
            try:
                plan = plans([setting], 1, run, None, "cpu")[f"{setting}-{noise}"]
            except KeyError:
                continue
            for degree in plan.corruptions:
                work = Work(plan, Cell(degree, run), folder / name)
                if degree < 1 and (work.folder / "model.safetensors").is_file():
                    found.append((f"{name} {degree:g} run {run}", work))
    return found


def decoded(work: Work, held: bool) -> tuple[us.Decoding, np.ndarray]:
    """Decode a network, and return which of its training labels are right."""
    data = work.data
    holdout = (data.holdout.images, data.holdout.given) if held else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = us.decode(
            work.network(),
            (data.train.images, data.train.given),
            holdout=holdout,
            controls=False,
            progress=False,
            seed=work.cell.seed,
        )
    return found, np.asarray(data.train.true == data.train.given)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--settings", type=lambda text: text.split(","))
    parser.add_argument("--holdout", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, held = [], []
    for name, work in works(options.folder, options.settings):
        found, right = decoded(work, options.holdout)
        quality = found.label_issues()["label_quality"].to_numpy()
        place = np.digitize(quality, EDGES[1:-1])
        for at in range(len(EDGES) - 1):
            mine = place == at
            if mine.any():
                rows.append((at, mine.sum(), quality[mine].mean(), right[mine].mean()))
        noise, rate = found.summary["noise"], float((~right).mean())
        held.append(noise["rate_low"] <= rate <= noise["rate_high"])
        print(f"{name}: rate {noise['rate']:.3f} of {rate:.3f}", flush=True)
    table = pd.DataFrame(rows, columns=["bin", "n", "quality", "right"])
    print("\n| quality | labels | mean quality | right |\n|---|---|---|---|")
    for at, some in table.groupby("bin"):
        weights = some["n"] / some["n"].sum()
        quality, right = ((weights * some[name]).sum() for name in ("quality", "right"))
        between = f"{EDGES[at]:g} to {EDGES[at + 1]:g}"
        print(f"| {between} | {some['n'].sum():,} | {quality:.1%} | {right:.1%} |")
    print(f"\n{sum(held)} of {len(held)} intervals of the noise rate hold the truth")


if __name__ == "__main__":
    main()
