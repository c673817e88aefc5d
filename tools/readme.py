"""Make the pictures of README and docs and print the demo's table, from its runs: `make readme`.

Runs that are there already (``runs/``) are taken as they are.
"""

import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

import underscript as us

ROOT = Path(__file__).parent.parent
SEEDS = range(5)


def run(*arguments: str) -> us.Decoding:
    """Return a run of the demo, making it if need be."""
    folder = ROOT / "runs" / "-".join(["demo", *(a.removeprefix("--") for a in arguments)])
    if not folder.exists():
        command = [sys.executable, "-m", "underscript", "demo", *arguments, "--out", str(folder)]
        subprocess.run(command, check=True)
    return us.load(folder)


def accuracies(found: us.Decoding) -> list[float]:
    """Return test accuracy in per cent: network, decoded, input alone, twin's best layer."""
    table = found.table[(found.table["split"] == "test")]
    # The same decoder, chosen in the same way, on the controls.
    given = table[table["probe"] == found.summary["selected"]["probe"]]
    return [
        100 * found.summary["model"]["accuracy"]["test"],
        100 * found.summary["selected"]["test_accuracy"],
        100 * given[given["layer"] == "input"]["accuracy"].max(),
        100 * given[given["model"] == "random"]["accuracy"].max(),
    ]


def row(name: str, cells: list[str]) -> str:
    """Return a line of the README's table; what is decoded is bold."""
    cells = [cells[0], f"**{cells[1]}**", *cells[2:]]
    return f"| {name} | {' | '.join(cells)} |"


def opening(found: us.Decoding) -> None:
    """Draw the README's picture: network and decoded layers, and ten labels that look wrong."""
    figure = Figure(figsize=(11.0, 3.3), dpi=140, layout="constrained")
    figure.patch.set_facecolor("white")
    left, right = figure.subfigures(1, 2, width_ratios=(3, 2))
    curve = left.subplots()
    us.plots.layer_curve(found, curve, controls=False)
    curve.tick_params(axis="x", rotation=20)
    for axes, example in zip(right.subplots(2, 5).flat, found.examples, strict=False):
        axes.imshow(example.picture, cmap="gray")
        axes.set_title(f"{example.given} → {example.predicted}", fontsize=11)
        axes.set_axis_off()
    right.suptitle("Labels that look wrong: given → proposed", fontsize=11)
    figure.savefig(ROOT / "docs" / "opening.png", metadata={"Software": None})


def main() -> None:
    """Draw the picture and print the table."""
    runs = [run("--seed", str(seed)) for seed in SEEDS]
    opening(runs[0])
    figure = Figure(figsize=(7.2, 3.8), dpi=160, layout="constrained")
    figure.patch.set_facecolor("white")
    us.plots.layer_curve(runs[0], figure.subplots())
    figure.savefig(ROOT / "docs" / "layer-curve.png", metadata={"Software": None})
    figure = Figure(figsize=(8.4, 4.2), dpi=120, layout="constrained")
    figure.patch.set_facecolor("white")
    left, right = figure.subplots(1, 2)
    us.plots.noise_matrix(runs[0], left)
    us.plots.angle_map(runs[0], ax=right)
    figure.savefig(ROOT / "docs" / "maps.png", metadata={"Software": None})

    rows = [[f"seed {seed}", *accuracies(found)] for seed, found in zip(SEEDS, runs, strict=True)]
    columns = list(zip(*(cells[1:] for cells in rows), strict=True))
    lines = [row(str(name), [f"{value:.1f}" for value in cells]) for name, *cells in rows]
    spread = [f"{mean(column):.1f} ± {stdev(column):.1f}" for column in columns]
    lines.append(row("mean ± standard deviation", spread))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
