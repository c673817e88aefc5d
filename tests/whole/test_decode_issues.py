"""What `decode` hands over: the label issues, and the decoder that agrees with them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import models
import underscript as us
from small_decodes import GIVEN, MODEL, N, X, Y, everything, run
from underscript.errors import LayerError

# Label issues -------------------------------------------------------------------------------


def test_label_issues_are_one_row_a_sample_in_the_data_sets_order():
    found = everything()
    issues = found.label_issues()
    assert list(issues.columns) == [
        "is_label_issue",
        "label_quality",
        "given_label",
        "predicted_label",
        "second_label",
        "margin",
        "confidence",
        "conflicting_duplicate",
    ]
    assert issues.index.name == "index"
    assert issues.index.tolist() == list(range(N))
    assert issues["given_label"].tolist() == GIVEN.tolist()
    # Of each sample by what was fitted without its label, unlike the decoder that is kept.
    alike = issues["predicted_label"] == found.best.predict(X)
    assert 0.9 < alike.mean() < 1
    assert issues["is_label_issue"].dtype == bool
    contradicted = issues["given_label"] != issues["predicted_label"]
    assert (issues["margin"] < 0).tolist() == contradicted.tolist()
    assert contradicted[issues["is_label_issue"]].all()
    assert issues["label_quality"].between(0, 1).all()
    assert (issues["second_label"] != issues["predicted_label"]).all()
    # The same count as the table's.
    table = found.table
    row = table[table["selected"] & (table["split"] == "train") & (table["labels"] == "given")]
    assert row["accuracy"].item() == (~contradicted).mean()


def test_the_worst_label_issues_come_first_and_keep_their_index():
    found = everything()
    worst, issues = found.label_issues(sort=True), found.label_issues()
    assert worst["label_quality"].is_monotonic_increasing
    pd.testing.assert_frame_equal(worst.sort_index(), issues)


def test_label_issues_are_a_copy():
    found = everything()
    mine = found.label_issues()
    mine["label_quality"] = 0.0
    assert found.label_issues()["label_quality"].max() > 0


@pytest.mark.parametrize("probe", ["masc", "velpic"])
def test_label_issues_agree_with_the_decoder_for_either_probe(probe):
    found = run(probes=(probe,), controls=False, auto=False)
    issues = found.label_issues()
    assert issues["predicted_label"].tolist() == found.best.predict(X).tolist()
    assert ((issues["label_quality"] < 0.5) == issues["is_label_issue"]).all()
    assert (issues["is_label_issue"] == (issues["given_label"] != issues["predicted_label"])).all()
    values = found.best.decision_function(X)
    np.testing.assert_array_equal(
        np.argsort(-values, 1, kind="stable")[:, 1], issues["second_label"]
    )


def test_dead_rows_have_a_defined_quality():
    # All angles of an all-zero row are 90°: the decoder prefers no class, so the quality is one
    # half, and the flag must agree with it.
    model = models.build("mlp", seed=3)
    with torch.no_grad():
        model.fc2.bias.fill_(-0.6)
        dead = (model[:4](X) == 0).all(1).numpy()
    assert 10 < dead.sum() < N - 10, "the test needs some dead rows"
    issues = run(model=model, layers="relu2", controls=False, auto=False).label_issues()
    assert ((issues["label_quality"] < 0.5) == issues["is_label_issue"]).all()


def test_label_issues_of_a_shuffled_loader_with_index_are_in_order():
    class Indexed(TensorDataset):
        def __getitem__(self, i: int) -> tuple[Any, ...]:
            return (*super().__getitem__(i), i)

    data = Indexed(X, Y)  # true labels: `labels` must replace them
    options: dict[str, Any] = {"test": None, "true_labels": None, "controls": False}
    expected = run(**options)
    found = run(train=DataLoader(data, 32, shuffle=True), labels=GIVEN, **options)
    mine, theirs = found.label_issues(), expected.label_issues()
    # Margins are differences of log-odds of a dozen: of sums in float32 that are added up in
    # another order the fifth digit may differ.
    np.testing.assert_allclose(mine.pop("margin"), theirs.pop("margin"), rtol=1e-4, atol=3e-4)
    pd.testing.assert_frame_equal(mine, theirs, rtol=1e-4, atol=3e-5, check_index_type=False)
    assert found.best.layer == expected.best.layer


# The chosen decoder -------------------------------------------------------------------------


# Token numbers without a mask, and a network that was never trained, are not perturbed.
@pytest.mark.filterwarnings("ignore:not perturbed", "ignore:nothing tells memory")
@pytest.mark.parametrize("name", models.MODELS)
def test_predict_decision_function_and_module_agree(name):
    model, (x, y) = models.build(name, seed=3), models.data_for(name, 80)
    found = us.decode(model, (x, y), variance=0.8, controls=False, progress=False)
    values = found.best.decision_function(x)
    assert values.shape == (80, models.CLASSES)
    assert found.best.predict(x).dtype == np.int64
    assert found.best.predict(x).tolist() == values.argmax(1).tolist()
    with torch.no_grad():
        np.testing.assert_allclose(found.best.module.eval()(x).numpy(), values, atol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())
    # Training samples are counted as their label issues say: out of fold.
    issues = found.label_issues()
    train = found.table[found.table["selected"]]["accuracy"].item()
    # An issue's given label may be the decoder's first choice: then its second one is proposed.
    first = issues["predicted_label"].where(
        ~issues["is_label_issue"] | (issues["margin"] < 0), issues["second_label"]
    )
    assert train == pytest.approx((first == issues["given_label"]).mean())


def test_the_module_leaves_no_hook_when_the_model_raises():
    found = run(controls=False)
    # The model raises, or before it the input's own width does.
    with pytest.raises((RuntimeError, LayerError)):
        found.best.module(torch.zeros(2, 5))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in MODEL.modules())


def test_a_two_class_model_gives_one_decision_value_a_class():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = models.mlp(classes=2)
    found = run(model=model, train=(X, Y % 2), test=None, true_labels=None, controls=False)
    assert found.best.decision_function(X).shape == (N, 2)
    assert set(found.best.predict(X)) <= {0, 1}


def test_decode_is_the_same_twice():
    first, second = run(), run()
    pd.testing.assert_frame_equal(first.table, second.table)
    pd.testing.assert_frame_equal(first.label_issues(), second.label_issues())
    assert first.verdict == second.verdict
