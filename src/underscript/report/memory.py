"""The memory meter in sentences, the same for page and terminal."""

from dataclasses import dataclass
from typing import Any

from ..results.run import Run
from .plots.style import printable
from .words import percent

__all__ = ["Meter", "meter"]

# A gap of agreement is called memory if it is this large and, with a hold-out, exceeds so many of
# its standard errors.
_CLEAR, _ERRORS = 0.05, 2.0
_CHANGED = {
    "shifts": "slightly shifted",
    "shifts and flips": "slightly shifted or flipped",
    "overlays": "with other images showing through",
    "words dropped": "with some words left out",
    "noise": "with some noise added",
    "own": "changed by your function",
}


@dataclass(frozen=True)
class Meter:
    """The memory meter as text.

    Attributes
    ----------
    said : str
        What the gap means, in one sentence.
    how : str
        What was done to the inputs, such as "slightly shifted"; empty where nothing was.
    details : tuple of str
        How it was estimated.
    head, rows : tuple
        The numbers as a table.
    label : str
        What the figure shows, for those who cannot see it.
    """

    said: str
    how: str
    details: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    label: str


def meter(d: Run) -> Meter | None:
    """Return the memory meter as text, or None if no network was measured."""
    table, measured = d.memory, d.summary.get("memory")
    if measured is None or set(table["layer"]) <= {"input"}:
        return None
    done = d.summary["settings"].get("perturb")
    how = " and ".join(_CHANGED.get(change, change) for change in done.split(", ")) if done else ""
    held = bool(table["holdout"].notna().all())
    if not how and not held:
        return None
    columns = {"plain": "exact inputs"}
    if how:
        columns["perturbed"] = "perturbed"
    if held:
        columns["holdout"] = "hold-out"
    if how:
        columns["corrected"] = "corrected"
    rows = tuple(
        (printable(str(row["layer"])), *(percent(float(row[name])) for name in columns))
        for row in table.to_dict("records")
    )
    shown = "; ".join(
        f"{name}: " + ", ".join(f"{row[0]} {row[at]}" for row in rows)
        for at, name in enumerate(columns.values(), 1)
        if name != "corrected"
    )
    return Meter(
        said=_gap_sentence(d, how, held),
        how=how,
        details=_details(d, how, held),
        head=("layer", *columns.values()),
        rows=rows,
        label=f"Given labels that each layer predicts, in per cent. {shown}",
    )


def _rows(d: Run) -> dict[str, dict[Any, float]]:
    return {str(row.pop("layer")): row for row in d.memory.to_dict("records")}


def _lost(d: Run) -> float:
    """Return what the change costs the input, which memorises nothing; 0 if that is little."""
    row = _rows(d).get("input")
    lost = 0.0 if row is None else row["plain"] - row["perturbed"]
    return lost if lost >= _CLEAR else 0.0


def _gap_sentence(d: Run, how: str, held: bool) -> str:
    """Return what the largest gap between exact inputs and the others means."""
    other = "holdout" if held else "perturbed"
    rows = {layer: row for layer, row in _rows(d).items() if layer != "input"}
    layer, row = max(rows.items(), key=lambda item: item[1]["plain"] - item[1][other])
    lost, clear = _lost(d), _CLEAR
    if held:
        seen = int(d.table.loc[d.table["split"] == "holdout", "n"].max())
        lost, clear = 0.0, max(clear, _ERRORS * 0.5 / seen**0.5)
    if row["plain"] - row[other] - lost < clear:
        where = "held-out inputs" if held else f"the same inputs {how}"
        beyond = ", beyond what the change itself costs" if lost else ""
        return (
            "No layer predicts clearly more of the given labels of the exact training inputs than "
            f"of {where}{beyond}: little is memorised."
        )
    start = (
        f"Layer {printable(layer)} repeats {_share(row['plain'])} of the given labels of the exact "
        f"training inputs, but only {_share(row[other])}"
    )
    if held:
        return (
            f"{start} of those of held-out inputs, which the network has not seen: the rest is "
            "memory."
        )
    if not lost:
        return f"{start} of the same inputs {how}: the rest is memory."
    return (
        f"{start} of the same inputs {how}. The input remembers nothing, and loses "
        f"{100 * lost:.0f} points by the same change; what is lost beyond that is memory."
    )


def _details(d: Run, how: str, held: bool) -> tuple[str, ...]:
    """Return how much memory survives the perturbation, and how that is estimated."""
    measured = d.summary["memory"]
    lines = [
        "Each number is of one discriminant of the layer, fitted to other training samples: "
        "it has not seen the label that it predicts. The network has, and shows it where it "
        "memorised it."
    ]
    if how:
        lines.append(
            f"Memory is keyed to the exact input, so most of it is gone on inputs {how}. A share "
            f"ρ of it survives: most likely {_share(measured['survival_likely'])}, as "
            + (
                "the hold-out has it, "
                if held
                else "labels have it that the layer which agrees least contradicts, "
            )
            + f"and at most {_share(measured['survival'])}. “Corrected” is what is left of the "
            "agreement on perturbed inputs without the most that it may be."
        )
    if how and (lost := _lost(d)):
        lines.append(
            f"The input remembers nothing, yet it loses {100 * lost:.0f} points: so much the "
            "change itself may cost, without any memory."
        )
    if how and held:
        lines.append(
            "The candidates were scored by the hold-out and by perturbed training inputs: the "
            f"hold-out counted for {_share(measured['holdout_weight'])}."
        )
    if readers := measured.get("readers"):
        lines.append(
            "Which training labels are wrong is judged by what remembers least: "
            f"{'; '.join(map(printable, readers))}."
        )
    return tuple(lines)


def _share(value: float) -> str:
    return f"{100 * value:.0f}%"
