"""What `decode` says: the table, recounted, and that each way of summing gives the same.

The expected numbers come from the estimators, fitted here on rows that a plain forward pass gives.
"""

import re
from typing import Any

import pandas as pd
import pytest
import torch

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
    everything,
    rows_by_hand,
    run,
)
from underscript import ClassMoments
from underscript.errors import DataError
from underscript.linalg.rows import ClassRows, RowStore
from underscript.report.plots.rows import layer_order
from underscript.selection import subspaces, task

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
    assert "\n" not in found.verdict
    own = summary["model"]["accuracy"]["test"]
    # What is before a per cent sign, in order, rounded to whole numbers or one decimal.
    told = [float(number) for number in re.findall(r"([\d.]+)%", found.verdict)]
    fits = summary["model"]["accuracy"]["train_given"]
    expected = [fits, own, by_split["test", "given"], summary["noise"]["rate"]]
    expected.append(summary["wrong_label_share"])
    assert told[:5] == pytest.approx([100 * share for share in expected], abs=0.51)
    flagged = int(found.label_issues()["is_label_issue"].sum())
    assert f"; {flagged:,} are flagged in label_issues.csv." in found.verdict
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


@pytest.mark.parametrize(
    "holdout", [None, pytest.param((HOLD_X, HOLD_GIVEN), marks=pytest.mark.slow)]
)
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
