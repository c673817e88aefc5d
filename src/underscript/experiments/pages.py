"""Reports of grids and studies: a run's report page around tables of many networks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ..errors import DataError, OutputError
from ..report import KeyNumber, inline_figure, page_of
from ..utils.files import write_text
from .figures import depth_figure, dynamics_figure, study_figure
from .plan import Plan
from .shown import Shown, plus_minus
from .shown_dynamics import rise_and_fall

__all__ = ["remade", "reproduction_page", "study_page", "write_tables"]

TABLES = "tables.json"


def reproduction_page(
    plan: Plan,
    summary: pd.DataFrame,
    about: Mapping[str, Any],
    tables: Sequence[Shown],
    dynamics: pd.DataFrame | None = None,
) -> str:
    """Return the report of a grid as one HTML page.

    Parameters
    ----------
    plan : Plan
        Settings of the grid.
    summary : pandas.DataFrame
        From `summarise`.
    about : mapping
        Settings, versions, machine, verdict.
    tables : sequence of Shown
        The tables to show.
    dynamics : pandas.DataFrame, optional
        From `dynamics_table`.
    """
    figures = []
    if summary["experiment"].isin(["E1", "E2", "E3"]).any():
        label = "Test accuracy against depth, a panel for each corruption degree"
        figures = [
            (depth_figure(plan, summary), "wide", label),
            (depth_figure(plan, summary, 1), "narrow", label),
        ]
    along = None
    if dynamics is not None and len(dynamics):
        along = rise_and_fall(dynamics)
        label = "Accuracy against the epoch, a panel for each corruption degree"
        figures += [
            (dynamics_figure(dynamics), "wide", label),
            (dynamics_figure(dynamics, 1), "narrow", label),
        ]
    sentences = _gain(summary), along, _sentence(about.get("verdict"))
    verdict = " ".join(part for part in sentences if part)
    return _page(
        about,
        "reproduction",
        plan.experiment,
        verdict or f"{plan.experiment}, as far as it has been run.",
        [],
        figures,
        "Bars are one standard deviation over runs.",
        tables,
    )


def study_page(
    networks: pd.DataFrame, bars: pd.DataFrame, about: Mapping[str, Any], tables: Sequence[Shown]
) -> str:
    """Return the report of a study as one HTML page.

    Parameters
    ----------
    networks, bars : pandas.DataFrame
        From a `Study`.
    about : mapping
        Settings, versions, machine.
    tables : sequence of Shown
        The tables to show.
    """
    label = "Test accuracy against the corruption degree, a panel for each data set and noise"
    figures = [
        (study_figure(networks), "wide", label),
        (study_figure(networks, 1), "narrow", label),
    ]
    first = networks[networks["chosen_by"] == networks["chosen_by"].iloc[0]]
    numbers = [
        KeyNumber(
            "Network itself", f"{100 * first['model'].mean():.1f}%", "mean over all cells and runs"
        )
    ]
    for by, rows in networks.groupby("chosen_by", sort=False):
        met = bars[bars["chosen_by"] == by]["met"].astype(bool)
        note = f"{by}; {met.sum()} of {len(met)} bars met"
        numbers.append(KeyNumber("Decoded", f"{100 * rows['accuracy'].mean():.1f}%", note))
    numbers.append(
        KeyNumber(
            "Best published-kind probe",
            f"{100 * first['rival'].mean():.1f}%",
            "picked with clean test labels (oracle)",
        )
    )
    runs = networks["run"].nunique()
    cells = len(first.groupby(["setting", "noise", "corruption"]))
    verdict = (
        f"In {cells} cells of {runs} networks each the decoder that chooses itself gets "
        f"{numbers[1].value} of the test labels on average, the networks {numbers[0].value}, and "
        f"the best published kind of probe at its best layer, an oracle’s choice, "
        f"{numbers[-1].value}."
    )
    return _page(
        about,
        "study",
        ", ".join(about["settings"]),
        verdict,
        numbers,
        figures,
        "Means over runs; bars are one standard deviation. Oracles choose with clean test labels, "
        "the decoder does not.",
        list(reversed(tables)),
    )


def _page(
    about: Mapping[str, Any],
    kind: str,
    name: str,
    verdict: str,
    numbers: Sequence[KeyNumber],
    figures: Sequence[tuple[Figure, str, str]],
    caption: str,
    tables: Sequence[Shown],
) -> str:
    elsewhere = {"command", "versions", "machine", "verdict", "kind", "recipe"}
    # Tables, in results.json.
    elsewhere |= {"models", "summary", "comparison", "dynamics", "bars", "networks"}
    settings = {key: value for key, value in about.items() if key not in elsewhere}
    asked = settings.pop("asked", {})
    return page_of(
        "tables.html.j2",
        kind=kind,
        name=name,
        verdict=verdict,
        numbers=numbers,
        figures=[
            inline_figure(figure, size, label=label, kind=size) for figure, size, label in figures
        ],
        caption=caption,
        tables=tables,
        command=about["command"],
        settings=settings | asked,
        recipe=about.get("recipe") or {},
        versions=about["versions"],
        machine=about["machine"],
    )


def _gain(summary: pd.DataFrame) -> str | None:
    """Return a sentence on the largest gain: its degree, its layer and its number of runs."""
    rows = summary[(summary["experiment"] == "E1") & (summary["split"] == "test")]
    own = rows[rows["probe"] == "model"].set_index("corruption")
    decoded = rows[
        (rows["probe"] == "masc")
        & (rows["model"] == "trained")
        & (rows["subspace_labels"] == "corrupted")
    ]
    if not len(own) or not len(decoded):
        return None
    ranked = decoded.sort_values("mean", ascending=False, kind="stable")
    best = ranked.drop_duplicates("corruption").set_index("corruption")
    gains = (best["mean"] - own["mean"]).dropna().sort_values(ascending=False, kind="stable")
    degree = float(gains.index[0])
    (ours,) = best[best.index == degree].to_dict("records")
    (itself,) = own[own.index == degree].to_dict("records")
    return (
        f"The gain is largest at c = {degree:g}: there the network gets "
        f"{plus_minus(itself['mean'], itself['sd'])}% of the test labels, and MASC on "
        f"{ours['layer']}, its best layer (an oracle’s choice), "
        f"{plus_minus(ours['mean'], ours['sd'])}% ({int(ours['runs'])} "
        f"run{'s' if ours['runs'] > 1 else ''})."
    )


def _sentence(text: Any) -> str:
    return "" if not text else f"{str(text)[0].upper()}{str(text)[1:].rstrip('.')}."


def write_tables(tables: Sequence[Shown], out: Path) -> None:
    """Store tables as they are shown, so that the report can be made again."""
    stored = [
        {"title": t.title, "columns": list(t.columns), "rows": [list(r) for r in t.rows]}
        for t in tables
    ]
    write_text(out / TABLES, json.dumps(stored, ensure_ascii=False, indent=1) + "\n")


def remade(folder: Path) -> str | None:
    """Make the report of a grid's or study's folder again; None if the folder is neither.

    Raises
    ------
    OutputError
        If the folder's files are damaged, or from a version that stored no tables.
    """
    about = _about(folder / "results.json") or _about(folder / "study.json")
    if about is None or about.get("kind") not in ("reproduction", "study"):
        return None
    try:
        stored = json.loads((folder / TABLES).read_text(encoding="utf-8"))
        tables = [Shown(t["title"], t["columns"], t["rows"]) for t in stored]
        if about["kind"] == "study":
            networks = pd.read_csv(folder / "study.csv", keep_default_na=True)
            return study_page(networks, pd.read_csv(folder / "bars.csv"), about, tables)
        asked = about["asked"]
        plan = Plan(about["experiment"], corruptions=asked["corruption"], only=asked["only"])
        along = folder / "dynamics.csv"
        dynamics = pd.read_csv(along) if along.is_file() else None
        return reproduction_page(plan, pd.read_csv(folder / "summary.csv"), about, tables, dynamics)
    except FileNotFoundError as error:
        raise OutputError(
            f"{folder}: expected {Path(error.filename).name} there; run the same command again: "
            "what is finished is not run again"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, IndexError, DataError) as error:
        raise OutputError(f"{folder}: its tables are damaged ({error}); run it again") from error


def _about(path: Path) -> dict[str, Any] | None:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) else None
