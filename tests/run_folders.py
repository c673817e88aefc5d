"""A small decode and what a folder of it holds, for the tests that write and read one."""

from pathlib import Path

from torch import nn

import models
import underscript as us

X, Y = models.data("rows", 200)
GIVEN = us.corrupt_labels(Y, 0.4, seed=1)
FILES = [
    "candidates.csv",
    "decoder/config.json",
    "decoder/model.safetensors",
    "decoder/network.json",
    "decoder/network.safetensors",
    "decoder/readout.safetensors",
    "examples/examples.json",
    "geometry.csv",
    "label_issues.csv",
    "layers.csv",
    "report.html",
    "results.json",
]


def make(model: nn.Module, probes: tuple[str, ...] = ("masc", "velpic")) -> us.Decoding:
    return us.decode(
        model,
        (X, GIVEN),
        test=(X, Y),
        true_labels=Y,
        probes=probes,
        variance=(0.7, 0.9),
        progress=False,
    )


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return every path below a folder, hidden ones too, with its bytes (None for a folder)."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }
