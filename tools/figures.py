"""Make the README's picture from runs of the demo: `make figures`.

Runs that are there already (``runs/demo-…``) are drawn as they are.
"""

import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure

import underscript as us
from underscript.plots import layer_curve

ROOT = Path(__file__).parent.parent
RUN = ROOT / "runs" / "demo-mnist-0.8"
COMMAND = ["demo", "--data", "mnist", "--corruption", "0.8", "--out", str(RUN)]


def main() -> None:
    """Run the demo if need be, and draw its layer curve."""
    if not RUN.exists():
        subprocess.run([sys.executable, "-m", "underscript", *COMMAND], check=True)
    run = us.load(RUN)
    figure = Figure(figsize=(7.2, 3.8), dpi=160, layout="constrained")
    figure.patch.set_facecolor("white")
    layer_curve(run.summary, run.table, figure.subplots())
    figure.savefig(ROOT / "docs" / "layer-curve.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
