"""Label issues as columns of a Hugging Face data set."""

import sys

import numpy as np
import pytest

import underscript as us
from exported import DISTINCT, NASTY, made

datasets = pytest.importorskip("datasets", reason="the extra underscript[datasets]")


def theirs(n: int = 60) -> "datasets.Dataset":
    return datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(n)]})


def test_columns_hold_the_label_issues():
    index = np.arange(60) * 2 + 5
    run = made(index=index)
    issues, dataset = run.label_issues(), run.to_datasets()
    assert dataset["sample_index"][:] == index.tolist()
    assert dataset["label_issue"][:] == issues["is_label_issue"].tolist()
    assert dataset["label_quality"][:] == issues["label_quality"].tolist()
    assert dataset["predicted_confidence"][:] == issues["confidence"].tolist()
    assert dataset["conflicting_duplicate"][:] == issues["conflicting_duplicate"].tolist()
    for name in ("given_label", "predicted_label"):
        feature = dataset.features[name]
        assert feature.names == DISTINCT
        assert dataset[name][:] == issues[name].tolist()
        assert feature.int2str(dataset[name][:]) == [DISTINCT[k] for k in issues[name]]


def test_without_names_labels_are_numbers():
    dataset = made(names=None, flagged=False).to_datasets()
    assert dataset.features["given_label"] == datasets.Value("int64")
    assert not any(dataset["label_issue"])


def test_the_users_data_set_gets_the_columns_and_stays_as_it_is():
    mine = theirs().cast_column("text", datasets.Value("string"))
    both = made().to_datasets(mine)
    assert mine.column_names == ["text"]
    assert both.column_names == ["text", *made().to_datasets().column_names]
    assert both["text"][:] == mine["text"][:]
    assert both.features["given_label"].names == DISTINCT
    flagged = both.filter(lambda wrong: wrong, input_columns="label_issue")
    wrong = made().label_issues().query("is_label_issue")
    assert flagged["text"][:] == [f"text {i}" for i in wrong.index]


def test_rows_are_those_of_a_shuffled_and_formatted_data_set():
    order = np.random.default_rng(1).permutation(60)
    mine = theirs().select(order).with_format("numpy")
    both = made().to_datasets(mine)
    assert both.format["type"] == "numpy"
    assert both["text"][:].tolist() == [f"text {i}" for i in order]
    quality = made().label_issues()["label_quality"]
    # Its NumPy arrays are float32.
    np.testing.assert_allclose(both["label_quality"][:], quality, rtol=1e-6)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (theirs(59), "expected a data set of 60 rows.*found 59"),
        (theirs().rename_column("text", "label_issue"), "has a column 'label_issue' already"),
        (theirs().rename_column("text", "given_label"), "has a column 'given_label' already"),
        (datasets.DatasetDict(train=theirs()), r"found DatasetDict; give one split, such as data"),
        (theirs().to_iterable_dataset(), "expected a datasets.Dataset.*found IterableDataset"),
        ([1, 2], "expected a datasets.Dataset.*found list"),
    ],
)
def test_what_does_not_fit_is_one_line(dataset, message):
    with pytest.raises(us.UnderscriptError, match=message) as caught:
        made().to_datasets(dataset)
    assert "\n" not in str(caught.value)


def test_a_file_of_it_can_be_read_again(tmp_path):
    made().to_datasets(theirs()).to_parquet(tmp_path / "d.parquet")
    again = datasets.Dataset.from_parquet(
        str(tmp_path / "d.parquet"), cache_dir=str(tmp_path / "cache")
    )
    assert again.features["given_label"].names == DISTINCT
    assert len(set(again.features["given_label"].names)) == len(NASTY)


def test_a_missing_package_is_one_line_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'underscript\[datasets\]'") as caught:
        made().to_datasets()
    assert isinstance(caught.value, us.UnderscriptError)
    assert "\n" not in str(caught.value)
