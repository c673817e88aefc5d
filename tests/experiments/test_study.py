"""The study: what it is made of, what its bars say, and that it goes on where it was stopped."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from underscript.cli.command_line import main
from underscript.errors import DataError
from underscript.experiments import presets, study
from underscript.experiments.catalogue import SETTINGS, Setting
from underscript.experiments.study import bars, plans, run_study, study_table


@pytest.fixture(scope="module", autouse=True)
def small():
    """Two degrees, one other kind of noise, networks that learn for a moment."""
    with pytest.MonkeyPatch.context() as patch:
        recipe = presets._RECIPES["quick", "mlp"]
        tiny = replace(recipe, max_epochs=3)
        patch.setitem(presets._RECIPES, ("quick", "mlp"), tiny)
        small = Setting(400, 120, {"symmetric": (0.0, 0.6), "pair": (0.4,)})
        patch.setitem(SETTINGS, "digits-mlp", small)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "s"
    return out, run_study(out, settings=["digits-mlp"], runs=2, progress=False)


@pytest.mark.slow
def test_each_network_has_both_ways_to_choose_beside_its_rivals(done):
    _, result = done
    table = result.networks
    assert len(table) == (2 + 1) * 2 * 2
    assert set(table["chosen_by"]) == {"holdout", "training data"}
    assert set(table["run"]) == {2, 3}, "run 1 is for tuning"
    for column in ("accuracy", "model", "input", "rival", "oracle", "masc", "clean"):
        assert table[column].between(0, 1).all()
    # The best of all published kinds is at least MASC 0.99 at its best layer.
    assert (table["rival"] >= table["rival_on_layers"]).all()
    assert (table["rival_on_layers"] >= table["masc"]).all()
    assert (table["oracle"] >= table["accuracy"] - 1e-12).all()
    np.testing.assert_allclose(table["regret"], table["oracle"] - table["accuracy"])


@pytest.mark.slow
def test_networks_are_tested_when_they_are_finished_and_no_pass_is_spent_on_a_curve(done):
    cell = done[0] / "digits-mlp-symmetric" / "cells" / "c0.6-run2"
    record = json.loads((cell / "training.json").read_text())
    assert 0 < record["test_accuracy"] < 1
    assert record["oracle_test_accuracy"] is record["oracle_epoch"] is None
    history = pd.read_csv(cell / "history.csv")
    assert len(history) == record["epochs"]
    assert "test_accuracy" not in history


def test_labels_and_hold_outs_are_drawn_anew_for_each_run():
    made = plans(["digits-mlp"], 2, 2, None, "cpu")
    plan = made["digits-mlp-symmetric"]
    assert len({plan.label_seed(cell) for cell in plan.cells}) == 2
    assert set(made) == {"digits-mlp-symmetric", "digits-mlp-pair"}
    assert made["digits-mlp-pair"].corruptions == (0.4,)


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_stopped(done, monkeypatch):
    out, result = done
    monkeypatch.setattr(study, "run_grid", lambda *_, **__: None)
    folders = {out / name: plan for name, plan in plans(["digits-mlp"], 2, 2, None, "cpu").items()}
    pd.testing.assert_frame_equal(study_table(folders, range(2, 4)), result.networks)
    assert (out / "study.md").read_text().count("| digits-mlp |") == 3
    assert len(pd.read_csv(out / "bars.csv")) == len(result.bars)


def example(**changes):
    row = {
        "setting": "s",
        "noise": "symmetric",
        "corruption": 0.4,
        "run": 2,
        "chosen_by": "holdout",
        "accuracy": 0.9,
        "model": 0.6,
        "rival": 0.89,
        "rival_on_layers": 0.88,
        "oracle": 0.905,
        "regret": 0.005,
        "rate_error": 0.01,
        "cost": 1.5,
        "hopeless": False,
        "nothing_wrong": False,
    }
    return {**row, **changes}


CLEAN = {"corruption": 0.0, "accuracy": 0.95, "model": 0.95, "rival": 0.95, "nothing_wrong": True}


@pytest.mark.parametrize(
    ("rows", "bar", "met"),
    [
        ([example()], "input or layer", True),
        ([example(rival=0.91)], "input or layer", False),
        ([example(rival=0.91)], "layer of the network", True),
        ([example(rival_on_layers=0.91)], "layer of the network", False),
        # A mean over seeds counts, not each seed.
        ([example(rival=0.91), example(run=3, accuracy=0.93)], "input or layer", True),
        ([example(rate_error=-0.04)], "noise rate", False),
        ([example(rate_error=-0.04), example(run=3, rate_error=0.02)], "noise rate", True),
        ([example(regret=0.02)], "regret", False),
        ([example(regret=0.02, chosen_by="training data")], "regret", True),
        ([example(corruption=1.0, regret=0.5, hopeless=True), example()], "regret", True),
        ([example(corruption=1.0, hopeless=True)], "nothing can be decoded", True),
        ([example(corruption=1.0)], "nothing can be decoded", False),
        ([example(**CLEAN)], "nothing is to repair", True),
        ([example(**CLEAN | {"nothing_wrong": False})], "nothing is to repair", False),
        ([example(**CLEAN | {"accuracy": 0.94})], "nothing is to repair", False),
        ([example(noise="pair", accuracy=0.598)], "pair and instance", True),
        ([example(noise="pair", accuracy=0.59)], "pair and instance", False),
        ([example(cost=2.5)], "decode pass", False),
    ],
)
def test_bars(rows, bar, met):
    table = bars(pd.DataFrame(rows))
    (row,) = table[table["bar"].str.contains(bar)].to_dict("records")
    assert row["met"] == met


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": ["digits-mlp", "mnist"]}, "settings: expected some of"),
        ({"settings": []}, "settings: expected some of"),
        ({"settings": ["digits-mlp"], "first_run": 0}, "first-run: expected at least 1"),
        ({"settings": ["digits-mlp"], "runs": 0}, "runs: expected at least 1"),
    ],
)
def test_bad_settings_are_named(tmp_path, arguments, message):
    with pytest.raises(DataError, match=message):
        run_study(tmp_path / "s", progress=False, **arguments)
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_the_command_prints_json_and_refuses_bad_input_in_one_line(done, capsys):
    out, _ = done
    command = ["study", "--settings", "digits-mlp", "--runs", "2", "--out", str(out), "--json"]
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["kind"] == "study"
    assert len(printed["networks"]) == 12
    assert main(["study", "--settings", "all", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "settings: expected some of digits-mlp" in error
