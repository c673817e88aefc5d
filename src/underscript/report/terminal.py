"""A run on a terminal: the numbers of the page, in its order and with its words."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..results.run import Run
from ..utils.classes import class_names
from .facts import (
    chosen_words,
    confusions,
    key_numbers,
    noise_words,
    oracle_words,
    reading,
)
from .layers import NUMERIC, layer_groups
from .memory import meter
from .plots.style import printable
from .steps import cautions, next_steps

__all__ = ["console_table", "terminal_report"]

# So many of the most suspicious labels are shown.
WORST = 10


def terminal_report(d: Run, audit: Sequence[RenderableType] = ()) -> Group:
    """Return what to print below a run's verdict; give it to ``rich.console.Console.print``.

    Parameters
    ----------
    d : Decoding
        The run.
    audit : sequence of renderables
        An audit's report on the labels: it comes first, in place of the noise and the worst.

    Raises
    ------
    DataError
        If the table lacks a column or nothing was decoded.
    """
    chosen = Text("Chosen: ", style="bold")
    reason = f"{chosen_words(d)}. {printable(d.summary['selected']['reason'])}"
    chosen.append(reason, style="not bold")
    memory = meter(d)
    lines = reading(d) if memory is None else [memory.said, *reading(d)]
    sentences = [*map(Text, lines), Text(), chosen]
    if oracle := oracle_words(d):
        sentences.append(Text(oracle))
    decoded: list[RenderableType] = [console_table(d), *sentences, Text()]
    labels: list[RenderableType] = [_noise(d), Text(), _issues(d), Text()]
    parts = [*audit, *decoded] if audit else [*decoded, *labels]
    return Group(Text(), _numbers(d), Text(), *parts, _steps(d))


def _numbers(d: Run) -> Table:
    shown = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column()
    shown.add_column(justify="right")
    shown.add_column(overflow="fold")
    for number in key_numbers(d):
        style = "bold cyan" if number.name.startswith("Decoded") else "bold"
        shown.add_row(
            Text(number.name), Text(number.value, style=style), Text(number.note, style="dim")
        )
    return shown


def _noise(d: Run) -> Group:
    likely, some = confusions(d)
    lines = [f"  {true} given as {given}: {share}" for true, given, share in some]
    return Group(Text(noise_words(d)), *map(Text, [likely, *lines] if likely else lines))


def _issues(d: Run) -> Table | Text:
    issues = d.label_issues()
    flagged = issues[issues["is_label_issue"]].sort_values("label_quality", kind="stable")
    if not len(flagged):
        return Text("No label is flagged as wrong.")
    names = class_names(d.summary)
    title = f"{len(flagged):,} of {len(issues):,} labels flagged as wrong; the most suspicious"
    shown = Table(
        title=Text(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        min_width=76,
    )
    for name in ("index", "given label", "proposed label", "quality"):
        shown.add_column(name, justify="right" if name in ("index", "quality") else "left")
    for index, row in flagged.head(WORST).iterrows():
        given, proposed = (
            Text(printable(names[int(row[name])])) for name in ("given_label", "predicted_label")
        )
        shown.add_row(str(index), given, proposed, f"{row['label_quality']:.3f}")
    return shown


def _steps(d: Run) -> Group:
    parts: list[Text | Padding] = []
    for number, step in enumerate(next_steps(d), 1):
        parts.append(Text(f"{number}. {step.text}"))
        if step.code is not None:
            parts.append(Padding(Text(step.code, overflow="fold"), (0, 0, 0, 4)))
    return Group(Text("What to do next", style="bold"), *parts, *map(Text, cautions(d)))


def console_table(d: Run) -> Table:
    """Return the table of the report for a terminal: the same numbers, order and words.

    Parameters
    ----------
    d : Decoding
        The run.

    Returns
    -------
    rich.table.Table
        Give it to ``rich.console.Console.print``.

    Raises
    ------
    DataError
        If the table lacks a column or nothing was decoded.
    """
    head, groups = layer_groups(d.table)
    # Text, never str: names such as `[red]` must not be read as rich's markup.
    shown = Table(
        title=Text("Accuracy by layer, %"),
        caption=Text(f"▸ chosen: {chosen_words(d)}"),
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
