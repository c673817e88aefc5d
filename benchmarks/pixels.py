"""What CIFAR-10 from JPEG copies does to MASC: its accuracy on input rows beside the published.

    OMP_NUM_THREADS=1 python -m benchmarks.pixels --root ROOT --published FILE… [--degrees C,…]
        [--again QUALITY]

ROOT holds CIFAR-10; each FILE is a table of the authors' results (see
`underscript.experiments.comparison`). MASC is fitted to the pixels of all training images, with
labels corrupted as `underscript reproduce` corrupts them, and predicts the test images, at each
variance share of experiment E5. No network takes part, so only pixels, their scale and the draw of
the wrong labels can make a difference. ``--again`` compresses all images once more, as JPEG of that
quality, to show which shares this changes. Prints a row for each degree and share as soon as it is
known.
"""

import argparse
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

import underscript as us
from underscript.datasets import load_dataset, to_float
from underscript.errors import UnderscriptError
from underscript.experiments.catalogue import PAIRS
from underscript.experiments.comparison import read_published
from underscript.experiments.plan import LABEL_SEED, Plan
from underscript.experiments.shown import plus_minus
from underscript.experiments.tables import probe_name
from underscript.experiments.units import SHARES
from underscript.noise.corruption import wrong_share

from . import machine

DATA = "cifar10"
DEGREES = (0.0, 0.2, 0.4, 0.6, 0.8)
Rows = NDArray[np.float32]
Labels = NDArray[np.int64]


def published_inputs(paths: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Return published test accuracies of MASC on the input, by the authors' name of the pair.

    Tables are indexed by corruption degree and variance share. Pairs without such rows are left
    out; the authors' ResNet-18 is read from its stem on.
    """
    found = {}
    for name, pair in PAIRS.items():
        if pair.data != DATA or pair.published is None:
            continue
        rows = read_published(paths, Plan(name, preset="paper"))
        same = (
            (rows["layer"] == "input")
            & (rows["probe"] == "masc")
            & (rows["subspace_labels"] == "corrupted")
            & (rows["split"] == "test")
        )
        if same.any():
            found[pair.published] = rows[same].set_index(["corruption", "variance"])
    return found


def compressed(images: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return images (n, 3, height, width) after one more compression as JPEG."""
    again = np.empty_like(images)
    for number, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
        again[number] = np.asarray(Image.open(file)).transpose(2, 0, 1)
    return again


def measured(
    train: tuple[Rows, Labels], test: tuple[Rows, Labels], degree: float
) -> list[dict[str, Any]]:
    """Fit MASC to rows (n, width) and corrupted labels, and return how it does on test rows.

    Returns
    -------
    list of dict
        For each variance share: `variance`; `wrong`: share of training labels that are wrong;
        `rank`: mean over classes; `accuracy` on the test rows; `seconds` of all shares together.
    """
    rows, true = train
    given = us.corrupt_labels(true, degree, len(np.unique(true)), seed=LABEL_SEED)
    began = time.perf_counter()
    decoding = us.decode(
        None,
        (rows, given),
        test=test,
        probes=("masc",),
        variance=SHARES,
        subspace_labels=("corrupted",),
        auto=False,
        controls=False,
        evaluate=("test",),
        progress=False,
    )
    seconds = time.perf_counter() - began
    table = decoding.table[decoding.table["probe"] == "masc"]
    more = {"wrong": wrong_share(true, given), "seconds": seconds}
    return [{**more, **row} for row in table[["variance", "rank", "accuracy"]].to_dict("records")]


def cells_of(degree: float, ours: dict[str, Any], published: dict[str, pd.DataFrame]) -> list[str]:
    """Return the cells of one degree and share; those of what was not published are empty."""
    cells = [
        f"{degree:g}",
        f"{100 * ours['wrong']:.1f}",
        probe_name("masc", ours["variance"]),
        f"{ours['rank']:.0f}",
        f"{100 * ours['accuracy']:.1f}",
    ]
    key = (degree, ours["variance"])
    for table in published.values():
        if key in table.index:
            mean, sd = table.loc[key, ["mean", "sd"]]
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
    parser.add_argument("--again", type=int, metavar="QUALITY", help="compress once more")
    given = parser.parse_args(arguments)
    try:
        degrees = [float(degree) for degree in given.degrees.split(",")]
        published = published_inputs(given.published)
        data = load_dataset(DATA, given.root)
    except (UnderscriptError, ValueError) as error:
        parser.error(str(error))
    images = [data.train_images, data.test_images]
    what = f"{data.source}: {len(images[0]):,} images"
    if given.again is not None:
        images = [compressed(part, given.again) for part in images]
        what += f", compressed once more (quality {given.again})"
    # The paper's scale.
    train, test = (to_float(part, -1.0).reshape(len(part), -1) for part in images)
    heads = [head for name in published for head in (name, "difference")]
    columns = ["c", "wrong labels", "probe", "mean rank", "these pixels", *heads, "seconds"]
    print(f"{what}; {machine.description()}\n")
    print("MASC on the input, test accuracy, %\n")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for degree in degrees:
        for ours in measured((train, data.train_labels), (test, data.test_labels), degree):
            print(f"| {' | '.join(cells_of(degree, ours, published))} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
