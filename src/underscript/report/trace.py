"""A trace of checkpoints as a person reads it: a page, a notebook's output, a terminal."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..results.checkpoint_trace import TraceRun
from .page import page_of
from .plots import trace_curves, trace_map
from .plots.style import printable
from .steps import Step
from .svg import inline
from .words import percent

__all__ = ["MOST_STEPS", "print_trace", "render_trace", "trace_notebook", "trace_steps"]

#: Rows of the terminal's table.
MOST_STEPS = 12
_HEAD = ("step", "estimated", "95 %", "wrong labels", "memory", "network", "decoded")
_TOGETHER = "Or decode the last step together with the others, which have memorised less:"
_MAP = "Film strip: what each layer still holds, by training step"
_CURVES = "Network, decoded and memory along training"


def render_trace(t: TraceRun) -> str:
    """Return the report of a trace as one HTML page."""
    return page_of(
        "trace.html.j2",
        summary=t.summary,
        film=_figures(trace_map, "film", t, _MAP),
        curves=_figures(trace_curves, "curves", t, _CURVES),
        head=_head(t),
        rows=_rows(t, t.summary["steps"]),
        files=[[str(one["step"]), printable(one["source"])] for one in t.summary["steps"]],
        next_steps=trace_steps(t),
        layers=_layer_rows(t),
    )


def _figures(
    draw: Callable[[TraceRun, Axes], Axes], name: str, t: TraceRun, label: str
) -> list[Markup]:
    """Return a figure for wide screens and one for narrow ones."""
    return [
        inline(partial(draw, t), f"{name}-{kind}", inches, label=label, kind=kind)
        for kind, inches in (("wide", (7.6, 3.6)), ("narrow", (4.2, 3.8)))
    ]


def trace_notebook(t: TraceRun) -> str:
    """Return the verdict, the film strip and the curves, for a notebook."""
    return page_of(
        "trace_notebook.html.j2",
        summary=t.summary,
        film=inline(partial(trace_map, t), "film", (6.8, 3.2), label=_MAP),
        curves=inline(partial(trace_curves, t), "curves", (6.8, 3.2), label=_CURVES),
    )


def _head(t: TraceRun) -> list[str]:
    of = _of(t)
    names = list(_HEAD)
    names[-2] = {"test": "network, test", "holdout": "network, hold-out"}.get(of, "network, train")
    names[-1] = "decoded, test"
    return names if of == "test" else names[:-1]


def _of(t: TraceRun) -> str:
    """Return the part of the data on which the network is shown."""
    for part in ("test", "holdout"):
        if any(one[f"network_{part}"] is not None for one in t.summary["steps"]):
            return part
    return "train"


def _rows(t: TraceRun, steps: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    of = _of(t)
    rows = []
    for one in steps:
        marks = "*" if one["step"] == t.recommended["step"] else ""
        row = [
            f"{one['step']}{marks}",
            percent(one["estimate"]),
            f"{percent(one['estimate_low'])} to {percent(one['estimate_high'])}",
            percent(one["noise_rate"]),
            percent(one["memory"]),
            percent(one[f"network_{of}"]),
        ]
        rows.append([*row, percent(one["decoded_test"])] if of == "test" else row)
    return rows


def _layer_rows(t: TraceRun) -> list[list[str]]:
    return [
        [
            *(str(one[name]) for name in ("layer", "step", "probe", "split", "labels")),
            percent(one["accuracy"]),
            percent(one["memory"]),
        ]
        for one in t.table.to_dict("records")
    ]


def trace_steps(t: TraceRun) -> list[Step]:
    """Return what to do next, with commands that run as they are printed where a command made it.

    Such a trace knows its ``sources``: the options that name model and data.
    """
    at, sources = t.recommended["step"], t.summary.get("sources")
    if at is None:
        text = "Check that the labels belong to these inputs and are in the same order."
        return [Step(text)]
    all_steps = t.summary["steps"]
    weights = next(one["file"] for one in all_steps if one["step"] == at)
    several, last = len(all_steps) > 1, all_steps[-1]
    if not sources:
        code = f"us.decode(model, train)  # with the weights of {weights or f'step {at}'}"
        together = "us.decode(model, train, checkpoints=checkpoints)  # with the weights of "
        together += str(last["file"] or f"step {last['step']}")
        both = [Step(f"Decode step {at} whole, for its label issues and its decoder:", code)]
        return [*both, Step(_TOGETHER, together)] if several else both
    more = []
    for name, value in sources.items():
        if name not in ("model", "checkpoints"):
            more += [f"--{name.replace('_', '-')}", value]
    network = ["underscript", "decode", "--model", sources["model"], "--weights"]
    place = str(t.summary.get("written_to") or "trace").rstrip("/\\")
    out = f"{place}-step-{at}"
    decode = shlex.join([*network, weights, *more, "--out", out])
    again = shlex.join(["underscript", "predict", out, "--inputs", sources["train"]])
    steps = [
        Step(f"Decode step {at} whole, for its label issues and its decoder:", decode),
        Step(
            "Then classify inputs with it; here, the training data:",
            f"{again} --out {shlex.quote(out + '-predictions.csv')}",
        ),
    ]
    if several and sources.get("checkpoints"):
        given = [word for one in sources["checkpoints"] for word in ("--checkpoints", one)]
        whole = [*network, last["file"], *given, *more, "--out", f"{place}-together"]
        steps.append(Step(_TOGETHER, shlex.join(whole)))
    return steps


def telling(t: TraceRun) -> list[Mapping[str, Any]]:
    """Return the steps that a terminal shows: of many, evenly chosen ones and the recommended."""
    steps = t.summary["steps"]
    if len(steps) <= MOST_STEPS:
        return list(steps)
    marked = {t.recommended["step"], t.network["step"]}
    places = {place for place, one in enumerate(steps) if one["step"] in marked}
    room = MOST_STEPS - len(places)
    places |= {round(i * (len(steps) - 1) / (room - 1)) for i in range(room)}
    return [steps[place] for place in sorted(places)]


def print_trace(console: Console, t: TraceRun, *, report: str | None) -> None:
    """Print a trace in at most 25 lines, in a terminal of 80 letters or more.

    A command is printed as one line, however long, so that it can be copied.

    Parameters
    ----------
    console : rich.console.Console
        Where to print.
    t : Trace
        The trace.
    report : str or None
        Where the report is, if it was written.
    """
    console.print(Text(t.verdict, style="bold"))
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    steps = telling(t)
    for name in _head(t):
        shown.add_column(name, justify="right", overflow="fold")
    for one, row in zip(steps, _rows(t, steps), strict=True):
        shown.add_row(*row, style="bold" if one["step"] == t.recommended["step"] else "")
    console.print(shown)
    left = len(t.summary["steps"]) - len(steps)
    if left:
        console.print(Text(f"… and {left} more steps, in trace.csv"))
    for step in trace_steps(t):
        console.print(Text(step.text), soft_wrap=True)
        if step.code is not None:
            console.print(Text(f"  {step.code}", style="cyan"), soft_wrap=True)
    if report is not None:
        console.print(Text(f"All else: {report}"), soft_wrap=True)
