"""`underscript reproduce`: bad input in one line, and tables beside the published ones."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dataset_files import TORCHVISION, write_cifar10
from small_grids import rows
from underscript.cli.command_line import main
from underscript.errors import DataError
from underscript.experiments import units
from underscript.experiments.comparison import compare, differences, read_published, verdict
from underscript.experiments.datasets import catalogue
from underscript.experiments.plan import Plan

pytestmark = pytest.mark.usefixtures("quick_recipe")


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnist-mlpp"], "experiment: expected one of mnist-mlp"),
        (["digits-mlp", "--corruption", "0,1.2"], "corruption: expected degrees from 0 to 1"),
        (["digits-mlp", "--corruption", "nan"], "corruption: expected degrees from 0 to 1"),
        (["digits-mlp", "--corruption", "high"], "expected degrees from 0 to 1 such as 0,0.4"),
        (["digits-mlp", "--corruption", "0.2,0.2"], "corruption: expected different degrees"),
        (["digits-mlp", "--runs", "0"], "runs: expected at least 1"),
        (["digits-mlp", "--only", "E1,E9"], "only: expected some of E1"),
        (["digits-mlp", "--only", "E7"], "E7 is E1 and E2 of cifar10-resnet18"),
        (["digits-mlp", "--preset", "slow"], "preset: expected one of"),
        (["digits-mlp", "--noise", "white"], "noise: expected one of symmetric"),
        (["digits-mlp", "--noise", "odd.csv"], "row"),
        (["digits-mlp", "--noise", "words.csv"], "words.csv: expected rows of numbers"),
        (["digits-mlp", "--variance", "0"], "variance: expected a share"),
        (["digits-mlp", "--width", "0.5"], "width: expected 1, as only resnet18 can be narrower"),
        (["cifar10-resnet18", "--width", "0"], "width: expected a share of the channels from 1/64"),
        (["cifar10-resnet18", "--width", "wide"], "invalid float value: 'wide'"),
        (["digits-mlp", "--jobs", "0"], "jobs: expected at least 1"),
        (["digits-mlp", "--compare", "odd.csv"], "compare: nothing was published of digits-mlp"),
        (["mnist-mlp", "--compare", "none.csv"], "none.csv: expected a CSV table"),
        (["mnist-mlp", "--compare", "odd.csv"], "odd.csv: expected a table of probes or networks"),
        (["cifar10-mlp", "--root", "nowhere"], "cifar10: no files found"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDERSCRIPT_DATA", str(tmp_path / "none"))
    monkeypatch.setattr("underscript.experiments.datasets.load.fetch", no_network)
    (tmp_path / "odd.csv").write_text("\n".join([",".join(["0.2"] * 10)] * 10))
    (tmp_path / "words.csv").write_text("a,b\nc,d\n")
    arguments = ["reproduce", "--corruption", "0.6", *arguments, "--runs=1"]
    if "--runs" in arguments:
        arguments.remove("--runs=1")
    assert main([*arguments, "--out", "out"]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err
    assert "Traceback" not in err
    assert err.count("\n") == 0


def no_network(*_):
    raise DataError("there is no network")


# --- beside the published -----------------------------------------------------------------------


def published_files(folder):
    """Two tables in the authors' form."""
    probes = [
        # Two runs, the second with two seeds.
        ("MASC", "MNIST_MLP", 0.8, "corrupted", 1, "fc1", "test", 10, 0.99, 0.60),
        ("MASC", "MNIST_MLP", 0.8, "corrupted", 2, "fc1", "test", 10, 0.99, 0.62),
        ("MASC", "MNIST_MLP", 0.8, "corrupted", 2, "fc1", "test", 20, 0.99, 0.66),
        ("MASC", "MNIST_MLP", 0.8, "corrupted", 1, "fc1", "test", 10, 1, 0.84),
        ("logistic_regression", "MNIST_MLP", 0.8, "true", 1, "fc2", "test", None, None, 97.0),
        ("KNN", "CIFAR10_MLP", 0.8, "true", 1, "fc2", "test", None, None, 0.5),
    ]
    columns = [
        "probe",
        "experiment",
        "corruption",
        "subspace_labels",
        "run",
        "layer",
        "split",
        "seed",
        "pca",
        "accuracy",
    ]
    pd.DataFrame(probes, columns=columns).to_csv(folder / "probes.csv", index=False)
    networks = pd.DataFrame(
        [("MNIST_MLP", 0.8, run, 30.0 + run, 91.0) for run in (1, 2)],
        columns=["experiment", "corruption", "run", "test_accuracy", "best_test_accuracy"],
    )
    networks.to_csv(folder / "models.csv", index=False)
    return [folder / "probes.csv", folder / "models.csv"]


def test_published_tables_are_read_as_they_are_meant(tmp_path):
    published = read_published(published_files(tmp_path), Plan("mnist-mlp"))
    masc = rows(published, probe="masc", variance=0.99)
    assert masc["mean"].tolist() == [pytest.approx((0.60 + 0.64) / 2)]
    assert masc["sd"].tolist() == [pytest.approx(np.std([0.60, 0.64], ddof=1))]
    assert masc["runs"].tolist() == [2]
    one = rows(published, probe="masc", variance=units.ONE_COMPONENT)
    assert one["mean"].tolist() == [0.84]
    assert rows(published, probe="logistic")["mean"].tolist() == [0.97]
    assert rows(published, probe="model")["mean"].tolist() == [pytest.approx(0.315)]
    assert not len(rows(published, probe="knn"))


def beside_the_published(folder, ours, sd, differ=()):
    """One cell of ours beside a published one of 0.62 ± 0.01."""
    published = read_published(published_files(folder), Plan("mnist-mlp"))
    published = rows(published, probe="masc", variance=0.99).assign(mean=0.62, sd=0.01)
    summary = pd.DataFrame(
        [
            {
                "experiment": "E1",
                "corruption": 0.8,
                "model": "trained",
                "layer": "fc1",
                "probe": "masc",
                "variance": 0.99,
                "subspace_labels": "corrupted",
                "split": "test",
                "labels": "given",
                "mean": ours,
                "sd": sd,
                "runs": 1,
            }
        ]
    )
    models = pd.DataFrame({"corruption": [0.8], "oracle_test_accuracy": [0.9]})
    return compare(summary, models, published, differ)


@pytest.mark.parametrize(
    ("ours", "sd", "agrees"),
    [(0.605, None, True), (0.64, None, False), (0.655, 0.03, True), (0.69, 0.03, False)],
)
def test_cells_agree_within_two_points_or_both_spreads(tmp_path, ours, sd, agrees):
    both = beside_the_published(tmp_path, ours, sd)
    assert both["agrees"].tolist() == [agrees]
    assert both["difference"].tolist() == [pytest.approx(ours - 0.62)]
    assert verdict(both).startswith(f"{int(agrees)} of 1 published cells that were run here agree")


def test_where_the_set_up_differs_nothing_is_said_to_agree(tmp_path):
    both = beside_the_published(tmp_path, 0.605, None, ["quick preset"])
    assert "agrees" not in both
    assert both["difference"].tolist() == [pytest.approx(-0.015)]
    assert verdict(both, ["quick preset"]) == (
        "1 published cells were run here, 1.5 points off on average; the set-up differs "
        "(quick preset), so none is said to agree"
    )


@pytest.mark.parametrize(
    ("settings", "differ"),
    [
        ({"preset": "paper"}, []),
        ({"preset": "paper", "samples": 50_000}, []),
        ({"preset": "paper", "samples": 49_999}, ["49,999 of 50,000 training images"]),
        ({"preset": "paper", "width": 0.5}, ["0.5 of the width"]),
        ({"preset": "paper", "noise": "pair"}, ["other noise"]),
        ({"preset": "paper", "holdout": 500}, ["500 images held out"]),
        (
            {"samples": 10_000},
            ["quick preset", "10,000 of 50,000 training images", "0.25 of the width"],
        ),
        ({"samples": 50_000, "width": 1}, ["quick preset"]),
    ],
)
def test_what_differs_from_the_published_set_up_is_named(settings, differ):
    assert differences(Plan("cifar10-resnet18", **settings)) == differ


def test_the_command_prints_tables_and_json(small_copy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # the one cell is finished: it only has to be shown
    arguments = ["reproduce", "digits-mlp", "--corruption", "0.6", "--runs", "1", "--out", "out"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "E1: subspaces from the corrupted labels" in shown
    assert "masc 0.99, untrained network" in shown
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert printed["asked"]["corruption"] == [0.6]
    assert printed["command"].endswith("--json")
    assert "E1: subspaces" in captured.err


@pytest.mark.slow
def test_a_narrow_resnet18_beside_the_published_one_says_what_it_is(tmp_path, monkeypatch, capsys):
    small = replace(catalogue.CATALOGUE["cifar10"], n_train=50, n_test=10, places=())
    monkeypatch.setitem(catalogue.CATALOGUE, "cifar10", small)
    write_cifar10(tmp_path / "root" / TORCHVISION["cifar10"])
    probes, _ = published_files(tmp_path)
    table = pd.read_csv(probes).replace({"MNIST_MLP": "CIFAR10_ResNet18", "fc1": "bf_last"})
    table.to_csv(probes, index=False)
    monkeypatch.chdir(tmp_path)
    asked = ["reproduce", "cifar10-resnet18", "--corruption", "0.8", "--runs", "1"]
    asked += ["--samples", "40", "--root", "root", "--compare", "probes.csv", "--out", "out"]
    assert main(asked) == 0
    printed = " ".join(capsys.readouterr().out.split())
    words = "quick preset, at most 40 training images, ResNet-18 at 0.25 of its width"
    written = (tmp_path / "out" / "tables.md").read_text()
    assert words in printed
    assert f"**The networks ({words}), %**" in written
    assert "(quick preset, 40 of 50 training images, 0.25 of the width), so no cell" in written
    assert "| 0.8 | pooled | masc 0.99 | corrupted | test | " in written
    assert "agrees" not in written
    assert "agrees" not in (tmp_path / "out" / "comparison.csv").read_text()
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["recipe"]["width"] == 0.25
    assert main([*asked, "--width", "0.5"]) == 2
    assert "recipe.width (0.25 there, 0.5 asked for)" in capsys.readouterr().err


def test_a_folder_from_before_networks_had_a_width_goes_on(small_copy, capsys):
    _, out, _ = small_copy
    settings = json.loads((out / "settings.json").read_text())
    del settings["recipe"]["width"]
    (out / "settings.json").write_text(json.dumps(settings))
    arguments = ["reproduce", "digits-mlp", "--corruption", "0.6", "--runs", "1"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert "The networks (quick preset" in capsys.readouterr().out


def test_a_budget_of_memory_is_kept_or_refused_and_changes_no_number(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ["reproduce", "digits-mlp", "--corruption", "0.4", "--runs", "1", "--samples", "100"]
    assert main([*asked, "--memory", "1MB", "--out", "tight"]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "memory: expected at least" in message
    assert "--memory" in message
    tables = []
    for size in ("60MB", "4GB"):
        assert main([*asked, "--memory", size, "--out", size]) == 0
        tables.append(
            pd.read_csv(tmp_path / size / "results.csv").drop(columns=["fit_s", "predict_s"])
        )
    pd.testing.assert_frame_equal(*tables)
