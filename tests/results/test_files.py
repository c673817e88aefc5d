"""A run folder holds what is promised and is read back exactly."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import models
import underscript as us
from run_folders import FILES, GIVEN, X, Y, contents, make


def test_a_run_folder_holds_the_files_of_the_contract(saved, found):
    assert sorted(name for name, data in contents(saved).items() if data is not None) == FILES
    assert list(pd.read_csv(saved / "layers.csv").columns) == list(found.table.columns)
    issues = pd.read_csv(saved / "label_issues.csv")
    assert list(issues.columns) == [
        "index",
        "is_label_issue",
        "label_quality",
        "given_label",
        "predicted_label",
        "second_label",
        "margin",
        "confidence",
        "conflicting_duplicate",
    ]
    assert len(issues) == len(X)
    results = json.loads((saved / "results.json").read_text())
    assert {"settings", "versions", "seeds", "verdict"} <= set(results)
    assert results["verdict"] == found.verdict


@pytest.mark.parametrize("probes", [("masc",), ("velpic",), ("masc", "velpic")])
@pytest.mark.parametrize("with_model", [False, True])
def test_what_is_read_is_what_was_written(tmp_path, probes, with_model):
    model = models.build("mlp", seed=3)
    written = make(model, probes)
    written.save(tmp_path / "run")
    read = us.load(tmp_path / "run", model=model if with_model else None)
    # To the last digit: a table that differs in the 17th is another table for a comparison.
    pd.testing.assert_frame_equal(read.table, written.table, check_exact=True, check_dtype=False)
    pd.testing.assert_frame_equal(read.label_issues(), written.label_issues(), check_exact=True)
    assert read.summary == written.summary
    assert read.verdict == written.verdict
    assert read.best.taps == written.best.taps
    assert read.best.probe == written.best.probe
    assert read.best.estimator.get_params() == written.best.estimator.get_params()
    members = read.best.estimator.members
    rows = {m.layer: torch.randn(50, m.estimator.n_features_in_) for m in members}
    np.testing.assert_array_equal(
        read.best.estimator.decide(rows), written.best.estimator.decide(rows)
    )
    if with_model:
        np.testing.assert_array_equal(
            read.best.decision_function(X), written.best.decision_function(X)
        )
        assert read.best.predict(X).tolist() == written.best.predict(X).tolist()


def test_what_reads_the_input_alone_needs_no_network(tmp_path):
    model, choice = models.build("mlp", seed=3), {"layers": "input", "probes": ("velpic",)}
    written = us.decode(model, (X, GIVEN), controls=False, progress=False, **choice)
    written.save(tmp_path / "run")
    read = us.load(tmp_path / "run")
    assert read.best.layers == ("input",)
    assert read.best.predict(X).tolist() == written.best.predict(X).tolist()


def test_a_loaded_run_can_be_saved_again(saved, tmp_path):
    us.load(saved).save(tmp_path / "again")
    first, second = contents(saved), contents(tmp_path / "again")
    for name in ("layers.csv", "label_issues.csv", "decoder/model.safetensors"):
        assert first[name] == second[name], name
    before, after = (json.loads(files["results.json"]) for files in (first, second))
    assert after.pop("written_to") == str(tmp_path / "again")
    assert before.pop("written_to") == str(saved)
    assert before == after


@pytest.mark.slow
def test_a_tap_of_a_later_call_or_part_comes_back(tmp_path):
    for name, layer in (("residual", "layer1.0.relu#0"), ("attention", "attn[0]")):
        model, (x, y) = models.build(name, seed=3), models.data_for(name, 80)
        written = us.decode(
            model, (x, y), layers=layer, variance=0.7, controls=False, progress=False
        )
        written.save(tmp_path / name)
        read = us.load(tmp_path / name, model=model)
        assert read.best.taps == written.best.taps
        assert read.best.predict(x).tolist() == written.best.predict(x).tolist()


def test_a_run_of_another_model_does_not_predict_in_silence(saved):
    with pytest.raises(us.UnderscriptError, match="other weights") as caught:
        us.load(saved, model=models.build("residual"))
    assert "\n" not in str(caught.value)


# What an untrained network says may be lost with any change.
@pytest.mark.filterwarnings("ignore:not perturbed")
def test_layers_with_names_that_csv_could_mistake_come_back(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential()
    for name in ("nan", "NA", "None", "1,5", '"'):
        net.add_module(name, nn.Sequential(nn.Linear(12, 12), nn.ReLU()))
    net.add_module("readout", nn.Linear(12, 4))
    written = us.decode(net, (X, Y), variance=0.7, controls=False, progress=False)
    written.save(tmp_path / "run")
    assert us.load(tmp_path / "run").table["layer"].tolist() == written.table["layer"].tolist()


def test_saving_replaces_an_earlier_run_and_an_empty_folder(found, run):
    (run / "results.json").write_text('{"underscript": {"format": 1, "version": "0"}}')
    (run / "left-over.txt").write_text("of the earlier run")
    found.save(run)
    assert us.load(run).verdict == found.verdict
    assert not (run / "left-over.txt").exists()
    empty = run.parent / "empty"
    empty.mkdir()
    found.save(empty)
    assert us.load(empty).verdict == found.verdict


def test_parents_are_made(found, tmp_path):
    found.save(tmp_path / "a" / "b" / "run")
    assert us.load(str(tmp_path / "a" / "b" / "run")).verdict == found.verdict


def test_a_run_is_as_readable_as_any_folder(saved):
    # tempfile makes folders that only their owner can read.
    mask = os.umask(0)
    os.umask(mask)
    assert saved.stat().st_mode & 0o777 == 0o777 & ~mask
    assert (saved / "results.json").stat().st_mode & 0o777 == 0o666 & ~mask
