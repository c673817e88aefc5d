"""A run on one screen: what happened, five numbers, ten samples, three steps."""

import math
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ..results.examples import Example
from ..results.run import Run
from ..results.verdict import opening
from ..utils.classes import class_names
from .facts import five_numbers
from .plots.style import printable
from .steps import Step, next_steps
from .thumbnails import thumbnail

__all__ = ["LINES", "print_brief"]

# Lines of a small terminal.
LINES = 25
SAMPLES = 10
_ROWS = 4
# Text of a sample that still says what it is about.
_LEAST_TEXT = 20


def print_brief(console: Console, d: Run, *, report: str | None) -> None:
    """Print a run in at most 25 lines, in a terminal of 80 letters or more.

    A command is printed as one line, however long, so that it can be copied.

    Parameters
    ----------
    console : rich.console.Console
        Where to print. Pictures need a terminal.
    d : Run
        The run.
    report : str or None
        Where the report is, if it was written.
    """
    above: list[RenderableType] = [
        Text(opening(d.summary, d.table), style="bold"),
        Text(),
        _numbers(d),
        Text(),
    ]
    below = [Text(), *(line for step in next_steps(d) for line in _step(step))]
    if report is not None:
        below.append(Text(f"All else: {report} (or --verbose)"))
    used = sum(len(console.render_lines(part, pad=False)) for part in above)
    used += sum(max(1, math.ceil(line.cell_len / console.width)) for line in below)
    for part in (*above, *_samples(console, d, LINES - used)):
        console.print(part)
    for line in below:
        console.print(line, soft_wrap=True)


def _step(step: Step) -> list[Text]:
    lines = [Text(step.text)]
    if step.code is not None:
        lines.append(Text(f"  {step.code}", style="cyan"))
    return lines


def _numbers(d: Run) -> Table:
    shown = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    numbers = five_numbers(d)
    for _ in numbers:
        shown.add_column(no_wrap=True)
    shown.add_row(*(Text(number.name, style="dim") for number in numbers))
    shown.add_row(
        *(
            Text(number.value, style="bold cyan" if number.name.startswith("decoded") else "bold")
            for number in numbers
        )
    )
    return shown


def _samples(console: Console, d: Run, room: int) -> list[Text]:
    """Return a title and the worst samples, in at most `room` lines."""
    issues = d.label_issues(sort=True)
    flagged = issues[issues["is_label_issue"]]
    if not len(flagged):
        return [Text("No label looks wrong.")]
    worst = flagged.head(SAMPLES)
    few = "" if len(flagged) <= len(worst) else "; the worst"
    look = "label looks" if len(flagged) == 1 else "labels look"
    title = Text(f"{len(flagged):,} of {len(issues):,} {look} wrong{few} (given → proposed):")
    examples = {example.index: example for example in d.examples}
    known = [examples.get(int(index)) for index in worst.index]
    names = [printable(name) for name in class_names(d.summary)]
    classes = [
        (names[int(row["given_label"])], names[int(row["predicted_label"])])
        for _, row in worst.iterrows()
    ]
    pictured = [
        (example, pair)
        for example, pair in zip(known, classes, strict=True)
        if example is not None and example.picture is not None
    ]
    if len(pictured) == len(known) and _shows_pictures(console, pictured[0][0]):
        return [title, *_pictures(console, pictured)][:room]
    lines = []
    for index, example, pair in zip(worst.index, known, classes, strict=True):
        text = f"  #{index}  {pair[0]} → {pair[1]}"
        if example is not None and example.text is not None:
            left = console.width - len(text) - 4
            if left >= _LEAST_TEXT:
                said = " ".join(printable(example.text).split())
                text += f"  “{said if len(said) <= left else said[: left - 1] + '…'}”"
        lines.append(text)
    half = (len(lines) + 1) // 2
    column = max(map(len, lines[:half])) + 4
    if max(map(len, lines[half:]), default=0) + column <= console.width and len(lines) > 1:
        pairs = zip(lines[:half], [*lines[half:], ""], strict=False)
        lines = [f"{left:<{column}}{right}" for left, right in pairs]
    cut = [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]
    return [title, *cut][:room]


def _shows_pictures(console: Console, example: Example) -> bool:
    """Return whether a terminal can show a picture: letters of Braille, or enough colours."""
    assert example.picture is not None
    if not console.is_terminal or console.legacy_windows or console.width < 80:
        return False
    if not (console.encoding or "").lower().startswith("utf"):
        return False
    return example.picture.ndim == 2 or console.color_system in ("256", "truecolor")


def _pictures(console: Console, pictured: Sequence[tuple[Example, tuple[str, str]]]) -> list[Text]:
    """Return thumbnails side by side, their classes and indices below them."""
    columns = min(2 * _ROWS, (console.width + 1) // SAMPLES - 1)
    drawn = []
    for example, _ in pictured:
        assert example.picture is not None
        drawn.append(thumbnail(example.picture, columns, _ROWS))
    lines = [Text(" ").join(row) for row in zip(*drawn, strict=True)]
    captions = [f"{given}→{proposed}" for _, (given, proposed) in pictured]
    if any(len(caption) > columns for caption in captions):
        # Names of classes do not fit: the indices lead to them.
        captions = []
    for labels in (captions, [f"#{example.index}" for example, _ in pictured]):
        if labels:
            lines.append(Text(" ".join(f"{text[:columns]:^{columns}}" for text in labels)))
    return lines
