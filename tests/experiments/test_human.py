"""The table for human labels: how answers are scored and kept, and training that goes on."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import choosing, networks
from benchmarks.folds import EPOCHS, FOLDS, retrain
from benchmarks.human import Answer, answers, write
from benchmarks.human_tables import judged, table
from benchmarks.networks import Data, Recipe

TINY = Recipe("tiny", "cifar10", "c0.5", 256, augment=True, stop=2.0)


@pytest.fixture
def tiny():
    """Return images (n, 3, 8, 8), given and true labels."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (256,), generator=rng)
    return torch.randn(256, 3, 8, 8, generator=rng), labels, labels


def weights(model):
    return torch.cat([each.double().flatten() for each in model.state_dict().values()])


def test_training_that_was_stopped_ends_with_the_same_weights(tiny, tmp_path):
    x, given, _ = tiny
    whole, first, second = (networks.network(TINY) for _ in range(3))
    networks.train(whole, x, given, TINY, epochs=3)
    state = tmp_path / "state.pt"
    networks.train(first, x, given, TINY, epochs=2, resume=state)
    assert not torch.equal(weights(first), weights(whole))
    lines = networks.train(second, x, given, TINY, epochs=3, resume=state)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert torch.equal(weights(second), weights(whole))


def test_each_sample_is_judged_by_the_network_that_has_not_seen_it(tiny, tmp_path, monkeypatch):
    calls = []

    def remembers(model, x, given, recipe, **options):
        """Stand in for training: the network answers with its fold's number."""
        model.seen = x
        calls.append((recipe, options["epochs"]))
        return []

    def says(model, x, fast):
        fold = float(len(calls))
        assert not any((one == model.seen).flatten(1).all(1).any() for one in x)
        return torch.nn.functional.one_hot(torch.full((len(x),), int(fold)), 10) * 50.0

    monkeypatch.setattr(
        "benchmarks.folds.load", lambda *_: Data(tiny, tiny, (tiny[0] + 9, tiny[1]))
    )
    monkeypatch.setattr("benchmarks.folds.networks.train", remembers)
    monkeypatch.setattr("benchmarks.folds.predictions", says)
    retrain(TINY, tmp_path, tmp_path, torch.device("cpu"), fast=False)
    kept = np.load(tmp_path / "tiny.npz")
    by_fold = kept["out_of_fold"].argmax(1)
    assert (by_fold == 1 + np.arange(256) % FOLDS).all()
    np.testing.assert_allclose(kept["test"].sum(1), 1, atol=1e-2)
    assert [epochs for _, epochs in calls] == [EPOCHS] * FOLDS
    assert len({recipe.seed for recipe, _ in calls}) == FOLDS
    (tmp_path / "tiny.npz").unlink()
    (tmp_path / "tiny-3.npz").unlink()
    calls.clear()
    retrain(TINY, tmp_path, tmp_path, torch.device("cpu"), fast=False)
    assert [recipe.seed for recipe, _ in calls] == [3]  # the others were there


def test_an_answer_is_scored_by_hand():
    true = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    given = np.array([1, 0, 0, 0, 0, 1, 1, 1])  # samples 0 and 4 are wrong
    quality = np.array([0.1, 0.2, 0.9, 0.8, 0.3, 0.7, 0.6, 0.5])
    flags = np.array([True, True, False, False, False, False, False, False])
    proposed = np.array([0, 0, 0, 0, 1, 1, 1, 0])
    sure = np.array([[0.8, 0.2], [0.3, 0.7]])
    answer = Answer("hand", None, quality, flags, proposed, rate=0.3, transitions=sure)
    found = judged(answer, given, true, budget=1)
    # One of two wrong labels is the most suspicious, a right one comes before the other.
    assert found["precision_at_errors"] == 0.5
    assert found["missed"] == 0.5
    assert found["auroc"] == pytest.approx(11 / 12)
    assert found["f1"] == pytest.approx(0.5)
    assert found["f1_proposed"] == pytest.approx(2 * 2 / (3 + 2))
    assert found["rate"] == 0.3
    # Truth: rows (3/4, 1/4) and (1/4, 3/4); half the sums of differences are 0.05 and 0.05.
    assert found["t_error"] == pytest.approx(0.05)


def test_answers_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    some = [
        Answer("one", rng.integers(10, size=5), rng.random(4), np.ones(4, bool), np.arange(4), 2.0),
        Answer("two", None, rate=0.25, transitions=np.eye(3), chosen="α = 0.1", trained=40),
    ]
    write(tmp_path / "way.npz", some, 7.5)
    again, epoch = answers(tmp_path / "way.npz")
    assert epoch == 7.5
    for before, after in zip(some, again, strict=True):
        for one, other in zip(before, after, strict=True):
            np.testing.assert_equal(other, one)


def test_the_table_has_means_and_leaves_out_what_was_not_said():
    rows = pd.DataFrame(
        [
            {"way": "a", "right": 0.5, "cost": 1.0},
            {"way": "a", "right": 0.7, "cost": 3.0},
            {"way": "b", "auroc": 0.25, "cost": 0.0},
        ]
    )
    lines = [[cell.strip() for cell in line.split("|")] for line in table(rows).splitlines()]
    by_way = {line[1]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}
    assert by_way["a"]["test accuracy"] == "60.0 ± 14.1"
    assert by_way["a"]["cost, epochs"] == "2.00"
    assert (by_way["b"]["test accuracy"], by_way["b"]["AUROC"]) == ("", "25.0")


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_the_intrinsic_dimension_of_a_flat_sheet_is_its_own(dimension):
    rng = np.random.default_rng(dimension)
    sheet = rng.random((1_500, dimension)) @ rng.normal(size=(dimension, 30))
    found = choosing.intrinsic_dimension(torch.from_numpy(sheet))
    assert found == pytest.approx(dimension, rel=0.12)


def test_rules_choose_what_they_say():
    found = {
        "right": [0.5, 0.9, 0.7],
        "by_criterion": 2,
        "by_holdout": 1,
        "layers": {"first": 0, "second": 1, "third": 2},
        "dimensions": {"first": 3.0, "second": 4.0, "third": 5.0},
        "memory": {"first": 0.1, "second": 0.4, "third": 0.2},
        "vote": 0.8,
        "decoded": 0.95,
        "own": 0.4,
    }
    reached = choosing.accuracies(json.loads(json.dumps(found)))
    assert reached == {
        "oracle": 0.9,
        "decoded": 0.95,
        "best by A*": 0.7,
        "noisy validation": 0.9,
        "last layer": 0.7,
        "memory meter": 0.9,
        "intrinsic dimension": 0.5,
        "vote": 0.8,
        "the network itself": 0.4,
    }
    row = {"network": "some", "hold-out": True, **reached}
    text = choosing.shown(pd.DataFrame([row, {**row, "decoded": 0.85}]))
    mean, worst = text.splitlines()[-2:]
    assert "**mean of 2 with hold-outs**" in mean
    assert "| 0.0 |" in mean
    assert "| 5.0 |" in worst
