"""What `decode` chooses, by which labels, and the controls beside it.

The expected numbers come from the estimators, fitted here on rows that a plain forward pass gives.
"""

import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn

import models
import underscript as us
from small_decodes import (
    GIVEN,
    HOLD_GIVEN,
    HOLD_X,
    MODEL,
    TEST_X,
    TEST_Y,
    N,
    X,
    Y,
    rows_by_hand,
    run,
)
from underscript.selection import Key, Score, held_out_tenth, select

# The choice ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def memorised() -> tuple[nn.Module, np.ndarray, np.ndarray, np.ndarray]:
    """Train an MLP on scikit-learn's digits until it knows its corrupted labels by heart."""
    digits, true = load_digits(return_X_y=True)
    x = (digits / 8 - 1).astype(np.float32)
    noisy = us.corrupt_labels(true, 0.4, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10)
        )
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        inputs, labels = torch.from_numpy(x[:1200]), torch.from_numpy(noisy[:1200])
        for _ in range(120):
            for part in torch.randperm(1200).split(100):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(inputs[part]), labels[part]).backward()
                optimiser.step()
    return model.eval(), x, noisy, true


def test_a_memorised_network_is_decoded_better_than_it_answers(memorised):
    model, x, noisy, true = memorised
    found = us.decode(
        model,
        (x[:1200], noisy[:1200]),
        test=(x[1500:], true[1500:]),
        true_labels=true[:1200],
        progress=False,
    )
    assert found.summary["model"]["accuracy"]["train_given"] > 0.98, "the test needs a memoriser"
    assert found.summary["gain_points"] > 15
    # Sorting by quality brings the wrong labels forward: a random order has one half.
    right = noisy[:1200] == true[:1200]
    assert roc_auc_score(right, found.label_issues()["label_quality"]) > 0.75


def test_neither_these_test_labels_nor_true_labels_change_the_choice():
    assert_the_choice_stays(seed=0)


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_neither_test_labels_nor_true_labels_change_the_choice(seed):
    assert_the_choice_stays(seed)


def assert_the_choice_stays(seed: int) -> None:
    order = np.random.default_rng(seed).permutation
    options: dict[str, Any] = {"probes": ("masc", "velpic"), "variance": (0.5, 0.9)}
    options |= {"controls": False}
    for holdout in (None, (HOLD_X, HOLD_GIVEN)):
        expected = run(**options, holdout=holdout, test=None, true_labels=None)
        for changed in (
            {"test": (TEST_X, order(TEST_Y.numpy())), "true_labels": None},
            {"test": None, "true_labels": order(Y.numpy())},
            {"test": (TEST_X, order(TEST_Y.numpy())), "true_labels": order(Y.numpy())},
        ):
            found = run(**options, holdout=holdout, **changed)
            assert found.best.taps == expected.best.taps
            assert found.best.estimator.get_params() == expected.best.estimator.get_params()
            assert found.best.probe == expected.best.probe
            assert found.best.predict(TEST_X).tolist() == expected.best.predict(TEST_X).tolist()
            pd.testing.assert_frame_equal(found.label_issues(), expected.label_issues())


def by_hand_scores(keep: np.ndarray, x: torch.Tensor, labels: np.ndarray) -> dict[str, float]:
    """Fit MASC on the training rows that `keep` says, and score it on `x`."""
    scores = {}
    for layer, rows in rows_by_hand(MODEL, X).items():
        masc = us.MinimumAngleSubspaceClassifier(variance=0.9).fit(rows[keep], GIVEN[keep])
        scores[layer] = (masc.predict(rows_by_hand(MODEL, x)[layer]) == labels).mean()
    return scores


def test_the_choice_is_the_best_layer_on_the_holdouts_noisy_labels():
    scores = by_hand_scores(np.ones(N, bool), HOLD_X, HOLD_GIVEN)
    found = run(holdout=(HOLD_X, HOLD_GIVEN), auto=False)
    assert found.best.layer == max(("relu1", "relu2"), key=scores.__getitem__)
    assert found.summary["selected"]["criterion"] == "holdout"
    assert found.summary["selected"]["criterion_accuracy"] == scores[found.best.layer]
    assert found.summary["selected"]["n"] == len(HOLD_X)


def test_without_a_holdout_it_is_the_best_on_a_tenth_that_the_decoders_did_not_see():
    held = held_out_tenth(np.arange(N), 0)
    assert 0.03 * N < held.sum() < 0.2 * N
    scores = by_hand_scores(~held, X[held], GIVEN[held])
    found = run(auto=False)
    assert found.best.layer == max(("relu1", "relu2"), key=scores.__getitem__)
    assert found.summary["selected"]["criterion"] == "held-out tenth"
    assert found.summary["selected"]["criterion_accuracy"] == scores[found.best.layer]
    assert found.summary["selected"]["n"] == held.sum()


def test_the_holdouts_labels_do_change_the_choice():
    # The counterpart of the property above: the criterion is not a constant.
    rng = np.random.default_rng(0)
    chosen = {
        run(holdout=(HOLD_X, rng.permutation(HOLD_GIVEN)), controls=False, auto=False).best.layer
        for _ in range(12)
    }
    assert chosen == {"relu1", "relu2"}


def test_the_input_is_a_control_and_is_chosen_only_if_it_is_all_there_is():
    def score(layer: str, accuracy: float, labels: str = "corrupted") -> Score:
        return Score(Key(layer, "masc", 0.99, labels), accuracy, 100)

    scores = [score("input", 0.9), score("fc1", 0.5), score("fc2", 0.5), score("fc1", 0.8, "true")]
    assert select(scores, "holdout").key.layer == "fc1"  # ties go to the shallower
    assert select(scores[:1], "holdout").key.layer == "input"
    assert run(layers="input").best.layer == "input"


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=50, unique=True), st.integers(0, 99))
def test_the_held_out_tenth_depends_on_index_and_seed_alone(index, seed):
    whole = held_out_tenth(np.array(index), seed)
    assert whole.tolist() == [bool(held_out_tenth(np.array([i]), seed)[0]) for i in index]


def test_the_held_out_tenth_is_a_tenth_of_any_stretch():
    for start in (0, 10**6):
        for step in (1, 10, 64):
            share = held_out_tenth(np.arange(start, start + 20_000 * step, step), 0).mean()
            assert 0.09 < share < 0.11
    assert (held_out_tenth(np.arange(999), 0) != held_out_tenth(np.arange(999), 1)).any()


# Controls -----------------------------------------------------------------------------------


def test_the_random_twin_is_another_network_and_the_same_for_a_seed():
    first, again, other = tables = [run(seed=seed, controls="full").table for seed in (0, 0, 1)]
    twin = [table[table["model"] == "random"].reset_index() for table in tables]
    pd.testing.assert_frame_equal(twin[0], twin[1])
    assert not twin[0]["accuracy"].equals(twin[2]["accuracy"])
    pd.testing.assert_frame_equal(first, again)
    # Several layers together are in a table only where they are of more than one.
    first, other, redrawn = (
        table[table["layer"] != "(combined)"].reset_index(drop=True)
        for table in (first, other, twin[0])
    )
    trained = first[
        (first["model"] == "trained") & (first["probe"] != "model") & (first["layer"] != "input")
    ]
    assert (first["accuracy"] != other["accuracy"]).any()
    assert len(trained) == len(redrawn)
    assert (trained["accuracy"].to_numpy() != redrawn["accuracy"].to_numpy()).any()
    assert not twin[0]["selected"].any()


def test_the_random_twin_is_read_where_the_chosen_decoder_reads():
    found = run(layers=["relu1", "relu2"], controls=True, holdout=(HOLD_X, HOLD_GIVEN))
    table = found.table
    twin = table[table["model"] == "random"]
    read = [layer for layer in found.best.layers if layer != "input"]
    assert read, "this decoder reads no layer of the network"
    assert set(twin["layer"]) - {"(combined)"} == set(read)
    assert set(twin["probe"]) == {"auto"}
    assert set(twin["split"]) == {"test", "holdout"}
    whole = run(layers=["relu1", "relu2"], controls="full", holdout=(HOLD_X, HOLD_GIVEN)).table
    whole = whole[whole["model"] == "random"]
    assert set(whole["layer"]) - {"(combined)"} == {"relu1", "relu2"}
    assert set(whole["probe"]) == {"auto", "masc"}


def test_candidates_are_tried_on_test_data_on_request():
    assert run(controls=False).candidates["test_accuracy"].isna().all()
    tried = run(controls=False, evaluate=("test", "candidates"))
    assert tried.candidates["test_accuracy"].between(0, 1).all()
    assert tried.summary["oracle"]["test_accuracy"] >= tried.candidates["test_accuracy"].max()


@pytest.mark.parametrize("name", models.MODELS)
def test_the_random_twins_weights_are_all_redrawn(name):
    from underscript.activations.untrained import untrained

    model = models.build(name, seed=3)
    before = copy.deepcopy(model.state_dict())
    with torch.random.fork_rng():
        twin = untrained(model, 0)
        again = untrained(model, 0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for key, value in twin.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
        assert value.data_ptr() != before[key].data_ptr()
        if value.ndim > 1:  # biases and gains start as constants
            assert not torch.equal(value, before[key]), key


def test_a_twin_of_bare_parameters_is_redrawn_with_their_mean_and_spread():
    from underscript.activations.untrained import untrained

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(200, 200) * 0.3 + 2)
            self.one = nn.Parameter(torch.tensor(1.5))

    model = Bare()
    with torch.random.fork_rng():
        twin = untrained(model, 0)
    assert not torch.equal(twin.matrix, model.matrix)
    assert twin.matrix.mean().item() == pytest.approx(2, abs=0.02)
    assert twin.matrix.std().item() == pytest.approx(0.3, abs=0.02)
    assert torch.isfinite(twin.one.detach())


def test_the_input_control_is_added_to_chosen_layers_unless_controls_are_off():
    assert set(run(layers="relu2").table["layer"]) == {"input", "relu2", "output"}
    assert set(run(layers="relu2", controls=False).table["layer"]) == {"relu2", "output"}
