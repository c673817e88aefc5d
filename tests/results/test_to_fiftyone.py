"""Label issues as a FiftyOne data set.

FiftyOne brings a database server along and is not installed for the tests, so a stand-in with its
documented interface takes the samples (`stand_ins.fiftyone`). Where the package is there, its own
`Sample` and `Classification` are made of the same fields, which needs no server.
"""

import os
import sys

import numpy as np
import pytest

import stand_ins
import underscript as us
from exported import DISTINCT, NASTY, made
from underscript.results.exchange import for_fiftyone

FILES = [f"pictures/{i}.png" for i in range(60)]


@pytest.fixture
def fiftyone(monkeypatch):
    module = stand_ins.fiftyone()
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    return module


def test_each_sample_has_both_labels_how_mistaken_it_is_and_a_tag_if_flagged(fiftyone):
    run = made()
    dataset, issues = run.to_fiftyone(FILES, "mine"), run.label_issues()
    assert dataset.name == "mine"
    assert len(dataset) == 60
    for sample, file, (index, row) in zip(dataset, FILES, issues.iterrows(), strict=True):
        assert sample.filepath == os.path.abspath(file)
        assert sample.tags == (["label_issue"] if row["is_label_issue"] else [])
        assert sample["ground_truth"] == fiftyone.Classification(DISTINCT[row["given_label"]])
        assert sample["prediction"].label == DISTINCT[row["predicted_label"]]
        assert sample["prediction"].confidence == row["confidence"]
        assert sample["mistakenness"] == pytest.approx(1 - row["label_quality"])
        assert sample["sample_index"] == index
    worst = dataset.match_tags("label_issue").sort_by("mistakenness", reverse=True)
    flagged = run.label_issues(sort=True).query("is_label_issue")
    assert [sample["sample_index"] for sample in worst] == flagged.index.tolist()


def test_without_names_labels_are_numbers_and_without_flags_there_is_no_tag(fiftyone):
    dataset = made(names=None, flagged=False).to_fiftyone(FILES)
    assert {sample["ground_truth"].label for sample in dataset} == set(map(str, range(len(NASTY))))
    assert len(dataset.match_tags("label_issue")) == 0


def test_paths_are_found_by_the_data_sets_index(fiftyone):
    index = np.arange(60)[::-1] * 2
    paths = {i: f"/all/{i}.png" for i in range(200)}
    for sample in made(index=index).to_fiftyone(paths):
        assert sample.filepath == f"/all/{sample['sample_index']}.png"


def test_a_data_set_of_that_name_is_never_overwritten(fiftyone):
    first = made().to_fiftyone(FILES, "mine")
    with pytest.raises(us.UnderscriptError, match="has a data set 'mine' already"):
        made(names=None).to_fiftyone(FILES, "mine")
    assert fiftyone.Dataset.known == {"mine": first}
    assert len(first) == 60


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (FILES[1:], "filepaths: expected 60 entries.*found 59"),
        ("pictures", "expected a list.*found str"),
        ([*FILES[:-1], 7], "index 59; found int"),
        (dict(enumerate(FILES[:50])), "found none for 10 of them, the first at index 50"),
    ],
)
def test_what_does_not_fit_is_one_line_and_makes_no_data_set(files, message, fiftyone):
    with pytest.raises(us.UnderscriptError, match=message) as caught:
        made().to_fiftyone(files, "mine")
    assert "\n" not in str(caught.value)
    assert fiftyone.Dataset.known == {}


def test_nothing_is_left_where_fiftyone_fails(fiftyone, monkeypatch):
    def fails(self, samples):
        raise RuntimeError("the database is gone\nand so on")

    monkeypatch.setattr(fiftyone.Dataset, "add_samples", fails)
    with pytest.raises(us.UnderscriptError, match=r"make the data set: the database is gone$"):
        made().to_fiftyone(FILES, "mine")
    assert fiftyone.Dataset.known == {}


def test_a_missing_package_is_one_line_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(ImportError, match=r"pip install 'underscript\[fiftyone\]'") as caught:
        made().to_fiftyone(FILES)
    assert "\n" not in str(caught.value)


def test_the_package_itself_takes_the_fields():
    package = pytest.importorskip("fiftyone", reason="the extra underscript[fiftyone]")
    fields = for_fiftyone.samples(made().label_issues(), DISTINCT, FILES)
    for each in fields:
        stored = for_fiftyone._sample(package, each).to_dict()
        assert stored["filepath"] == os.path.abspath(each["filepath"])
        assert stored["tags"] == each["tags"]
        assert stored["mistakenness"] == each["mistakenness"]
        for name in ("ground_truth", "prediction"):
            assert stored[name]["_cls"] == "Classification"
            assert stored[name].items() >= each[name].items()
