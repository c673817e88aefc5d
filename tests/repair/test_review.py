"""What a person decided about single labels is in the cleaned ones, or is refused in one line."""

import json

import pandas as pd
import pytest

import underscript as us
from small_decodes import GIVEN, X, run
from underscript.cli.command_line import main
from underscript.errors import DataError, UnderscriptError

HEAD = "index,given_label,decision,label"


@pytest.fixture(scope="module")
def decoding() -> us.Decoding:
    return run(model=None, train=(X, GIVEN), test=None, true_labels=None, controls=False)


@pytest.fixture
def samples(decoding):
    """Index and given label of two samples that the decoder changes, and two that it leaves."""
    cleaned = decoding.relabel()
    rows = [*cleaned[cleaned["changed"]].index[:2], *cleaned[~cleaned["changed"]].index[:2]]
    return [(int(row), int(GIVEN[row])) for row in rows]


def other(label: int, step: int = 1) -> int:
    return (label + step) % int(GIVEN.max() + 1)


def test_a_person_has_the_last_word_and_all_else_stays(decoding, samples, tmp_path):
    (a, given_a), (b, given_b), (c, given_c), (d, given_d) = samples
    plain = decoding.relabel()
    wish = other(given_c, 2)
    path = tmp_path / "review.csv"
    path.write_text(
        f"{HEAD}\n{a},{given_a},keep,{given_a}\n{b},{given_b},skip,\n{c},{given_c},change,{wish}\n"
        f"\n{d},{given_d},Keep,\n"
    )
    cleaned = decoding.relabel(path)
    assert list(cleaned.columns) == [*plain.columns, "reviewed"]
    assert cleaned.index[cleaned["reviewed"]].tolist() == sorted([a, c, d])
    assert cleaned.loc[a, "label"] == given_a != plain.loc[a, "label"]
    assert cleaned.loc[c, "label"] == wish != plain.loc[c, "label"]
    assert cleaned.loc[d, "label"] == given_d
    assert (cleaned.loc[[a, c, d], "confidence"] == 1).all()
    assert (cleaned["changed"] == (cleaned["label"] != cleaned["given_label"])).all()
    # Skipped and not reviewed: as without a review.
    rest = ~cleaned["reviewed"]
    pd.testing.assert_frame_equal(cleaned.loc[rest, list(plain.columns)], plain[rest])
    assert b in cleaned.index[rest]
    pd.testing.assert_frame_equal(decoding.relabel(), plain)


def test_a_table_is_taken_like_the_file_in_whatever_form_pandas_read_it(
    decoding, samples, tmp_path
):
    (a, given_a), (b, given_b), *_ = samples
    path = tmp_path / "review.csv"
    lines = [
        f"\ufeff{HEAD},given_name,label_name",  # the mark that spreadsheets write
        f'{a},{given_a},keep,{given_a},"x, y",x',
        f"{b},{given_b},skip,,y,",
    ]
    path.write_text("\r\n".join(lines), encoding="utf-8")
    expected = decoding.relabel(path)
    assert expected["reviewed"].sum() == 1
    read = pd.read_csv(path)
    assert read["label"].dtype == float  # 3.0 and a gap
    for table in (read, read.set_index("index"), read.convert_dtypes()):
        pd.testing.assert_frame_equal(decoding.relabel(table), expected)


def test_a_review_speaks_even_where_nothing_seems_wrong(decoding, samples, monkeypatch):
    monkeypatch.setitem(decoding.summary["noise"], "nothing_wrong", True)
    assert not decoding.relabel()["changed"].any()
    index, given = samples[0]
    row = {"index": index, "given_label": given, "decision": "change", "label": other(given)}
    changed = decoding.relabel(pd.DataFrame([row]))
    assert changed.index[changed["changed"]].tolist() == [index]


def test_an_empty_review_changes_nothing(decoding, tmp_path):
    path = tmp_path / "review.csv"
    path.write_text(HEAD + "\n")
    cleaned = decoding.relabel(path)
    assert not cleaned.pop("reviewed").any()
    pd.testing.assert_frame_equal(cleaned, decoding.relabel())


BAD = {
    "an empty file": ("", "is empty"),
    "no column": ("index,given_label,decision\n", "row 1: .*found no column label"),
    "a column twice": (f"{HEAD},label\n", "row 1: .*more than one column label"),
    "another separator": (HEAD.replace(",", ";"), "row 1: .*found no column index"),
    "a short row": (f"{HEAD}\nA,GA,keep,GA\nB,GB\n", "row 3: expected 4 columns.*found 2"),
    "an unknown index": (f"{HEAD}\n99999,0,keep,0\n", "row 2, column index: .*'99999'"),
    "no index": (f"{HEAD}\n,0,keep,0\n", "row 2, column index: .*found nothing"),
    "words": (f"{HEAD}\nfirst,0,keep,0\n", "row 2, column index: .*'first'"),
    "half": (f"{HEAD}\n1.5,0,keep,0\n", "row 2, column index: .*'1.5'"),
    "twice": (
        f"{HEAD}\nA,GA,keep,GA\nB,GB,skip,\nA,GA,skip,\n",
        "row 4, column index: expected each sample once, and it is in row 2 too",
    ),
    "another run": (f"{HEAD}\nA,WA,keep,WA\n", "row 2, column given_label: expected .*another run"),
    "an unknown decision": (f"{HEAD}\nA,GA,maybe,GA\n", "row 2, column decision: .*'maybe'"),
    "no decision": (f"{HEAD}\nA,GA,,GA\n", "row 2, column decision: .*keep, change or skip"),
    "no label": (f"{HEAD}\nA,GA,change,\n", "row 2, column label: .*found nothing"),
    "no such class": (
        f"{HEAD}\nA,GA,change,K\n",
        "row 2, column label: expected a class from 0 to",
    ),
    "a negative class": (f"{HEAD}\nA,GA,change,-1\n", "row 2, column label: .*'-1'"),
    "infinity": (f"{HEAD}\nA,GA,change,inf\n", "row 2, column label: .*'inf'"),
    "no change": (f"{HEAD}\nA,GA,change,GA\n", "row 2, column label: .*decision keep"),
    "kept as another": (f"{HEAD}\nA,GA,keep,WA\n", "row 2, column label: .*as it is kept"),
    "an open quote": (f'{HEAD}\n"A,GA,keep,GA\n', "expected a CSV file"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_review_is_refused_in_one_line(decoding, samples, tmp_path, text, message):
    (a, given_a), (b, given_b), *_ = samples
    words = {"GA": given_a, "GB": given_b, "WA": other(given_a), "K": GIVEN.max() + 1}
    for word, value in (words | {"A": a, "B": b}).items():
        text = text.replace(f"{word},", f"{value},").replace(f"{word}\n", f"{value}\n")
    path = tmp_path / "review.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        decoding.relabel(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_refused_in_one_line(decoding, tmp_path):
    bytes_ = tmp_path / "review.csv"
    bytes_.write_bytes(HEAD.encode() + b"\n\xff\xfe,0,keep,0\n")
    for path in (tmp_path / "none.csv", tmp_path, bytes_):
        with pytest.raises(UnderscriptError, match=r"review|CSV") as caught:
            decoding.relabel(path)
        assert "\n" not in str(caught.value)
    table = pd.DataFrame({"index": [0], "given_label": [GIVEN[0]], "label": [0]})
    with pytest.raises(DataError, match="no column decision"):
        decoding.relabel(table)
    with pytest.raises(DataError, match="review: row 0, column decision"):
        decoding.relabel(table.assign(decision="no"))


def test_the_command_takes_a_review_and_writes_nothing_for_a_bad_one(
    decoding, samples, tmp_path, capsys
):
    decoding.save(tmp_path / "run")
    (a, given_a), _, (c, given_c), _ = samples
    path, out = tmp_path / "review.csv", tmp_path / "labels.csv"
    path.write_text(f"{HEAD}\n{a},{given_a},keep,\n{c},{given_c},change,{other(given_c)}\n")
    command = ["relabel", str(tmp_path / "run"), "--review", str(path), "--out", str(out)]
    assert main(command) == 0
    assert capsys.readouterr().out.strip().endswith("labels changed; 2 are as you decided")
    read = pd.read_csv(out, index_col="index")
    pd.testing.assert_frame_equal(read, decoding.relabel(path), check_index_type=False)
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["reviewed"] == 2
    assert told["changed"] == int(read["changed"].sum())
    out.unlink()
    path.write_text(f"{HEAD}\n{a},{given_a},change,{GIVEN.max() + 1}\n")
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"underscript: error: {path}: row 2, column label: expected a class")
    assert error.count("\n") == 1
    assert not out.exists()
