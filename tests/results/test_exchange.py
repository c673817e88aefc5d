"""What goes to other tools: names of classes, a CSV for spreadsheets, probabilities."""

import csv
import functools
import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

import underscript as us
from underscript.cli import audit as _audit
from underscript.cli.command_line import main
from underscript.results.export import write_spreadsheet
from underscript.utils.class_names import for_spreadsheets, for_terminals, read_names

NASTY = [
    '=HYPERLINK("http://x")',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\tcmd",
    'say "hi", twice',
    "two\nlines",
    "<script>alert('run')</script>",
    "größe",
    "[bold]plain",
]


@functools.cache
def case():
    """Digits, a third of whose labels are wrong, and a network that has memorised them."""
    x, true = load_digits(return_X_y=True)
    x = (x[:900] / 8 - 1).astype(np.float32)
    given = us.corrupt_labels(true[:900], 0.4, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
        )
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(150):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(given))
            loss.backward()
            optimiser.step()
    return model, x, given, true[:900]


@functools.cache
def found() -> us.Decoding:
    model, x, given, _ = case()
    return us.decode(model, (x, given), controls=False, progress=False, class_names=NASTY)


# Names ----------------------------------------------------------------------------------------


def test_labels_that_are_text_are_mapped_in_the_read_outs_order():
    model, x, given, _ = case()
    names = np.asarray(NASTY, dtype=object)
    mine = us.decode(model, (x, names[given]), controls=False, progress=False, class_names=NASTY)
    pd.testing.assert_frame_equal(mine.label_issues(), found().label_issues())
    issues = mine.label_issues(sort=True)
    assert (issues["given_name"] == names[issues["given_label"]]).all()
    assert (issues["second_name"] == names[issues["second_label"]]).all()


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ("text", None, "found text such as '=HYP.*give class_names"),
        ("text", NASTY[::-1][:9], "class names; the closest is|none of the 9 class names"),
        ("text", [*NASTY[:9], NASTY[0]], "none of the 10 class names|names more than one class"),
        ("numbers", NASTY[:9], "expected 10 names, one for each class .* found 9"),
        ("numbers", "abcdefghij", "expected a list of names; found str"),
        ("numbers", [*NASTY[:9], 3], "expected text for class 9; found 3"),
        ("numbers", [*NASTY[:9], "\ud800"], "class 9 is not text that can be written"),
    ],
)
def test_names_that_do_not_fit_are_one_clear_error(labels, names, message):
    model, x, given, _ = case()
    y = np.asarray(NASTY, dtype=object)[given] if labels == "text" else given
    with pytest.raises(us.UnderscriptError, match=message):
        us.decode(model, (x, y), controls=False, progress=False, class_names=names)


def test_names_are_read_from_lines_or_a_json_list(tmp_path):
    lines, listed = tmp_path / "names.txt", tmp_path / "names.json"
    lines.write_text("cat\ndog, big\n", encoding="utf-8-sig")
    listed.write_text(json.dumps(NASTY))
    assert read_names(lines) == ["cat", "dog, big"]
    assert read_names(listed) == NASTY
    for name, text, message in (
        ("a.json", "{", "is not a JSON list"),
        ("b.json", "{}", "expected a list"),
        ("c.txt", None, "cannot read"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(us.UnderscriptError, match=message):
            read_names(tmp_path / name)


def test_text_is_harmless_in_a_terminal():
    assert for_terminals("\x1b[31mred\nline\u202e") == r"\x1b[31mred\nline\u202e"
    assert for_terminals("größe 猫") == "größe 猫"


# The CSV --------------------------------------------------------------------------------------


def test_names_survive_the_csv_and_the_report_without_running(tmp_path):
    found().save(tmp_path / "run")
    path = tmp_path / "run" / "label_issues.csv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 900
    for row, (index, issue) in zip(rows, found().label_issues(sort=True).iterrows(), strict=True):
        assert row["index"] == str(index)
        for kind in ("given", "predicted", "second"):
            cell = row[f"{kind}_name"]
            assert cell.removeprefix("'") == issue[f"{kind}_name"]
            assert cell[0] not in "=+-@\t\r\n"
    assert "<script>alert" not in (tmp_path / "run" / "report.html").read_text()
    again = us.load(tmp_path / "run")
    pd.testing.assert_frame_equal(again.label_issues(), found().label_issues(), check_exact=True)


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "＝1", "\r\n=1"])
def test_what_a_spreadsheet_would_compute_gets_a_quote(text):
    assert for_spreadsheets(text) == f"'{text}"
    assert for_spreadsheets(f"a{text}") == f"a{text}"


def test_a_table_of_plain_names_is_plain_ascii(tmp_path):
    table = pd.DataFrame({"margin": [-1.5, 2.0], "name": ["NA", ""]})
    write_spreadsheet(table, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == b",margin,name\n0,-1.5,NA\n1,2.0,\n"


# Probabilities --------------------------------------------------------------------------------


def test_pred_probs_are_the_decoders_in_the_order_of_the_label_issues(tmp_path):
    _, x, given, _ = case()
    probabilities = found().pred_probs((x, given))
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (900, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    issues = found().label_issues()
    assert (probabilities.argmax(1) == issues["predicted_label"]).all()
    np.testing.assert_allclose(probabilities.max(1), issues["confidence"], rtol=1e-4)
    # Out of fold, on perturbed inputs: not what the decoder says of inputs that it was fitted to.
    assert not np.allclose(probabilities, found().best.predict_proba(x), atol=0.01)

    class Backwards(torch.utils.data.Dataset):
        def __len__(self):
            return 900

        def __getitem__(self, i):
            return x[899 - i], given[899 - i], 899 - i

    path = tmp_path / "probs.npy"
    mapped = found().pred_probs(Backwards(), path)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_allclose(mapped, probabilities, rtol=1e-4, atol=1e-7)
    assert np.load(path).shape == (900, 10)


@pytest.mark.parametrize(
    ("part", "message"),
    [(slice(0, 500), "found 500 of them"), (slice(None), "index 900, which was not decoded")],
)
def test_pred_probs_of_other_data_are_an_error_and_leave_no_file(part, message, tmp_path):
    _, x, given, _ = case()
    x = x[part] if part.stop else np.concatenate([x, x[:10]])
    y = np.resize(given, len(x))
    with pytest.raises(us.UnderscriptError, match=message):
        found().pred_probs((x, y), tmp_path / "probs.npy")
    assert not list(tmp_path.iterdir())


def test_more_probabilities_than_memory_should_hold_ask_for_a_file(monkeypatch):
    _, x, given, _ = case()
    monkeypatch.setattr("underscript.results.export._ROOM", 1000)
    with pytest.raises(us.UnderscriptError, match=r"900 × 10 probabilities .* give path="):
        found().pred_probs((x, given))


def test_a_decoder_without_probabilities_says_so():
    model, x, given, _ = case()
    masc = us.decode(model, (x, given), controls=False, progress=False, auto=False)
    with pytest.raises(AttributeError, match="masc has no probabilities"):
        masc.pred_probs((x, given))


def test_cleanlab_takes_them_and_finds_what_it_does_not_find_in_the_networks_own():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanlab.filter import find_label_issues
    model, x, given, true = case()
    wrong = given != true
    with torch.no_grad():
        own = torch.softmax(model(torch.tensor(x)).double(), 1).numpy()
    ours = found().pred_probs((x, given))
    flags = {
        name: find_label_issues(given, probabilities, n_jobs=1)
        for name, probabilities in (("network", own), ("decoder", ours))
    }
    assert (flags["network"] & wrong).sum() < 0.2 * wrong.sum()
    assert (flags["decoder"] & wrong).sum() > 0.8 * wrong.sum()
    assert (flags["decoder"] & ~wrong).sum() < 0.1 * wrong.sum()


# The command ----------------------------------------------------------------------------------


def test_audit_tells_counts_pairs_the_worst_and_where_the_csv_is(tmp_path, monkeypatch, capsys):
    model, x, given, _ = case()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    np.savez(tmp_path / "data.npz", x=x, y=given)
    (tmp_path / "names.json").write_text(json.dumps(NASTY))
    (tmp_path / "mine.py").write_text(
        "import numpy as np, torch\n"
        "data = np.load('data.npz')\n"
        "train = data['x'], data['y']\n"
        "model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(),\n"
        "                            torch.nn.Linear(128, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    command = [
        "audit",
        "--model",
        "mine.py:model",
        "--weights",
        "weights.pt",
        "--no-controls",
        "--train",
        "mine.py:train",
        "--classes",
        "names.json",
        "--verbose",
        "--out",
        "run",
    ]
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    issues = pd.read_csv(told["label_issues_csv"], index_col="index")
    assert told["label_issues"]["flagged"] == issues["is_label_issue"].sum()
    assert told["noise"]["rate_low"] <= told["noise"]["rate"] <= told["noise"]["rate_high"]
    worst = told["worst"]
    assert [row["index"] for row in worst] == (
        issues[issues["is_label_issue"]].sort_values("label_quality").index[:20].tolist()
    )
    assert worst[0]["given_name"] in NASTY
    # The same for people, in one look.
    shown = captured.err
    assert f"{told['label_issues']['flagged']} of 900 labels flagged" in shown
    assert "Classes confused most" in shown
    assert "two\\nlines" in shown
    assert "[bold]plain" in shown
    assert "run/label_issues.csv" in shown
    (tmp_path / "names.json").write_text(json.dumps(NASTY[:4]))
    assert main([*command[:-1], "other"]) == 2
    assert "expected 10 names" in capsys.readouterr().err


def test_where_labels_are_chance_audit_says_so_and_flags_none():
    model, x, _, _ = case()
    chance = np.random.default_rng(0).integers(0, 10, len(x))
    mine = us.decode(model, (x, chance), controls=False, progress=False)
    assert mine.summary["label_issues"]["beyond_decoding"]
    assert not mine.label_issues()["is_label_issue"].any()
    assert _audit.said(mine).startswith("The labels say no more than chance: ")
    assert _audit.said(mine).endswith("None is flagged.")


def test_without_probabilities_audit_says_that_it_flags_all_that_is_contradicted():
    model, x, given, _ = case()
    masc = us.decode(model, (x, given), controls=False, progress=False, auto=False)
    issues = masc.label_issues()
    assert (issues["is_label_issue"] == (issues["margin"] < 0)).all()
    assert "all that the decoder contradicts" in _audit.said(masc)
    assert len(_audit.worst(masc)) == 20
