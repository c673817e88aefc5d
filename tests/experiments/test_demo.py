"""The demo as a new user runs it: what it promises, on real data."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from underscript.errors import DataError
from underscript.experiments.datasets import load_dataset


def demo(folder: Path, *arguments: str) -> dict:
    command = [sys.executable, "-m", "underscript", "demo", "--json", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder / "underscript-demo", demo(folder)


@pytest.mark.slow
def test_the_network_memorises_and_the_decoder_beats_it(digits):
    _, summary = digits
    assert summary["model"]["accuracy"]["train_given"] >= 0.99
    assert summary["training"]["reached"]
    # c·(K−1)/K = 0.36 of the labels are wrong, up to chance.
    assert 0.32 < summary["wrong_label_share"] < 0.40
    gain = summary["selected"]["test_accuracy"] - summary["model"]["accuracy"]["test"]
    assert summary["gain_points"] == pytest.approx(100 * gain)
    assert summary["gain_points"] >= 15


@pytest.mark.slow
def test_every_layer_is_decoded_from_both_kinds_of_labels_in_both_networks(digits):
    folder, _ = digits
    table = pd.read_csv(folder / "layers.csv")
    tests = table[(table["split"] == "test") & (table["probe"] == "masc")]
    assert set(zip(tests["model"], tests["layer"], tests["subspace_labels"], strict=True)) == {
        (model, layer, labels)
        for model in ("trained", "random")
        for layer in ("input", "fc1", "fc2", "fc3", "fc4")
        for labels in ("corrupted", "true")
        if (model, layer) != ("random", "input")  # the same rows for both
    }
    assert set(table["split"]) == {"train", "holdout", "test"}


@pytest.mark.slow
def test_the_choice_is_near_the_best_on_the_noisy_hold_out(digits):
    folder, summary = digits
    table = pd.read_csv(folder / "layers.csv")
    candidates = table[
        (table["split"] == "holdout")
        & (table["model"] == "trained")
        & (table["subspace_labels"] == "corrupted")
        & (table["layer"] != "input")
    ]
    chosen = candidates[candidates["selected"]]
    assert chosen["probe"].tolist() == ["auto"]
    error = np.sqrt(0.25 / chosen["n"].iloc[0])
    assert chosen["accuracy"].iloc[0] > candidates["accuracy"].max() - 2 * error
    assert summary["selected"]["layer"] == chosen["layer"].iloc[0] != "input"
    assert summary["selected"]["criterion"] == "holdout"


@pytest.mark.slow
def test_it_says_how_it_was_made(digits):
    _, summary = digits
    assert summary["kind"] == "demo"
    assert summary["settings"]["corruption"] == 0.4
    assert summary["seeds"]["labels"] == 42
    assert {"torch", "numpy", "scikit-learn", "underscript"} <= set(summary["versions"])
    assert "training" in summary["timing"]


@pytest.mark.slow
def test_it_stays_below_two_gigabytes(digits):
    # The largest of this process's children so far, in kilobytes; the demo is one of them.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2_000_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_main_job_on_all_images(name, tmp_path):
    try:
        load_dataset(name, download=False)
    except DataError as error:
        pytest.skip(f"{error}")
    summary = demo(tmp_path, "--data", name, "--corruption", "0.8")
    assert summary["model"]["accuracy"]["train_given"] > 0.95
    assert summary["gain_points"] >= 30
