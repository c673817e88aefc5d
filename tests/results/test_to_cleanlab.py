"""Label issues under Datalab's names, beside a real Datalab."""

import sys
import warnings

import numpy as np
import pandas as pd
import pytest

import underscript as us
from exported import DISTINCT, made
from run_folders import GIVEN, X


def datalab_of(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Return the table of a real Datalab; its classes are in the order of their sorted names."""
    pytest.importorskip("datasets", reason="Datalab needs datasets (extra underscript[datasets])")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cleanlab = pytest.importorskip("cleanlab", reason="the extra underscript[cleanlab]")
        lab = cleanlab.Datalab({"label": labels}, label_name="label", verbosity=0)
        # Processes forked from this one, whose threads hold locks, might never end.
        one_process = {"clean_learning_kwargs": {"find_label_issues_kwargs": {"n_jobs": 1}}}
        lab.find_issues(pred_probs=probabilities, issue_types={"label": one_process})
        return lab.get_issues("label")


@pytest.mark.parametrize("named", [False, True])
def test_the_table_has_datalabs_columns_types_and_labels_for_the_same_data(found, named):
    n_classes = found.summary["model"]["n_classes"]
    # Sorted, as Datalab sorts them, so that columns of probabilities are in its order.
    names = [f"class {'abcdefghij'[k]}" for k in range(n_classes)]
    given = np.asarray(GIVEN)
    labels = np.asarray(names)[given] if named else given
    # Datalab's score has the type of the probabilities.
    theirs = datalab_of(labels, found.pred_probs((X, GIVEN)).astype(np.float64))
    model = found.summary["model"] | {"class_names": names if named else None}
    summary = found.summary | {"model": model}
    run = us.Decoding(found.table, summary, found.best, found.label_issues(), None)
    ours = run.to_cleanlab()
    assert list(ours.columns) == list(theirs.columns)
    assert ours.dtypes.to_dict() == theirs.dtypes.to_dict()
    assert (ours["given_label"].to_numpy() == theirs["given_label"].to_numpy()).all()
    # Without flags that differ, both predict the likeliest class of the same probabilities.
    neither = ~ours["is_label_issue"].to_numpy() & ~theirs["is_label_issue"].to_numpy()
    same = ours["predicted_label"].to_numpy() == theirs["predicted_label"].to_numpy()
    assert neither.sum() > 50
    assert same[neither].all()


def test_it_does_not_need_cleanlab(monkeypatch):
    for package in ("cleanlab", "datasets"):
        monkeypatch.setitem(sys.modules, package, None)
    issues, frame = made().label_issues(), made().to_cleanlab()
    assert (frame["label_score"] == issues["label_quality"]).all()
    assert (frame["is_label_issue"] == issues["is_label_issue"]).all()


def test_classes_are_told_apart_and_the_index_is_kept():
    index = np.arange(60) * 3 + 100
    frame = made(index=index).to_cleanlab()
    issues = made(index=index).label_issues()
    assert frame.index.tolist() == index.tolist()
    assert frame["given_label"].tolist() == [DISTINCT[k] for k in issues["given_label"]]
    assert set(frame["predicted_label"]) == set(DISTINCT)


def test_without_names_labels_are_numbers_and_without_flags_there_are_none():
    frame = made(names=None, flagged=False).to_cleanlab()
    assert frame["given_label"].dtype == np.int64
    assert (frame["given_label"] == frame["predicted_label"]).all()
    assert not frame["is_label_issue"].any()
