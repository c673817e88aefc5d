"""A run on one screen: at most 25 lines, five numbers, ten samples, steps that can be copied."""

import io
import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sample_runs import EVIL, SAMPLES, digits, run_of
from underscript.decoding import Decoding
from underscript.report import print_brief
from underscript.report.thumbnails import thumbnail
from underscript.results.examples import Example

WORST = 10


class Utf8(io.StringIO):
    """What a terminal writes to."""

    encoding = "utf-8"


def printed(d: Decoding, width: int = 80, **how: Any) -> str:
    file = Utf8()
    print_brief(Console(file=file, width=width, color_system=None, **how), d, report="run.html")
    return file.getvalue()


def screen_lines(text: str, width: int = 80) -> int:
    """How many lines of a terminal the text fills."""
    return sum(max(1, -(-len(line) // width)) for line in text.splitlines())


def with_examples(kind: str) -> Decoding:
    summary, table = digits()
    d = run_of(summary, table)
    issues = d.label_issues(sort=True)
    worst = issues[issues["is_label_issue"]].head(WORST)
    examples = []
    for place, (index, row) in enumerate(worst.iterrows()):
        picture = np.zeros((16, 16), np.uint8)
        picture[:, place : place + 3] = 255
        shown: dict[str, Any] = {
            "pictures": {"picture": picture},
            "photographs": {"picture": np.repeat(picture[..., None], 3, 2)},
            "texts": {"text": f"{EVIL} a long text\nof {place} lines " * 9},
            "numbers": {"numbers": (1.0, 2.0), "width": 2},
        }[kind]
        given, predicted = int(row["given_label"]), int(row["predicted_label"])
        examples.append(Example(int(index), given, predicted, row["label_quality"], **shown))
    return run_of(summary, table, examples=examples)


@pytest.mark.parametrize("kind", ["pictures", "photographs", "texts", "numbers"])
@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("terminal", [True, False])
def test_it_fits_on_a_small_screen_whatever_the_samples_are(kind, width, terminal):
    d = with_examples(kind)
    d.summary["written_to"] = "a folder/with a rather long name/run"
    sources = {name: f"some/where/my_own_file.py:{name}" for name in ("model", "train", "test")}
    d.summary["sources"] = sources
    text = printed(d, width, force_terminal=terminal)
    assert screen_lines(text, width) <= 25
    assert "\x1b" not in text
    assert "run.html" in text
    for line in text.splitlines():
        assert len(line) <= width or line.startswith(("  underscript ", "Write cleaned labels"))


@pytest.mark.parametrize("name", SAMPLES)
def test_each_kind_of_run_has_its_two_sentences_and_numbers(name):
    text = printed(run_of(*SAMPLES[name]()))
    assert screen_lines(text) <= 25
    assert text.splitlines()[0].startswith(("Your network fits", "The decoder", "MASC"))


def test_the_five_numbers_are_those_of_the_table():
    summary, table = digits()
    d = run_of(summary, table)
    lines = printed(d).splitlines()
    (at,) = (place for place, line in enumerate(lines) if line.startswith("network "))
    names = re.split(r"\s{2,}", lines[at].strip())
    values = dict(zip(names, lines[at + 1].split(), strict=True))
    assert values["network"] == f"{100 * summary['model']['accuracy']['test']:.1f}%"
    assert values["decoded"] == f"{100 * summary['selected']['test_accuracy']:.1f}%"
    assert values["labels wrong"] == f"{100 * summary['noise']['rate']:.1f}%"


def test_the_ten_worst_are_named_the_worst_first():
    d = with_examples("numbers")
    text = printed(d)
    issues = d.label_issues(sort=True)
    worst = issues[issues["is_label_issue"]].head(WORST)
    places = [text.index(f"#{index}  ") for index in worst.index]
    assert len(places) == WORST
    first = worst.iloc[0]
    assert f"#{worst.index[0]}  {first['given_label']} → {first['predicted_label']}" in text


def test_pictures_are_drawn_where_a_terminal_can_and_named_elsewhere():
    dots = {chr(0x2800 + bits) for bits in range(1, 256)}
    d = with_examples("pictures")
    assert dots & set(printed(d, force_terminal=True))
    assert not dots & set(printed(d, force_terminal=False))
    # Too narrow for ten pictures.
    assert not dots & set(printed(d, 60, force_terminal=True))
    # Photographs need colours, which this terminal lacks.
    assert "▀" not in printed(with_examples("photographs"), force_terminal=True)


def test_a_picture_in_dots_has_its_dots_where_it_is_bright():
    picture = np.zeros((16, 16), np.uint8)
    picture[3, 5] = 200
    lines = thumbnail(picture, 8, 4)
    assert [len(line.plain) for line in lines] == [8] * 4
    # Pixel (3, 5): the last dot of the right column of the third letter of the first line.
    assert lines[0].plain[2] == chr(0x2880)
    assert sum(letter != "\u2800" for line in lines for letter in line.plain) == 1


def test_a_photograph_has_two_pixels_in_a_letter():
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4] = (255, 0, 0)
    lines = thumbnail(picture, 8, 4)
    first, last = lines[0].spans[0].style, lines[-1].spans[0].style
    assert first.color.triplet.hex == "#ff0000"
    assert last.bgcolor.triplet.hex == "#000000"
    assert all(set(line.plain) == {"▀"} for line in lines)


def test_nothing_wrong_and_hopeless_runs_say_what_not_to_do():
    summary, table = digits()
    summary["noise"] |= {"hopeless": True}
    text = printed(run_of(summary, table))
    assert "do not use this decoder" in text
    assert "underscript " not in text.replace("underscript.load", "")
