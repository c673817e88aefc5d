"""`underscript trace` as a user calls it: files, folder, terminal, and next steps that run."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_steps import MINE

from underscript.cli.command_line import main

# A network that is not trained yet answers nothing that perturbing could change.
pytestmark = pytest.mark.filterwarnings("ignore:the subspace of class", "ignore:.*not perturbed")
OPTIONS = ["--model", "mine.py:network", "--train", "mine.py:train", "--layers", "fc,out:input"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a network, its data, and checkpoints of a short training."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    scope: dict = {}
    exec(MINE, scope)
    model, (x, y) = scope["network"](), map(torch.from_numpy, scope["train"])
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    Path("ckpt").mkdir()
    for step in range(41):
        if step % 20 == 0:
            torch.save(model.state_dict(), f"ckpt/my net step={step}.pt")
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return tmp_path


@pytest.mark.slow
def test_the_run_folder_the_terminal_and_the_next_steps(folder, capsys):
    more = ["--test", "mine.py:test", "--holdout", "mine.py:held", "--out", "a b"]
    assert main(["trace", "--weights", "ckpt/*.pt", *OPTIONS, *more]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 25
    assert max(len(line) for line in printed.splitlines() if not line.startswith("  ")) <= 120
    table = pd.read_csv("a b/trace.csv")
    assert list(table) == ["step", "layer", "probe", "split", "labels", "accuracy", "memory"]
    assert sorted(set(table["step"])) == [0, 20, 40]
    results = json.loads(Path("a b/results.json").read_text())
    assert results["recommended"]["step"] in (0, 20, 40)
    assert results["network"]["step"] in (0, 20, 40)
    assert shlex.split(results["command"])[1] == "trace"
    rows = re.findall(r"^ *(\d+)\*? +\d", printed, flags=re.M)
    assert rows == ["0", "20", "40"]
    assert f"{results['recommended']['step']}*" in printed
    proposed = re.findall(r"^  (underscript .*)$", printed, flags=re.M)
    assert [shlex.split(step)[1] for step in proposed] == ["decode", "predict", "decode"]
    for step in proposed:
        assert main(shlex.split(step)[1:]) == 0, capsys.readouterr().err
    decoded = json.loads(
        Path(f"a b-step-{results['recommended']['step']}/results.json").read_text()
    )
    steps = {one["step"]: one for one in results["steps"]}
    # The same network, and the same layers: the same decoder.
    expected = steps[results["recommended"]["step"]]["decoded_test"]
    assert decoded["selected"]["test_accuracy"] == expected
    together = json.loads(Path("a b-together/results.json").read_text())
    # The last step is the network itself.
    assert together["checkpoints"]["steps"] == [0, 20]
    assert together["sources"]["checkpoints"] == ["ckpt/*.pt"]
    again = re.findall(r"^  (underscript predict .*)$", capsys.readouterr().out, flags=re.M)
    assert main(shlex.split(again[-1])[1:]) == 0, capsys.readouterr().err
    page = Path("a b/report.html").read_text()
    assert "underscript decode --model mine.py:network" in page


def test_json_is_alone_on_standard_output_and_nothing_is_done_twice(folder, capsys):
    command = ["trace", "--weights", "ckpt", *OPTIONS, "--out", "run", "--json"]
    for reused in (False, True):
        assert main(command) == 0
        captured = capsys.readouterr()
        results = json.loads(captured.out)
        assert [one["reused"] for one in results["steps"]] == [reused] * 3
        assert results["out"] == "run"
        assert results["network"] == {
            "step": None,
            "why": "not known without a hold-out, whose labels choose it",
        }
        assert "decode step" in captured.err
    page = Path("run/report.html")
    first = page.read_text()
    page.unlink()
    assert main(["report", "run"]) == 0
    assert page.read_text() == first


def test_many_steps_still_fit_on_a_small_terminal(folder, capsys, monkeypatch):
    import underscript as us
    from underscript.report.trace import MOST_STEPS, telling

    traced = us.trace(
        torch.nn.Linear(8, 3),
        {step: torch.nn.Linear(8, 3).state_dict() for step in range(2)},
        tuple(torch.randn(60, 8) if i == 0 else torch.arange(60) % 3 for i in range(2)),
        progress=False,
        perturb="none",
    )
    one = traced.summary["steps"][0]
    traced.summary["steps"] = [{**one, "step": step} for step in range(500)]
    traced.summary["recommended"] = {"step": 333, "why": "so"}
    shown = [step["step"] for step in telling(traced)]
    assert len(shown) <= MOST_STEPS
    assert {0, 333, 499} <= set(shown)
    assert shown == sorted(shown)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weights", "ckpt/*.none"], "--weights: no file matches 'ckpt/*.none'"),
        (["--weights", "bad"], "--weights: bad/step=1.pt does not fit Mine"),
        (["--weights", "ckpt", "--weights", "none.pt"], "--weights: "),
        (["--weights", "ckpt", "--out", "bad"], "bad exists and is not an underscript trace"),
        (["--weights", "ckpt", "--controls"], "unrecognized argument --controls"),
        ([], "required: --weights"),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(folder, capsys, arguments, said):
    Path("bad").mkdir()
    torch.save({"fc.weight": torch.zeros(1, 1)}, "bad/step=1.pt")
    out = [] if "--out" in arguments else ["--out", "run"]
    assert main(["trace", *arguments, *OPTIONS, *out]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert said in captured.err
    assert not Path("run").exists()


def test_an_interrupt_says_how_to_go_on(folder, capsys, monkeypatch):
    from underscript import _trace

    write = _trace.write_step

    def second(where, checkpoint, *parts):
        if checkpoint.step == 20:
            raise KeyboardInterrupt
        write(where, checkpoint, *parts)

    monkeypatch.setattr(_trace, "write_step", second)
    assert main(["trace", "--weights", "ckpt", *OPTIONS, "--out", "run"]) == 130
    said = capsys.readouterr().err
    assert "1 decoded checkpoints are kept in run: the same command goes on" in said


def test_it_is_for_one_process(folder, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["trace", "--weights", "ckpt", *OPTIONS, "--out", "run"]) == 2
    assert "without torchrun" in capsys.readouterr().err


@pytest.mark.slow
def test_a_network_is_decoded_with_its_checkpoints_and_exported_with_them(folder, capsys):
    pytest.importorskip("onnx")
    network = ["--model", "mine.py:network", "--weights", "ckpt/my net step=40.pt"]
    earlier = ["--checkpoints", "ckpt/*.pt"]
    command = ["decode", *network, *earlier, "--train", "mine.py:train", "--layers", "fc"]
    assert main([*command, "--no-controls", "--no-network", "--out", "run"]) == 0
    results = json.loads(Path("run/results.json").read_text())
    assert any(layer.startswith("step=") for layer in results["selected"]["layers"])
    capsys.readouterr()
    predict = ["predict", "run", "--inputs", "mine.py:test", "--out", "p.csv", *network]
    assert main(predict) == 2
    assert "--checkpoints" in capsys.readouterr().err
    assert main([*predict, *earlier]) == 0
    assert len(pd.read_csv("p.csv")) == 100
    export = ["export", "run", *network, *earlier, "--example", "mine.py:train"]
    assert main([*export, "--out", "run.onnx"]) == 0
    assert Path("run.onnx").is_file()
    capsys.readouterr()
    assert main([*command, "--checkpoints", "nothing/*.pt", "--out", "other"]) == 2
    assert "--checkpoints: " in capsys.readouterr().err
