"""The benchmarks run, and their contenders agree, at sizes that take seconds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_contenders_agree(tmp_path):
    done = bench("many-directions", "processes", "--small", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"processor", "cores", "torch", "float32"} <= set(found["machine"])
    lines = {line["contender"]: line for line in found["lines"]}
    for who in ("underscript", "underscript, five variance shares", "scikit-learn (PCA a class)"):
        assert lines[who]["agreement"].startswith("100.000% of ")
    assert "predictions equal" in lines["underscript, 2 processes"]["agreement"]
    assert float(lines["underscript"]["agreement"].split("error ")[1]) < 1e-5
    assert all(line["contender"] in done.stdout for line in found["lines"])


@pytest.mark.parametrize("wrong", [["no-such-case"], ["--no-such-option"]])
def test_an_unknown_case_is_one_line(wrong):
    done = bench(*wrong)
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if "error" in line]) == 1


def gpu_check(*arguments):
    return subprocess.run(
        ["sh", str(ROOT / "tools" / "gpu_check.sh"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )


@pytest.mark.slow
def test_the_check_on_a_gpu_runs_small_on_the_processor():
    done = gpu_check("--toy", "classes-1000", "import")
    assert done.returncode == 0, done.stderr
    head, _, row, started = done.stdout.strip().splitlines()
    assert head.startswith("| case | bar |")
    assert row.startswith("| classes-1000 | 10 s, 1.5 GB |")
    assert "failed" not in row
    assert re.fullmatch(r"\| import \| 1 s of CPU \| \d+\.\d\d s of CPU \| (yes|no) \| \|", started)


@pytest.mark.slow
def test_the_paper_at_its_own_size_is_kept_where_its_time_ends(tmp_path):
    asked = ["--full", "--toy", "--out", str(tmp_path)]
    late = gpu_check(*asked, "--seconds", "5")
    assert late.returncode == 0, late.stderr
    assert late.stdout == "not finished after 5 s: digits-cnn; the same command goes on\n"
    done = gpu_check(*asked)
    assert done.returncode == 0, done.stderr
    assert "not finished" not in done.stdout
    tables = (tmp_path / "digits-cnn" / "tables.md").read_text()
    assert "quick preset, at most 200 training images" in tables
    for experiment in ("E1", "E2", "E3", "E5", "E6"):
        assert f"**{experiment}: " in tables


def test_kept_epochs_are_evenly_spaced_and_end_with_the_last():
    from benchmarks.together import evenly

    assert evenly(60, 5) == [12, 24, 36, 48, 60]
    assert evenly(13, 5) == [3, 5, 8, 10, 13]
    assert evenly(40, 1) == [40]
    assert evenly(2, 5) == [1, 2]
