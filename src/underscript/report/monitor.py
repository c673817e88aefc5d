"""A watched training run as a person reads it: a page, a notebook's output."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from ..errors import DataError
from ..noise.estimate import SMALLEST
from ..results.monitor.history import NETWORK
from ..results.monitor.record import MonitorRecord
from .facts import KeyNumber
from .page import page_of
from .plots import monitor_curves, monitor_map
from .plots.film import film_height
from .plots.style import printable
from .steps import Step
from .svg import inline
from .words import percent

__all__ = ["MOST_ISSUES", "monitor_notebook", "render_monitor"]

#: Rows of the table of suspicious labels; and how many of them are not folded.
MOST_ISSUES, _FIRST_ISSUES = 60, 10
_ISSUE_HEAD = ("index", "given label", "proposed label", "quality", "margin", "confidence, %")
_LAYER_HEAD = (
    *("layer", "exact inputs", "changed inputs", "memory", "accuracy", "95 %"),
    *("effective rank", "angle, °"),
)


def render_monitor(m: MonitorRecord) -> str:
    """Return the report of a watched training run as one HTML page."""
    summary, read = m.summary, not m.history.empty
    head, rows = _epochs(m)
    issues = _issues(m)
    return page_of(
        "monitor.html.j2",
        summary=summary,
        verdict=m.verdict,
        evidence=_evidence(m),
        numbers=_numbers(m),
        films=[_film(m, of) for of in ("accuracy", "memory")] if read else [],
        curves=_sizes(partial(monitor_curves, m), "curves", 3.6, _curves_label(m)) if read else [],
        marks=_marks(m),
        holdout=read and bool(m.history["holdout"].notna().any()),
        head=head,
        rows=rows,
        layers=_layers(m),
        layer_head=_LAYER_HEAD,
        issues=issues,
        first=_FIRST_ISSUES,
        issue_head=_ISSUE_HEAD,
        next_steps=_steps(m, bool(issues[1])),
    )


def monitor_notebook(m: MonitorRecord) -> str:
    """Return the verdict, the film strip and the curves, for a notebook."""
    figures = []
    if not m.history.empty:
        film = partial(monitor_map, m)
        height = film_height(m.history["layer"].nunique(), 3.2)
        figures = [
            inline(film, "film", (6.8, height), label=_film_label(m, "accuracy")),
            inline(partial(monitor_curves, m), "curves", (6.8, 3.2), label=_curves_label(m)),
        ]
    return page_of("monitor_notebook.html.j2", verdict=m.verdict, figures=figures)


def _film(m: MonitorRecord, of: str) -> list[Markup]:
    height = film_height(m.history["layer"].nunique())
    draw = partial(monitor_map, m, of=of)
    return _sizes(draw, f"film-{of}", height, _film_label(m, of))


def _sizes(draw: Callable[[Axes], Axes], name: str, height: float, label: str) -> list[Markup]:
    """Return a figure for wide screens and one for narrow ones."""
    return [
        inline(draw, f"{name}-{kind}", (width, height), label=label, kind=kind)
        for kind, width in (("wide", 7.6), ("narrow", 4.2))
    ]


def _film_label(m: MonitorRecord, of: str) -> str:
    """Describe a film strip to those who cannot see it."""
    what = {"accuracy": "estimated accuracy", "memory": "memory"}[of]
    layers = m.history[m.history["layer"] != NETWORK]
    most = layers.iloc[int(layers[of].to_numpy().argmax())]
    where = f"in layer {printable(str(most['layer']))} at epoch {most['epoch']}"
    return (
        f"Film strip of the {what} of each layer, epoch by epoch. The largest is "
        f"{percent(most[of])} % {where}. {_marks(m)}"
    )


def _curves_label(m: MonitorRecord) -> str:
    own = m.history[m.history["layer"] == NETWORK]
    first, last = own.iloc[0], own.iloc[-1]
    told = "; ".join(
        f"{name} {percent(first[column])} % at first, {percent(last[column])} % at last"
        for name, column in (
            ("given labels that the network predicts on exact inputs", "plain"),
            ("on changed inputs", "perturbed"),
            ("memory", "memory"),
            ("its estimated accuracy", "accuracy"),
        )
    )
    return f"Curves along training: {told}. {_marks(m)}"


def _marks(m: MonitorRecord) -> str:
    """Say which epochs the figures mark."""
    kept, when = m.recommended, m.alarm
    parts = []
    if kept is not None:
        parts.append(f"Orange marks epoch {kept.epoch}, the one to keep.")
    if when is not None:
        parts.append(f"The dashes mark epoch {when.epoch}, the first that memorises.")
    return " ".join(parts)


def _evidence(m: MonitorRecord) -> list[tuple[str, str]]:
    """Return the reasons of the verdict: of each a title and a sentence."""
    kept, when, end = m.recommended, m.alarm, m.stop
    reasons = {
        "To keep": "" if kept is None else kept.why,
        "Memory": "" if when is None else when.evidence,
        "To stop": "" if end is None else end.why,
    }
    return [(name, f"{why[0].upper()}{why[1:]}.") for name, why in reasons.items() if why]


def _numbers(m: MonitorRecord) -> list[KeyNumber]:
    kept, when = m.recommended, m.alarm
    if kept is None:
        return []
    own = m.history[m.history["layer"] == NETWORK].set_index("epoch")
    last = own.iloc[-1]
    wrong = m.scalars()["noise_rate"]
    few = wrong < SMALLEST
    return [
        KeyNumber("Epoch to keep", f"{kept.epoch}", f"of {m.summary['epoch']} so far"),
        KeyNumber(
            "Memorises",
            "no sign" if when is None else f"since {when.epoch}",
            "of wrong labels learned by heart" if when is None else "the first epoch that shows it",
        ),
        KeyNumber(
            "Memory", f"{percent(last['memory'])}%", f"of given labels, epoch {own.index[-1]}"
        ),
        KeyNumber(
            "Wrong labels",
            "few" if few else f"{percent(wrong)}%",
            "the median of all epochs, without clean labels",
        ),
    ]


def _epochs(m: MonitorRecord) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows of the table of epochs, in per cent."""
    history = m.history
    held, kept = bool(history["holdout"].notna().any()), m.recommended
    stepped = bool((history["step"] != history["epoch"]).any())
    head = ["epoch", *(["step"] if stepped else []), "exact inputs", "changed inputs", "memory"]
    head += ["accuracy", *(["hold-out"] if held else []), "decoded", "wrong labels", "best layer"]
    rows = []
    for epoch, part in history.groupby("epoch", sort=True):
        own = part[part["layer"] == NETWORK].iloc[0]
        layers = part[part["layer"] != NETWORK]
        best = layers.iloc[int(layers["accuracy"].to_numpy().argmax())]
        mark = "*" if kept is not None and epoch == kept.epoch else ""
        rows.append(
            [
                f"{epoch}{mark}",
                *([str(own["step"])] if stepped else []),
                *(percent(own[name]) for name in ("plain", "perturbed", "memory", "accuracy")),
                *([percent(own["holdout"])] if held else []),
                *(percent(best["accuracy"]), percent(own["noise_rate"]), str(best["layer"])),
            ]
        )
    return head, rows


def _layers(m: MonitorRecord) -> list[tuple[str, list[list[str]]]]:
    """Return a title and a table of the layers for the epoch to keep and the last."""
    history, kept = m.history, m.recommended
    if history.empty or kept is None:
        return []
    last = int(history["epoch"].max())
    titles = {kept.epoch: f"Epoch {kept.epoch}, the one to keep"}
    titles.setdefault(last, f"Epoch {last}, the last")
    return [
        (title, [_layer(row) for row in history[history["epoch"] == epoch].to_dict("records")])
        for epoch, title in titles.items()
    ]


def _layer(row: dict[Any, Any]) -> list[str]:
    """Return a layer's row of the table."""
    rank, angle = (
        "–" if pd.isna(row[name]) else f"{row[name]:.1f}" for name in ("effective_rank", "angle")
    )
    return [
        str(row["layer"]),
        *(percent(row[name]) for name in ("plain", "perturbed", "memory", "accuracy")),
        f"{percent(row['accuracy_low'])} to {percent(row['accuracy_high'])}",
        rank,
        angle,
    ]


def _issues(m: MonitorRecord) -> tuple[str, list[list[str]]]:
    """Return a sentence on the labels that look wrong, and the most suspicious ones."""
    try:
        issues = m.label_issues(sort=True)
    except DataError:
        return "No sample was recorded: call update for each batch.", []
    flagged = issues[issues["is_label_issue"]]
    if not len(flagged):
        return f"None of {len(issues):,} labels is flagged as wrong.", []
    shown = flagged.head(MOST_ISSUES)
    which = "here they are" if len(shown) == len(flagged) else f"here are the first {len(shown)}"
    rows = [
        [
            *(str(value) for value in (index, row["given_label"], row["predicted_label"])),
            *(f"{row['label_quality']:.3f}", f"{row['margin']:.2f}", percent(row["confidence"])),
        ]
        for index, row in zip(shown.index, shown.to_dict("records"), strict=True)
    ]
    return f"{len(flagged):,} of {len(issues):,} labels look wrong; {which}.", rows


def _steps(m: MonitorRecord, flagged: bool) -> list[Step]:
    """Return what to do next, as Python code."""
    kept = m.recommended
    if kept is None:
        return []
    at = f"epoch {kept.epoch}" + (f" (step {kept.step})" if kept.step != kept.epoch else "")
    text = f"Go back to the checkpoint of {at}. To decode it, for more than it gives by itself:"
    steps = [Step(text, f"us.decode(model, train)  # with the weights of {at}")]
    if flagged:
        code = 'monitor.label_issues(sort=True).to_csv("label_issues.csv")'
        steps.append(Step("Write all labels, the most suspicious first:", code))
    return steps
