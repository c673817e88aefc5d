"""Reports of grids and studies, and of runs side by side: remade as they were, escaped, offline."""

import json

import numpy as np
import pandas as pd
import pytest

from opened_pages import faults, opened
from sample_runs import EVIL, digits, run_of, single
from underscript.errors import DataError, OutputError
from underscript.experiments.pages import remade, reproduction_page, study_page, write_tables
from underscript.experiments.plan import Plan
from underscript.experiments.shown import Shown
from underscript.experiments.study import bars
from underscript.report import plots, render_beside
from underscript.utils.versions import machine, versions

ABOUT = {
    "command": f"underscript study --out '{EVIL}'",
    "versions": versions(),
    "machine": machine("cpu"),
}
TABLES = [Shown("A table", ("layer", "probe", "c = 0.4"), [(EVIL, "masc", "91.0 ± 0.2")])]


def study() -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    rows = [
        {
            "setting": "digits-mlp",
            "noise": noise,
            "corruption": c,
            "run": run,
            "chosen_by": by,
            "model": 0.9 - 0.6 * c,
            "masc": 0.93 - 0.3 * c,
            "rival": 0.95 - 0.2 * c,
            "rival_on_layers": 0.94 - 0.2 * c,
            "accuracy": 0.96 - 0.1 * c + 0.01 * rng.random(),
            "oracle": 0.97,
            "input": 0.9,
            "rate": 0.9 * c,
            "rate_error": 0.0,
            "regret": 0.01,
            "cost": 1.5,
            "nothing_wrong": c == 0,
            "hopeless": c == 1,
            "rival_probe": "lda on fc1",
        }
        for noise, degrees in (("symmetric", (0.0, 0.4, 1.0)), ("pair", (0.4,)))
        for c in degrees
        for run in (2, 3)
        for by in ("holdout", "training data")
    ]
    networks = pd.DataFrame(rows)
    return networks, bars(networks)


def grid() -> pd.DataFrame:
    rows = []
    for c in (0.0, 0.4):
        own = {
            "experiment": "E1",
            "corruption": c,
            "model": "trained",
            "layer": "output",
            "probe": "model",
            "subspace_labels": np.nan,
            "split": "test",
            "labels": "given",
            "mean": 0.95 - c,
            "sd": 0.01,
            "runs": 3,
        }
        rows.append(own)
        for layer, height in (("input", 0.8), ("fc1", 0.9)):
            rows.append(
                {
                    **own,
                    "layer": layer,
                    "probe": "masc",
                    "subspace_labels": "corrupted",
                    "mean": height - c / 4,
                }
            )
    return pd.DataFrame(rows)


@pytest.fixture
def folders(tmp_path):
    """A study's and a grid's folder with their reports."""
    networks, reached = study()
    first = tmp_path / "study"
    first.mkdir()
    about = {"kind": "study", "settings": ["digits-mlp"], "runs": [2, 3], **ABOUT}
    write_tables(TABLES, first)
    networks.to_csv(first / "study.csv", index=False)
    reached.to_csv(first / "bars.csv", index=False)
    (first / "study.json").write_text(json.dumps(about))
    (first / "report.html").write_text(study_page(networks, reached, about, TABLES))
    second = tmp_path / "grid"
    second.mkdir()
    plan = Plan("mnist-mlp", corruptions=(0.0, 0.4), only=("E1",))
    about = {
        "kind": "reproduction",
        **plan.fixed,
        **ABOUT,
        "asked": {"corruption": [0.0, 0.4], "only": ["E1"], "runs": 3},
    }
    write_tables(TABLES, second)
    grid().to_csv(second / "summary.csv", index=False)
    (second / "results.json").write_text(json.dumps(about))
    (second / "report.html").write_text(reproduction_page(plan, grid(), about, TABLES))
    return first, second


def test_reports_are_made_again_from_their_folders(folders):
    for folder in folders:
        assert remade(folder) == (folder / "report.html").read_text()
        (folder / "tables.json").unlink()
        with pytest.raises(OutputError, match=r"tables\.json"):
            remade(folder)
    assert remade(folders[0].parent) is None


def test_verdicts_tell_the_tables_numbers(folders):
    networks, _ = study()
    chosen = networks[networks["chosen_by"] == "holdout"]["accuracy"].mean()
    text = (folders[0] / "report.html").read_text()
    assert f"gets {100 * chosen:.1f}% of the test labels" in text
    text = (folders[1] / "report.html").read_text()
    assert "at c = 0.4: there the network gets 55.0 ± 1.0% of the test labels" in text
    assert "MASC on fc1, its best layer (an oracle’s choice), 80.0 ± 1.0% (3 runs)" in text


def beside() -> str:
    summary, table = digits()
    other, second = digits()
    other["settings"]["corruption"] = 0.8
    return render_beside({"runs/a": run_of(summary, table), EVIL: run_of(other, second)})


def test_runs_side_by_side_tell_what_differs():
    text = beside()
    assert "settings: corruption" in text
    assert "settings: arch" not in text
    summary, table = digits()
    again, second = digits()
    again["seeds"]["weights"] = 1
    text = render_beside({"a": run_of(summary, table), "b": run_of(again, second)})
    assert "All runs together" in text  # only seeds differ
    with pytest.raises(DataError, match="at least two"):
        render_beside({"a": run_of(summary, table)})


def test_a_curve_of_several_runs_is_their_mean_and_spread():
    first, second = digits(), digits()
    second[1]["accuracy"] -= 0.1
    runs = [run_of(*first), run_of(*second)]
    ax = plots.layer_curve(runs)
    (line,) = (line for line in ax.get_lines() if line.get_label() == "decoded, given labels")
    assert list(line.get_ydata()) == pytest.approx([88.1, 88.9, 84.2, 76.7, 63.9])
    assert any("the model itself 59.7" in text.get_text() for text in ax.texts)
    assert len(ax.containers) == 3  # bars of each curve


def test_maps_show_the_numbers_of_the_run():
    d = run_of(*digits())
    ax = plots.noise_matrix(d)
    assert [text.get_text() for text in ax.texts].count("24") == 1  # 3 given as 8
    assert len(ax.patches) == 90
    with pytest.raises(DataError, match="class subspaces"):
        plots.angle_map(d)
    shapes = pd.DataFrame(
        {
            "layer": "fc1",
            "class_a": [0, 1, 0],
            "class_b": [0, 1, 1],
            "rank": 3,
            "effective_rank": [2.0, 3.0, np.nan],
            "angle": [0.0, 0.0, 41.0],
        }
    )
    d = run_of(*digits(), geometry=shapes)
    assert [text.get_text() for text in plots.angle_map(d).texts] == ["41", "41"]
    (line,) = plots.rank_curve(d).get_lines()
    assert list(line.get_ydata()) == [2.5]
    with pytest.raises(DataError, match="one of fc1"):
        plots.angle_map(d, "fc9")
    issues = d.label_issues()
    bars_of = plots.quality_histogram(d).patches
    assert sum(bar.get_height() for bar in bars_of) == len(issues)


def test_many_classes_are_cut_to_the_most_confused():
    summary, table = single()
    summary["model"]["n_classes"] = 60
    noise = np.full((60, 60), 0.001)
    noise[40, 50] = 0.3
    summary["noise"] |= {"transitions": noise.tolist(), "transitions_error": noise.tolist()}
    ax = plots.noise_matrix(run_of(summary, table))
    shown = [label.get_text() for label in ax.get_xticklabels()]
    assert len(shown) == 20
    assert {"40", "50"} <= set(shown)


@pytest.mark.slow
@pytest.mark.browser
def test_they_open_quietly_and_shut_nobody_out(browser, axe, folders, tmp_path):
    (tmp_path / "beside.html").write_text(beside())
    for path in (*(folder / "report.html" for folder in folders), tmp_path / "beside.html"):
        for width, scheme in ((390, "light"), (1280, "dark")):
            page, complaints = opened(
                browser, path, viewport={"width": width, "height": 800}, color_scheme=scheme
            )
            assert complaints == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator("img").count() == 0
            assert EVIL in page.inner_text("body")
            assert faults(page, axe) == []
            page.context.close()
