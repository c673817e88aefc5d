"""Tasks of Label Studio and their labelling configuration.

The format is that of Label Studio's documentation, "Import pre-annotated data" and "Choices". The
package that checks both (label_studio_sdk) is too large to be installed for the tests; where it is
there, it checks them too.
"""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

import underscript as us
from exported import DISTINCT, NASTY, made

URLS = [f"https://example.org/{i}.png?a=1&b=<2>" for i in range(60)]
# $given_label would be replaced by the task's field, and XML cannot hold a bell.
CHOICES = [*DISTINCT[:5], "＄given_label", "bell�", *DISTINCT[7:]]


def read(path: Path) -> tuple[list[dict], ElementTree.Element]:
    """Return the tasks, and the configuration beside them as an XML parser reads it."""
    config = path.with_suffix(".xml").read_text(encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8")), ElementTree.fromstring(config)


def test_flagged_samples_are_tasks_with_the_decoders_label_the_worst_first(tmp_path):
    made().to_label_studio(tmp_path / "tasks.json", URLS)
    tasks, _ = read(tmp_path / "tasks.json")
    issues = made().label_issues()
    flagged = issues[issues["is_label_issue"]].sort_values("label_quality")
    assert [task["data"]["sample_index"] for task in tasks] == flagged.index.tolist()
    for task, (index, row) in zip(tasks, flagged.iterrows(), strict=True):
        assert set(task) == {"data", "predictions"}
        assert task["data"]["image"] == URLS[index]
        assert task["data"]["given_label"] == CHOICES[row["given_label"]]
        assert task["data"]["label_quality"] == row["label_quality"]
        assert task["data"]["is_label_issue"] is True
        (prediction,) = task["predictions"]
        assert prediction["score"] == row["confidence"]
        assert prediction["model_version"] == f"underscript {us.__version__}"
        (result,) = prediction["result"]
        assert result["value"] == {"choices": [CHOICES[row["predicted_label"]]]}


@pytest.mark.parametrize(
    ("kind", "tag"), [("image", "Image"), ("text", "Text"), ("html", "HyperText")]
)
def test_predictions_fit_the_configuration(kind, tag, tmp_path):
    told = made().to_label_studio(tmp_path / "tasks.json", URLS, kind=kind)
    assert told == (tmp_path / "tasks.xml").read_text(encoding="utf-8")
    tasks, view = read(tmp_path / "tasks.json")
    sample, header, choices = view
    assert (view.tag, sample.tag, header.tag, choices.tag) == ("View", tag, "Header", "Choices")
    assert sample.get("value") == f"${kind}"
    assert choices.get("toName") == sample.get("name")
    offered = [choice.get("value") for choice in choices]
    assert offered == CHOICES
    assert len(set(offered)) == len(NASTY)
    for task in tasks:
        # Every field that the configuration names is in the task.
        assert {sample.get("value")[1:], header.get("value").split("$")[1]} <= set(task["data"])
        (result,) = task["predictions"][0]["result"]
        assert result["type"] == choices.tag.lower()
        assert result["from_name"] == choices.get("name")
        assert result["to_name"] == sample.get("name")
        assert set(result["value"]["choices"]) <= set(offered)


def test_all_samples_come_with_the_flagged_first(tmp_path):
    made().to_label_studio(tmp_path / "tasks.json", URLS, flagged_only=False)
    tasks, _ = read(tmp_path / "tasks.json")
    data = [task["data"] for task in tasks]
    assert len(data) == 60
    order = [(not fields["is_label_issue"], fields["label_quality"]) for fields in data]
    assert order == sorted(order)


def test_nothing_flagged_is_an_empty_list_and_no_names_are_numbers(tmp_path):
    made(names=None, flagged=False).to_label_studio(tmp_path / "tasks.json", URLS)
    tasks, view = read(tmp_path / "tasks.json")
    assert tasks == []
    assert [choice.get("value") for choice in view[2]] == [str(k) for k in range(len(NASTY))]


def test_a_mapping_is_looked_up_by_the_data_sets_index(tmp_path):
    index = np.arange(60) * 7 + 3
    run = made(index=index)
    # Only flagged samples are shown, so only they need an entry.
    wrong = run.label_issues().query("is_label_issue").index
    run.to_label_studio(tmp_path / "a.json", {i: Path(f"{i}.png") for i in wrong})
    by_order = [f"{i}.png" for i in index]
    run.to_label_studio(tmp_path / "b.json", by_order)
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    tasks, _ = read(tmp_path / "a.json")
    for task in tasks:
        assert task["data"]["image"] == f"{task['data']['sample_index']}.png"


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (URLS[:-1], {}, "expected 60 entries.*found 59"),
        ([*URLS, "one more"], {}, "expected 60 entries.*found 61"),
        ("https://example.org", {}, "expected a list.*found str"),
        (3, {}, "expected a list.*found int"),
        ([None] * 60, {}, "expected text or a path for the sample at index [0-9]+; found NoneType"),
        ([""] * 60, {}, "found an empty text"),
        (["\ud800"] * 60, {}, "cannot be written as UTF-8"),
        ({0: "a"}, {}, "found none for [0-9]+ of them, the first at index [0-9]+"),
        (URLS, {"kind": "picture"}, "expected kind to be one of image, text.*found 'picture'"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_no_file(data, options, message, tmp_path):
    with pytest.raises(us.UnderscriptError, match=message) as caught:
        made().to_label_studio(tmp_path / "tasks.json", data, **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_another_suffix_or_a_place_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(us.UnderscriptError, match=r"expected the name of a \.json file"):
        made().to_label_studio(tmp_path / "tasks.xml", URLS)
    (tmp_path / "file").write_text("")
    with pytest.raises(us.UnderscriptError, match="cannot write"):
        made().to_label_studio(tmp_path / "file" / "tasks.json", URLS)


def test_label_studios_own_package_accepts_them(tmp_path):
    interface = pytest.importorskip(
        "label_studio_sdk.label_interface", reason="label_studio_sdk is not installed"
    )
    label = interface.LabelInterface(made().to_label_studio(tmp_path / "tasks.json", URLS))
    label.validate()
    tasks, _ = read(tmp_path / "tasks.json")
    for task in tasks:
        assert label.validate_task({"data": task["data"]})
        assert label.validate_prediction(task["predictions"][0])
    wrong = tasks[0]["predictions"][0]
    wrong["result"][0]["value"]["choices"] = ["none of them"]
    assert not label.validate_prediction(wrong)
