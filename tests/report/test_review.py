"""The review in a browser, by keys and by hand, and on to `relabel --review`."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

import underscript as us
from opened_pages import faults, opened
from sample_runs import digits, run_of
from underscript.cli.command_line import main
from underscript.report import write_report
from underscript.results.examples import Example

pytestmark = pytest.mark.browser

WINDOWS = [(390, "light"), (1280, "light"), (1280, "dark")]
NAMES = ["=1+1", 'a "quoted", name', "Ünë", *(f"class {k}" for k in range(3, 10))]
SAMPLES = [Example(1000 + i, i % 5, 5 + i % 4, 0.01, text=f"sample {i}") for i in range(12)]


def written(path: Path, names: list[str] | None = None) -> Path:
    summary, table = digits()
    summary["model"]["class_names"] = names
    write_report(path, run_of(summary, table, examples=SAMPLES))
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("review") / "report.html")


def asked(page: Any) -> str:
    return str(page.locator("#asked").inner_text())


def progress(page: Any) -> str:
    return str(page.locator("#progress").inner_text())


def press(page: Any, keys: str) -> None:
    for key in keys.split():
        page.keyboard.press(key)


def exported(page: Any) -> str:
    with page.expect_download() as found:
        page.locator("#export").click()
    assert found.value.suggested_filename == "review.csv"
    return Path(found.value.path()).read_text(encoding="utf-8")


@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
def test_a_review_by_keys_is_exported_as_decided(browser, path, width, scheme):
    page, complaints = opened(
        browser,
        path,
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    assert progress(page) == "0 of 12 reviewed"
    assert page.locator("#export").is_disabled()
    assert asked(page) == "No. 1000: given 0, proposed 5"
    page.locator("#review [data-do=keep]").focus()
    # Keep 0, change 1, skip 2, give 3 the class 9 by its number, and 4 its own: that is to keep.
    press(page, "k c S 9 4")
    assert asked(page).startswith("No. 1005")
    assert progress(page) == "5 of 12 reviewed"
    press(page, "ArrowRight ArrowRight ArrowLeft k")
    assert asked(page).startswith("No. 1007")
    press(page, "u")
    assert asked(page) == "No. 1006: given 1, proposed 7"
    press(page, "c")
    # After the last sample comes the first that was left out.
    for _ in range(5):
        press(page, "s")
    assert asked(page).startswith("No. 1005")
    assert page.locator("#gallery [aria-current]").get_attribute("data-index") == "1005"
    assert exported(page).splitlines() == [
        "index,given_label,decision,label",
        "1000,0,keep,0",
        "1001,1,change,6",
        "1002,2,skip,",
        "1003,3,change,9",
        "1004,4,keep,4",
        "1006,1,change,7",
        *(f"{k},{(k - 1000) % 5},skip," for k in range(1007, 1012)),
    ]
    marks = page.locator("#gallery .decided").all_inner_texts()
    assert marks[:6] == ["kept", "→ 6", "skipped", "→ 9", "kept", ""]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Nothing is asked for but what the page itself made.
    assert [line for line in complaints if not line.startswith("blob:")] == []
    page.context.close()


def test_a_review_by_hand_with_another_class_and_all_undone(browser, path):
    page, complaints = opened(
        browser, path, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True
    )
    page.locator("#gallery li").nth(3).tap()
    assert asked(page) == "No. 1003: given 3, proposed 8"
    assert page.locator("#label option[value='3']").is_disabled()
    page.select_option("#label", "2")
    assert progress(page) == "0 of 12 reviewed"  # to choose is not to decide
    page.locator("[data-do=change]").tap()
    page.locator("[data-do=keep]").tap()
    assert exported(page).splitlines()[1:] == ["1003,3,change,2", "1004,4,keep,4"]
    for button in page.locator("#review button:visible").all():
        box = button.bounding_box()
        assert box["height"] >= 44, button.inner_text()
        assert box["x"] + box["width"] <= 390
    for _ in range(3):
        page.locator("[data-do=undo]").tap()
    assert progress(page) == "0 of 12 reviewed"
    assert page.locator("#export").is_disabled()
    assert [line for line in complaints if not line.startswith("blob:")] == []


def test_keys_are_taken_only_from_who_reviews(browser, path):
    page, _ = opened(browser, path)
    press(page, "k c s")
    assert progress(page) == "0 of 12 reviewed"
    page.locator("#gallery li").first.click()
    press(page, "Control+c Alt+k x")
    page.locator("#label").focus()
    press(page, "k s")
    assert progress(page) == "0 of 12 reviewed"


def test_what_was_decided_is_there_again_but_not_in_another_run(browser, path, tmp_path):
    page, _ = opened(browser, path)
    page.locator("#gallery li").first.click()
    press(page, "c k")
    page.reload()
    assert progress(page) == "2 of 12 reviewed"
    assert asked(page).startswith("No. 1002")
    page.locator("#review").focus()
    press(page, "u")
    assert progress(page) == "1 of 12 reviewed"
    other = tmp_path / "report.html"
    summary, table = digits()
    summary["created"] = "2026-02-04T00:00:00+00:00"
    write_report(other, run_of(summary, table, examples=SAMPLES))
    page.goto(other.as_uri())
    assert progress(page) == "0 of 12 reviewed"
    # What is not a review of this page is left alone.
    page.goto(path.as_uri())
    key = page.evaluate("Object.keys(localStorage).find((key) => key.includes('review'))")
    for damaged in ("{", "7", '[["1000"], ["5", "keep"], ["1000", "change", 99], null]'):
        page.evaluate("([key, text]) => localStorage.setItem(key, text)", [key, damaged])
        page.reload()
        assert progress(page) == "0 of 12 reviewed"


def test_a_browser_that_keeps_nothing_can_review_all_the_same(browser, path):
    context = browser.new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('none'); }})"
    )
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.locator("#gallery li").first.click()
    press(page, "c k")
    assert progress(page) == "2 of 12 reviewed"
    assert exported(page).splitlines()[1:] == ["1000,0,change,5", "1001,1,keep,1"]
    assert errors == []


def test_the_review_follows_the_filter(browser, path):
    page, _ = opened(browser, path)
    page.select_option("#given", "3")
    assert asked(page).startswith("No. 1003")
    page.locator("#review").focus()
    press(page, "k")
    assert asked(page).startswith("No. 1008")
    press(page, "ArrowRight ArrowRight")
    assert asked(page).startswith("No. 1008")
    page.select_option("#proposed", "5")
    shown = [s for s in SAMPLES if (s.given, s.predicted) == (3, 5)]
    assert asked(page).startswith(f"No. {shown[0].index}" if shown else "No sample")
    page.select_option("#given", "9" if page.locator("#given option[value='9']").count() else "0")
    page.locator("#review").focus()
    press(page, "k u")
    page.select_option("#given", "")
    page.select_option("#proposed", "")
    assert progress(page).endswith("of 12 reviewed")


def test_names_are_exported_as_text_that_no_spreadsheet_computes(browser, tmp_path):
    page, complaints = opened(browser, written(tmp_path / "report.html", NAMES))
    page.locator("#gallery li").first.click()
    press(page, "k 0 1 s")
    text = exported(page)
    assert text.startswith("\ufeffindex,")
    rows = list(csv.reader(io.StringIO(text[1:])))
    assert rows == [
        ["index", "given_label", "decision", "label", "given_name", "label_name"],
        ["1000", "0", "keep", "0", "'=1+1", "'=1+1"],
        ["1001", "1", "change", "0", NAMES[1], "'=1+1"],
        ["1002", "2", "change", "1", NAMES[2], NAMES[1]],
        ["1003", "3", "skip", "", NAMES[3], ""],
    ]
    assert [line for line in complaints if not line.startswith("blob:")] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out_of_a_review_under_way(browser, axe, path, scheme):
    page, _ = opened(browser, path, color_scheme=scheme)
    page.locator("#gallery li").first.click()
    press(page, "k c s")
    assert faults(page, axe) == []


def test_the_browsers_file_goes_into_relabel(browser, tmp_path, capsys):
    x, true = load_digits(return_X_y=True)
    x, true = (x[:600] / 16).astype(np.float32), true[:600]
    given = us.corrupt_labels(true, 0.3, seed=1)
    decoding = us.decode(
        None,
        (x, given),
        class_names=[f"Ziffer „{k}“" for k in range(10)],
        show=lambda row: row.reshape(8, 8),
        progress=False,
        controls=False,
    )
    run = tmp_path / "run"
    decoding.save(run)
    page, complaints = opened(browser, run / "report.html")
    page.locator("#gallery li").first.click()
    press(page, "k c s 7")
    reviewed = [int(card.get_attribute("data-index")) for card in page.locator("#gallery li").all()]
    keep, change, skip, other = reviewed[:4]
    with page.expect_download() as found:
        page.locator("#export").click()
    found.value.save_as(tmp_path / "review.csv")
    assert [line for line in complaints if not line.startswith("blob:")] == []
    command = ["relabel", str(run), "--review", str(tmp_path / "review.csv")]
    assert main([*command, "--out", str(tmp_path / "labels.csv")]) == 0
    assert capsys.readouterr().out.strip().endswith("3 are as you decided")
    labels = pd.read_csv(tmp_path / "labels.csv", index_col="index")
    issues, plain = decoding.label_issues(), decoding.relabel()
    assert labels.index[labels["reviewed"]].tolist() == sorted([keep, change, other])
    assert labels.loc[keep, "label"] == given[keep]
    assert labels.loc[change, "label"] == issues.loc[change, "predicted_label"]
    assert labels.loc[other, "label"] == 7
    rest = ~labels["reviewed"]
    assert (labels["label"][rest] == plain["label"][rest]).all()
    assert skip in labels.index[rest]
