"""The command line in a process of its own: its streams, full disks, and ends at any moment."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
from situation_data import features

from hostile.judge import Case, Result

COMMAND = [sys.executable, "-m", "underscript", "audit"]
WHOLE = {"results.json", "label_issues.csv", "report.html", "layers.csv", "decoder"}
KILLS = 50
_PATIENCE = 300.0


@cache
def table() -> str:
    """Return a CSV file of features and labels, one of which is no ASCII."""
    x, given, _ = features(6, 3, 0.2, [80] * 3)
    names = np.array(["Äpfel", "pears", "plums"])
    rows = [",".join([*map(str, row.tolist()), names[k]]) for row, k in zip(x, given, strict=True)]
    path = Path(mkdtemp()) / "data.csv"
    path.write_text("\n".join(["a,b,c,d,e,f,label", *rows]), encoding="utf-8")
    return f"{path}:label"


def whole(folder: Path) -> bool:
    """Say whether a run is all there."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} >= WHOLE


def streams() -> Iterator[Case]:
    """Standard output of every kind."""

    def run(how: str, encoding: str = "utf-8", code: int | None = 0) -> Result:
        with TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            words = " ".join(
                f"'{word}'" for word in [*COMMAND, "--train", table(), "--out", str(out)]
            )
            done = subprocess.run(
                ["bash", "-c", how.format(words)],
                capture_output=True,
                check=False,
                env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
                timeout=_PATIENCE,
            )
            said = done.stderr.decode(errors="replace")
            if not whole(out):
                return Result(problem=f"the run is not there: {said[-200:]}")
            if "Traceback" in said or (code is not None and done.returncode != code):
                return Result(problem=f"exit {done.returncode}: {said[-200:]}")
            return Result()

    kinds: dict[str, tuple[str, str, int | None]] = {
        "a file": ("{} > /dev/null", "utf-8", 0),
        "ASCII": ("{}", "ascii", 0),
        "strict ASCII": ("{}", "ascii:strict", 0),
        "Latin-1": ("{}", "latin-1", 0),
        "closed": ("{} >&-", "utf-8", 0),
        "both closed": ("{} >&- 2>&-", "utf-8", 0),
        "nothing to read from": ("{} <&-", "utf-8", 0),
        "full": ("{} > /dev/full", "utf-8", 2),
        "full, and standard error": ("{} > /dev/full 2> /dev/full", "utf-8", None),
        "read for a line": ("set -o pipefail; {} | head -1", "utf-8", 0),
        "not read at all": ("set -o pipefail; {} | true", "utf-8", 0),
        "JSON for a byte": ("set -o pipefail; {} --json | head -c 1", "utf-8", 0),
        "JSON in ASCII": ("{} --json | python3 -m json.tool > /dev/null", "ascii", 0),
    }
    for name, (how, encoding, code) in kinds.items():
        yield Case(
            "streams", name, lambda how=how, encoding=encoding, code=code: run(how, encoding, code)
        )


@cache
def usual() -> float:
    """Return how many seconds the command takes."""
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        subprocess.run(
            [*COMMAND, "--train", table(), "--out", f"{folder}/run"],
            check=True,
            capture_output=True,
            timeout=_PATIENCE,
        )
    return time.perf_counter() - start


def ends() -> Iterator[Case]:
    """Ends at random moments: what stands there then is whole or nothing, and the next run works."""
    rng = random.Random(0)
    for number in range(KILLS):
        kind = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[number % 3]
        share = rng.random() * 1.1
        yield Case(
            "ends",
            f"{number + 1}: {kind.name} after {share:.0%}",
            lambda kind=kind, share=share: _ended(kind, share),
        )


def _ended(kind: signal.Signals, share: float) -> Result:
    with TemporaryDirectory() as folder, TemporaryDirectory() as temporary:
        out = Path(folder) / "run"
        process = subprocess.Popen(
            [*COMMAND, "--train", table(), "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"TMPDIR": temporary},
        )
        time.sleep(share * usual())
        process.send_signal(kind)
        _, said = process.communicate(timeout=_PATIENCE)
        text = said.decode(errors="replace")
        if out.exists() and not whole(out):
            return Result(problem=f"half a run is left: {sorted(p.name for p in out.iterdir())}")
        # Before the command line is there Python itself answers Ctrl-C.
        early = share < 0.4
        if kind is not signal.SIGKILL and not early:
            left = [path.name for path in Path(folder).iterdir() if path != out]
            left += [path.name for path in Path(temporary).iterdir()]
            if left:
                return Result(problem=f"left behind: {left}")
            if "Traceback" in text:
                return Result(problem=f"raw: {text[-200:]}")
        return Result()


def arguments() -> Iterator[Case]:
    """Arguments and files that make no sense: exit 2 and one line."""

    def run(make: Callable[[Path], list[str]]) -> Result:
        with TemporaryDirectory() as name:
            folder = Path(name)
            done = subprocess.run(
                [sys.executable, "-m", "underscript", *make(folder)],
                capture_output=True,
                text=True,
                check=False,
                cwd=folder,
                timeout=_PATIENCE,
            )
            lines = [line for line in done.stderr.splitlines() if "warning" not in line]
            if done.returncode != 2 or len(lines) != 1:
                return Result(problem=f"exit {done.returncode}, {len(lines)} lines: {lines[-1:]}")
            return Result()

    def csv(text: str, label: str = "y") -> Callable[[Path], list[str]]:
        def make(folder: Path) -> list[str]:
            (folder / "d.csv").write_text(text)
            return ["audit", "--train", f"d.csv:{label}", "--out", "run"]

        return make

    def npy(array: object) -> Callable[[Path], list[str]]:
        def make(folder: Path) -> list[str]:
            np.save(folder / "x.npy", array, allow_pickle=True)
            np.save(folder / "y.npy", np.zeros(3, int))
            return ["audit", "--train", "x.npy,y.npy", "--out", "run"]

        return make

    cases: dict[str, Callable[[Path], list[str]]] = {
        "no command": lambda _f: [],
        "an unknown command": lambda _f: ["decipher"],
        "an unknown option": lambda _f: ["audit", "--fast"],
        "no file": lambda _f: ["audit", "--train", "no.csv:y", "--out", "run"],
        "an empty table": csv(""),
        "no such column": csv("a,b\n1,2\n"),
        "only labels": csv("y\n1\n0\n"),
        "words for features": csv("a,y\nx,1\nz,0\n"),
        "labels left out": csv("a,y\n1,\n2,1\n3,0\n"),
        "one class": csv("a,y\n1,1\n2,1\n3,1\n"),
        "binary rubbish": csv("\0\1\2\n" * 5),
        "pickled arrays": npy(np.array([{}, 1], object)),
        "complex numbers": npy(np.zeros((3, 2), complex)),
        "a number": npy(np.float64(3)),
        "weights without a model": lambda f: [*csv("a,y\n1,1\n2,0\n")(f), "--weights", "w.pt"],
        "a folder of somebody": _somebody,
        "a place that cannot be written": lambda f: [*csv("a,y\n1,1\n2,0\n")(f)[:-1], "/proc/run"],
        "a model that raises": _raises,
        "a model that is none": _none,
    }
    for name, make in cases.items():
        yield Case("arguments", name, lambda make=make: run(make))


def _somebody(folder: Path) -> list[str]:
    (folder / "d.csv").write_text("a,y\n1,1\n2,0\n")
    (folder / "run").mkdir()
    (folder / "run" / "thesis.tex").write_text("mine")
    return ["audit", "--train", "d.csv:y", "--out", "run"]


def _raises(folder: Path) -> list[str]:
    (folder / "m.py").write_text("def build():\n    return 1 / 0\n")
    (folder / "d.csv").write_text("a,y\n1,1\n2,0\n")
    return ["decode", "--model", "m.py:build", "--train", "d.csv:y", "--out", "run"]


def _none(folder: Path) -> list[str]:
    (folder / "m.py").write_text("def build():\n    return {'a': 1}\n")
    (folder / "d.csv").write_text("a,y\n1,1\n2,0\n")
    return ["decode", "--model", "m.py:build", "--train", "d.csv:y", "--out", "run"]
