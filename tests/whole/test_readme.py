"""The README is short, and what it claims has its command in the docs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {page.name: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")}


def table() -> list[list[str]]:
    """The cells of the README's table, without its head."""
    lines = [line for line in README.splitlines() if line.startswith("|")]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_it_has_at_most_five_hundred_words():
    assert len(README.split()) <= 500


def test_the_code_is_ten_lines():
    (code,) = re.findall(r"^```python\n(.*?)^```$", README, flags=re.S | re.M)
    assert len(code.strip().splitlines()) <= 10


def test_the_two_commands_are_targets_of_make():
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", README, flags=re.S | re.M)
    targets = re.findall(r"^make (\S+)", commands, flags=re.M)
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)


def test_photographs_come_first_and_retraining_is_beside_them():
    rows = table()
    assert len(rows) == 3
    assert rows[0][0].startswith("CIFAR-10")
    assert all(len(row) == 6 for row in rows)
    # Where retraining reaches further, the table shows it.
    assert float(rows[0][3]) > float(rows[0][2]) > float(rows[0][1])
    assert all(float(row[4]) > float(row[5]) for row in rows)


@pytest.mark.parametrize("row", range(3))
def test_every_number_of_the_table_is_on_the_page_that_has_its_command(row):
    page = PAGES["photographs.md" if row < 2 else "comparison.md"]
    assert re.search(r"^(?:\w+=\d+ )?python -m benchmarks\.", page, flags=re.M)
    for number in table()[row][1:]:
        assert number in page, number


def test_the_numbers_without_a_network_are_on_their_page():
    claim = README.split("## Without a network")[1].split("##")[0]
    page = PAGES["comparison.md"].split("## Without a network")[1].split("\n## ")[0]
    assert "python -m benchmarks.beside --features" in page
    for number in re.findall(r"\b0\.\d s", claim):
        assert number.removesuffix(" s") in page
    for share in re.findall(r"\b(?:F1 of|reach) (\d+)", claim):
        assert any(round(float(found)) == int(share) for found in re.findall(r"\d+\.\d", page))


@pytest.mark.parametrize("page", sorted(PAGES))
def test_pages_lead_to_each_other(page):
    """Every page is linked from another one, or from the README: none is an island."""
    if page == "index.md":
        return
    others = "".join(text for name, text in PAGES.items() if name != page)
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"({page}" in others or f"(docs/{page}" in README + guide
