"""Kinds of situations that would lose a finished result: the folder stays, whatever comes."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from situation_data import features, memorise, mlp, situation
from torch import nn

import underscript as us

_COMMAND = [sys.executable, "-m", "underscript"]

pytestmark = pytest.mark.filterwarnings("ignore::underscript.errors.UnderscriptWarning")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV file of features whose labels are not ASCII."""
    folder = tmp_path_factory.mktemp("table")
    x, given, _ = features(6, 3, 0.2, [80] * 3)
    names = np.array(["Äpfel", "Birnen", "Çilek"])
    lines = [
        ",".join([*map(repr, map(float, row)), names[k]]) for row, k in zip(x, given, strict=True)
    ]
    path = folder / "data.csv"
    path.write_text("\n".join(["a,b,c,d,e,f,label", *lines]), encoding="utf-8")
    return path


def audit(table, out, stdout, **env):
    return subprocess.run(
        [*_COMMAND, "audit", "--train", f"{table}:label", "--out", str(out)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | env,
        errors="replace",
    )


def whole(folder):
    return {"results.json", "label_issues.csv", "report.html"} <= {p.name for p in folder.iterdir()}


@pytest.mark.slow
def test_kind_21_nobody_reads_standard_output(table, tmp_path):
    read, write = os.pipe()
    os.close(read)
    try:
        done = audit(table, tmp_path / "run", write)
    finally:
        os.close(write)
    assert whole(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_kind_21_standard_output_is_full(table, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        done = audit(table, tmp_path / "run", full)
    assert whole(tmp_path / "run")
    # What was to be printed is lost, and the exit code says so.
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "run") in done.stderr


@pytest.mark.slow
def test_kind_21_standard_output_is_closed(table, tmp_path):
    done = subprocess.run(
        [
            "sh",
            "-c",
            '"$@" >&-',
            "sh",
            *_COMMAND,
            "audit",
            "--train",
            f"{table}:label",
            "--out",
            str(tmp_path / "run"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=300,
    )
    assert whole(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "cp437"])
def test_kind_22_standard_output_has_few_letters(table, tmp_path, encoding):
    done = audit(
        table, tmp_path / "run", subprocess.PIPE, PYTHONIOENCODING=encoding, PYTHONUTF8="0"
    )
    assert done.returncode == 0, done.stderr
    assert whole(tmp_path / "run")
    assert done.stdout


class Graph(nn.Module):
    """What cannot be copied once it has run: it keeps a tensor with a graph."""

    def __init__(self):
        super().__init__()
        self.body, self.aux_loss = mlp(), None

    def forward(self, x):
        out = self.body(x)
        self.aux_loss = out.square().mean()
        return out


class Locked(nn.Module):
    """What cannot be copied at all."""

    def __init__(self):
        super().__init__()
        import threading

        self.body, self.lock = mlp(), threading.Lock()

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("kind", [Graph, Locked])
def test_kind_23_a_model_that_cannot_be_copied_is_decoded_without_a_twin(kind, tmp_path):
    _, data = situation()
    net = memorise(kind(), data.x, data.given, 30)
    net(data.x[:8])
    d = us.decode(net, (data.x, data.given), progress=False)
    assert (d.table["model"] == "trained").any()
    if kind is Locked:
        assert not len(d.table[d.table["model"] == "random"])
        assert any("twin" in note for note in d.summary["warnings"])
    d.save(tmp_path / "run")
    assert torch.is_tensor(net(data.x[:2]))
