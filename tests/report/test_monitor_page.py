"""The film strip, the curves and the page of a monitor show its numbers."""

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import underscript as us
from underscript.errors import DataError
from underscript.report import render_monitor
from underscript.report.plots import COLOURS
from underscript.report.plots.film import Marks, draw_film
from watched import watched

LAYERS = ["input", "conv", "fc"]
EVIL = "<img src=x onerror=alert(1)>$x_1$"


@pytest.fixture(scope="module")
def short():
    return watched([5, 10, 15, 20], LAYERS, keep=15, alarm=10, stop=20, holdout=True)


def column(monitor, layer, name):
    rows = monitor.history[monitor.history["layer"] == layer].sort_values("epoch")
    return 100 * rows[name].to_numpy(float)


@pytest.mark.parametrize("of", ["accuracy", "memory", "plain", "perturbed"])
def test_the_film_strip_has_a_number_for_each_layer_and_epoch(short, of):
    ax = us.plots.monitor_map(short, of=of)
    assert [label.get_text() for label in ax.get_yticklabels()] == [*LAYERS, "network"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["5", "10", "15", "20"]
    expected = [f"{v:.0f}" for layer in (*LAYERS, "(network)") for v in column(short, layer, of)]
    assert [text.get_text() for text in ax.texts] == expected


def test_the_film_strip_frames_the_epoch_to_keep_and_dashes_where_memorising_starts(short):
    ax = us.plots.monitor_map(short)
    (frame,) = [box for box in ax.patches if not box.get_fill()]
    assert to_hex(frame.get_edgecolor()) == COLOURS["true"]
    assert (frame.get_x(), frame.get_width()) == (1.5, 1)  # the third column: epoch 15
    (dashes,) = ax.get_lines()
    assert set(dashes.get_xdata()) == {0.5}  # before the second: epoch 10
    assert ax.get_xlabel() == "epoch · frame: 15, to keep · dashes: 10, memorises"


def test_nothing_is_marked_before_there_is_something_to_mark():
    ax = us.plots.monitor_map(watched([1, 2], LAYERS))
    assert not ax.get_lines()
    assert all(box.get_fill() for box in ax.patches)
    assert ax.get_xlabel() == "epoch"


def test_two_hundred_epochs_and_fifty_layers_are_a_picture_and_few_names():
    layers = [f"encoder.layer.{i}.output" for i in range(50)]
    monitor = watched([*range(1, 201)], layers, keep=30, alarm=28)
    ax = us.plots.monitor_map(monitor)
    assert not ax.texts
    below, above = (picture.get_array() for picture in ax.get_images())
    assert below.shape[:2] == (50, 200)
    assert above.shape[:2] == (1, 200)
    table = monitor.history.pivot(index="layer", columns="epoch", values="accuracy")
    expected = table.loc[layers].to_numpy()
    assert np.corrcoef(below[..., 3].ravel(), expected.ravel())[0, 1] > 0.9999
    order = np.argsort(table.loc["(network)"].to_numpy())
    assert (np.diff(above[0, order, 3]) >= 0).all()
    ticks = [int(label.get_text()) for label in ax.get_xticklabels()]
    assert all(tick % 20 == 0 for tick in ticks)
    assert len(ticks) == 10
    # Names that are there do not touch each other.
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert all(a.y1 <= b.y0 for a, b in pairwise(boxes))
    assert ax.get_yticklabels()[-1].get_text() == "network"
    assert len(boxes) > 20


def test_a_cell_that_was_not_read_is_blank_and_equal_values_are_one_colour():
    values = np.full((2, 30), 50.0)
    values[1, 3] = np.nan
    ax = draw_film(None, "All the same", ["a", "b"], [*range(30)], values, marks=Marks())
    alphas = np.concatenate([picture.get_array()[..., 3] for picture in ax.get_images()])
    assert alphas[1, 3] == 0
    assert len(np.unique(np.delete(alphas.ravel(), 33))) == 1


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ([1, 2, 3], ["1", "2", "3"]),
        ([*range(1, 31)], ["5", "10", "15", "20", "25", "30"]),
        ([500 * i for i in range(1, 41)], ["5000", "10000", "15000", "20000"]),
        # No round numbers: every so many.
        ([100 * i + 1 for i in range(30)], ["1", "301", "601", "901"]),
    ],
)
def test_of_many_epochs_round_ones_are_named(steps, named):
    values = np.zeros((1, len(steps)))
    ax = draw_film(None, "Film", ["a"], steps, values, marks=Marks())
    shown = [label.get_text() for label in ax.get_xticklabels()]
    assert shown[: len(named)] == named
    places = {str(step): at for at, step in enumerate(steps)}
    assert [places[name] for name in shown] == list(ax.get_xticks())


def test_names_of_layers_are_no_mathematics():
    figure = Figure(figsize=(4, 3), layout="constrained")
    ax = us.plots.monitor_map(watched([1, 2], ["$a_1$", "b"]), figure.subplots())
    assert ax.get_yticklabels()[0].get_text() == "$a_1$"
    assert not any(label.get_parse_math() for label in ax.get_yticklabels())


def test_the_curves_are_the_historys_numbers_and_mark_the_same_epochs(short):
    ax = us.plots.monitor_curves(short)
    drawn = {line.get_label(): line for line in ax.get_lines()}
    for name, what in (
        ("network, exact inputs", "plain"),
        ("network, changed inputs", "perturbed"),
        ("network, estimated", "accuracy"),
        ("network, hold-out", "holdout"),
        ("memory", "memory"),
    ):
        assert drawn[name].get_ydata() == pytest.approx(column(short, "(network)", what))
    best = np.max([column(short, layer, "accuracy") for layer in LAYERS], axis=0)
    assert drawn["decoded"].get_ydata() == pytest.approx(best)
    upright = {line.get_linestyle(): line.get_xdata()[0] for line in ax.get_lines()[-2:]}
    assert upright == {"-": 2, "--": 1}
    without = us.plots.monitor_curves(watched([1, 2], LAYERS))
    assert "network, hold-out" not in {line.get_label() for line in without.get_lines()}


def test_what_cannot_be_drawn_is_said(short):
    with pytest.raises(DataError, match="of: expected accuracy, memory"):
        us.plots.monitor_map(short, of="loss")
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    fresh = us.Monitor((x, np.arange(20) % 2))
    for draw in (us.plots.monitor_map, us.plots.monitor_curves):
        with pytest.raises(DataError, match="has read an epoch"):
            draw(fresh)


class _Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.ids, self.labels = "", [], [], []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag, attrs) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.labels += [found["aria-label"]] if tag == "svg" else []


def test_the_page_shows_verdict_reasons_figures_epochs_and_labels(short):
    html = render_monitor(short)
    page = _Page(html)
    verdict, figure = page.text.index("It was told."), page.text.index("Estimated accuracy")
    assert verdict < page.text.index("Epoch 15 has most.") < figure
    assert "From epoch 10 on, it remembers." in page.text
    assert "Epoch 20 is worse." in page.text
    assert page.tags.count("svg") == 6
    assert [name for name, times in Counter(page.ids).items() if times > 1] == []
    assert all("epoch 15, the one to keep" in label for label in page.labels)
    assert "15*" in page.text
    assert f"{column(short, '(network)', 'plain')[2]:.1f}" in page.text
    flagged = short.label_issues(sort=True).query("is_label_issue")
    assert len(flagged) > 60
    assert f"{len(flagged)} of 240 labels look wrong; here are the first 60." in page.text
    rows = re.findall(r'<th scope="row">(\d+)</th><td', html)
    assert [int(row) for row in rows[:60]] == flagged.index[:60].tolist()


def test_names_and_notes_are_shown_as_text():
    monitor = watched([1, 2], [EVIL, "</script><b>"], keep=2)
    monitor._notes.append(f"a note on {EVIL}")
    monitor._settings["layers"] = [EVIL]
    page = _Page(render_monitor(monitor))
    assert "img" not in page.tags
    assert "b" not in page.tags[page.tags.index("table") :]
    assert page.tags.count("script") == 1
    assert f"a note on {EVIL}" in page.text
    assert page.text.count(EVIL) >= 4


def test_a_page_without_an_epoch_or_without_samples_says_so():
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    page = _Page(render_monitor(us.Monitor((x, np.arange(20) % 2))))
    assert "No epoch has been read yet." in page.text
    assert "No sample was recorded" in page.text
    assert "svg" not in page.tags


@pytest.mark.slow
def test_a_long_history_makes_a_small_page():
    monitor = watched([*range(1, 201)], [f"layer{i}" for i in range(50)], keep=30)
    assert len(render_monitor(monitor)) < 600_000


def test_a_notebook_shows_verdict_film_and_curves_and_masks_of_their_own(short):
    shown = _Page(short._repr_html_())
    assert "It was told." in shown.text
    assert shown.tags.count("svg") == 2
    # Two long runs in one notebook: a mask of one must not be taken for the other's.
    masks = [
        set(_Page(watched([*range(30)], LAYERS, seed=seed)._repr_html_()).ids) for seed in (0, 1)
    ]
    ours, others = ({name for name in names if "mask" in name} for names in masks)
    assert len(ours) == len(others) == 2
    assert not ours & others
