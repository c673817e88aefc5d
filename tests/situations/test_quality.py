"""What the quality of a label is: a score that ranks, not a probability (kind 19)."""

from pathlib import Path

import numpy as np
import pytest
from situation_data import situation

import underscript as us

PAGE = Path(__file__).parents[2] / "docs" / "label-issues.md"


@pytest.mark.filterwarnings("ignore::underscript.errors.UnderscriptWarning")
def test_kind_19_quality_is_called_a_score_and_its_reliability_is_in_the_docs():
    net, data = situation()
    d = us.decode(net, (data.x, data.given), controls=False, progress=False)
    issues = d.label_issues()
    quality = issues["label_quality"].to_numpy()
    right = np.asarray(data.given == data.true)
    # It ranks: the lowest fifth is mostly wrong, the highest fifth mostly right.
    order = np.argsort(quality, kind="stable")
    fifth = len(order) // 5
    assert right[order[:fifth]].mean() < 0.5 < 0.95 < right[order[-fifth:]].mean()
    # No word says that it is a probability, and a table says how often it holds.
    docstring = " ".join(us.Decoding.label_issues.__doc__.split())
    assert (
        "`label_quality`: how right the given label seems, 0 to 1. It is a score and no"
        in docstring
    )
    page = PAGE.read_text(encoding="utf-8")
    assert "| quality | labels | mean quality | right |" in page
    assert "python -m benchmarks.reliability" in page
