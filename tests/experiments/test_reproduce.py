"""The paper's experiments as a grid: what each gives."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch

import underscript as us
from dataset_files import TORCHVISION, WRITERS
from reference import relu_rows
from small_grids import TINY, plan_of, rows
from underscript.experiments import presets, probes, units
from underscript.experiments.catalogue import PAIRS
from underscript.experiments.datasets import catalogue
from underscript.experiments.plan import Cell, Plan
from underscript.experiments.probes import pairs_of_classes
from underscript.experiments.reproduce import reproduce
from underscript.experiments.units import units_of
from underscript.experiments.work import Work
from underscript.noise.corruption import transition_matrix

pytestmark = pytest.mark.usefixtures("quick_recipe")


def test_each_unit_finds_what_it_needs():
    order = [(cell, unit.name) for cell, unit in units_of(plan_of("E3", "E4"))]
    assert len(order) == len(set(order))
    for cell, unit in units_of(plan_of("E3", "E4")):
        for need in unit.needs(cell):
            assert order.index(need) < order.index((cell, unit.name))
    only_noisy = units_of(plan_of("E3", corruptions=(0.6,), runs=1))
    assert [(cell.corruption, unit.name) for cell, unit in only_noisy] == [
        (0.0, "training"),
        (0.6, "generalised"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "run"), [("small", 1), pytest.param("finished", 2, marks=pytest.mark.slow)]
)
def test_e1_and_e2_are_what_decode_says(made, run, request):
    plan, out, result = request.getfixturevalue(made)
    work = Work(plan, Cell(0.6, run), out)
    train, test = work.data.train, work.data.test
    assert len(train.images) == TINY["samples"]
    direct = us.decode(
        work.network(),
        (train.images, train.given),
        (test.images, test.true),
        controls=False,
        layers=plan.pair.layers,
        true_labels=train.true,
        seed=work.cell.seed,
        evaluate=("train", "test"),
    )
    ours = rows(result.results, corruption=0.6, run=run, model="trained")
    for experiment, labels in (("E1", "corrupted"), ("E2", "true")):
        own = rows(ours, experiment=experiment, probe="masc")
        theirs = rows(direct.table, probe="masc", subspace_labels=labels)
        assert len(own) == 5 * 3  # layers; given and true training labels, test labels
        np.testing.assert_array_equal(own["accuracy"], theirs["accuracy"])


@pytest.mark.slow
def test_e3_reads_the_network_of_degree_zero(finished):
    plan, out, result = finished
    work, generalised = (Work(plan, Cell(degree, 1), out) for degree in (0.6, 0.0))
    train, test = work.data.train, work.data.test
    direct = us.decode(
        generalised.network(),
        (train.images, train.given),
        (test.images, test.true),
        controls=False,
        layers=plan.pair.layers,
    )
    own = rows(result.results, experiment="E3", run=1, split="test", probe="masc")
    theirs = rows(direct.table, split="test", probe="masc")
    np.testing.assert_array_equal(own["accuracy"], theirs["accuracy"])
    assert set(own["subspace_labels"]) == {"corrupted"}
    assert rows(result.results, experiment="E3", corruption=0.0).empty


@pytest.mark.slow
def test_e4_counts_the_labels_that_changed(finished):
    plan, out, result = finished
    stored = Work(plan, Cell(0.6, 1), out).record("retraining")["layers"]
    assert {who for layer in stored.values() for who in layer["layer_is"]} == {"oracle", "chosen"}
    for layer in stored.values():
        # Every label is right or wrong, before and after.
        gained = layer["wrong_before"] - layer["wrong_after"]
        assert gained <= layer["changed_to_right"] + 1e-12
        assert layer["epochs"] <= units.RETRAINING_EPOCHS
        assert layer["training"]["warmup_epochs"] == 0
    retrained = rows(pd.read_csv(out / "retraining.csv"), corruption=0.6, layer_is="oracle")
    own = rows(result.models, corruption=0.6)["test_accuracy"]
    np.testing.assert_allclose(retrained["before"], own)
    assert any(table.title.startswith("E4") and len(table.rows) == 4 for table in result.tables)


@pytest.mark.slow
def test_e5_goes_from_one_component_to_the_paper_share(finished):
    _, _, result = finished
    shares = rows(result.results, experiment="E5", corruption=0.6, run=1, layer="fc1")
    assert shares["variance"].tolist() == list(units.SHARES)
    assert shares["rank"].iloc[0] == 1
    assert shares["rank"].is_monotonic_increasing
    e1 = rows(result.results, experiment="E1", corruption=0.6, run=1, layer="fc1", model="trained")
    at_99 = rows(e1, split="test")["accuracy"].iloc[0]
    assert rows(shares, variance=0.99)["accuracy"].iloc[0] == at_99


@pytest.mark.slow
def test_e6_reads_all_layers_in_one_pass_or_in_as_many_as_memory_asks_for(finished, monkeypatch):
    plan, out, _ = finished
    work, passes, stream = Work(plan, Cell(0.6, 1), out), [], probes.stream
    monkeypatch.setattr(probes, "stream", lambda *a, **k: passes.append(a) or stream(*a, **k))
    together = list(probes._layers(work))
    assert [layer.name for layer in together] == list(plan.pair.layers)
    assert len(passes) == 2, "of training and test data"
    monkeypatch.setattr(probes, "MEMORY", 1)
    alone = list(probes._layers(work))
    assert len(passes) == 2 + 2 * len(alone)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.train, other.train)
        np.testing.assert_array_equal(one.test, other.test)


@pytest.mark.slow
def test_e6_has_every_probe_on_every_layer_with_its_times(finished):
    plan, _, result = finished
    probes = rows(result.results, experiment="E6", corruption=0.6, run=1)
    names = {"knn", "masc", "velpic", "lda", "qda", "ncm", "logistic", "rog", "fine"}
    for layer in plan.pair.layers:
        for labels in ("corrupted", "true"):
            here = rows(probes, layer=layer, subspace_labels=labels)
            assert set(here["probe"]) == names
            assert (here["fit_s"] >= 0).all()
            assert (here["predict_s"] > 0).all()
    # Two implementations of one thing.
    e1 = rows(result.results, experiment="E1", corruption=0.6, run=1, model="trained", split="test")
    for layer in plan.pair.layers:
        here = rows(probes, layer=layer, subspace_labels="corrupted", probe="masc")
        assert here["accuracy"].iloc[0] == rows(e1, layer=layer)["accuracy"].iloc[0]


@pytest.mark.slow
def test_e6_tells_the_geometry_of_the_classes(finished):
    plan, out, _ = finished
    table = pd.read_csv(out / "geometry.csv")
    assert len(table) == 5 * 3  # layers; both kinds of labels at 0.6, one at 0
    (here,) = rows(table, layer="fc2", subspace_labels="true", corruption=0.6).to_dict("records")
    parts = [Work(plan, Cell(0.6, run), out).table("geometry") for run in (1, 2)]
    both = rows(pd.concat(parts), layer="fc2", subspace_labels="true")
    alone = both["class_a"] == both["class_b"]
    assert here["effective_rank"] == pytest.approx(both[alone]["effective_rank"].mean())
    assert here["smallest_angle"] == pytest.approx(both[~alone]["smallest_angle"].mean())
    assert here["overlap"] == pytest.approx(both[~alone]["overlap"].mean())
    assert "E6: geometry of the class subspaces" in (out / "tables.md").read_text()


@pytest.mark.slow
def test_controls_stand_beside_the_claim(finished):
    plan, out, result = finished
    control = rows(result.results, experiment="E1", corruption=0.6, run=1, model="random")
    assert control["layer"].tolist() == [layer for layer in plan.pair.layers if layer != "input"]
    untrained = Work(plan, Cell(0.6, 1), out).untrained()
    trained = Work(plan, Cell(0.6, 1), out).network()
    assert not torch.equal(untrained.fc1[0].weight, trained.fc1[0].weight)
    assert "input" in set(rows(result.results, experiment="E1", model="trained")["layer"])


@pytest.mark.slow
def test_the_true_share_of_wrong_labels_is_recorded(finished):
    plan, out, result = finished
    for record in result.models.to_dict("records"):
        work = Work(plan, Cell(record["corruption"], record["run"]), out)
        wrong = float((work.data.train.given != work.data.train.true).mean())
        assert record["wrong_labels"] == wrong
        stored = work.record("training")
        np.testing.assert_allclose(
            stored["transitions"],
            transition_matrix(work.data.train.true, work.data.train.given, 10),
        )
        history = pd.read_csv(work.folder / "history.csv")["test_accuracy"]
        assert stored["oracle_test_accuracy"] == pytest.approx(history.max())
        assert stored["oracle_epoch"] == history.argmax() + 1


@pytest.mark.slow
def test_means_and_spreads_are_over_runs(finished):
    _, _, result = finished
    one = {"experiment": "E1", "corruption": 0.6, "layer": "fc2", "model": "trained"}
    one["split"] = "test"
    values = rows(result.results, **one)["accuracy"]
    (summary,) = rows(result.summary, **one).to_dict("records")
    assert summary["runs"] == len(values) == 2
    assert summary["mean"] == pytest.approx(values.mean())
    assert summary["sd"] == pytest.approx(np.std(values, ddof=1))


@pytest.mark.slow
def test_the_folder_says_how_it_came_about(finished):
    plan, out, result = finished
    stored = json.loads((out / "results.json").read_text())
    assert stored["recipe"]["max_epochs"] == TINY["max_epochs"]
    assert stored["label_seed"] == 42
    assert stored["versions"]["torch"] == torch.__version__
    assert stored["machine"]["cores"] == os.cpu_count()
    assert len(stored["summary"]) == len(result.summary)
    written = (out / "tables.md").read_text()
    for experiment in ("E1", "E2", "E3"):
        for where in ("test accuracy", "with their true labels", "with the corrupted labels"):
            assert re.search(rf"{experiment}: .*{where}", written)
    for kind in ("png", "svg"):
        assert (out / "figures" / f"depth.{kind}").stat().st_size > 1000
    del plan


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["pair", "instance", "transition"])
def test_other_noise(tmp_path, noise):
    if noise == "transition":
        matrix = np.eye(10) * 0.5 + 0.5 / 10
        np.savetxt(tmp_path / "noise.csv", matrix, delimiter=",")
        noise = str(tmp_path / "noise.csv")
    plan = plan_of("E1", noise=noise, corruptions=(0.0, 0.4), runs=1)
    result = reproduce(plan, tmp_path / "out", progress=False)
    expected = 0.4 * 0.45 if noise.endswith(".csv") else 0.4
    wrong = result.models["wrong_labels"].tolist()
    assert wrong[0] == 0
    assert wrong[1] == pytest.approx(expected, abs=4 * (expected / TINY["samples"]) ** 0.5)
    given = Work(plan, Cell(0.4, 1), tmp_path / "out").data.train.given
    assert (given == Work(plan, Cell(0.4, 2), tmp_path / "out").data.train.given).all()


@pytest.mark.parametrize(
    "name",
    [
        name if name == "mnist-mlp" else pytest.param(name, marks=pytest.mark.slow)
        for name, pair in PAIRS.items()
        if pair.published
    ],
)
def test_every_pair_of_the_paper_runs_on_small_files_in_the_true_format(
    name, tmp_path, monkeypatch
):
    pair = PAIRS[name]
    monkeypatch.chdir(tmp_path)
    write_files, (n_train, n_test) = WRITERS[pair.data]
    small = replace(catalogue.CATALOGUE[pair.data], n_train=n_train, n_test=n_test, places=())
    monkeypatch.setitem(catalogue.CATALOGUE, pair.data, small)
    write_files(tmp_path / "root" / TORCHVISION[pair.data])
    for key, preset in presets._RECIPES.items():
        monkeypatch.setitem(
            presets._RECIPES, key, replace(preset, max_epochs=1, samples=60, batch_size=20)
        )
    plan = Plan(name, preset="paper", corruptions=(0.4,), runs=1, root=tmp_path / "root")
    result = reproduce(plan, tmp_path / "out", progress=False)
    assert result.models["epochs"].tolist() == [1]
    e1 = rows(result.results, experiment="E1", model="trained", split="test", probe="masc")
    assert e1["layer"].tolist() == list(pair.layers)
    assert e1["accuracy"].between(0, 1).all()


def test_angles_are_those_of_scipy():
    X, y = relu_rows(400, 30, 3, dtype=np.float32)
    table = pairs_of_classes(X, y, 4, 0.9).set_index(["class_a", "class_b"])
    assert len(table) == 6  # the fourth class has no samples
    bases = us.MinimumAngleSubspaceClassifier(variance=0.9).fit(X.astype(float), y).bases_
    for (a, b), row in table.iterrows():
        assert row["rank"] == bases[int(a)].shape[1]
        if a == b:
            second = X[y == a].astype(float).T @ X[y == a]
            p = np.linalg.eigvalsh(second)
            p = p[p > 0] / p.sum()
            assert row["effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
            continue
        angles = scipy.linalg.subspace_angles(bases[int(a)], bases[int(b)])
        assert row["smallest_angle"] == pytest.approx(np.degrees(angles.min()), abs=0.05)
        assert row["overlap"] == pytest.approx((np.cos(angles) ** 2).mean(), abs=1e-5)
