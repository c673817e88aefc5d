"""Whether CIFAR-10 from JPEG copies will do: MASC on its input rows beside the published numbers.

    OMP_NUM_THREADS=1 python -m benchmarks.pixels --root ROOT --published FILE… [--degrees C,…]

ROOT holds CIFAR-10; each FILE is a table of the authors' results (see
`underscript.experiments.comparison`). MASC is fitted to the pixels of all training images, with
labels corrupted as `underscript reproduce` corrupts them, and predicts the test images. No network
takes part, so only pixels, their scale and the draw of the wrong labels can make a difference.
Prints a row for each degree as soon as it is known.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from underscript import MinimumAngleSubspaceClassifier
from underscript.datasets import load_dataset, to_float
from underscript.errors import UnderscriptError
from underscript.experiments.catalogue import PAIRS
from underscript.experiments.comparison import read_published
from underscript.experiments.plan import LABEL_SEED, Plan
from underscript.experiments.shown import plus_minus
from underscript.noise.corruption import corrupt_labels, wrong_share

from . import machine

DATA, VARIANCE = "cifar10", 0.99
DEGREES = (0.0, 0.2, 0.4, 0.6, 0.8)


def published_inputs(paths: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Return published test accuracies of MASC on the input, by the authors' name of the pair.

    Pairs without such rows are left out; the authors' ResNet-18 is read from its stem on.
    """
    found = {}
    for name, pair in PAIRS.items():
        if pair.data != DATA or pair.published is None:
            continue
        rows = read_published(paths, Plan(name, preset="paper"))
        same = (
            (rows["layer"] == "input")
            & (rows["probe"] == "masc")
            & (rows["variance"] == VARIANCE)
            & (rows["subspace_labels"] == "corrupted")
            & (rows["split"] == "test")
        )
        if same.any():
            found[pair.published] = rows[same].set_index("corruption")
    return found


def measured(
    train: NDArray[np.float32],
    true: NDArray[np.int64],
    test: tuple[NDArray[np.float32], NDArray[np.int64]],
    degree: float,
) -> dict[str, Any]:
    """Fit MASC to rows (n, width) and corrupted labels, and return how it does on test rows.

    Returns
    -------
    dict
        `wrong`: share of training labels that are wrong; `rank`: mean over classes; `accuracy` on
        the test rows; `seconds`.
    """
    given = corrupt_labels(true, degree, len(np.unique(true)), seed=LABEL_SEED)
    began = time.perf_counter()
    probe = MinimumAngleSubspaceClassifier(variance=VARIANCE).fit(train, given)
    accuracy = probe.score(*test)
    return {
        "wrong": wrong_share(true, given),
        "rank": float(np.mean(probe.ranks_)),
        "accuracy": accuracy,
        "seconds": time.perf_counter() - began,
    }


def row(degree: float, ours: dict[str, Any], published: dict[str, pd.DataFrame]) -> list[str]:
    """Return the cells of one degree; those of what was not published are empty."""
    cells = [
        f"{degree:g}",
        f"{100 * ours['wrong']:.1f}",
        f"{ours['rank']:.0f}",
        f"{100 * ours['accuracy']:.1f}",
    ]
    for table in published.values():
        if degree in table.index:
            mean, sd = table.loc[degree, ["mean", "sd"]]
            cells += [plus_minus(mean, sd), f"{100 * (ours['accuracy'] - mean):+.1f}"]
        else:
            cells += ["", ""]
    return [*cells, f"{ours['seconds']:.0f}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pixels", description=__doc__)
    parser.add_argument("--root", type=Path, metavar="DIR", help="where CIFAR-10 is")
    parser.add_argument("--published", type=Path, nargs="+", required=True, metavar="CSV")
    parser.add_argument("--degrees", default=",".join(map(str, DEGREES)), metavar="C,…")
    given = parser.parse_args(arguments)
    try:
        degrees = [float(degree) for degree in given.degrees.split(",")]
        published = published_inputs(given.published)
        data = load_dataset(DATA, given.root)
    except (UnderscriptError, ValueError) as error:
        parser.error(str(error))
    # The paper's scale.
    train, test = (
        to_float(images, -1.0).reshape(len(images), -1)
        for images in (data.train_images, data.test_images)
    )
    heads = [head for name in published for head in (name, "difference")]
    columns = ["c", "wrong labels", "mean rank", "these pixels", *heads, "seconds"]
    print(f"{data.source}: {len(train):,} images; {machine.description()}\n")
    print(f"MASC {VARIANCE} on the input, test accuracy, %\n")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for degree in degrees:
        ours = measured(train, data.train_labels, (test, data.test_labels), degree)
        print(f"| {' | '.join(row(degree, ours, published))} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
