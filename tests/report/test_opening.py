"""The page in a browser: what it opens with, what is folded, and how that is reached."""

from pathlib import Path
from typing import Any

import pytest

from opened_pages import opened
from sample_runs import digits, run_of
from underscript.report import write_report
from underscript.results.examples import Example

pytestmark = pytest.mark.browser

WINDOWS = [(390, "light"), (1280, "light"), (1280, "dark")]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    target: Path = tmp_path_factory.mktemp("opening") / "report.html"
    samples = [Example(i, i % 5, 9 - i % 4, 0.01, text=f"sample {i}") for i in range(12)]
    write_report(target, run_of(*digits(), examples=samples))
    return target


def at(page: Any, selector: str) -> float:
    """Where an element begins, in pixels from the top of the page."""
    box = page.locator(selector).first.bounding_box()
    assert box is not None, f"{selector} is not shown"
    return float(box["y"])


@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
def test_verdict_figure_memory_gallery_and_all_else_folded(browser, path, width, scheme):
    page, complaints = opened(
        browser, path, viewport={"width": width, "height": 800}, color_scheme=scheme
    )
    parts = ["h1", "#advice", "#curve", "#memory", "#suspicious", "#gallery", ".fold"]
    places = [at(page, part) for part in parts]
    assert places == sorted(places)
    figure = page.locator("section[aria-labelledby=curve] svg:visible")
    assert figure.count() == 1
    words = figure.text_content()
    assert "decoded, given labels" in words
    assert "the model itself 64.7" in words
    assert "random network" not in words
    assert "true labels" not in words
    # The first figure begins on the first screen of a desk, and every fold is closed.
    if width > 390:
        assert at(page, "#curve") < 800
    assert page.locator("details[open]").count() == 0
    assert not page.locator("table:visible").count()
    assert not page.get_by_text("the simpler decoder of the paper").is_visible()
    assert complaints == []
    page.context.close()


def test_folded_parts_open_by_key_by_link_and_by_address(browser, path):
    page, complaints = opened(browser, path)
    page.locator("details.fold:has(#layers) > summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("table.layers").is_visible()
    page.keyboard.press("Space")
    assert not page.locator("table.layers").is_visible()
    for name in ("controls", "measured"):
        link = page.locator(f"a[href='#{name}']")
        for _ in range(2):  # again after the reader folded it, though the address is the same
            link.focus()
            page.keyboard.press("Enter")
            page.wait_for_function(
                "name => { const y = document.getElementById(name).getBoundingClientRect().top;"
                "return y >= 0 && y < innerHeight; }",
                arg=name,
            )
            assert page.locator(f"#{name}").is_visible()
            page.locator(f"details.fold:has(#{name}) > summary").click()
            assert not page.locator(f"#{name}").is_visible()
    page.goto("about:blank")
    page.goto(path.as_uri() + "#noise")
    assert page.locator("#noise").is_visible()
    assert complaints == []


def test_everything_opens_at_once_and_on_paper(browser, path):
    page, complaints = opened(browser, path)
    folds = page.locator("details.fold")
    opens = page.locator("details.fold[open]")
    page.locator("#unfold").click()
    assert opens.count() == folds.count() > 5
    page.locator("#unfold").click()
    assert opens.count() == 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details[open]").count() == page.locator("details").count()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    page.emulate_media(media="print")
    for place in range(folds.count()):
        assert folds.nth(place).locator(".folded").bounding_box()["height"] > 20
    assert not page.locator("#review").is_visible()
    assert complaints == []


def test_without_script_folds_open_all_the_same(browser, path):
    page, complaints = opened(browser, path, java_script_enabled=False)
    assert not page.locator("#unfold").is_visible()
    assert not page.locator("#review").is_visible()
    page.locator("details.fold:has(#made) > summary").click()
    assert page.locator("#made").is_visible()
    page.locator("a[href='#controls']").click()
    assert page.locator("#controls").is_visible()
    assert complaints == []
