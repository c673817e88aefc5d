"""The benchmarks run, and their contenders agree, at sizes that take seconds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

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


@pytest.mark.slow
def test_noise_that_depends_on_the_image_is_made_memorised_and_decoded(tmp_path):
    # Two classes of colour, and noise on top, stand for photographs.
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        labels = rng.integers(0, 2, 160)
        pixels = rng.integers(0, 200, (160, 3072)) + 50 * labels[:, None]
        rows = np.column_stack([labels, pixels]).astype(np.uint8)
        rows.tofile(folder / f"{name}.bin")

    def printed(name, *more):
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", "cluster", "--root", tmp_path, *more],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": "src:.", "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    made = ["--out", tmp_path / "out", "--images", "400", "--epochs", "1"]
    first, again = (printed("feature_noise", *made) for _ in range(2))
    labels = np.load(tmp_path / "out" / "labels.npz")
    true = np.concatenate(
        [np.fromfile(folder / f"data_batch_{k}.bin", np.uint8)[::3073] for k in range(1, 6)]
    )
    # Training images come first, then the hold-out, which is at the end of the data.
    true = np.concatenate([true[:400], true[-100:]])
    assert (labels["cluster"] != true).sum() == 175
    found = json.loads((tmp_path / "out" / "cluster.json").read_text())
    assert found["wrong"] == pytest.approx((labels["cluster"] != true)[:400].mean())
    assert any(line.startswith("cluster: {'epoch': 1") for line in first.splitlines())
    assert not again  # Nothing is made twice.
    asked = ["--runs", tmp_path / "out", "--out", tmp_path / "human"]
    for _ in range(2):
        again = printed("human", *asked, "--ways", "in-sample,decoded,with-holdout")
    assert not again
    table = printed("human_tables", *asked)
    assert f"400 images, {100 * found['wrong']:.1f} % of labels wrong" in table
    for way in ("in-sample softmax", "decoded alone", "decoded with the hold-out"):
        assert f"\n| {way} |" in table


def test_batches_of_texts_hold_each_once_and_are_of_like_length():
    from benchmarks.texts import batches

    lengths = torch.from_numpy(np.random.default_rng(0).integers(5, 60, 1000))
    found = batches(lengths, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(found).tolist()) == list(range(1000))
    spread = [float(lengths[batch].float().std()) for batch in found]
    assert np.mean(spread) < 0.2 * float(lengths.float().std())
    means = [float(lengths[batch].float().mean()) for batch in found]
    assert means != sorted(means)
    again = batches(lengths, torch.Generator().manual_seed(1))
    assert not torch.equal(torch.cat(found), torch.cat(again))


def test_suspicious_labels_are_a_markdown_table_whatever_is_in_a_text():
    from benchmarks.suspicious import markdown

    table = pd.DataFrame(
        {
            "text": ["Where is\nmy card?", "a | b \\ c", "never shown"],
            "given": ["card_arrival", "top_up", "x"],
            "proposed": ["lost_card", "refund", "y"],
            "quality": [0.0001, 0.25, 0.5],
        }
    )
    head, rule, first, second = markdown(table, 2).splitlines()
    assert head.count("|") == rule.count("|") == 6
    assert first == "| 1 | Where is my card? | card_arrival | lost_card | 0.000 |"
    assert second == "| 2 | a \\| b \\\\ c | top_up | refund | 0.250 |"
