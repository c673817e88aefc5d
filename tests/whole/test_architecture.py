"""The map of the code is true: its rooms, and the probe that it adds in ten lines."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from underscript.experiments import probes as e6
from underscript.probes import baselines

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "underscript"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_page_names_every_room_and_no_other():
    rooms = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert len(rooms) <= 13
    named = set(re.findall(r"^\| `([a-z]+)` \|", PAGE, flags=re.M))
    assert named == rooms


def test_every_path_on_the_page_is_there():
    table = PAGE[PAGE.index("## The life of a batch") :]
    for path in re.findall(r"`((?:tests/)?[a-z_]+/[a-z_/]+\.py)`", table):
        assert (ROOT / path).is_file() or (SOURCE / path).is_file(), path


def test_no_file_is_longer_than_500_lines():
    long = [
        (path, n)
        for folder in ("src", "tests", "benchmarks", "examples", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > 500
    ]
    assert not long


def test_a_probe_of_ten_lines_is_in_the_table_of_probes(monkeypatch):
    block = PAGE[PAGE.index("## A probe in ten lines") :]
    (code,) = re.findall(r"```python\n(.*?)```", block, flags=re.S)
    lines = [line for line in code.splitlines() if line.strip() and "import" not in line]
    assert len(lines) <= 10
    monkeypatch.setattr(baselines, "BASELINES", dict(baselines.BASELINES))
    monkeypatch.setattr(e6, "BASELINES", baselines.BASELINES)
    exec(code, {})
    X, y = load_digits(return_X_y=True)
    rows = X.astype(np.float32)
    layer = e6.LayerRows("input", rows[:600], rows[600:900])
    work = SimpleNamespace(plan=SimpleNamespace(variance=0.9, device="cpu"))
    found = {
        record["probe"]: record["predictions"]
        for record in e6._probe(work, layer, y[:600], e6._Neighbours(layer), [])
    }
    assert set(found) >= {"masc", "lda", "median"}
    assert (found["median"] == y[600:900]).mean() > 0.7


@pytest.mark.slow
def test_importing_the_package_takes_less_than_a_second_beside_torch():
    code = "import resource; {}; u = resource.getrusage(resource.RUSAGE_SELF); print(u.ru_utime)"
    with_us, torch_alone = (
        float(
            subprocess.run(
                [sys.executable, "-c", code.format(what)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for what in ("import torch, underscript", "import torch")
    )
    assert with_us - torch_alone < 1.0
