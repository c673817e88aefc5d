"""The report shows the numbers of the table, as text, offline, and the same each time."""

import copy
import functools
import html
import io
import itertools
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.console import Console

from sample_runs import (
    EVIL,
    SAMPLES,
    bare,
    deep,
    digits,
    evil,
    memory_of,
    run_of,
    single,
)
from underscript.errors import DataError, OutputError
from underscript.report import console_table, key_numbers, plots, terminal_report
from underscript.report import render_report as render
from underscript.report import write_report as write
from underscript.report.facts import confusions, reading
from underscript.report.plots import COLOURS
from underscript.report.plots.style import spread
from underscript.report.steps import cautions, next_steps
from underscript.utils.files import RUN_FORMAT


def render_report(summary: dict[str, Any], table: pd.DataFrame) -> str:
    return render(run_of(summary, table))


def write_report(path: Path, summary: dict[str, Any], table: pd.DataFrame) -> None:
    write(path, run_of(summary, table))


def layer_curve(summary: dict[str, Any], table: pd.DataFrame, ax: Any = None) -> Any:
    return plots.layer_curve(run_of(summary, table), ax)


sample = pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES.keys())


@functools.cache
def page_of(make: Any) -> str:
    """The page of a sample, rendered once for all tests that only read it."""
    return render_report(*make())


class Page(HTMLParser):
    """Reads a page: every tag with its attributes, its text, and whether the tags balance."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def rows_of(page: str) -> list[list[str]]:
    """The cells of the table of layers, row by row, without marks."""
    body = page[page.index('<table class="layers">') :]
    body = body[: body.index("</table>")]
    body = re.sub(r'<span class="badge">.*?</span>', "", body)
    return [
        [html.unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in cells]
        for row in re.findall(r"<tr.*?</tr>", body, flags=re.S)
        if (cells := re.findall(r"<t[hd].*?</t[hd]>", row, flags=re.S))
    ]


@sample
def test_page_is_whole_offline_and_escaped(make: Any) -> None:
    text = page_of(make)
    page = Page(text)
    assert page.open == []
    assert len(text.encode("utf-8", "replace")) <= 2_000_000
    names = [name for name, _ in page.tags]
    assert not {"iframe", "object", "embed"} & set(names)
    scripts = [attributes for name, attributes in page.tags if name == "script"]
    assert [a.get("type") for a in scripts if a] == ["application/json"] * (len(scripts) - 1)
    for name, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on")], name
        for key in ("src", "href"):
            link = attributes.get(key)
            assert link is None or link.startswith(("#", "data:,")), (name, link)
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    used = re.findall(r"url\(#([^)]*)\)", text) + re.findall(
        r'(?:href|labelledby)="#?([^"]+)"', text
    )
    assert {name for name in used if name != "data:,"} <= set(ids)
    assert "DejaVu" not in text  # the figure takes the page's font
    assert "#0b63b0" not in "".join(a.get("style") or "" for _, a in page.tags)  # and colours


def test_the_memory_meter_says_what_is_memory() -> None:
    summary, table = digits()
    page = Page(render_report(summary, table))
    assert (
        "fc4 repeats 88% of the given labels of the exact training inputs, but only 51%"
        in page.text
    )
    assert "most likely 8%, as the hold-out has it, and at most 12%" in page.text
    labels = [found["aria-label"] or "" for tag, found in page.tags if tag == "svg"]
    assert sum("exact inputs: input 60.0" in label for label in labels) == 2
    console = Console(file=io.StringIO(), width=120)
    console.print(terminal_report(run_of(summary, table)))
    assert "fc4 repeats 88%" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_memory_meter_works_without_a_holdout_and_without_a_perturbation() -> None:
    summary, table = digits()
    summary["memory"] = memory_of(["input", "fc1", "fc4"], holdout=False)
    page = Page(render_report(summary, table))
    assert "but only 51% of the same inputs slightly shifted: the rest is memory" in page.text
    assert "hold-out that the network" not in page.text
    summary["settings"]["perturb"] = "shifts, overlays"
    words = "the same inputs slightly shifted and with other images showing through: the rest"
    assert words in Page(render_report(summary, table)).text
    # What the change costs the input, which remembers nothing, is no memory.
    for row in summary["memory"]["layers"]:
        row["plain"] = row["perturbed"] + 0.2
    assert "little is memorised" in Page(render_report(summary, table)).text
    summary["memory"] = memory_of(["input", "fc1", "fc4"])
    summary["settings"]["perturb"] = None
    text = Page(render_report(summary, table)).text
    assert "of those of held-out inputs" in text
    assert "slightly shifted" not in text


@pytest.mark.parametrize("memory", [None, memory_of(["input"])])
def test_without_a_measured_network_there_is_no_memory_meter(memory: Any) -> None:
    summary, table = digits()
    summary["memory"] = memory
    assert "What is memory" not in render_report(summary, table)
    if memory is None:
        with pytest.raises(DataError, match="auto=True"):
            plots.memory_meter(run_of(summary, table))


def test_names_in_the_memory_meter_are_escaped() -> None:
    summary, table = evil()
    summary["memory"]["layers"][-1]["layer"] = EVIL + "$x_"
    text = render_report(summary, table)
    assert EVIL not in text
    assert f"{EVIL}$x_ repeats" in Page(text).text


@sample
def test_same_results_give_the_same_page(make: Any) -> None:
    assert render_report(*make()) == page_of(make)


def test_injected_markup_is_shown_as_text() -> None:
    page = Page(page_of(evil))
    assert page.text.count(EVIL) >= 8
    assert "</style><script>alert(1)</script>" in page.text


@sample
def test_numbers_are_those_of_the_table(make: Any) -> None:
    _, table = make()
    shown = rows_of(page_of(make))
    header, body = shown[0], [row for row in shown[1:] if len(row) > 1]
    headings = {
        "test": ("test", "given"),
        "held out": ("holdout", "given"),
        "train, given labels": ("train", "given"),
        "train, true labels": ("train", "true"),
    }
    keys = ["model", "layer", "probe", "variance", "subspace_labels"]
    assert len(body) == table.fillna({"variance": -1, "subspace_labels": ""}).groupby(keys).ngroups
    cells = [cell for row in body for cell in row[2:-2] if cell != "–"]
    assert sorted(cells) == sorted(f"{100 * a:.1f}" for a in table.accuracy.dropna())

    # Line by line for the first part: the layers decoded from the given labels, in their order.
    ours = table[(table.model == "trained") & (table.subspace_labels == "corrupted")]
    lines = list(dict.fromkeys(zip(ours.layer, ours.probe, strict=True)))
    lines.sort(key=lambda line: list(dict.fromkeys(ours.layer)).index(line[0]))
    for row, (layer, probe) in zip(body, lines, strict=False):
        of_line = ours[(ours.layer == layer) & (ours.probe == probe)]
        if layer.isprintable():
            assert row[0] == layer
        assert row[1] == {"masc": "MASC 0.99", "velpic": "VeLPIC"}[probe]
        for heading, cell in zip(header[2:-2], row[2:-2], strict=True):
            split, labels = headings[heading]
            found = of_line[(of_line.split == split) & (of_line.labels == labels)].accuracy
            assert cell == ("–" if found.isna().all() else f"{100 * found.iloc[0]:.1f}")


@sample
def test_terminal_shows_the_same_table(make: Any) -> None:
    summary, table = make()
    shown = rows_of(page_of(make))
    console = Console(file=io.StringIO(), width=250)
    console.print(console_table(run_of(summary, table)))
    head, _, body = console.file.getvalue().partition("─")  # type: ignore[attr-defined]
    assert set(" ".join(shown[0]).split()) <= set(head.split())
    lines = [re.sub("[▸─]", " ", line).strip() for line in body.splitlines()]
    lines = [line for line in lines if line][:-1]  # without the choice
    assert [re.split(r"\s{2,}", line) for line in lines] == shown[1:]


def test_terminal_of_80_columns_holds_the_table() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(console_table(run_of(*digits())))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert any(
        line.split() == ["▸", "fc1", "MASC", "0.99", "93.9", "62.0", "66.2", "96.0", "128", "42.7"]
        for line in text.splitlines()
    )


def test_table_parts_and_the_chosen_layer() -> None:
    shown = rows_of(page_of(digits))
    assert [row[0] for row in shown if len(row) == 1] == [
        "Decoded, given labels",
        "Decoded, true labels",
        "Random network",
        "The model itself",
    ]
    assert shown[0] == [
        "layer",
        "decoder",
        "test",
        "held out",
        "train, given labels",
        "train, true labels",
        "width",
        "rank",
    ]
    assert shown[-1] == ["output", "read-out", "64.7", "40.1", "99.9", "63.7", "10", "–"]
    chosen = re.findall(r'<tr class="selected">\s*<th scope="row">(\S+)', page_of(digits))
    assert chosen == ["fc1"]


def test_key_numbers() -> None:
    summary, table = digits()
    assert {number.name: number.value for number in key_numbers(run_of(summary, table))} == {
        "Model itself, test": "64.7%",
        "Decoded, test": "93.9%",
        "Gain": "+29.2",
        "Labels wrong, estimated": "36.0%",
        "Labels flagged": "51",
    }
    summary, table = bare()
    assert {number.name: number.value for number in key_numbers(run_of(summary, table))} == {
        "Model itself, training": "99.9%",
        "Decoded, held out": "62.5%",
        "Labels flagged": "51",
    }


def test_curves_are_the_values_of_the_table() -> None:
    summary, table = digits()
    before = dict(mpl.rcParams)
    ax = layer_curve(summary, table)
    assert dict(mpl.rcParams) == before
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines["decoded, given labels"].get_ydata()) == pytest.approx(
        [93.1, 93.9, 89.2, 81.7, 68.9]
    )
    assert list(lines["decoded, true labels"].get_ydata()) == pytest.approx(
        [98.1, 97.5, 96.9, 94.7, 86.4]
    )
    assert list(lines["random network"].get_ydata()) == pytest.approx(
        [math.nan, 91.9, 88.6, 79.4, 73.1], nan_ok=True
    )
    assert lines["the model itself 64.7"].get_ydata()[0] == pytest.approx(64.7)
    assert any(list(line.get_ydata()) == [10, 10] for line in ax.get_lines())  # chance
    words = {text.get_text() for text in ax.texts}
    assert {"93.9\n+29.2 points", "the model itself 64.7", "chance 10"} <= words
    assert [t.get_text() for t in ax.get_xticklabels()] == ["input", "fc1", "fc2", "fc3", "fc4"]


@pytest.mark.parametrize("width", [3.3, 7.0])
@sample
def test_every_sample_can_be_drawn_on_given_axes(make: Any, width: float) -> None:
    ax = Figure(figsize=(width, 4), layout="constrained").subplots()
    assert layer_curve(*make(), ax=ax) is ax
    ax.figure.savefig(io.BytesIO(), format="png")
    assert (ax.get_legend() is None) == (width > 5)


def test_the_figure_falls_back_to_held_out_then_training_data() -> None:
    summary, table = digits()
    no_test = table[table.split != "test"]
    assert "held-out" in layer_curve(summary, no_test).get_title(loc="left")
    assert "training" in layer_curve(summary, table[table.split == "train"]).get_title(loc="left")


def test_many_layers_name_the_selected_one() -> None:
    summary, table = deep()
    ax = layer_curve(summary, table)
    ticks = [int(tick) for tick in ax.get_xticks()]
    assert 22 in ticks
    assert len(ticks) <= 16
    assert all(len(label.get_text()) <= 16 for label in ax.get_xticklabels())


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_colours_have_contrast_in_light_and_dark() -> None:
    css = page_of(digits)
    dark = dict(re.findall(r"--(\w+): (#\w{6});", css[css.index("(prefers-color-scheme: dark)") :]))
    for palette in (COLOURS, dark):
        for name in ("ink", "muted", "given", "true"):
            pair = sorted((luminance(palette[name]), luminance(palette["paper"])))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (name, palette)


@given(st.lists(st.floats(0, 100), max_size=6), st.floats(1, 15))
def test_labels_are_spread(values: list[float], gap: float) -> None:
    values.sort()
    places = spread(values, gap, 0.0, 100.0)
    assert len(places) == len(values)
    assert all(b - a >= gap - 1e-6 for a, b in itertools.pairwise(places))
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)
    if all(b - a >= gap for a, b in itertools.pairwise(values)):
        assert places == pytest.approx(values)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.text(min_size=1, max_size=30))
def test_any_layer_name_is_shown(name: str) -> None:
    summary, table = single()
    table["layer"] = table["layer"].where(table["layer"] != "fc", name)
    summary["selected"]["layer"] = name
    page = Page(render_report(summary, table))
    assert page.open == []


def test_results_that_are_not_of_a_run_are_one_line_errors() -> None:
    summary, table = digits()
    with pytest.raises(DataError, match="column 'rank'"):
        render_report(summary, table.drop(columns="rank"))
    with pytest.raises(DataError, match="none of a decoder"):
        render_report(summary, table[table.probe == "model"])
    with pytest.raises(DataError, match="same run"):
        render_report(summary, table[table.probe == "model"].assign(probe="velpic"))
    with pytest.raises(DataError, match=f"format {RUN_FORMAT}, found {RUN_FORMAT + 1}"):
        render_report(summary | {"underscript": {"format": RUN_FORMAT + 1, "version": "9"}}, table)
    for lacking in ("selected", "verdict", "machine", "oracle"):
        broken = copy.deepcopy(summary)
        del broken[lacking]
        with pytest.raises(DataError, match=lacking) as caught:
            render_report(broken, table)
        assert "\n" not in str(caught.value)


def test_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    summary, table = digits()
    path = tmp_path / "run" / "report.html"
    write_report(path, summary, table)
    before = path.read_bytes()
    assert before.decode() == page_of(digits)
    with pytest.raises(DataError):
        write_report(path, {}, table)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(OutputError):
        write_report(path / "report.html", summary, table)


def test_table_read_back_from_csv_gives_the_same_page(tmp_path: Path) -> None:
    summary, table = digits()
    table.to_csv(tmp_path / "layers.csv", index=False)
    again = pd.read_csv(tmp_path / "layers.csv")
    assert render_report(summary, again) == page_of(digits)


def test_an_audit_begins_with_the_labels() -> None:
    summary, table = digits()
    text = page_of(digits)
    assert text.index("What each layer still knows") < text.index("The most suspicious labels")
    summary["kind"] = "audit"
    text = render_report(summary, table)
    assert text.index("What each layer still knows") > text.index("The most suspicious labels")
    assert text.index("What each layer still knows") < text.index('<details class="fold">')


@sample
def test_a_notebook_shows_figure_and_table(make: Any) -> None:
    text = run_of(*make())._repr_html_()
    page = Page(text)
    assert page.open == []
    names = [name for name, _ in page.tags]
    assert names.count("svg") == 1
    assert "script" not in names
    assert rows_of(text) == rows_of(page_of(make))


def test_what_is_to_do_next_depends_on_what_was_found() -> None:
    summary, table = digits()
    first, second = next_steps(run_of(summary, table))
    assert first.text.startswith("Classify new inputs with the decoder")
    assert first.code == "underscript.load('RUN').best.predict(inputs)"
    assert second.text.startswith("Write cleaned labels (the worst first: RUN/label_issues.csv)")
    (caution,) = cautions(run_of(summary, table))
    assert caution.startswith("The estimates rest on 144 held-out labels")
    summary["noise"] |= {"nothing_wrong": True}
    assert next_steps(run_of(summary, table))[0].text.startswith("Keep the network")
    summary["noise"] |= {"nothing_wrong": False, "hopeless": True}
    (only,) = next_steps(run_of(summary, table))
    assert only.text.startswith("Do not use this decoder")
    assert cautions(run_of(summary, table)) == []


def test_confusions_that_stand_out_are_named() -> None:
    summary, table = digits()
    said, some = confusions(run_of(summary, table))
    assert said.startswith("One confusion stands out")
    assert some == [("3", "8", "23.6 ± 2.0%")]
    text = Page(render_report(summary, table)).text
    assert "23.6 ± 2.0%" in text


def test_the_reading_says_what_the_controls_get() -> None:
    summary, table = digits()
    (said,) = reading(run_of(summary, table))
    assert said.startswith("The input alone, without any network, gives 93.1% and a network")
    assert "no less" in said
    summary["selected"]["test_accuracy"] = 0.99
    (said,) = reading(run_of(summary, table))
    assert said.endswith("less: what was decoded here is in the trained network.")
    summary, table = digits()
    table.loc[table["model"] == "random", "accuracy"] = 0.2
    alone, never = reading(run_of(summary, table))
    assert "no less" in alone
    # Not "is in the trained network": the input, which is no less, says that it need not be.
    assert never == "A network that was never trained gives 20.0%, less."
