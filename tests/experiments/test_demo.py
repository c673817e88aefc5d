"""The demo as a new user runs it: what it promises, on data that come with scikit-learn."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import underscript as us
from underscript.cli.command_line import main
from underscript.errors import DataError, LabelError
from underscript.experiments.datasets import human_labels, load_dataset
from underscript.experiments.demo import Demo


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "underscript", "demo", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return done


def accuracies(found: us.Decoding) -> dict[str, float]:
    """Test accuracy in per cent: network, decoded, and the same decoder on the controls."""
    table = found.table[(found.table["split"] == "test") & (found.table["probe"] == "auto")]
    return {
        "network": 100 * found.summary["model"]["accuracy"]["test"],
        "decoded": 100 * found.summary["selected"]["test_accuracy"],
        "input": 100 * table[table["layer"] == "input"]["accuracy"].max(),
        "untrained": 100 * table[table["model"] == "random"]["accuracy"].max(),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, demo(folder).stdout


@pytest.mark.slow
def test_the_network_memorises_and_what_is_decoded_needs_it(run):
    found = us.load(run[0] / "underscript-demo")
    assert found.summary["training"]["reached"]
    # c·(K−1)/K = 0.36 of the labels are wrong, up to chance.
    assert 0.32 < found.summary["wrong_label_share"] < 0.40
    share = accuracies(found)
    assert share["decoded"] >= share["network"] + 18
    assert share["decoded"] >= share["untrained"] + 8
    assert share["decoded"] >= share["input"] + 18


@pytest.mark.slow
def test_it_fits_on_one_screen_and_each_step_runs_as_printed(run):
    folder, printed = run
    assert len(printed.splitlines()) <= 25
    steps = re.findall(r"^  (underscript .*)$", printed, flags=re.M)
    assert len(steps) == 3
    for step in steps:
        command = f"{sys.executable} -m {step}"
        done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    predicted = pd.read_csv(folder / "underscript-demo-predictions.csv")["predicted_label"]
    test = Demo().load().test[1].numpy()
    found = us.load(folder / "underscript-demo")
    share = found.summary["selected"]["test_accuracy"]
    assert np.mean(predicted == test) == pytest.approx(share, abs=0.002)


@pytest.mark.slow
def test_its_network_and_data_are_kept_as_files_for_other_commands(run, monkeypatch, capsys):
    folder, _ = run
    monkeypatch.chdir(folder)
    kept = us.load("underscript-demo").summary
    script = "underscript-demo/demo.py"
    command = ["decode", "--model", f"{script}:model", "--train", f"{script}:train"]
    command += ["--weights", "underscript-demo/network.safetensors", "--test", f"{script}:test"]
    assert main([*command, "--no-controls", "--layers", "fc1", "--out", "again", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["model"]
    assert again["weights"] == kept["model"]["weights"]
    for share in ("train_given", "test"):
        assert again["accuracy"][share] == kept["model"]["accuracy"][share]


@pytest.mark.slow
def test_it_says_how_it_was_made_and_stays_below_two_gigabytes(run):
    summary = us.load(run[0] / "underscript-demo").summary
    assert summary["kind"] == "demo"
    assert summary["settings"]["corruption"] == 0.4
    assert summary["settings"]["data"] == "moved-digits"
    assert summary["seeds"]["labels"] == 42
    assert {"torch", "numpy", "scikit-learn", "underscript"} <= set(summary["versions"])
    assert "training" in summary["timing"]
    # The largest of this process's children so far, in kilobytes; the demo is one of them.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2_000_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_main_job_on_all_images(name, tmp_path):
    try:
        load_dataset(name, download=False)
    except DataError as error:
        pytest.skip(f"{error}")
    summary = json.loads(demo(tmp_path, "--data", name, "--corruption", "0.8", "--json").stdout)
    assert summary["model"]["accuracy"]["train_given"] > 0.95
    assert summary["gain_points"] >= 30


# The data -------------------------------------------------------------------------------------


def test_moved_digits_show_each_drawing_at_three_places():
    digits, moved = load_dataset("digits"), load_dataset("moved-digits")
    n = len(digits.train_images)
    assert moved.train_images.shape == (3 * n, 1, 16, 16)
    assert moved.train_drawings is not None
    for number in (0, 5, n - 1):
        shown = moved.train_images[moved.train_drawings == number]
        assert len(shown) == 3
        assert len(np.unique(shown.reshape(3, -1), axis=0)) == 3
        for image in shown:
            # All of the drawing is there, wherever it is.
            assert image.sum() == digits.train_images[number].sum()
            rows, columns = np.flatnonzero(image[0].any(1)), np.flatnonzero(image[0].any(0))
            cut = image[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert cut.tobytes() in {
                digits.train_images[number][0, a : a + len(cut), b : b + cut.shape[1]].tobytes()
                for a in range(8)
                for b in range(8)
            }
    labels = moved.train_labels.reshape(3, n)
    assert (labels == digits.train_labels).all()


def test_no_drawing_is_both_trained_on_and_held_out():
    data = Demo(seed=3).load()

    def drawings(inputs: torch.Tensor) -> set[tuple[int, ...]]:
        # What is left of a drawing wherever it stands: its sorted values.
        return {tuple(image.flatten().sort()[0].tolist()) for image in inputs}

    assert len(data.holdout[0]) > 300
    shared = drawings(data.train[0]) & drawings(data.holdout[0])
    assert len(shared) <= 2  # drawings that happen to have the same values


def test_the_same_settings_give_the_same_data_and_another_seed_other_labels():
    first, again, other = Demo().load(), Demo().load(), Demo(seed=1).load()
    assert torch.equal(first.train[1], again.train[1])
    assert torch.equal(first.test[0], other.test[0])
    assert first.train[1].tolist() != other.train[1].tolist()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--labels", "worse"], "known for cifar10; found moved-digits"),
        (["--data", "cifar10", "--labels", "worse", "--corruption", "0.2"], "--corruption redraws"),
        (["--data", "cifar10", "--labels", "worst"], "invalid choice"),
        (["--samples", "0"], "at least 1; found '0'"),
        (["--corruption", "1.5"], "1.5"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture
def three(tmp_path):
    """An image data set of three images, and a folder for labels."""
    digits = load_dataset("digits")
    images = type(digits)(
        "cifar10",
        digits.train_images[:3],
        digits.train_labels[:3],
        digits.test_images,
        digits.test_labels,
        digits.class_names,
        "here",
    )
    (tmp_path / "cifar-10n").mkdir()
    return images, tmp_path


def test_human_labels_are_read_by_name(three):
    images, root = three
    np.save(root / "cifar-10n" / "worse_label.npy", np.array([1, 2, 9]))
    np.save(root / "cifar-10n" / "clean_label.npy", images.train_labels)
    found = human_labels(images, "worse", root)
    assert found.dtype == np.int64
    assert found.tolist() == [1, 2, 9]


@pytest.mark.parametrize(
    ("labels", "error", "said"),
    [
        (None, DataError, "no file cifar-10n/worse_label.npy"),
        (np.array([1, 2]), LabelError, "expected 3 whole numbers"),
        (np.array([1, 2, 10]), LabelError, "found 1 to 10"),
        (np.array([0.5, 1, 2]), LabelError, "found float64"),
        (np.array([{}, 1, 2], dtype=object), LabelError, "expected an array of labels"),
    ],
    ids=["missing", "too few", "out of range", "fractions", "a pickle"],
)
def test_files_of_human_labels_that_do_not_fit_are_refused(three, labels, error, said):
    images, root = three
    if labels is not None:
        np.save(root / "cifar-10n" / "worse_label.npy", labels, allow_pickle=True)
    with pytest.raises(error, match=said):
        human_labels(images, "worse", root)


def test_human_labels_of_images_in_another_order_are_refused(three):
    images, root = three
    np.save(root / "cifar-10n" / "worse_label.npy", np.array([1, 2, 9]))
    np.save(root / "cifar-10n" / "clean_label.npy", (images.train_labels + 1) % 10)
    with pytest.raises(LabelError, match="another order"):
        human_labels(images, "worse", root)
