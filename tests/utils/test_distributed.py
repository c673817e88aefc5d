"""Several processes give what one gives; and when one of them dies, the others say so and stop."""

import functools
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

USER = """
import dataclasses, os, signal
import numpy as np, torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from underscript.selection.budget import Shares

rng = np.random.default_rng(0)
centres = rng.normal(size=(4, 20))

def make(n, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(4, size=n)
    return torch.tensor(centres[y] + rng.normal(size=(n, 20)), dtype=torch.float32), torch.tensor(y)

x, clean = make(301, 1)
noisy = torch.where(torch.from_numpy(rng.random(301) < 0.4), torch.from_numpy(
    rng.integers(4, size=301)), clean)
train = (x, noisy)
loader = DataLoader(TensorDataset(x, noisy), batch_size=17)
test = make(90, 2)
holdout = make(77, 3)

class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(x, noisy))

stream = Stream()

class Broken(Dataset):
    def __len__(self):
        return 301
    def __getitem__(self, i):
        if i == 290:
            raise OSError("disk unplugged")
        return x[i], int(noisy[i])

broken = Broken()

class Killed(Broken):
    def __getitem__(self, i):
        if i == 200 and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return x[i % 200], int(noisy[i])

killed = Killed()

class Odd(Broken):
    def __getitem__(self, i):
        return x[i], 9 if i == 250 else int(noisy[i])

odd = Odd()

def build():
    if os.environ.get("ON_DISK"):  # nothing of the rows in memory
        of = Shares.of
        Shares.of = lambda *how: dataclasses.replace(of(*how), rows=0, statistics=1)
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 150), nn.ReLU(),
                         nn.Linear(150, 4))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("processes")
    (made / "mine.py").write_text(USER)
    return made


def run(folder, processes, out, *more, train="train", **environment):
    decode = [
        "decode",
        "--model",
        "mine.py:build",
        "--train",
        f"mine.py:{train}",
        "--test",
        "mine.py:test",
        "--true-labels",
        "mine.py:clean",
        "--probes",
        "masc,velpic",
        "--variance",
        "0.9,0.99",
        "--batch-size",
        "32",
        "--out",
        out,
        *more,
    ]
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    return subprocess.run(
        [*start, "underscript", *decode],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def tables(folder, out):
    return [pd.read_csv(folder / out / name) for name in ("layers.csv", "label_issues.csv")]


@pytest.fixture(scope="module")
def alone(folder):
    """One process, with or without a hold-out."""

    @functools.cache
    def found(name):
        more = ["--holdout", "mine.py:holdout"] if name == "holdout" else []
        done = run(folder, 1, name, *more)
        assert done.returncode == 0, done.stderr
        return more, tables(folder, name)

    return found


@pytest.mark.parametrize(
    ("processes", "kind", "train", "disk"),
    [
        pytest.param(2, "tenth", "train", "", marks=pytest.mark.slow),
        pytest.param(4, "holdout", "train", "", marks=pytest.mark.slow),
        pytest.param(2, "holdout", "loader", "1", marks=pytest.mark.slow),
        pytest.param(4, "tenth", "train", "1", marks=pytest.mark.slow),
        pytest.param(2, "tenth", "stream", "", marks=pytest.mark.slow),
    ],
)
def test_several_processes_give_the_table_of_one(folder, alone, processes, kind, train, disk):
    """Moments and rows, in memory and on disk; data with and without a known length."""
    holdout, expected = alone(kind)
    out = f"{processes}-{kind}-{train}-{disk}"
    done = run(folder, processes, out, *holdout, train=train, ON_DISK=disk)
    assert done.returncode == 0, done.stderr
    layers, issues = tables(folder, out)
    pd.testing.assert_frame_equal(layers, expected[0])
    # Margins are differences of log-odds of a dozen: of sums in float32 that are added up in
    # another order the fifth digit may differ.
    margins, others = issues.pop("margin"), expected[1].drop(columns="margin")
    np.testing.assert_allclose(margins, expected[1]["margin"], rtol=1e-4, atol=3e-4)
    pd.testing.assert_frame_equal(issues, others, rtol=1e-4, atol=3e-5)
    assert done.stdout.count("All else:") == 1  # one of them speaks


@pytest.mark.parametrize(
    ("train", "said"),
    [
        pytest.param("broken", "train: the data raised OSError", marks=pytest.mark.slow),
        ("odd", "found label 9 at index 250"),
    ],
)
def test_bad_input_in_one_process_is_one_line_in_all(folder, train, said):
    """The fault sits in the second process's share; the first one says it."""
    done = run(folder, 2, f"bad-{train}", train=train)
    lines = [line for line in done.stderr.splitlines() if line.startswith("underscript: error")]
    assert done.returncode != 0
    assert len(lines) == 1, done.stderr
    assert said in lines[0]
    assert not (folder / f"bad-{train}").exists()


@pytest.mark.slow
def test_a_process_that_dies_stops_the_others(folder):
    """Started by hand, so that nobody but the connection tells the first one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [
        sys.executable,
        "-m",
        "underscript",
        "decode",
        "--model",
        "mine.py:build",
        "--train",
        "mine.py:killed",
        "--out",
        "killed",
    ]
    processes = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    first, second = (
        subprocess.Popen(
            command,
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **processes, "OMP_NUM_THREADS": "1", "RANK": rank},
        )
        for rank in "01"
    )
    _, said = first.communicate(timeout=60)
    second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (1, -signal.SIGKILL)
    assert "underscript: failed: gathering: another process stopped" in said
    assert len(said.splitlines()) == 2  # that, and that there are no weights
    assert [path.name for path in folder.iterdir() if "killed" in path.name] == []


@pytest.mark.slow
def test_torchrun_ends_when_a_process_dies(folder):
    began = time.monotonic()
    done = run(folder, 2, "killed", train="killed")
    assert done.returncode != 0
    assert time.monotonic() - began < 60
    assert [path.name for path in folder.iterdir() if "killed" in path.name] == []


@pytest.mark.slow
def test_data_without_a_known_order_are_refused(folder):
    (folder / "shuffled.py").write_text(
        "from mine import *\n"
        "class Pairs(TensorDataset): pass\n"
        "train = DataLoader(TensorDataset(x, noisy), batch_size=17, sampler=[*range(len(x)), 0])\n"
    )
    done = run(folder, 2, "shuffled", train="train", PYTHONPATH=str(folder))
    assert done.returncode == 0, done.stderr
    decode = ["--model", "mine.py:build", "--train", "shuffled.py:train", "--out", "shuffled-2"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "underscript",
            "decode",
            *decode,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)},
    )
    assert "nothing says which sample is which" in done.stderr
    assert done.returncode != 0


def test_equal_shares_cover_the_data_once():
    from underscript.data.source import Source

    x, y = np.arange(103.0)[:, None], np.arange(103) % 3
    for size in (1, 2, 3, 7):
        seen = []
        for rank in range(size):
            for batch in Source((x, y), "train", batch_size=10).share(rank, size).batches():
                assert batch.args[0][:, 0].tolist() == batch.index.tolist()
                seen += batch.index.tolist()
        assert seen == list(range(103))
