"""D1: ways of finding wrong labels are scored rightly, and the benchmark's tables hold them."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from underscript.cli.command_line import main
from underscript.experiments.detection import LabelPrediction, scored

ROOT = Path(__file__).parents[2]


def test_ways_are_scored_by_the_true_labels():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 500)
    given = np.where(rng.random(500) < 0.3, (true + 1) % 4, true)
    wrong = given != true
    quality = np.where(wrong, 0.0, 1.0) + rng.normal(size=500)
    flags, proposed = quality < 0.4, np.where(rng.random(500) < 0.9, true, given)
    measures = scored(LabelPrediction("a", quality, flags, proposed, 1.0, 2.0), given, true)
    # The chance that a wrong label ranks below a right one, pair by pair.
    pairs = quality[wrong][:, None] < quality[~wrong]
    assert measures["auroc"] == pytest.approx(pairs.mean())
    assert measures["f1"] == pytest.approx(f1_score(wrong, flags))
    assert measures["flagged"] == flags.mean()
    assert measures["errors"] == wrong.mean()
    assert measures["precision_at_errors"] == wrong[np.argsort(quality)[: wrong.sum()]].mean()
    assert measures["proposed_right"] == (proposed == true)[wrong].mean()
    counts = [abs(flags[given == k].sum() / wrong[given == k].sum() - 1) for k in range(4)]
    assert measures["class_count_error"] == pytest.approx(np.mean(counts))
    perfect = scored(LabelPrediction("a", -wrong.astype(float), wrong, true, 1.0, 2.0), given, true)
    for name in ("auroc", "average_precision", "precision_at_errors", "f1", "proposed_right"):
        assert perfect[name] == 1
    assert "auroc" not in scored(
        LabelPrediction("a", quality, flags, proposed, 1.0, 2.0), true, true
    )


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    out = tmp_path_factory.mktemp("audit")
    command = [
        "reproduce",
        "digits-mlp",
        "--only",
        "D1",
        "--corruption",
        "0,0.4",
        "--runs",
        "1",
        "--samples",
        "300",
        "--out",
        str(out / "digits-mlp-symmetric"),
    ]
    assert main(command) == 0
    return out


@pytest.mark.slow
def test_every_way_is_listed_and_ours_is_ahead_of_those_on_one_network(grid):
    cells = grid / "digits-mlp-symmetric" / "cells"
    table = pd.read_csv(cells / "c0.4-run1" / "detection.csv").set_index("way")
    assert list(table.index) == [
        "underscript",
        "softmax margin",
        "FINE alignment on the input",
        "k-NN vote on the input",
        "FINE alignment on the last layer",
        "k-NN vote on the last layer",
        "cleanlab, 5 retrainings",
    ]
    assert table.notna().all(axis=None)
    assert table["auroc"].drop(["cleanlab, 5 retrainings", "underscript"]).max() < (
        table["auroc"]["underscript"] + 0.01
    )
    assert table["auroc"]["softmax margin"] < 0.9
    # The time of retraining is included.
    folds = json.loads((cells / "c0.4-run1" / "folds.json").read_text())
    assert table["seconds"]["cleanlab, 5 retrainings"] > folds["seconds"]
    assert len(folds["epochs"]) == 5
    # Nothing wrong: nothing to retrain for, and hardly anything flagged.
    clean = pd.read_csv(cells / "c0-run1" / "detection.csv").set_index("way")
    assert "cleanlab, 5 retrainings" not in clean.index
    assert clean["flagged"]["underscript"] <= 0.015


@pytest.mark.slow
def test_the_benchmark_writes_tables_of_what_is_finished(grid):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.audit",
            "--out",
            str(grid),
            "--tables",
            "--settings",
            "digits-mlp",
            "--first-run",
            "1",
            "--runs",
            "1",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (grid / "detection.md").read_text()
    cell = pd.read_csv(grid / "digits-mlp-symmetric" / "cells" / "c0.4-run1" / "detection.csv")
    ours = cell.set_index("way").loc["underscript"]
    assert f"| digits-mlp | symmetric | 0.4 | 1 | {100 * ours['auroc']:.1f} |" in done.stdout
    assert "at most 1.5 % flagged" in done.stdout
    everything = pd.read_csv(grid / "detection.csv")
    assert len(everything) == 7 + 6
    assert {"cores", "threads"} <= set(json.loads((grid / "detection.json").read_text())["machine"])


@pytest.mark.slow
def test_one_network_of_a_grid_can_be_scored_alone(grid):
    cell = grid / "digits-mlp-symmetric" / "cells" / "c0.4-run1"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.audit", "--judge", str(cell)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    alone = pd.read_csv(io.StringIO(done.stdout)).set_index("way")
    whole = pd.read_csv(cell / "detection.csv").set_index("way")
    for measure in ("auroc", "f1", "flagged"):
        both = alone[measure], whole[measure][alone.index]
        np.testing.assert_allclose(*both, atol=2e-4)
