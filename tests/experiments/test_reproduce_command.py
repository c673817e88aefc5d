"""`underscript reproduce`: bad input in one line, and tables beside the published ones."""

import json

import numpy as np
import pandas as pd
import pytest

from small_grids import rows
from underscript.cli.command_line import main
from underscript.errors import DataError
from underscript.experiments import units
from underscript.experiments.comparison import compare, read_published
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


@pytest.mark.parametrize(
    ("ours", "sd", "agrees"),
    [(0.605, None, True), (0.64, None, False), (0.655, 0.03, True), (0.69, 0.03, False)],
)
def test_cells_agree_within_two_points_or_both_spreads(tmp_path, ours, sd, agrees):
    published = read_published(published_files(tmp_path), Plan("mnist-mlp"))
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
    both = compare(summary, models, published)
    assert both["agrees"].tolist() == [agrees]
    assert both["difference"].tolist() == [pytest.approx(ours - 0.62)]


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
