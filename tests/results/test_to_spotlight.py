"""Label issues as a table and issues of Renumics Spotlight.

Spotlight wants an older pandas and some sixty packages and is not installed for the tests. A
stand-in has its documented `DataIssue` (`stand_ins.spotlight`); where the package is there, its own
takes the fields too.
"""

import sys

import numpy as np
import pandas as pd
import pytest

import stand_ins
import underscript as us
from exported import DISTINCT, made
from underscript.results.exchange import for_spotlight

FILES = [f"pictures/{i}.png" for i in range(60)]


@pytest.fixture
def spotlight(monkeypatch):
    above, module = stand_ins.spotlight()
    monkeypatch.setitem(sys.modules, "renumics", above)
    monkeypatch.setitem(sys.modules, "renumics.spotlight", module)
    return module


def test_issues_are_the_flagged_their_pairs_and_contradicting_duplicates(spotlight):
    index = np.arange(60) * 5 + 1
    run = made(index=index)
    table, found = run.to_spotlight({"picture": FILES})
    spotlight.show(table, dtype={"picture": spotlight.Image}, issues=found)
    first, *pairs, last = found
    # Rows are places in the table, not the data set's index.
    assert first.rows == np.flatnonzero(run.label_issues()["is_label_issue"]).tolist()
    assert first.severity == "high"
    assert len(pairs) == min(10, len(run.confused_pairs()))
    for issue, pair in zip(pairs, run.confused_pairs().to_dict("records"), strict=False):
        rows = table.iloc[issue.rows]
        assert len(rows) == pair["n"]
        assert rows["is_label_issue"].all()
        assert set(rows["given_label"]) == {DISTINCT[pair["given_label"]]}
        assert set(rows["predicted_label"]) == {DISTINCT[pair["predicted_label"]]}
        assert issue.title.isprintable()
    assert last.rows == [0, 1]
    assert table["conflicting_duplicate"][0] == table["sample_index"][1]


def test_the_table_has_the_users_columns_first_and_categories_of_names(spotlight):
    data = pd.DataFrame({"picture": FILES, "length": np.arange(60.0)}, index=range(60, 120))
    table, _ = made().to_spotlight(data)
    assert list(table.columns[:3]) == ["picture", "length", "sample_index"]
    assert table.index.tolist() == list(range(60))
    assert table["picture"].tolist() == FILES
    issues = made().label_issues()
    for name in ("given_label", "predicted_label"):
        assert table[name].cat.categories.tolist() == DISTINCT
        assert table[name].tolist() == [DISTINCT[k] for k in issues[name]]
    assert table["label_quality"].tolist() == issues["label_quality"].tolist()


def test_nothing_flagged_is_no_issue_and_no_names_are_numbers(spotlight):
    table, found = made(names=None, flagged=False).to_spotlight()
    assert found == []
    assert set(table["given_label"]) <= set("012345678")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"picture": FILES[1:]}, r"data\['picture'\]: expected 60 entries.*found 59"),
        ({"confidence": FILES}, "has a column 'confidence' already"),
        (FILES, "expected data as a pandas.DataFrame or a dict.*found list"),
    ],
)
def test_what_does_not_fit_is_one_line(data, message, spotlight):
    with pytest.raises(us.UnderscriptError, match=message) as caught:
        made().to_spotlight(data)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_one_line_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "renumics", None)
    monkeypatch.setitem(sys.modules, "renumics.spotlight", None)
    with pytest.raises(ImportError, match=r"pip install 'underscript\[spotlight\]'") as caught:
        made().to_spotlight()
    assert "\n" not in str(caught.value)


def test_the_package_itself_takes_the_fields():
    package = pytest.importorskip("renumics.spotlight", reason="the extra underscript[spotlight]")
    fields = for_spotlight.described(made().label_issues(), DISTINCT)
    assert len(fields) > 3
    for each in fields:
        issue = package.DataIssue(**each)
        assert {name: getattr(issue, name) for name in each} == each
