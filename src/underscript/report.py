"""A run as a person reads it: one offline HTML file, and the same table on a terminal.

Both are made from what the run folder holds (``results.json`` as a mapping, ``layers.csv`` as a
table) and from nothing else, so that they can be made again at any time. The numbers, their order
and the words are decided here once: `key_numbers` and `layer_groups` serve page and terminal.
"""

import io
import json
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import pandas as pd
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from rich.text import Text

from ._files import RUN_FORMAT, whole_file
from .errors import DataError
from .plots import COLOURS, checked, layer_curve, layer_order, main_rows, printable

__all__ = [
    "KeyNumber",
    "LayerGroup",
    "LayerRow",
    "console_table",
    "key_numbers",
    "layer_groups",
    "render_report",
    "write_report",
]


#: The accuracy columns of the table: where they come from and what they are called.
ACCURACY_COLUMNS: Mapping[tuple[str, str], str] = {
    ("test", "given"): "test",
    ("test", "true"): "test, true labels",
    ("holdout", "given"): "held out",
    ("holdout", "true"): "held out, true labels",
    ("train", "given"): "train, given labels",
    ("train", "true"): "train, true labels",
}

NUMERIC = frozenset({*ACCURACY_COLUMNS.values(), "width", "rank"})

#: The parts of the table in their order: (model, subspace labels) and a heading.
GROUPS: Mapping[tuple[str, str | None], str] = {
    ("trained", "corrupted"): "Decoded, given labels",
    ("trained", "true"): "Decoded, true labels",
    ("random", "corrupted"): "Random network",
    ("random", "true"): "Random network, true labels",
    ("trained", None): "The model itself",
    ("random", None): "The random network itself",
}

PROBE_NAMES = {
    "masc": "MASC",
    "velpic": "VeLPIC",
    "model": "read-out",
    "auto": "refined decoder",
}


@dataclass(frozen=True)
class KeyNumber:
    """One number that a reader should see first: its name, the number as text, and a remark."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class LayerRow:
    """One line of the table, as text in the order of its columns."""

    cells: tuple[str, ...]
    selected: bool


@dataclass(frozen=True)
class LayerGroup:
    """The lines of one model and one kind of subspace labels, in the order of the layers."""

    title: str
    control: bool
    own: bool
    rows: tuple[LayerRow, ...]


def percent(value: float | None) -> str:
    """Return an accuracy (0 to 1) as per cent with one decimal; an en dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def _decoder(probe: str, variance: float | None) -> str:
    name = PROBE_NAMES.get(probe, probe)
    if variance is None or math.isnan(variance):
        return name
    return f"{name} {variance:.6g}"


def key_numbers(summary: Mapping[str, Any]) -> list[KeyNumber]:
    """Return the few numbers that say what happened, those that are known.

    Parameters
    ----------
    summary : mapping
        The results of a run, as in ``results.json``.

    Returns
    -------
    list of KeyNumber
        The model's own accuracy, the decoded one, the gain, the oracle and the share of labels
        that are wrong.
    """
    model, selected = summary["model"]["accuracy"], summary["selected"]
    oracle, numbers = summary["oracle"], []
    read = " + ".join(map(printable, selected["layers"]))
    where = f"{read}, {_decoder(selected['probe'], selected['variance'])}"
    if model["test"] is not None:
        note = f"it fits {percent(model['train_given'])} % of the labels it was given"
        numbers.append(KeyNumber("Model itself, test", f"{percent(model['test'])} %", note))
    elif model["train_given"] is not None:
        number = f"{percent(model['train_given'])} %"
        numbers.append(KeyNumber("Model itself, training", number, "of the labels it was given"))
    if selected["test_accuracy"] is not None:
        number = f"{percent(selected['test_accuracy'])} %"
        numbers.append(KeyNumber("Decoded, test", number, where))
    else:
        number = f"{percent(selected['criterion_accuracy'])} %"
        if selected["criterion_standard_error"] is not None:
            where += f"; standard error {percent(selected['criterion_standard_error'])} points"
        numbers.append(KeyNumber(f"Decoded, {_words(selected['criterion'])}", number, where))
    if summary["gain_points"] is not None:
        number = f"{summary['gain_points']:+.1f}".replace("-", "−")
        note = "points of test accuracy"
        numbers.append(KeyNumber("Gain", number, note))
    if oracle is not None:
        best = (
            f"{printable(oracle['layer'])}, {_decoder(oracle['probe'], oracle['variance'])}; "
            f"regret {abs(oracle['regret_points']):.1f} points"
        )
        number = f"{percent(oracle['test_accuracy'])} %"
        numbers.append(KeyNumber("Oracle, best on test", number, best))
    if summary["wrong_label_share"] is not None:
        number = f"{percent(summary['wrong_label_share'])} %"
        note = "known: they were corrupted on purpose"
        if summary["kind"] != "demo":
            note = "by comparison with the true labels"
        numbers.append(KeyNumber("Training labels wrong", number, note))
    return numbers


def layer_groups(table: pd.DataFrame) -> tuple[list[str], list[LayerGroup]]:
    """Turn the tidy table into the table that people read.

    One line for each layer, decoder, kind of subspace labels and model, with a column for every
    split and kind of labels of which there is an accuracy.

    Parameters
    ----------
    table : DataFrame
        As in ``layers.csv``.

    Returns
    -------
    head : list of str
        The names of the columns.
    groups : list of LayerGroup
        In the order of `GROUPS`; the model itself comes last, as its output is the last layer.

    Raises
    ------
    DataError
        If a column is missing or nothing was decoded.
    """
    table = checked(table)
    known = table[table["accuracy"].notna()]
    used = set(zip(known["split"], known["labels"], strict=True))
    keys = [key for key in ACCURACY_COLUMNS if key in used]

    # A plain loop, as grouping by columns that hold NaN and None would lose or merge rows.
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in table.to_dict("records"):
        labels = None if pd.isna(row["subspace_labels"]) else row["subspace_labels"]
        variance = None if pd.isna(row["variance"]) else float(row["variance"])
        key = (row["model"], labels, str(row["layer"]), row["probe"], variance)
        line = lines.setdefault(key, {"row": row, "accuracies": {}, "selected": False})
        line["accuracies"][row["split"], row["labels"]] = float(row["accuracy"])
        line["selected"] |= bool(row["selected"])

    order = {name: i for i, name in enumerate(layer_order(table))}
    groups = []
    for group, title in GROUPS.items():
        members = [key for key in lines if key[:2] == group]
        members.sort(key=lambda key: order.get(key[2], len(order)))  # stable: decoders as given
        rows = tuple(_row(lines[key], key, keys) for key in members)
        if rows:
            groups.append(LayerGroup(title, group[0] == "random", group[1] is None, rows))
    return ["layer", "decoder", *(ACCURACY_COLUMNS[key] for key in keys), "width", "rank"], groups


def _row(
    line: Mapping[str, Any], key: tuple[Any, ...], columns: Sequence[tuple[str, str]]
) -> LayerRow:
    _, _, layer, probe, variance = key
    rank = line["row"]["rank"]
    return LayerRow(
        cells=(
            printable(layer),
            _decoder(probe, variance),
            *(percent(line["accuracies"].get(column)) for column in columns),
            str(int(line["row"]["width"])),
            "–" if pd.isna(rank) else f"{float(rank):.1f}",
        ),
        selected=line["selected"],
    )


def console_table(summary: Mapping[str, Any], table: pd.DataFrame) -> Table:
    """Return the table of the report for a terminal: the same numbers, order and words.

    Parameters
    ----------
    summary : mapping
        The results of a run, as in ``results.json``.
    table : DataFrame
        Its table, as in ``layers.csv``.

    Returns
    -------
    rich.table.Table
        Give it to ``rich.console.Console.print``.

    Raises
    ------
    DataError
        If the table lacks a column or nothing was decoded.
    """
    head, groups = layer_groups(table)
    chosen = summary["selected"]
    decoder = _decoder(chosen["probe"], chosen["variance"])
    # Text, never str: names such as `[red]` must not be read as rich's markup.
    shown = Table(
        title=Text("Accuracy by layer, %"),
        caption=Text(f"▸ chosen: {printable(chosen['layer'])} with {decoder}"),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title_justify="left",
        caption_justify="left",
    )
    for name in head:
        # Narrow headings, one word a line, so that 80 columns hold everything; in a narrower
        # window only the names of layers are broken.
        shown.add_column(
            Text(name.replace(" ", "\n")),
            justify="right" if name in NUMERIC else "left",
            vertical="bottom",
            overflow="fold",
            no_wrap=name != "layer",
        )
    for group in groups:
        shown.add_row(Text(group.title, style="bold dim" if group.control else "bold"))
        for row in group.rows:
            mark = "▸ " if row.selected else "  "
            style = "bold cyan" if row.selected else "dim" if group.control else ""
            shown.add_row(Text(mark + row.cells[0]), *map(Text, row.cells[1:]), style=style)
        shown.add_section()
    return shown


def write_report(path: str | Path, summary: Mapping[str, Any], table: pd.DataFrame) -> None:
    """Write the report of a run as one HTML file that needs nothing else.

    Parameters
    ----------
    path : path
        The file to write; it is written whole or not at all.
    summary : mapping
        The results of the run, as in ``results.json``.
    table : DataFrame
        Its table, as in ``layers.csv``.

    Raises
    ------
    DataError
        If `summary` or `table` is not what a run writes.
    OutputError
        If the file cannot be written.
    """
    page = render_report(summary, table)
    with whole_file(Path(path)) as work:
        # A lone surrogate in a name is the only thing that UTF-8 cannot hold.
        work.write_text(page, encoding="utf-8", errors="replace", newline="\n")


def render_report(summary: Mapping[str, Any], table: pd.DataFrame) -> str:
    """Return the report of a run as one HTML page without scripts or requests.

    The same results give the same text, byte by byte.

    Parameters
    ----------
    summary : mapping
        The results of the run, as in ``results.json``.
    table : DataFrame
        Its table, as in ``layers.csv``.

    Returns
    -------
    str
        The page.

    Raises
    ------
    DataError
        If `summary` or `table` is not what a run writes.
    """
    found = summary.get("underscript", {}).get("format")
    if found != RUN_FORMAT:
        raise DataError(
            f"expected results of format {RUN_FORMAT}, found {found}; use the version of "
            "underscript that wrote them, or run again"
        )
    try:
        head, groups = layer_groups(table)
        split, rows = main_rows(summary, table)
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("underscript"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {"plain": plain, "words": _words, "seconds": seconds}
        return environment.get_template("report.html.j2").render(
            summary=summary,
            numbers=key_numbers(summary),
            decoder=_decoder(summary["selected"]["probe"], summary["selected"]["variance"]),
            split={"test": "test", "holdout": "held-out", "train": "training"}[split],
            n=int(rows["n"].iloc[0]),
            alternative=_in_words(summary, rows),
            has_true=bool((rows["subspace_labels"] == "true").any()),
            has_random=bool(((rows["model"] == "random") & (rows["probe"] != "model")).any()),
            # One for wide windows and paper and one for phones: text must not shrink with a figure.
            wide=_figure(summary, table, "wide", (7.6, 4.1)),
            narrow=_figure(summary, table, "narrow", (4.2, 3.9)),
            head=head,
            numeric=NUMERIC,
            groups=groups,
            colours=COLOURS,
        )
    except (KeyError, jinja2.UndefinedError) as error:
        raise DataError(
            f"expected the results of a run, found some without {error}; give the results.json "
            "and layers.csv of one run"
        ) from error


def _in_words(summary: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """Say what the figure shows, for those who cannot see it."""
    curve = rows[(rows["model"] == "trained") & (rows["subspace_labels"] == "corrupted")]
    values = ", ".join(
        f"{printable(str(layer))} {percent(accuracy)}"
        for layer, accuracy in zip(curve["layer"], curve["accuracy"], strict=True)
    )
    own = rows.loc[(rows["model"] == "trained") & (rows["probe"] == "model"), "accuracy"]
    itself = f" The model itself: {percent(own.iloc[0])}." if len(own) else ""
    return f"Accuracy in per cent, decoded from the given labels: {values}.{itself}"


def _figure(
    summary: Mapping[str, Any], table: pd.DataFrame, name: str, inches: tuple[float, float]
) -> Markup:
    """Return the layer curve as SVG to be put into a page.

    matplotlib's SVG is made fit for that: its colours become CSS variables (dark mode), its fonts
    the page's, its ids unique to `name`, and metadata and namespaces go.
    """
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasSVG(figure)
    drawn = io.BytesIO()
    with (
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}),
        warnings.catch_warnings(),
    ):
        # The page's fonts are the browser's; that matplotlib's own lacks a glyph is no matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        layer_curve(summary, table, figure.subplots())
        figure.savefig(drawn, format="svg", metadata={"Date": None}, transparent=True)
    root = ET.fromstring(drawn.getvalue())
    width, height = root.attrib["viewBox"].split()[2:]
    variables = {value: f"var(--{key})" for key, value in COLOURS.items()}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
        parent.tag = parent.tag.rpartition("}")[2]
        attributes = {}
        for key, value in parent.attrib.items():
            key = key.rpartition("}")[2]
            if key == "id":
                value = f"{name}-{value}"
            elif key == "href":
                value = f"#{name}-{value.removeprefix('#')}"
            elif key == "style":
                value = re.sub(r"#[0-9a-f]{6}", lambda m: variables.get(m[0], m[0]), value)
                value = re.sub(r"font-family: [^;]*(; )?", "", value)
                value = re.sub(r"font: ((?:bold |\d+ )*)([\d.]+px)[^;]*", _own_font, value)
            elif key == "clip-path":
                value = value.replace("url(#", f"url(#{name}-")
            attributes[key] = value
        parent.attrib.clear()
        parent.attrib.update(attributes)
    root.attrib.clear()
    root.attrib |= {"class": f"curve {name}", "viewBox": f"0 0 {width} {height}", "role": "img"}
    root.attrib |= {"aria-labelledby": "figure-in-words"}
    # Markup, as the text in it was escaped by matplotlib and again by ElementTree.
    return Markup(ET.tostring(root, encoding="unicode"))


def _own_font(found: re.Match[str]) -> str:
    weight = found[1].strip()
    return f"font-size: {found[2]}" + (f"; font-weight: {weight}" if weight else "")


def _words(name: str) -> str:
    """Return a key of the results as words."""
    return "held out" if name == "holdout" else name.replace("_", " ")


def plain(value: Any) -> str:
    """Return a setting or a fact as short text; what is long is left to ``results.json``.

    >>> plain(None), plain(True), plain(0.1 + 0.2), plain(["masc", "velpic"])
    ('–', 'yes', '0.3', 'masc, velpic')
    >>> plain([i / 20 for i in range(20)])
    '20 values, 0 … 0.95'
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, list | tuple) and not any(isinstance(v, list | dict) for v in value):
        if len(value) > 8:
            return f"{len(value)} values, {plain(value[0])} … {plain(value[-1])}"
        return ", ".join(map(plain, value)) or "none"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else f"{text[:140]}… (all in results.json)"


def seconds(value: float) -> str:
    """Return a duration in seconds as text.

    >>> seconds(0.0312), seconds(4.2), seconds(75), seconds(3725)
    ('0.03 s', '4.2 s', '1 min 15 s', '1 h 02 min')
    """
    if value < 1:
        return f"{value:.2f} s"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
