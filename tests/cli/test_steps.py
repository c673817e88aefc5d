"""What a command proposes as next steps runs as it is printed; predict classifies with a run."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import underscript as us
from underscript.cli.command_line import main

MINE = """
import numpy as np
import torch

rng = np.random.default_rng(0)
centres = rng.normal(size=(3, 8)).astype(np.float32)
clean = rng.integers(0, 3, 300)
x = (centres[clean] + 0.3 * rng.normal(size=(300, 8))).astype(np.float32)
noisy = np.where(rng.random(300) < 0.4, rng.integers(0, 3, 300), clean)
train, held, test = (x[:200], noisy[:200]), (x[200:], noisy[200:]), (x[200:], clean[200:])


class Mine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(8, 32)
        self.out = torch.nn.Linear(32, 3)

    def forward(self, x):
        return self.out(self.fc(x).relu())


def network():
    torch.manual_seed(0)
    return Mine()
"""
# Classes of few directions fill them.
pytestmark = pytest.mark.filterwarnings("ignore:the subspace of class")

FOLDER = "a b"  # must be quoted


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a network that was trained a little, and its data."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    scope: dict = {}
    exec(MINE, scope)
    model, (x, y) = scope["network"](), map(torch.from_numpy, scope["train"])
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    torch.save(model.state_dict(), "weights.pt")
    return scope


def options() -> list[str]:
    arguments = ["--model", "mine.py:network", "--weights", "weights.pt"]
    arguments += ["--train", "mine.py:train", "--holdout", "mine.py:held"]
    return [*arguments, "--test", "mine.py:test", "--no-controls", "--layers", "fc,out:input"]


def steps(printed: str) -> list[str]:
    return re.findall(r"^  (underscript .*)$", printed, flags=re.M)


@pytest.mark.parametrize("command", ["decode", "audit"])
def test_each_step_runs_as_it_is_printed(folder, capsys, command):
    assert main([command, *options(), "--out", FOLDER]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 25
    proposed = steps(printed)
    assert [shlex.split(step)[1] for step in proposed] == ["predict", "relabel", "transfer"]
    for step in proposed:
        words = shlex.split(step)[1:]
        assert main(words) == 0, capsys.readouterr().err
        assert Path(words[words.index("--out") + 1]).stat().st_size > 0
    page = (Path(FOLDER) / "report.html").read_text()
    assert "underscript relabel &#39;a b&#39; --out" in page


def test_predict_needs_no_network_and_agrees_with_the_one_that_has_it(folder, capsys):
    assert main(["decode", *options(), "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["predict", "run", "--inputs", "mine.py:test", "--out", "alone.csv"]) == 0
    assert "alone.csv: the classes of 100 inputs" in capsys.readouterr().out
    network = ["--model", "mine.py:network", "--weights", "weights.pt"]
    again = ["predict", "run", "--inputs", "mine.py:test", *network, "--out", "with.csv", "--json"]
    assert main(again) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "with.csv", "n": 100}
    alone, other = pd.read_csv("alone.csv"), pd.read_csv("with.csv")
    pd.testing.assert_frame_equal(alone, other, rtol=1e-4)
    expected = us.load("run").best.predict(folder["test"][0])
    assert alone["predicted_label"].tolist() == expected.tolist()
    assert alone["confidence"].between(1 / 3, 1).all()
    assert alone["index"].tolist() == list(range(100))


def test_predict_gives_names_where_a_run_has_them(folder, capsys):
    Path("names.txt").write_text("ant\nbee\n=cat\n")
    command = ["decode", *options(), "--classes", "names.txt", "--out", "run"]
    assert main(command) == 0
    assert main(["predict", "run", "--inputs", "mine.py:test", "--out", "p.csv"]) == 0
    found = pd.read_csv("p.csv", encoding="utf-8-sig")
    # A spreadsheet would compute the last one.
    names = np.array(["ant", "bee", "'=cat"])
    assert (found["predicted_name"] == names[found["predicted_label"]]).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "run", "--inputs", "mine.py:test"], "--out"),
        (["predict", "nowhere", "--inputs", "mine.py:test", "--out", "p.csv"], "nowhere"),
        (["predict", "run", "--inputs", "mine.py:tset", "--out", "p.csv"], "closest are test"),
        (
            ["predict", "run", "--inputs", "mine.py:clean", "--out", "p.csv"],
            "inputs",
        ),
        (
            [
                "predict",
                "run",
                "--inputs",
                "mine.py:x",
                "--weights",
                "weights.pt",
                "--out",
                "p.csv",
            ],
            "expected --model",
        ),
        (["predict", "bare", "--inputs", "mine.py:test", "--out", "p.csv"], "model="),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(folder, capsys, arguments, said):
    for out, more in (("run", []), ("bare", ["--no-network"])):
        assert main(["decode", *options(), *more, "--out", out]) == 0
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert said in captured.err
    assert not Path("p.csv").exists()


def test_without_the_network_the_steps_name_it(folder, capsys):
    assert main(["decode", *options(), "--no-network", "--out", "run"]) == 0
    first = steps(capsys.readouterr().out)[0]
    assert "--model mine.py:network --weights weights.pt" in first
    assert main(shlex.split(first)[1:]) == 0
