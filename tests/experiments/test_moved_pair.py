"""Moved digits as a pair of the grids: one drawing is never both trained on and held out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import audit
from small_grids import TINY, rows
from underscript.cli.command_line import main
from underscript.experiments import folds, presets, study
from underscript.experiments.plan import Cell, Plan
from underscript.experiments.work import Work


def drawings(images):
    """The digits that images show, wherever they are: the pixels of their bounding boxes."""
    found = []
    for image in images[:, 0]:
        inked = image > image.min()
        down, across = (np.flatnonzero(inked.any(axis)) for axis in (1, 0))
        box = image[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
        found.append((box.shape, box.tobytes()))
    return set(found)


def work_of(tmp_path=Path(), **settings):
    plan = Plan("moved-digits-cnn", corruptions=(0.4,), runs=1, only=("D1",), **settings)
    return Work(plan, Cell(0.4, 1), tmp_path)


@pytest.mark.parametrize("samples", [None, 900])
def test_whole_drawings_are_held_out(samples):
    data = work_of(samples=samples, holdout=200).data
    assert 200 <= len(data.holdout.images) < 203
    assert len(data.train.images) + len(data.holdout.images) == (samples or 4311)
    assert not drawings(data.train.images) & drawings(data.holdout.images)
    # The labels of one drawing's images are made wrong one by one.
    assert len(data.train.drawings) == len(data.train.given)
    assert np.mean(data.train.true != data.train.given) == pytest.approx(0.36, abs=0.05)


def test_without_drawings_as_many_are_held_out_as_asked_for():
    plan = Plan("digits-mlp", corruptions=(0.4,), runs=1, holdout=150)
    data = Work(plan, Cell(0.4, 1), Path()).data
    assert (len(data.train.images), len(data.holdout.images)) == (1287, 150)
    assert data.train.drawings is None


def test_retraining_holds_whole_drawings_out_too(tmp_path, monkeypatch):
    seen = []

    def train_and_stop(model, train, held, *_):
        seen.append((train[0].numpy(), held[0].numpy()))
        return [torch.full((len(held[0]), 10), 0.1)], {"best": 1, "trained": 1}

    monkeypatch.setattr(folds, "train_and_stop", train_and_stop)
    work = work_of(tmp_path, samples=2000)
    work.folder.mkdir(parents=True)
    folds.run_folds(work)
    assert len(seen) == folds.FOLDS
    assert sum(len(held) for _, held in seen) == 2000
    for train, held in seen:
        assert len(train) + len(held) == 2000
        assert len(held) == pytest.approx(400, abs=40)
        assert not drawings(train) & drawings(held)


def test_the_study_and_the_benchmark_have_the_pair_by_default():
    made = study.plans(tuple(study.SETTINGS), 3, 2, None, "cpu")
    assert made["moved-digits-cnn-symmetric"].pair.data == "moved-digits"
    found = audit.plans(audit.SETTINGS, 3, 2, None, "cpu")
    assert {plan.pair.data for plan in found.values()} == {
        "digits",
        "mnist",
        "fashion-mnist",
        "moved-digits",
    }
    assert len([cell for plan in found.values() for cell in plan.cells]) == 4 * 8 * 3


@pytest.mark.slow
def test_the_pair_is_reproduced_like_any_other(tmp_path, monkeypatch, capsys):
    key = ("quick", "small-cnn")
    monkeypatch.setitem(presets._RECIPES, key, replace(presets._RECIPES[key], **TINY))
    monkeypatch.chdir(tmp_path)
    asked = ["reproduce", "moved-digits-cnn", "--corruption", "0.4", "--runs", "1", "--out", "out"]
    assert main([*asked, "--only", "E1,A1,D1", "--holdout", "60"]) == 0
    assert "conv4" in capsys.readouterr().out
    work = Work(Plan("moved-digits-cnn"), Cell(0.4, 1), tmp_path / "out")
    tested = rows(work.table("layers"), split="test", probe="masc", subspace_labels="corrupted")
    assert tested["layer"].tolist()[:6] == ["input", "conv1", "conv2", "conv3", "conv4", "fc1"]
    assert set(work.table("auto")["chosen_by"]) == {"holdout", "training data"}
    ways = work.table("detection")["way"].tolist()
    assert {"FINE alignment on the last layer", "k-NN vote on the last layer"} <= set(ways)
    assert ways[-1] == "cleanlab, 5 retrainings"
