"""The film strip, the curves and the page of a trace show its numbers."""

import copy
from html.parser import HTMLParser

import pytest
from matplotlib.colors import to_hex

import models
import underscript as us
from small_decodes import GIVEN, HOLD_GIVEN, HOLD_X, TEST_X, TEST_Y, X
from underscript.errors import DataError
from underscript.report import plots, render_trace
from underscript.report.plots import COLOURS

pytestmark = pytest.mark.filterwarnings("ignore:the subspace of class")
CHECKPOINTS = {step: models.build("mlp", seed=step).state_dict() for step in (2, 30)}


def made(**data) -> us.Trace:
    return us.trace(models.build("mlp"), CHECKPOINTS, (X, GIVEN), progress=False, **data)


@pytest.fixture(scope="module")
def measured() -> us.Trace:
    return made(test=(TEST_X, TEST_Y), holdout=(HOLD_X, HOLD_GIVEN))


def cells(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_the_film_strip_has_a_cell_for_each_layer_and_step_and_frames_the_chosen_one(measured):
    ax = us.plots.trace_map(measured)
    layers = [label.get_text() for label in ax.get_yticklabels()]
    assert layers == ["input", "relu1", "relu2"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "30"]
    rows = measured.table
    rows = rows[(rows["split"] == "test") & rows["layer"].isin(layers)]
    best = rows.sort_values("probe").drop_duplicates(["layer", "step"]).set_index(["layer", "step"])
    expected = [
        f"{100 * best['accuracy'][layer, step]:.0f}" for layer in layers for step in (2, 30)
    ]
    assert cells(ax) == expected
    frames = [box for box in ax.patches if to_hex(box.get_edgecolor()) == COLOURS["true"]]
    (frame,) = [box for box in frames if not box.get_fill()]
    assert frame.get_x() + 0.5 == [2, 30].index(measured.recommended["step"])


def test_without_test_data_the_film_strip_shows_agreement_without_memory():
    t = made()
    rows = t.table[t.table["probe"] == "discriminant"].set_index(["layer", "step"])
    value = 100 * (rows["accuracy"] - rows["memory"])
    ax = us.plots.trace_map(t)
    layers = ("input", "relu1", "relu2")
    assert cells(ax) == [f"{value[layer, step]:.0f}" for layer in layers for step in (2, 30)]
    assert "without memory" in ax.get_title(loc="left")


def test_the_curves_are_the_steps_numbers(measured):
    ax = us.plots.trace_curves(measured)
    drawn = {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}
    for name, column in (
        ("decoded, estimated", "estimate"),
        ("decoded, test", "decoded_test"),
        ("network, test", "network_test"),
        ("memory, last layer", "memory"),
    ):
        assert drawn[name] == pytest.approx([100 * v for v in measured.steps[column]])


def test_a_trace_without_layers_has_no_film_strip(measured):
    bare = us.Trace(measured.table.iloc[:0], measured.summary)
    with pytest.raises(DataError, match="measured layers"):
        plots.trace_map(bare)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags = "", []

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)


def test_the_page_shows_the_verdict_and_escapes_names_of_files(measured):
    t = us.Trace(measured.table, copy.deepcopy(measured.summary))
    t.summary["steps"][0]["source"] = "<script>alert(1)</script>.pt"
    page = render_trace(t)
    assert "<script>alert" not in page
    parsed = _Text()
    parsed.feed(page)
    assert t.verdict in parsed.text
    assert "<script>alert(1)</script>.pt" in parsed.text
    assert parsed.tags.count("svg") == 4
    assert t.verdict in t._repr_html_()
