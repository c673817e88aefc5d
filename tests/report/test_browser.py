"""Every page in a real browser: nothing is asked for, nothing complains, everybody can read it."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opened_pages import faults, opened
from sample_runs import EVIL, SAMPLES, run_of
from underscript.report import write_report
from underscript.results.examples import Example

pytestmark = pytest.mark.browser


def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    kinds: list[dict[str, Any]] = [
        {"picture": rng.integers(0, 255, (28, 28), dtype=np.uint8)},
        {"picture": rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)},
        {"text": f"A review. {EVIL} </script><script>alert(2)</script>"},
        {"numbers": (1.0, -2.0, 0.5, 3.0, 0.0, 1.0, 2.0), "width": 64},
    ]
    return [
        Example(7 * i, i % 5, (i + 1 + i // 5) % 10, i / 100, **kinds[i % 4]) for i in range(24)
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Callable[[str], Path]:
    """Give a sample's page, which is rendered once."""

    @functools.cache
    def page(name: str) -> Path:
        summary, table = SAMPLES[name]()
        if name == "evil":
            summary["model"]["class_names"] = [EVIL, "</script><b>", *map(str, range(8))]
        path = tmp_path_factory.mktemp(name) / "report.html"
        write_report(path, run_of(summary, table, examples=examples()))
        return path

    return page


@pytest.mark.parametrize(
    "name",
    ["digits", *(pytest.param(name, marks=pytest.mark.slow) for name in ("evil", "deep", "bare"))],
)
def test_a_report_opens_quietly_in_windows_of_any_kind(browser, name, report):
    path = report(name)
    for width, scheme in ((390, "light"), (1280, "light"), (1280, "dark")):
        page, complaints = opened(
            browser, path, viewport={"width": width, "height": 800}, color_scheme=scheme
        )
        assert complaints == []
        # Nothing sticks out: only parts of the page scroll sideways.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        picture = page.screenshot(full_page=True)
        assert len(picture) > 20_000
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(20, 24, 29)") == (scheme == "dark")
        page.context.close()


def test_class_names_and_texts_are_shown_as_text(browser, report):
    page, complaints = opened(browser, report("evil"))
    assert complaints == []
    assert page.locator("#gallery li img").count() == 12  # our pictures, and no others
    assert page.locator("#review img").count() == 1  # the first of them, which is under review
    assert page.locator("img").count() == 13
    assert page.locator("script").count() == 2
    assert EVIL in page.locator("#gallery li .change").first.inner_text()
    assert (
        "</script><script>alert(2)</script>" in page.locator("#gallery .words").first.inner_text()
    )
    assert page.locator("#given option").nth(1).inner_text() == EVIL


def test_the_filter_and_the_indices(browser, report):
    page, complaints = opened(browser, report("digits"))
    visible = page.locator("#gallery > li:visible")
    assert visible.count() == 24
    assert page.locator("#count").inner_text() == "24 of 51 shown"
    page.select_option("#given", "3")
    given = run_of(*SAMPLES["digits"]()).label_issues()
    flagged = given[given["is_label_issue"]].sort_values("label_quality")
    three = flagged[flagged["given_label"] == 3]
    assert visible.count() == len([e for e in examples() if e.given == 3])
    page.locator("#indices summary").click()
    lines = page.locator("#csv").input_value().splitlines()
    assert lines[0] == "index,given_label,predicted_label,label_quality"
    assert [int(line.split(",")[0]) for line in lines[1:]] == three.index.tolist()
    page.select_option("#proposed", "4")
    assert all(e.predicted == 4 for e in examples() if e.given == 3) == (visible.count() == 5)
    page.select_option("#given", "")
    page.select_option("#proposed", "")
    assert visible.count() == 24
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#copy").click()
    page.wait_for_function("document.getElementById('copy').textContent === 'Copied'")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert len(copied.splitlines()) == 1 + len(flagged)
    assert complaints == []


def test_without_script_the_page_says_the_same(browser, report):
    page, complaints = opened(browser, report("digits"), java_script_enabled=False)
    assert complaints == []
    assert page.locator("#gallery > li").count() == 24
    assert not page.locator("#tools").is_visible()


def test_on_paper_nothing_stays_folded(browser, report):
    page, _ = opened(browser, report("digits"))
    page.emulate_media(media="print")
    assert page.locator("table.layers").evaluate("e => e.getBoundingClientRect().height") > 100
    assert page.pdf()[:4] == b"%PDF"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out(browser, axe, scheme, report):
    page, _ = opened(browser, report("digits"), color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert faults(page, axe) == []
    assert re.match(r"[\w ]+ decoded", page.title())
