"""The paper's experiments as a grid: what each gives, and that nothing interrupts it for good."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch

import underscript as us
from dataset_files import TORCHVISION, WRITERS
from reference import relu_rows
from underscript.cli.command_line import main
from underscript.errors import DataError, OutputError
from underscript.experiments import grid, presets, probes, units
from underscript.experiments.catalogue import PAIRS
from underscript.experiments.comparison import compare, read_published
from underscript.experiments.datasets import catalogue
from underscript.experiments.plan import Cell, Plan
from underscript.experiments.probes import geometry
from underscript.experiments.reproduce import reproduce
from underscript.experiments.units import units_of
from underscript.experiments.work import Work
from underscript.noise.corruption import transition_matrix

# Enough to go through everything; what is learnt does not matter here.
TINY = {"max_epochs": 3, "samples": 300}


@pytest.fixture(autouse=True)
def quick_recipe(monkeypatch):
    for key, preset in presets._RECIPES.items():
        if key[0] == "quick":
            monkeypatch.setitem(presets._RECIPES, key, replace(preset, **TINY))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished grid of all experiments, two degrees and two runs."""
    with pytest.MonkeyPatch.context() as patch:
        recipe = presets._RECIPES["quick", "mlp"]
        patch.setitem(presets._RECIPES, ("quick", "mlp"), replace(recipe, **TINY))
        patch.setattr(units, "RETRAINING_EPOCHS", 2)
        plan = plan_of("E1", "E2", "E3", "E4", "E5", "E6")
        out = tmp_path_factory.mktemp("grids") / "all"
        return plan, out, reproduce(plan, out, progress=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A finished grid of one cell, for what needs no more."""
    with pytest.MonkeyPatch.context() as patch:
        recipe = presets._RECIPES["quick", "mlp"]
        patch.setitem(presets._RECIPES, ("quick", "mlp"), replace(recipe, **TINY))
        plan = plan_of("E1", "E2", corruptions=(0.6,), runs=1)
        out = tmp_path_factory.mktemp("grids") / "small"
        return plan, out, reproduce(plan, out, progress=False)


@pytest.fixture
def mine(small, tmp_path):
    """A copy of it that the test may damage."""
    plan, out, found = small
    return plan, shutil.copytree(out, tmp_path / "out"), found


def plan_of(*only, **settings):
    settings = {"corruptions": (0.0, 0.6), "runs": 2, **settings}
    return Plan("digits-mlp", only=only or ("E1", "E2"), **settings)


def rows(table, **values):
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def untimed(out):
    """The results of run 1 but for E5, E6 and their times, which `ARGUMENTS` do not ask for."""
    table = pd.read_csv(out / "results.csv")
    table = table[(table["run"] == 1) & ~table["experiment"].isin(["E5", "E6"])]
    table = table.drop(columns=[name for name in table if name.endswith(("_s", "_flops"))])
    return table.reset_index(drop=True)


# --- what the experiments give ------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("made", "run"), [("small", 1), pytest.param("finished", 2, marks=pytest.mark.slow)]
)
def test_e1_and_e2_are_what_decode_says(made, run, request):
    plan, out, found = request.getfixturevalue(made)
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
    ours = rows(found.results, corruption=0.6, run=run, model="trained")
    for experiment, labels in (("E1", "corrupted"), ("E2", "true")):
        mine = rows(ours, experiment=experiment, probe="masc")
        theirs = rows(direct.table, probe="masc", subspace_labels=labels)
        assert len(mine) == 5 * 3  # layers; given and true training labels, test labels
        np.testing.assert_array_equal(mine["accuracy"], theirs["accuracy"])


@pytest.mark.slow
def test_e3_reads_the_network_of_degree_zero(finished):
    plan, out, found = finished
    work, generalised = (Work(plan, Cell(degree, 1), out) for degree in (0.6, 0.0))
    train, test = work.data.train, work.data.test
    direct = us.decode(
        generalised.network(),
        (train.images, train.given),
        (test.images, test.true),
        controls=False,
        layers=plan.pair.layers,
    )
    mine = rows(found.results, experiment="E3", run=1, split="test", probe="masc")
    theirs = rows(direct.table, split="test", probe="masc")
    np.testing.assert_array_equal(mine["accuracy"], theirs["accuracy"])
    assert set(mine["subspace_labels"]) == {"corrupted"}
    assert rows(found.results, experiment="E3", corruption=0.0).empty


@pytest.mark.slow
def test_e4_counts_the_labels_that_changed(finished):
    plan, out, found = finished
    told = Work(plan, Cell(0.6, 1), out).told("retraining")["layers"]
    assert {who for layer in told.values() for who in layer["layer_is"]} == {"oracle", "chosen"}
    for layer in told.values():
        # Every label is right or wrong, before and after.
        gained = layer["wrong_before"] - layer["wrong_after"]
        assert gained <= layer["changed_to_right"] + 1e-12
        assert layer["epochs"] <= units.RETRAINING_EPOCHS
        assert layer["training"]["warmup_epochs"] == 0
    retrained = rows(pd.read_csv(out / "retraining.csv"), corruption=0.6, layer_is="oracle")
    own = rows(found.models, corruption=0.6)["test_accuracy"]
    np.testing.assert_allclose(retrained["before"], own)
    assert any(table.title.startswith("E4") and len(table.rows) == 4 for table in found.tables)


@pytest.mark.slow
def test_e5_goes_from_one_component_to_the_paper_share(finished):
    _, _, found = finished
    shares = rows(found.results, experiment="E5", corruption=0.6, run=1, layer="fc1")
    assert shares["variance"].tolist() == list(units.SHARES)
    assert shares["rank"].iloc[0] == 1
    assert shares["rank"].is_monotonic_increasing
    e1 = rows(found.results, experiment="E1", corruption=0.6, run=1, layer="fc1", model="trained")
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
    plan, _, found = finished
    probes = rows(found.results, experiment="E6", corruption=0.6, run=1)
    names = {"knn", "masc", "velpic", "lda", "qda", "ncm", "logistic", "rog", "fine"}
    for layer in plan.pair.layers:
        for labels in ("corrupted", "true"):
            here = rows(probes, layer=layer, subspace_labels=labels)
            assert set(here["probe"]) == names
            assert (here["fit_s"] >= 0).all()
            assert (here["predict_s"] > 0).all()
    # Two implementations of one thing.
    e1 = rows(found.results, experiment="E1", corruption=0.6, run=1, model="trained", split="test")
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
    plan, out, found = finished
    control = rows(found.results, experiment="E1", corruption=0.6, run=1, model="random")
    assert control["layer"].tolist() == [layer for layer in plan.pair.layers if layer != "input"]
    untrained = Work(plan, Cell(0.6, 1), out).untrained()
    trained = Work(plan, Cell(0.6, 1), out).network()
    assert not torch.equal(untrained.fc1[0].weight, trained.fc1[0].weight)
    assert "input" in set(rows(found.results, experiment="E1", model="trained")["layer"])


@pytest.mark.slow
def test_the_true_share_of_wrong_labels_is_recorded(finished):
    plan, out, found = finished
    for record in found.models.to_dict("records"):
        work = Work(plan, Cell(record["corruption"], record["run"]), out)
        wrong = float((work.data.train.given != work.data.train.true).mean())
        assert record["wrong_labels"] == wrong
        told = work.told("training")
        np.testing.assert_allclose(
            told["transitions"], transition_matrix(work.data.train.true, work.data.train.given, 10)
        )
        history = pd.read_csv(work.folder / "history.csv")["test_accuracy"]
        assert told["oracle_test_accuracy"] == pytest.approx(history.max())
        assert told["oracle_epoch"] == history.argmax() + 1


@pytest.mark.slow
def test_means_and_spreads_are_over_runs(finished):
    _, _, found = finished
    one = {"experiment": "E1", "corruption": 0.6, "layer": "fc2", "model": "trained"}
    one["split"] = "test"
    values = rows(found.results, **one)["accuracy"]
    (summary,) = rows(found.summary, **one).to_dict("records")
    assert summary["runs"] == len(values) == 2
    assert summary["mean"] == pytest.approx(values.mean())
    assert summary["sd"] == pytest.approx(np.std(values, ddof=1))


@pytest.mark.slow
def test_the_folder_says_how_it_came_about(finished):
    plan, out, found = finished
    told = json.loads((out / "results.json").read_text())
    assert told["recipe"]["max_epochs"] == TINY["max_epochs"]
    assert told["label_seed"] == 42
    assert told["versions"]["torch"] == torch.__version__
    assert told["machine"]["cores"] == os.cpu_count()
    assert len(told["summary"]) == len(found.summary)
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
    found = reproduce(plan, tmp_path / "out", progress=False)
    expected = 0.4 * 0.45 if noise.endswith(".csv") else 0.4
    wrong = found.models["wrong_labels"].tolist()
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
    found = reproduce(plan, tmp_path / "out", progress=False)
    assert found.models["epochs"].tolist() == [1]
    e1 = rows(found.results, experiment="E1", model="trained", split="test", probe="masc")
    assert e1["layer"].tolist() == list(pair.layers)
    assert e1["accuracy"].between(0, 1).all()


def test_angles_are_those_of_scipy():
    X, y = relu_rows(400, 30, 3, dtype=np.float32)
    found = geometry(X, y, 4, 0.9).set_index(["class_a", "class_b"])
    assert len(found) == 6  # the fourth class has no samples
    bases = us.MinimumAngleSubspaceClassifier(variance=0.9).fit(X.astype(float), y).bases_
    for (a, b), row in found.iterrows():
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


# --- nothing is lost, and nothing is run twice --------------------------------------------------


@pytest.mark.slow
def test_what_is_finished_is_not_run_again(finished, monkeypatch):
    plan, out, first = finished
    for unit in units.BY_NAME.values():
        monkeypatch.setitem(
            units.BY_NAME, unit.name, replace(unit, run=lambda _work: pytest.fail("run twice"))
        )
    again = reproduce(plan, out, progress=False)
    pd.testing.assert_frame_equal(again.results, first.results)
    fewer = reproduce(plan_of("E1", corruptions=(0.6,), runs=1), out, progress=False)
    assert len(fewer.results) == len(first.results)


RUNNER = """
import sys
from dataclasses import replace
from underscript.experiments import presets, units
from underscript.cli import main

key = "quick", "mlp"
presets._RECIPES[key] = replace(presets._RECIPES[key], max_epochs=3, samples=300)
units.RETRAINING_EPOCHS = 2
units_left = int(sys.argv[1])
if units_left:
    from underscript.experiments import grid
    finish = grid._finish

    def counted(unit, work):
        global units_left
        units_left -= 1
        if not units_left:
            # Half-written files, as when the machine loses its power in the middle.
            (work.folder / f".{unit.name}.csv.partial-1").write_text("half")
            (work.folder / f"{unit.name}.csv").write_text("half")
            print("now", flush=True)
            import time
            time.sleep(600)
        finish(unit, work)

    grid._finish = counted
sys.exit(main(sys.argv[2:]))
"""

ARGUMENTS = [
    "reproduce",
    "digits-mlp",
    "--corruption",
    "0,0.6",
    "--runs",
    "1",
    "--only",
    "E1,E3,E4",
]


@pytest.mark.slow
@pytest.mark.parametrize(("at", "number"), [(2, signal.SIGKILL), (5, signal.SIGINT)])
def test_a_grid_goes_on_where_it_was_stopped(finished, tmp_path, at, number):
    _, reference, _ = finished
    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER)
    out = tmp_path / "out"
    command = [sys.executable, str(runner)]
    running = subprocess.Popen(
        [*command, str(at), *ARGUMENTS, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert running.stdout.readline() == "now\n"
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    if number == signal.SIGINT:
        assert running.returncode == 130
        assert f"finished cells are kept in {out}: run the same command" in err
    assert len(list(out.glob("cells/*/*.json"))) == at - 1
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*.json")}
    done = subprocess.run(
        [*command, "0", *ARGUMENTS, "--out", str(out)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert before.items() <= {path: path.stat().st_mtime_ns for path in before}.items()
    assert not list(out.glob("cells/*/.*"))
    pd.testing.assert_frame_equal(untimed(out), untimed(reference))


@pytest.mark.slow
def test_several_jobs_give_the_same(finished, tmp_path):
    _, reference, _ = finished
    runner = tmp_path / "runner.py"
    # Worker processes begin anew: they import the recipe from here.
    runner.write_text(
        RUNNER.replace("sys.exit(main(sys.argv[2:]))", "")
        + 'if __name__ == "__main__":\n    sys.exit(main(sys.argv[2:]))\n'
    )
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, str(runner), "0", *ARGUMENTS, "--jobs", "2", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(untimed(out), untimed(reference))


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path):
    runner = tmp_path / "runner.py"
    runner.write_text(
        RUNNER.replace("max_epochs=3", "max_epochs=100").replace("sys.exit(main(sys.argv[2:]))", "")
        + 'if __name__ == "__main__":\n    sys.exit(main(sys.argv[2:]))\n'
    )
    out = tmp_path / "out"
    running = subprocess.Popen(
        [sys.executable, str(runner), "0", *ARGUMENTS, "--jobs", "2", "--out", str(out)],
        stderr=subprocess.DEVNULL,
    )
    workers = []
    try:
        # Two workers; the third child looks after what they share.
        while len(workers) < 3 or not list(out.glob("cells/*")):
            assert running.poll() is None
            children = f"/proc/{running.pid}/task/{running.pid}/children"
            workers = [int(child) for child in Path(children).read_text().split()]
            time.sleep(0.1)
    finally:
        running.kill()
        running.wait()
    # They look twice a second, but those that only start must first get so far.
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.1)


def test_a_damaged_network_is_trained_again_and_said(mine, caplog):
    plan, out, first = mine
    folder = out / "cells" / "c0.6-run1"
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (folder / "layers.json").unlink()
    again = reproduce(plan, out, progress=False)
    assert str(weights) in caplog.text
    assert "c0.6-run1 is trained again" in caplog.text
    pd.testing.assert_frame_equal(again.results, first.results)


def test_a_damaged_table_is_named(mine):
    plan, out, _ = mine
    table = out / "cells" / "c0.6-run1" / "layers.csv"
    table.write_bytes(b"")
    with pytest.raises(OutputError, match=r"layers\.csv is damaged .* remove layers\.json"):
        reproduce(plan, out, progress=False)


def test_one_process_at_a_time(small):
    plan, out, _ = small
    with (
        grid._held(plan, out),
        pytest.raises(OutputError, match="another process works in"),
        grid._held(plan, out),
    ):
        pass


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["reproduce", "digits-mlp", "--corruption", "0.6", "--runs", "1", "--out", "out"]

    def full(_self, _data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert "No space left on device" in said
    assert said.count("\n") == 0
    assert main(arguments) == 0


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
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
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, arguments, said):
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
    assert said in err
    assert "Traceback" not in err
    assert err.count("\n") == 0


def no_network(*_):
    raise DataError("there is no network")


def test_a_folder_of_other_settings_is_refused(small):
    _, out, _ = small
    with pytest.raises(
        OutputError, match=r"variance \(0\.99 there, 0\.5 asked for\); choose another --out"
    ):
        reproduce(plan_of(variance=0.5), out, progress=False)
    with pytest.raises(OutputError, match=r"noise \(\"symmetric\" there, \"pair\" asked for\)"):
        reproduce(plan_of(noise="pair"), out, progress=False)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(OutputError, match="holds no grid"):
        reproduce(plan_of(), tmp_path, progress=False)
    with pytest.raises(OutputError, match="is a file"):
        reproduce(plan_of(), tmp_path / "thesis.tex", progress=False)


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
    found = read_published(published_files(tmp_path), Plan("mnist-mlp"))
    masc = rows(found, probe="masc", variance=0.99)
    assert masc["mean"].tolist() == [pytest.approx((0.60 + 0.64) / 2)]
    assert masc["sd"].tolist() == [pytest.approx(np.std([0.60, 0.64], ddof=1))]
    assert masc["runs"].tolist() == [2]
    one = rows(found, probe="masc", variance=units.ONE_COMPONENT)
    assert one["mean"].tolist() == [0.84]
    assert rows(found, probe="logistic")["mean"].tolist() == [0.97]
    assert rows(found, probe="model")["mean"].tolist() == [pytest.approx(0.315)]
    assert not len(rows(found, probe="knn"))


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


def test_the_command_prints_tables_and_json(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # the one cell is finished: it only has to be told
    arguments = ["reproduce", "digits-mlp", "--corruption", "0.6", "--runs", "1", "--out", "out"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "E1: subspaces from the corrupted labels" in shown
    assert "masc 0.99, untrained network" in shown
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["asked"]["corruption"] == [0.6]
    assert told["command"].endswith("--json")
    assert "E1: subspaces" in captured.err
