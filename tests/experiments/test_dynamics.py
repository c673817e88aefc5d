"""The sequel's experiments: what is read along training, and how it is shown."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from small_grids import TINY, plan_of, rows
from underscript.cli.command_line import main
from underscript.experiments import presets
from underscript.experiments.dynamics import COLUMNS, is_read, peaks
from underscript.experiments.pages import remade
from underscript.experiments.plan import Cell, Plan
from underscript.experiments.reproduce import reproduce
from underscript.experiments.shown_dynamics import curves, rise_and_fall, shown_dynamics
from underscript.experiments.work import Work
from underscript.probes.subspace import PrincipalVectorClassifier

SEQUELS = [0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 25, 30, 35, 40]
LAYERS = ["fc1", "fc2", "fc3", "fc4"]


def curve(values, epochs, run=1, degree=0.8, **names):
    """Return rows of a table along training, one for each epoch."""
    usual = {"experiment": "S1", "model": "trained", "layer": "output", "probe": "model"}
    about = {**usual, "corruption": degree, "run": run, "split": "test", **names}
    table = [{**about, "epoch": e, "accuracy": v} for e, v in zip(epochs, values, strict=True)]
    return pd.DataFrame(table).reindex(columns=list(COLUMNS))


def along():
    """Return two runs of different lengths, of a network and of its rewritten read-out."""
    written = {"experiment": "S2", "model": "transferred", "layer": "fc4", "probe": "velpic"}
    parts = []
    for run, last in ((1, 5), (2, 7)):
        epochs = [0, 1, 2, 4, last]
        parts += [
            curve([0.1, 0.5, 0.9, 0.6, 0.3], epochs, run),
            curve([0.1, 0.2, 0.2, 0.6, 1.0], epochs, run, split="train"),
            curve([0.6, 0.7, 0.8, 0.7, 0.5], epochs, run, layer="fc3", probe="velpic"),
            curve([0.6, 0.7, 0.7, 0.9, 0.4], epochs, run, **written, bias="zero"),
            curve([0.7], [0], run, layer="input", probe="velpic"),
        ]
    return pd.concat(parts, ignore_index=True)


def test_the_epochs_are_the_sequels():
    assert [epoch for epoch in range(42) if is_read(epoch)] == SEQUELS


def test_peaks_and_ends_of_curves():
    ends = peaks(along())
    (own,) = rows(ends, run=2, probe="model").to_dict("records")
    assert (own["before"], own["best_epoch"], own["best"]) == (0.1, 2, 0.9)
    assert (own["end_epoch"], own["end"]) == (7, 0.3)
    assert set(ends["split"]) == {"test"}


def test_runs_that_end_at_different_epochs_share_a_curve():
    lines = curves(along())
    assert list(lines) == [
        "the network, training labels",
        "the network",
        "VeLPIC on fc3, its best layer (oracle)",
        "VeLPIC written into the read-out",
    ]
    assert lines["the network"]["epoch"].tolist() == [0, 1, 2, 4, 6]
    assert lines["the network"]["mean"].tolist() == pytest.approx([0.1, 0.5, 0.9, 0.6, 0.3])
    one = curves(along().query("run == 1"))["the network"]
    assert one["epoch"].tolist() == [0, 1, 2, 4, 5]
    assert one["sd"].isna().all()


def test_published_numbers_stand_beside_ours_where_there_are_some():
    both = pd.concat([along().assign(corruption=0.4), along()])
    plan = Plan("mnist-mlp", corruptions=(0.4, 0.8), only=("S1", "S2"), runs=2)
    first, second, *by_epoch = shown_dynamics(plan, both, epochs=True)
    assert not any("published" in column for column in first.columns)
    assert [table.title for table in by_epoch] == [
        "S1 and S2 by epoch, c = 0.4, accuracy, %",
        "S1 and S2 by epoch, c = 0.8, accuracy, %",
    ]
    other, theirs = second.rows
    assert other[0] == "0.4"
    assert other[-3:] == ["", "", ""]
    assert theirs[3:8] == ["60.0 ± 0.0", "90.0 ± 0.0", "4, 4", "40.0 ± 0.0", "5, 7"]
    assert theirs[-3:] == ["90.5", "25", "82.1"]
    assert all(len(row) == len(second.columns) for row in second.rows)
    elsewhere = Plan("digits-mlp", corruptions=(0.8,), only=("S2",), runs=2)
    (alone,) = shown_dynamics(elsewhere, both)
    assert not any("published" in column for column in alone.columns)
    assert shown_dynamics(Plan("digits-mlp", only=("E1",)), both.iloc[:0]) == []


def test_the_sentence_tells_the_largest_fall():
    text = rise_and_fall(pd.concat([along(), along().query("epoch < 5").assign(corruption=0.4)]))
    assert "at c = 0.8" in text
    assert "90.0% of the test labels at its best epoch, 4" in text
    assert "40.0% at the end, where the network itself gets 30.0%" in text


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A finished grid of one cell that was read along its training."""
    with pytest.MonkeyPatch.context() as patch:
        recipe = presets._RECIPES["quick", "mlp"]
        patch.setitem(presets._RECIPES, ("quick", "mlp"), replace(recipe, **TINY))
        plan = plan_of("S1", "S2", corruptions=(0.6,), runs=1)
        out = tmp_path_factory.mktemp("grids") / "along"
        return plan, out, reproduce(plan, out, progress=False)


@pytest.mark.slow
def test_each_epoch_has_every_layer_and_the_rewritten_network(followed):
    plan, out, result = followed
    table = result.dynamics
    assert table["epoch"].unique().tolist() == [0, 1, 2, 3], "and the last, 3"
    for epoch in (1, 3):
        here = rows(table, epoch=epoch, split="test")
        assert rows(here, probe="masc")["layer"].tolist() == LAYERS
        assert rows(here, probe="velpic", model="trained")["layer"].tolist() == LAYERS
        assert rows(here, model="transferred")["bias"].tolist() == ["zero", "kept"]
        # Written into the read-out, the probe predicts what it did.
        (zero,) = rows(here, model="transferred", bias="zero")["accuracy"]
        (probe,) = rows(here, probe="velpic", model="trained", layer="fc4")["accuracy"]
        assert zero == pytest.approx(probe, abs=1 / 360 + 1e-9)
    work = Work(plan, Cell(0.6, 1), out)
    stored = work.record("training")
    last = rows(table, epoch=3, probe="model")
    assert rows(last, split="test")["accuracy"].tolist() == [stored["test_accuracy"]]
    assert rows(last, split="train")["accuracy"].tolist() == [stored["train_accuracy"]]
    assert not work.record("dynamics")["trained_again"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_recipe")
def test_the_rewritten_network_is_the_finished_one_with_other_weights(followed):
    plan, out, result = followed
    work = Work(plan, Cell(0.6, 1), out)
    network, train, test = work.network(), work.data.train, work.data.test
    seen = []
    network.fc4.register_forward_hook(lambda *found: seen.append(found[2]))
    with torch.no_grad():
        for images in (train.images, test.images):
            network(torch.from_numpy(images))
    of_train, of_test = (part.numpy() for part in seen)
    vectors = PrincipalVectorClassifier().fit(of_train, train.given).vectors_
    own = network.state_dict()
    bias = next(value.numpy() for name, value in own.items() if name.endswith("out.bias"))
    last = rows(result.dynamics, epoch=3, model="transferred").set_index("bias")["accuracy"]
    for name, offsets in (("zero", 0.0), ("kept", bias)):
        accuracy = ((of_test @ vectors.T + offsets).argmax(1) == test.true).mean()
        assert last[name] == pytest.approx(accuracy, abs=1 / 360 + 1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_recipe")
def test_reading_changes_no_network_and_can_be_asked_for_later(followed, tmp_path):
    _, out, result = followed
    later = tmp_path / "later"
    reproduce(plan_of("E1", corruptions=(0.6,), runs=1), later, progress=False)
    assert not (later / "dynamics.csv").exists()
    before = pd.read_csv(later / "results.csv")
    again = reproduce(plan_of("E1", "S1", "S2", corruptions=(0.6,), runs=1), later, progress=False)
    pd.testing.assert_frame_equal(pd.read_csv(later / "results.csv"), before)
    weights = [
        safetensors.torch.load_file(folder / "cells" / "c0.6-run1" / "model.safetensors")
        for folder in (out, later)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    pd.testing.assert_frame_equal(again.dynamics, result.dynamics)
    # At the last epoch S1 is E1, which decodes the finished network.
    e1 = rows(before, experiment="E1", split="test", model="trained", probe="masc")
    s1 = rows(again.dynamics, epoch=3, split="test", probe="masc")
    e1 = e1[e1["layer"] != "input"]
    np.testing.assert_array_equal(e1["accuracy"], s1["accuracy"])


@pytest.mark.slow
def test_tables_figure_and_page(followed, tmp_path):
    _, out, result = followed
    titles = [table.title for table in result.tables]
    assert any(title.startswith("S1: ") for title in titles)
    assert any(title.startswith("S2: ") for title in titles)
    written = (out / "tables.md").read_text()
    assert "S1 and S2 by epoch, c = 0.6" in written
    for kind in ("png", "svg"):
        assert (out / "figures" / f"dynamics.{kind}").stat().st_size > 1000
    page = (out / "report.html").read_text()
    assert "VeLPIC written into the read-out gets" in page
    assert remade(out) == page
    stored = json.loads((out / "results.json").read_text())
    assert len(stored["dynamics"]) == len(peaks(result.dynamics))
    pd.testing.assert_frame_equal(
        pd.read_csv(out / "dynamics.csv"), result.dynamics, check_dtype=False
    )
    copied = shutil.copytree(out, tmp_path / "copied")
    (copied / "dynamics.csv").unlink()
    assert "read-out gets" not in remade(copied), "a folder of an earlier version"


@pytest.mark.slow
@pytest.mark.usefixtures("quick_recipe")
def test_the_command_line_shows_them(tmp_path, capsys):
    out = str(tmp_path / "out")
    arguments = ["digits-mlp", "--corruption", "0.6", "--runs", "1", "--only", "S2", "--out", out]
    assert main(["reproduce", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "written into the read-out" in " ".join(shown.split())
