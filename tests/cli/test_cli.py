"""The command line as a user calls it: exit codes, one-line errors, nothing half-written."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

import models
from underscript.cli.command_line import main
from underscript.cli.commands import COMMANDS

MINE = """
import dataclasses
import os
import numpy as np
import torch
from underscript.selection.budget import Shares

print("a user's file may print")
rng = np.random.default_rng(0)
centres = rng.normal(size=(3, 8)).astype(np.float32)
clean = rng.integers(0, 3, 90)
x = (centres[clean] + 0.1 * rng.normal(size=(90, 8))).astype(np.float32)
noisy = np.where(rng.random(90) < 0.2, rng.integers(0, 3, 90), clean)
train, test, val = (x, noisy), lambda: (x[:30], clean[:30]), (x[30:60] * 0.9, noisy[30:60])


def build():
    if os.environ.get("ON_DISK"):  # nothing of the rows in memory
        of = Shares.of
        Shares.of = lambda *how: dataclasses.replace(of(*how), rows=0, statistics=1)
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


def many():
    return (x, np.where(noisy == 2, 7, noisy))


def negative():
    return (x, noisy - 1)


def floating():
    return (x, noisy.astype(float))


def short():
    return (x, noisy[:-1])


def one_class():
    return (x, np.zeros(90, dtype=int))


def empty():
    return (x[:0], noisy[:0])


def broken():
    bad = x.copy()
    bad[7, 3] = np.nan
    return (bad, noisy)


def boom():
    raise RuntimeError("first line\\nsecond line")


def nudged(inputs):
    return inputs + 0.02


def cut(inputs):
    return inputs[:, :4]


def slowly():
    import time

    class Slow(torch.utils.data.Dataset):
        def __len__(self):
            return 10_000

        def __getitem__(self, index):
            time.sleep(0.01)
            return torch.from_numpy(x[index % 90]), int(noisy[index % 90])

    return Slow()


nothing = None
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def decode(*more: str, train: str = "train") -> list[str]:
    return ["decode", "--model", "mine.py:build", "--train", f"mine.py:{train}", *more]


def one_line(capsys) -> str:
    """The error, which must be one line and all that standard output and error hold."""
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("a user's file")]
    lines = [line for line in lines if "warning" not in line and "no --weights" not in line]
    assert captured.out == ""
    assert len(lines) == 1, lines
    assert "Traceback" not in captured.err
    return lines[0]


def left_behind(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name not in ("mine.py", "__pycache__"))


def test_decode_writes_a_run_and_json_alone_on_standard_output(folder, capsys):
    code = main(
        decode(
            "--test",
            "mine.py:test",
            "--holdout",
            "mine.py:val",
            "--true-labels",
            "mine.py:clean",
            "--out",
            "run",
            "--json",
        )
    )
    captured = capsys.readouterr()
    assert code == 0, captured.err
    found = json.loads(captured.out)
    assert sorted(p.name for p in Path("run").iterdir()) == [
        "candidates.csv",
        "decoder",
        "examples",
        "geometry.csv",
        "label_issues.csv",
        "layers.csv",
        "report.html",
        "results.json",
    ]
    kept = json.loads(Path("run/results.json").read_text())
    assert {key: found[key] for key in kept} == kept
    assert kept["command"].startswith("underscript decode --model mine.py:build")
    assert len(found["table"]) == len(pd.read_csv("run/layers.csv"))
    issues = pd.read_csv("run/label_issues.csv", index_col="index").sort_index()
    noisy = np.mean(issues["given_label"] != _clean(folder))
    assert found["wrong_label_share"] == pytest.approx(noisy)
    assert found["verdict"].split(". ")[0] in " ".join(captured.err.split())
    assert left_behind(folder) == ["run"]


def _clean(folder: Path) -> np.ndarray:
    scope: dict = {}
    exec((folder / "mine.py").read_text(), scope)
    return scope["clean"]


def test_a_table_goes_to_standard_output_without_json(folder, capsys):
    assert main(decode("--holdout", "mine.py:val", "--out", "run", "--verbose")) == 0
    out = capsys.readouterr().out
    assert "Decoded, given labels" in out
    assert "report.html" in out


def test_audit_shows_suspicious_labels_first(folder, capsys):
    arguments = decode("--holdout", "mine.py:val", "--out", "run", "--verbose")
    assert main(["audit", *arguments[1:]]) == 0
    out = capsys.readouterr().out
    assert out.index("label quality") < out.index("Decoded, given labels")


@pytest.mark.slow
def test_an_earlier_run_is_replaced_and_report_made_again(folder, capsys):
    assert main(decode("--holdout", "mine.py:val", "--out", "run")) == 0
    assert main(decode("--holdout", "mine.py:val", "--out", "run", "--no-controls")) == 0
    assert set(pd.read_csv("run/layers.csv")["model"]) == {"trained"}
    Path("run/report.html").unlink()
    capsys.readouterr()
    assert main(["report", "run", "--json"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["report"]).read_text().startswith("<!doctype")
    assert left_behind(folder) == ["run"]


@pytest.mark.parametrize(
    ("command", "arguments", "kept"),
    [
        pytest.param("decode", [], {"perturb": "noise", "views": 3}, marks=pytest.mark.slow),
        pytest.param(
            "decode", ["--perturb", "none"], {"perturb": None, "views": 3}, marks=pytest.mark.slow
        ),
        ("audit", ["--perturb", "mine.py:nudged", "--views", "1"], {"perturb": "own", "views": 1}),
    ],
)
def test_perturbations_are_chosen_by_word_or_function(folder, capsys, command, arguments, kept):
    more = decode("--holdout", "mine.py:val", "--no-controls", "--out", "run", "--json")[1:]
    assert main([command, *more, *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {key: found["settings"][key] for key in kept} == kept
    assert [row["layer"] for row in found["memory"]["layers"]] == ["input", "1"]


def test_every_command_of_the_parser_does_something(capsys):
    assert main(["no-such-command"]) == 2
    choices = one_line(capsys).split("choose from")[1].split(")")[0]
    assert set(re.findall("[a-z]+", choices)) == set(COMMANDS)


def test_layers_lists_what_can_be_decoded(folder, capsys):
    assert main(["layers", "mine.py:build", "--example", "mine.py:train", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["layer"] for row in rows if row["default"]] == ["input", "1"]
    assert main(["layers", "mine.py:build", "--example", "mine.py:train"]) == 0
    assert "ReLU" in capsys.readouterr().out


def test_data_describes_a_data_set(capsys):
    assert main(["data", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_test"] == 360


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (decode(train="many"), "found label 7 at index"),
        (decode(train="negative"), "found -1 at index"),
        (decode(train="floating"), "dtype float64"),
        (decode(train="short"), "89 labels and 90 inputs"),
        (decode(train="one_class"), "at least 2 classes; found 1"),
        (decode(train="empty"), "length 0"),
        (decode(train="broken"), "layer 'input' gives NaN or infinite values for 1 of"),
        (decode(train="nothing"), "is None"),
        (decode(train="boom"), "boom() raised RuntimeError (line"),
        (decode(train="trian"), "no attribute 'trian'; the closest are train"),
        (decode("--labels", "mine.py:val"), "labels"),
        (decode("--layers", "fc1"), "no layer matches 'fc1'; the closest are"),
        (decode("--variance", "1.5"), "shares in (0, 1]"),
        (decode("--variance", "half"), "shares in (0, 1]"),
        (decode("--probes", "knn"), "masc, velpic"),
        (decode("--batch-size", "many"), "--batch-size"),
        (decode("--perturb", "shifts"), "--perturb: expected auto, overlays, none or FILE.py:name"),
        (decode("--perturb", "mine.py:nudge"), "no attribute 'nudge'; the closest are nudged"),
        (decode("--perturb", "mine.py:noisy"), "mine.py:noisy to be a function; found ndarray"),
        (decode("--perturb", "mine.py:cut"), "perturb: your function"),
        (decode("--perturb", "mine.py:boom"), "raised TypeError: boom() takes 0"),
        (decode("--views", "0"), "--views: expected a whole number of at least 1; found '0'"),
        (decode("--views", "few"), "--views: expected a whole number of at least 1; found 'few'"),
        (decode("--weights", "missing.safetensors"), "missing.safetensors is not a file"),
        (decode("--weights", "mine.py"), "nothing in it was run"),
        (decode("--device", "abacus"), "abacus"),
        (["decode", "--model", "other.py:build", "--train", "mine.py:train"], "other.py"),
        (["decode", "--model", "mine.py", "--train", "mine.py:train"], "FILE.py:name"),
        (["decode", "--model", "mine.py:train", "--train", "mine.py:train"], "nn.Module"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(folder, capsys, arguments, says):
    assert main([*arguments, "--out", "run", "--json"]) == 2
    assert says in one_line(capsys)
    assert left_behind(folder) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["decoed"], "invalid choice"),
        (["demo", "--corruption", "1.5"], "1.5"),
        (["demo", "--data", "cifar99"], "cifar99"),
        (["data", "mnits"], "mnits"),
        (["report", "nowhere"], "nowhere"),
        (["layers", "mine.py:build", "--example", "mine.py:empty"], "length 0"),
    ],
)
def test_other_commands_refuse_bad_input_in_one_line(folder, capsys, arguments, says):
    assert main(arguments) == 2
    assert says in one_line(capsys)
    assert left_behind(folder) == []


def test_a_folder_that_is_not_a_run_is_left_alone(folder, capsys):
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.txt").write_text("years of work")
    assert main(decode("--out", "thesis")) == 2
    assert "not an underscript run" in one_line(capsys)
    assert (folder / "thesis" / "chapter.txt").read_text() == "years of work"
    (folder / "file").write_text("x")
    assert main(decode("--out", "file")) == 2
    assert "is a file" in one_line(capsys)


def test_a_place_that_cannot_be_written_is_known_before_the_work(folder, capsys):
    (folder / "file").write_text("x")
    assert main(decode("--out", "file/run")) == 2
    assert "cannot write" in one_line(capsys)


def test_a_full_disk_loses_no_result(folder, capsys, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    assert main(decode("--holdout", "mine.py:val", "--out", "whole", "--json")) == 0
    expected = json.loads(capsys.readouterr().out)["selected"]
    shutil.rmtree("whole")
    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    assert main(decode("--holdout", "mine.py:val", "--out", "run", "--json")) == 2
    captured = capsys.readouterr()
    assert "No space left on device" in captured.err.splitlines()[-1]
    assert json.loads(captured.out)["selected"] == expected
    assert left_behind(folder) == []


def test_weights_are_loaded_and_checked(folder, capsys):
    scope: dict = {}
    exec((folder / "mine.py").read_text(), scope)
    state = scope["build"]().state_dict()
    safetensors.torch.save_file(state, "good.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, "good.pt")
    results = []
    for name in ("good.safetensors", "good.pt"):
        capsys.readouterr()
        code = main(decode("--weights", name, "--holdout", "mine.py:val", "--out", "run", "--json"))
        assert code == 0
        results.append(json.loads(capsys.readouterr().out)["table"])
    assert results[0] == results[1]
    bad = dict(state, extra=torch.zeros(1))
    del bad["0.weight"]
    bad["2.weight"] = torch.zeros(3, 15)
    safetensors.torch.save_file(bad, "bad.safetensors")
    capsys.readouterr()
    assert main(decode("--weights", "bad.safetensors", "--out", "other")) == 2
    line = one_line(capsys)
    for part in ("missing: 0.weight", "unexpected: extra", "2.weight is (3, 15)"):
        assert part in line


def test_weights_that_want_to_run_code_are_refused(folder, capsys):
    import pickle

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(folder / "pwned"),))

    Path("evil.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"a": Evil()}, "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        assert main(decode("--weights", name, "--out", "run")) == 2
        assert "nothing in it was run" in one_line(capsys)
    assert not (folder / "pwned").exists()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupt_leaves_nothing_behind(folder, number):
    command = [sys.executable, "-m", "underscript", *decode("--out", "run", train="slowly")]
    # A shell's background jobs, and what they start, ignore SIGINT unless told not to.
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while not any(name.startswith(".run.partial") for name in os.listdir()):
            assert time.monotonic() < deadline, "the run never began"
            time.sleep(0.1)
        time.sleep(1)
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, err
    assert "interrupted; nothing was written" in err
    assert "Traceback" not in err
    assert left_behind(folder) == []


@pytest.mark.slow
def test_a_killed_process_leaves_no_rows_behind(folder, tmp_path_factory):
    """Kept rows go to a file without a name: whatever happens, the next run finds nothing."""
    spill = tmp_path_factory.mktemp("spill")
    command = [
        sys.executable,
        "-m",
        "underscript",
        *decode("--out", "run", "--batch-size", "16", train="slowly"),
        "--verbose",
    ]
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(spill), "ON_DISK": "1"},
    )
    said = [running.stderr.readline()]
    while "values go to a temporary file" not in said[-1]:
        assert said[-1], said
        said.append(running.stderr.readline())
    time.sleep(0.5)
    open_files = os.listdir(f"/proc/{running.pid}/fd")
    assert any(
        os.readlink(f"/proc/{running.pid}/fd/{number}").startswith(str(spill))
        for number in open_files
    )
    running.kill()
    running.communicate(timeout=60)
    assert os.listdir(spill) == []


@pytest.mark.slow
def test_memory_decides_the_path_and_is_told(folder, capsys, monkeypatch):
    for statistics, path in ((10**9, "moments"), (1, "rows")):
        models.shared_out(monkeypatch, statistics=statistics)
        assert main(decode("--memory", "1GB", "--out", path, "--json")) == 0
        told = json.loads(capsys.readouterr().out)
        assert {layer["path"] for layer in told["layers"]} == {path}
        assert told["settings"]["processes"] == 1
    assert main(decode("--memory", "1B", "--out", "run")) == 2
    assert "memory: expected at least" in one_line(capsys)
    assert main(decode("--memory", "lots", "--out", "run")) == 2
    assert "--memory: expected a size such as 4GB" in one_line(capsys)


def test_a_failure_inside_is_one_line_and_exit_1(folder, capsys, monkeypatch):
    def fail(*_arguments, **_options):
        raise ZeroDivisionError("a bug\nof ours")

    monkeypatch.setattr("underscript.cli.commands.decode", fail)
    assert main(decode("--out", "run")) == 1
    assert "failed inside: ZeroDivisionError: a bug" in one_line(capsys)
    assert left_behind(folder) == []
    with pytest.raises(ZeroDivisionError):
        main(decode("--out", "run", "--debug"))
