"""What `decode` says: the table, the choice, the random twin and the label issues, recounted.

The expected numbers come from the estimators, fitted here on rows that a plain forward pass gives.
"""

import copy
from functools import cache
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
from torch.utils.data import DataLoader, TensorDataset

import models
import underscript as us
from underscript import ClassMoments
from underscript.errors import DataError, LayerError
from underscript.linalg.rows import ClassRows, RowStore
from underscript.report.plots.rows import layer_order
from underscript.selection import Key, Score, held_out_tenth, select, subspaces, task

N = 240
X, Y = models.data("rows", N)
TEST_X, TEST_Y = models.data("rows", 100, seed=1)
HOLD_X, HOLD_Y = models.data("rows", 90, seed=2)
GIVEN = us.corrupt_labels(Y, 0.4, seed=1)
HOLD_GIVEN = us.corrupt_labels(HOLD_Y, 0.4, seed=2)
MODEL = models.build("mlp", seed=3)
COLUMNS = [
    "model",
    "layer",
    "width",
    "probe",
    "variance",
    "subspace_labels",
    "rank",
    "split",
    "labels",
    "n",
    "accuracy",
    "selected",
]


def run(**options: Any) -> us.Decoding:
    # At a share of 0.99 the subspaces of twelve inputs are the whole space, which is warned about.
    defaults = {"test": (TEST_X, TEST_Y), "true_labels": Y, "variance": 0.9, "progress": False}
    options = defaults | options
    return us.decode(options.pop("model", MODEL), options.pop("train", (X, GIVEN)), **options)


@cache
def everything() -> us.Decoding:
    return run(
        holdout=(HOLD_X, HOLD_GIVEN),
        probes=("masc", "velpic"),
        variance=(0.7, 0.9),
        evaluate=("train", "test", "candidates"),
        controls="full",
    )


@torch.no_grad()
def rows_by_hand(model: nn.Module, x: torch.Tensor) -> dict[str, np.ndarray]:
    """Return the rows of the MLP's layers."""
    relu1 = torch.relu(model.fc1(x))
    relu2 = torch.relu(model.fc2(relu1))
    return {"input": x.numpy(), "relu1": relu1.numpy(), "relu2": relu2.numpy()}


# The table ----------------------------------------------------------------------------------


def test_the_tables_columns_and_rows_are_the_contract():
    table = everything().table
    assert list(table.columns) == COLUMNS
    keys = ["model", "layer", "probe", "variance", "subspace_labels", "split", "labels"]
    assert not table.duplicated(keys).any()
    refined = table[(table["probe"] == "auto") & (table["model"] == "trained")]
    sizes = refined.groupby("layer").size().to_dict()
    # An ensemble of several layers is a row of its own.
    assert sizes.pop("(combined)", 4) == 4
    assert sizes == {"input": 4, "relu1": 4, "relu2": 4}
    decoded = table[~table["probe"].isin(["model", "auto"]) & (table["model"] == "trained")]
    # 3 layers × (MASC at 2 shares + VeLPIC) × 2 kinds of subspace labels × (train given, train
    # true, test, holdout)
    assert len(decoded) == 3 * 3 * 2 * 4
    assert decoded["layer"].unique().tolist() == ["input", "relu1", "relu2"]
    assert set(decoded["subspace_labels"]) == {"corrupted", "true"}
    assert decoded.groupby("layer")["width"].unique().map(list).to_dict() == {
        "input": [12],
        "relu1": [16],
        "relu2": [10],
    }
    assert table.groupby("split")["n"].unique().map(list).to_dict() == {
        "train": [N],
        "test": [100],
        "holdout": [90],
    }
    assert set(zip(table["split"], table["labels"], strict=True)) == {
        ("train", "given"),
        ("train", "true"),
        ("test", "given"),
        ("holdout", "given"),
    }
    assert decoded[decoded["probe"] == "velpic"]["variance"].isna().all()
    assert (decoded[decoded["probe"] == "velpic"]["rank"] == 1).all()
    assert set(decoded[decoded["probe"] == "masc"]["variance"]) == {0.7, 0.9}


def test_without_test_holdout_truth_and_controls_their_rows_are_gone():
    table = run(test=None, true_labels=None, controls=False).table
    assert set(table["split"]) == {"train"}
    assert set(table["labels"]) == {"given"}
    assert set(table["model"]) == {"trained"}
    assert set(table["subspace_labels"].dropna()) == {"corrupted"}


def test_every_accuracy_is_that_of_the_estimator_on_rows_of_a_plain_forward_pass():
    fitted_on = {"corrupted": GIVEN, "true": Y.numpy()}
    splits = {
        ("train", "given"): (X, GIVEN),
        ("train", "true"): (X, Y.numpy()),
        ("test", "given"): (TEST_X, TEST_Y.numpy()),
        ("holdout", "given"): (HOLD_X, HOLD_GIVEN),
    }
    table = everything().table
    probes = table[(table["model"] == "trained") & table["probe"].isin(["masc", "velpic"])]
    for row in probes.itertuples():
        x, labels = splits[row.split, row.labels]
        estimator = (
            us.PrincipalVectorClassifier()
            if row.probe == "velpic"
            else us.MinimumAngleSubspaceClassifier(variance=row.variance)
        )
        estimator.fit(rows_by_hand(MODEL, X)[row.layer], fitted_on[row.subspace_labels])
        predicted = estimator.predict(rows_by_hand(MODEL, x)[row.layer])
        assert row.accuracy == (predicted == labels).mean(), row
        assert row.rank == pytest.approx(estimator.ranks_.mean()), row


def test_masc_stands_in_the_table_by_default_where_it_costs_next_to_nothing(monkeypatch):
    every = ["input", "relu1", "relu2"]

    def layers(**options):
        table = run(controls=False, **options).table
        assert layer_order(table)[:3] == every or not options.get("auto", True)
        return table.loc[table["probe"] == "masc", "layer"].unique().tolist()

    # Layers are 12, 16 and 10 wide: 240 · 16² for sums, 10 · 4 · 16³ for eigenvectors of four
    # classes, and 240 · 16 · 4 · 16 / 2 for products with these are too many.
    monkeypatch.setattr(task, "_CHEAP", 348_159)
    assert layers() == ["input", "relu2"]
    # What is asked for is there, and what the choice is among.
    assert layers(probes=("masc",)) == sorted(layers(auto=False)) == every
    monkeypatch.setattr(task, "_CHEAP", 348_160)
    assert layers() == every


def test_the_models_own_accuracy_is_the_probe_model_of_the_layer_output():
    table = everything().table
    own = table[table["probe"] == "model"]
    assert (own["layer"] == "output").all()
    assert (own["model"] == "trained").all()
    assert (own["width"] == 4).all()
    assert own[["variance", "subspace_labels", "rank"]].isna().all(axis=None)
    with torch.no_grad():
        right = {
            ("train", "given"): (MODEL(X).argmax(1).numpy() == GIVEN).mean(),
            ("train", "true"): (MODEL(X).argmax(1) == Y).double().mean().item(),
            ("test", "given"): (MODEL(TEST_X).argmax(1) == TEST_Y).double().mean().item(),
            ("holdout", "given"): (MODEL(HOLD_X).argmax(1).numpy() == HOLD_GIVEN).mean(),
        }
    found = {(r.split, r.labels): r.accuracy for r in own.itertuples()}
    assert found == pytest.approx(right)


# Token numbers without a mask, and a network that was never trained, are not perturbed.
@pytest.mark.filterwarnings("ignore:not perturbed", "ignore:nothing tells memory")
@pytest.mark.parametrize("name", models.MODELS)
def test_the_models_own_accuracy_for_every_way_of_returning_logits(name):
    model, (x, y) = models.build(name, seed=3), models.data_for(name, 80)
    with torch.no_grad():
        output = model(x)
    if isinstance(output, tuple):
        output = output[0]
    logits = output["logits"] if isinstance(output, dict) else getattr(output, "logits", output)
    table = us.decode(model, (x, y), controls=False, progress=False).table
    own = table[table["probe"] == "model"]["accuracy"].item()
    assert own == pytest.approx((logits.argmax(1) == y).double().mean().item())


def test_the_summary_and_the_verdict_tell_the_tables_numbers():
    found = everything()
    chosen = found.table[found.table["selected"]]
    assert len(chosen) == 4  # train given, train true, test, holdout: of one decoder
    assert chosen["layer"].unique().tolist() == [found.best.layer]
    by_split = {(r.split, r.labels): r.accuracy for r in chosen.itertuples()}
    summary = found.summary
    assert summary["selected"]["test_accuracy"] == by_split["test", "given"]
    if summary["selected"]["criterion"] == "holdout":
        assert summary["selected"]["criterion_accuracy"] == by_split["holdout", "given"]
    else:  # an estimate, from perturbed training inputs
        assert summary["memory"]["holdout_weight"] <= 0.5
        expected = by_split["holdout", "given"]
        assert summary["selected"]["criterion_accuracy"] == pytest.approx(expected, abs=0.15)
    assert summary["wrong_label_share"] == (Y.numpy() != GIVEN).mean()
    assert f"{by_split['test', 'given']:.1%}" in found.verdict
    assert f"{summary['wrong_label_share']:.1%}" in found.verdict
    assert "\n" not in found.verdict
    own = summary["model"]["accuracy"]["test"]
    assert summary["gain_points"] == pytest.approx(100 * (by_split["test", "given"] - own))


def test_float_variance_and_a_sequence_of_it_agree():
    one = run(variance=0.7, controls=False, evaluate=("train", "test")).table
    several = everything().table
    rows = several[(several["probe"] == "masc") & (several["variance"] == 0.7)]
    rows = rows[(rows["model"] == "trained") & (rows["split"] != "holdout")]
    mine = one[one["probe"] == "masc"]
    keys = ["layer", "subspace_labels", "split", "labels"]
    pd.testing.assert_series_equal(
        mine.set_index(keys)["accuracy"].sort_index(), rows.set_index(keys)["accuracy"].sort_index()
    )


@pytest.mark.parametrize(
    "options",
    [
        {"variance": 0},
        {"variance": 1.5},
        {"variance": []},
        {"variance": [0.9, float("nan")]},
        {"probes": ()},
        {"probes": "masc"},
        {"probes": ("knn-9000",)},
        {"evaluate": ("holdout",)},
        {"evaluate": "test"},
        {"memory": "much"},
        {"memory": 0},
    ],
)
def test_settings_out_of_range_are_one_clear_line(options):
    with pytest.raises(DataError, match="expected") as caught:
        run(**options)
    assert "\n" not in str(caught.value)


def test_training_rows_may_be_left_to_the_chosen_decoder():
    whole = everything()
    found = run(
        holdout=(HOLD_X, HOLD_GIVEN),
        probes=("masc", "velpic"),
        variance=(0.7, 0.9),
        controls="full",
    )
    train = found.table[(found.table["split"] == "train") & (found.table["probe"] != "model")]
    assert train["selected"].all()
    assert train["labels"].tolist() == ["given", "true"]
    kept = whole.table.merge(found.table)  # on all columns
    assert len(kept) == len(found.table) < len(whole.table)
    pd.testing.assert_frame_equal(found.label_issues(), whole.label_issues())
    pd.testing.assert_frame_equal(
        found.table[found.table["split"] == "test"].reset_index(drop=True),
        whole.table[whole.table["split"] == "test"].reset_index(drop=True),
    )


# Two ways to the same decoders --------------------------------------------------------------


@pytest.mark.parametrize("holdout", [None, (HOLD_X, HOLD_GIVEN)])
def test_a_layer_kept_as_rows_gives_the_table_of_one_summed_as_moments(monkeypatch, holdout):
    def as_moments(n_classes: int, width: int, *_rest: Any, **_options: Any) -> ClassMoments:
        return ClassMoments(n_classes, width)

    def as_rows(n_classes: int, width: int, *_rest: Any, **_options: Any) -> ClassRows:
        return ClassRows(n_classes, RowStore(width))

    def on_disk(n_classes: int, width: int, *_rest: Any, **_options: Any) -> ClassRows:
        return ClassRows(n_classes, RowStore(width, memory=1000))

    found = []
    for way in (as_moments, as_rows, on_disk):
        monkeypatch.setattr(subspaces, "statistics_for", way)
        found.append(run(holdout=holdout, probes=("masc", "velpic"), batch_size=37))
    for other in found[1:]:
        pd.testing.assert_frame_equal(other.table, found[0].table)
        pd.testing.assert_frame_equal(
            other.label_issues(), found[0].label_issues(), rtol=1e-4, atol=1e-5
        )
    paths = [{layer["path"] for layer in one.summary["layers"]} for one in found]
    assert paths == [{"moments"}, {"rows"}, {"rows"}]


def test_a_layer_wider_than_its_classes_are_large_is_kept_as_rows():
    x, y = models.data("images", 60)
    model = models.build("residual", seed=3)
    found = us.decode(model, (x, y), progress=False, auto=False, pool="flatten")
    paths = {layer["layer"]: layer["path"] for layer in found.summary["layers"]}
    assert paths["layer1"] == "rows"  # 108 values, 15 samples a class
    rows = found.table[(found.table["layer"] == "layer1") & (found.table["model"] == "trained")]
    tapped = {}
    model.layer1.register_forward_hook(lambda m, a, out: tapped.update(rows=out.flatten(1)))
    with torch.no_grad():
        model(x)
    masc = us.MinimumAngleSubspaceClassifier().fit(tapped["rows"], y)
    assert rows["accuracy"].item() == (masc.predict(tapped["rows"]) == y.numpy()).mean()


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
