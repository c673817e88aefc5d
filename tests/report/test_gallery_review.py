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
from underscript.report.run import review_key
from underscript.results.examples import Example

pytestmark = pytest.mark.browser

WINDOWS = [(390, "light"), (1280, "light"), (1280, "dark")]
NAMES = ["=1+1", 'a "quoted", name', "Ünë", *(f"class {k}" for k in range(3, 10))]
SAMPLES = [Example(1000 + i, i % 5, 5 + i % 4, 0.01, text=f"sample {i}") for i in range(12)]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    target: Path = tmp_path_factory.mktemp("review") / "report.html"
    write_report(target, run_of(*digits(), examples=SAMPLES))
    return target


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


def test_each_run_has_a_key_of_its_own():
    summary, table = digits()
    keys = set()
    for created, samples in (("a", SAMPLES), ("a", SAMPLES), ("b", SAMPLES), ("a", SAMPLES[1:])):
        keys.add(review_key(run_of(summary | {"created": created}, table, examples=samples)))
    assert len(keys) == 3


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
    key = page.locator("#review").get_attribute("data-key")
    other = tmp_path / "report.html"
    other.write_text(path.read_text().replace(key, "another-run"))
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out_of_a_review_under_way(browser, axe, path, scheme):
    page, _ = opened(browser, path, color_scheme=scheme)
    page.locator("#gallery li").first.click()
    press(page, "k c s")
    assert faults(page, axe) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[us.Decoding, Path]:
    """A decode of digits as features, whose classes have names that a spreadsheet might compute."""
    x, true = load_digits(return_X_y=True)
    x, true = (x[:400] / 16).astype(np.float32), true[:400]
    decoding = us.decode(
        None,
        (x, us.corrupt_labels(true, 0.3, seed=1)),
        class_names=NAMES,
        show=lambda row: row.reshape(8, 8),
        progress=False,
        controls=False,
    )
    folder: Path = tmp_path_factory.mktemp("run") / "run"
    decoding.save(folder)
    return decoding, folder


def test_the_browsers_file_goes_into_relabel(browser, run, tmp_path, capsys):
    decoding, folder = run
    issues, plain = decoding.label_issues(), decoding.relabel()
    page, complaints = opened(browser, folder / "report.html")
    page.locator("#gallery li").first.click()
    indices = [int(card.get_attribute("data-index")) for card in page.locator("#gallery li").all()]
    keep, change, skip, other = indices[:4]
    to = next(k for k in range(2) if k != issues.loc[other, "given_label"])
    press(page, f"k c s {to}")
    review, out = tmp_path / "review.csv", tmp_path / "labels.csv"
    with page.expect_download() as found:
        page.locator("#export").click()
    found.value.save_as(review)
    assert [line for line in complaints if not line.startswith("blob:")] == []

    # Names are text that no spreadsheet computes, and UTF-8 where spreadsheets look for it.
    rows = list(csv.DictReader(io.StringIO(review.read_bytes().decode("utf-8-sig"))))
    assert [row["decision"] for row in rows] == ["keep", "change", "skip", "change"]
    safe = ["'=1+1", *NAMES[1:]]
    for row in rows:
        assert row["given_name"] == safe[int(row["given_label"])]
        assert row["label_name"] == ("" if row["label"] == "" else safe[int(row["label"])])
    assert (
        review.read_text(encoding="utf-8").isascii() or review.read_bytes()[:3] == b"\xef\xbb\xbf"
    )

    command = ["relabel", str(folder), "--review", str(review), "--out", str(out)]
    assert main(command) == 0
    assert capsys.readouterr().out.strip().endswith("3 are as you decided")
    labels = pd.read_csv(out, index_col="index")
    assert labels.index[labels["reviewed"]].tolist() == sorted([keep, change, other])
    assert labels.loc[keep, "label"] == issues.loc[keep, "given_label"]
    assert labels.loc[change, "label"] == issues.loc[change, "predicted_label"]
    assert labels.loc[other, "label"] == to
    rest = ~labels["reviewed"]
    assert (labels["label"][rest] == plain["label"][rest]).all()
    assert skip in labels.index[rest]
    # Python takes the same file.
    again = decoding.relabel(review)
    pd.testing.assert_frame_equal(labels, again, check_index_type=False)
