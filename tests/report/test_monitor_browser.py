"""The page of a monitor in a real browser: quiet, in the page's colours, readable for everybody."""

import functools
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from opened_pages import faults, opened
from underscript.report.page import DARK
from underscript.report.plots import COLOURS
from watched import watched

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=alert(1)>"
MADE = {
    "short": lambda: watched([1, 2, 3], ["input", "fc1", EVIL], keep=2, alarm=3, holdout=True),
    "long": lambda: watched([*range(1, 201)], [f"layer{i}" for i in range(50)], keep=30, alarm=9),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Callable[[str], Path]:
    @functools.cache
    def page(name: str) -> Path:
        path = tmp_path_factory.mktemp(name) / "report.html"
        MADE[name]().report(path)
        return path

    return page


@pytest.mark.parametrize("name", ["short", pytest.param("long", marks=pytest.mark.slow)])
def test_it_opens_quietly_in_windows_of_any_kind(browser, name, report):
    for width, scheme in ((390, "dark"), (1280, "light")):
        page, complaints = opened(
            browser, report(name), viewport={"width": width, "height": 800}, color_scheme=scheme
        )
        assert complaints == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shown = page.locator("svg:visible")
        assert shown.count() == 3
        kind = "wide" if width == 1280 else "narrow"
        assert all(kind in shown.nth(at).get_attribute("class") for at in range(3))
        # No text of a figure is cut off, but for half a letter.
        sticks_out = page.evaluate(
            "[...document.querySelectorAll('svg text')].filter((e) => "
            "e.getBoundingClientRect().right > innerWidth - 2).map((e) => e.textContent)"
        )
        assert sticks_out == []
        assert page.locator("img").count() == 0
        page.context.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_film_of_many_epochs_has_the_pages_colours(browser, scheme, report):
    page, complaints = opened(
        browser, report("long"), viewport={"width": 1280, "height": 800}, color_scheme=scheme
    )
    film = page.locator("svg:visible").first.locator("rect").first
    picture = Image.open(io.BytesIO(film.screenshot())).convert("RGB")
    colours = {**COLOURS, **(DARK if scheme == "dark" else {})}
    blue, paper = (
        [int(colours[name][at : at + 2], 16) for at in (1, 3, 5)] for name in ("given", "paper")
    )
    # Each cell is a mixture of both, and there is nearly all of either.
    shares = []
    for _, found in picture.getcolors(picture.width * picture.height):
        share = [(c - p) / (b - p) for c, b, p in zip(found, blue, paper, strict=True)]
        if max(share) - min(share) < 0.06:
            shares.append(sum(share) / 3)
    assert min(shares) < 0.1
    assert max(shares) > 0.9
    assert len(shares) > 50
    assert complaints == []


def test_its_parts_open_by_keyboard_and_without_script_nothing_is_lost(browser, report):
    page, _ = opened(browser, report("short"))
    assert not page.locator("#epochs table").is_visible()
    page.locator("summary", has_text="All epochs").focus()
    page.keyboard.press("Enter")
    assert page.locator("#epochs table").is_visible()
    assert page.locator("#epochs tbody tr").count() == 3
    assert "2*" in page.locator("#epochs tbody").inner_text()
    plain, complaints = opened(browser, report("short"), java_script_enabled=False)
    assert complaints == []
    assert plain.locator("svg:visible").count() == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out(browser, axe, scheme, report):
    page, _ = opened(browser, report("short"), color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert faults(page, axe) == []
    assert "epochs watched" in page.title()
