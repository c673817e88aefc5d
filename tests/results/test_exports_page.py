"""The examples of the page about other tools, on a small decode; `test_docs` runs it as it is."""

import re
import sys
from pathlib import Path

import pytest

import stand_ins
from run_folders import GIVEN, X

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")


# cleanlab 2.9 and datasets 5.2 use what pandas 3.1 and pyarrow 25 have begun to give up.
@pytest.mark.filterwarnings("ignore:The inplace keyword")
@pytest.mark.filterwarnings("ignore:Specifying null_placement")
def test_every_example_runs_one_after_the_other(found, tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="the extra underscript[datasets]")
    monkeypatch.chdir(tmp_path)
    # Tested against the packages' documented interfaces, as in test_to_fiftyone, test_to_spotlight.
    above, spotlight = stand_ins.spotlight()
    monkeypatch.setitem(sys.modules, "fiftyone", stand_ins.fiftyone())
    monkeypatch.setitem(sys.modules, "renumics", above)
    monkeypatch.setitem(sys.modules, "renumics.spotlight", spotlight)
    first, *others = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.S | re.M)
    assert "us.decode(" in first
    scope: dict = {"decoding": found, "train": (X, GIVEN)}
    for block in others:
        exec(block, scope)
    n = int(found.label_issues()["is_label_issue"].sum())
    assert len(scope["worst_first"]) == scope["flagged"].num_rows == n
    assert (scope["issues"]["given_label"] == GIVEN).all()
    assert len(scope["table"]) == len(GIVEN)
    assert {path.name for path in tmp_path.iterdir()} == {
        "marked.parquet",
        "my-run",
        "tasks.json",
        "tasks.xml",
    }


def test_the_page_names_every_method_and_extra():
    source = ROOT / "src" / "underscript" / "results" / "exchange" / "exports.py"
    methods = re.findall(r"    def (to_[a-z_]+)\(", source.read_text(encoding="utf-8"))
    assert len(methods) == 5
    assert all(f"`{name}(" in PAGE for name in methods)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(re.findall(r"underscript\[([a-z]+)\]", PAGE))
    assert extras == {"datasets", "fiftyone", "spotlight"}
    assert all(f"\n{extra} = [" in project for extra in extras)
