"""The budget: shared out by one rule, refused at the start, kept; and no rows are left behind."""

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections import namedtuple
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import models
import underscript as us
from underscript.errors import DataError, OutputError
from underscript.selection.budget import Shares, Sizes
from underscript.utils import row_file as _row_file

SIZES = Sizes(
    samples=20_000,
    held=2_000,
    n_classes=10,
    widths=(1024, 2048, 256),
    probed=(256,),
    sets=1,
    views=3,
    fits_views=True,
    features=2048,
    rounds=3,
    ridges=2,
    read_out=256,
    network=1 << 26,
    of_view=1 << 23,
    tried=1 << 25,
    twin=1 << 22,
)


def least(sizes):
    """Return the smallest budget that is taken, by bisection."""
    low, high = 1, 1 << 50
    while low < high:
        middle = (low + high) // 2
        try:
            Shares.of(sizes, middle)
            high = middle
        except DataError:
            low = middle + 1
    return low


@pytest.mark.parametrize("more", [0, 1, 10**6, 10**8, 10**9, 10**10, 10**12])
def test_what_is_shared_out_is_no_more_than_the_budget(more):
    memory = least(SIZES) + more
    shares = Shares.of(SIZES, memory)
    fixed = sum(SIZES.always().values())
    work = max(SIZES.least_work().values())
    assert fixed + shares.rows + SIZES.batch + shares.statistics <= memory
    assert shares.statistics >= SIZES.least_statistics()
    assert (
        fixed
        + shares.rows
        + shares.scores
        + max(work, SIZES.least_work()["fits of one layer"] + shares.features)
        <= memory
    )
    assert shares.scores >= SIZES.least_scores()


def test_more_memory_is_more_for_each():
    start = least(SIZES)
    shares = [Shares.of(SIZES, start + more) for more in range(0, 10**10, 10**8)]
    for one, other in pairwise(shares):
        for name in ("rows", "scores", "features", "estimates"):
            assert getattr(one, name) <= getattr(other, name)
    # With enough of it nothing goes to the file.
    assert shares[-1].on_disk(SIZES) == 0
    assert shares[0].on_disk(SIZES) > 0


@pytest.mark.parametrize(
    "more",
    [
        {"samples": 2_000_000},
        {"held": 200_000},
        {"n_classes": 500},
        {"widths": (4096, 4096)},
        {"views": 30},
        {"probed": (8192,)},
        {"network": 1 << 32},
        {"read_out": 16_384},
        {"twin": 1 << 32},
        {"rounds": 30},
    ],
    ids=lambda more: next(iter(more)),
)
def test_all_that_grows_counts(more):
    assert least(Sizes(**(vars(SIZES) | more))) > least(SIZES)


@pytest.mark.parametrize("sizes", [SIZES, Sizes(), Sizes(probed=(64,), samples=100, n_classes=4)])
def test_a_refusal_says_what_is_needed_and_what_to_do(sizes):
    memory = least(sizes) - 1
    if memory < 1:
        return
    with pytest.raises(DataError, match=r"expected at least .* MB for") as caught:
        Shares.of(sizes, memory)
    assert "\n" not in str(caught.value)
    for what in ("--memory", "--layers", "--pool", "--batch-size"):
        assert what in str(caught.value)


# A decode ---------------------------------------------------------------------------------------


def case(n=400, width=12, n_classes=3):
    torch.manual_seed(0)
    x = torch.randn(n, width)
    y = x[:, :n_classes].argmax(1)
    y[::7] = (y[::7] + 1) % n_classes
    net = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, n_classes))
    half = n // 2
    return net, (x[:half], y[:half]), (x[half:], y[half:])


def refused(net, train, **how):
    ran = 0

    def seen(_module, args, _output):
        nonlocal ran
        ran += len(args[0])

    net.register_forward_hook(seen)
    with pytest.raises(us.UnderscriptError) as caught:
        us.decode(net, train, progress=False, controls=False, **how)
    assert "\n" not in str(caught.value)
    # At the start: an example has been looked at and no more.
    assert ran <= 16
    return caught.value


def test_a_budget_below_what_the_network_needs_is_refused_at_the_start():
    net = nn.Sequential(nn.Linear(12, 50_000), nn.ReLU(), nn.Linear(50_000, 3))
    error = refused(net, case()[1], memory="60MB", layers="input")
    assert isinstance(error, DataError)
    assert "a batch of the network" in str(error)


@pytest.mark.parametrize("auto", [True, False])
def test_a_budget_below_what_classes_need_is_refused_at_the_start(auto):
    x = torch.randn(2_000, 64)
    net = nn.Linear(64, 1_000)
    y = torch.arange(2_000) % 1_000
    assert isinstance(refused(net, (x, y), memory="1MB", auto=auto), DataError)


Usage = namedtuple("Usage", "total used free")


def test_no_room_for_the_file_is_said_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(_row_file.shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 5, 5))
    net, train, held = case(n=20_000, width=200)
    error = refused(net, train, holdout=held, memory="400MB")
    assert isinstance(error, OutputError)
    for what in (str(tmp_path), "room for 5", "TMPDIR", "bytes of rows"):
        assert what in str(error)
    # With the memory for it no file is needed.
    us.decode(*case()[:2], progress=False, controls=False, variance=0.5)


def test_a_temporary_folder_that_is_not_there_is_said_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    net, train, held = case(n=20_000, width=200)
    assert isinstance(refused(net, train, holdout=held, memory="400MB"), OutputError)


# --- Ctrl-C -------------------------------------------------------------------------------------

STAGES = {
    "survey": "underscript._decode_layers.survey",
    "perturbation": "underscript._decode_stages.choose_perturbation",
    "reading": "underscript.selection.kept_rows.KeptRows.add",
    "subspaces": "underscript.selection.subspaces._fit_keys",
    "hold-out": "underscript.selection.chosen_decoder.keep_holdout",
    "sums": "underscript.selection.fitting.LayerFit._gathered",
    "scores": "underscript.selection.fitting.LayerFit._scored",
    "choosing": "underscript.selection.chosen_decoder.select_readers",
    "noise": "underscript.selection.chosen_decoder.estimate",
    "read-out": "underscript.selection.decoded_read_out.fit_read_out",
    "answers": "underscript.selection.replay.Replay.__call__",
    "geometry": "underscript._decode_stages.geometry",
    "twin": "underscript._decode_stages.control_at_layers",
    "tables": "underscript._decode_stages.run_of",
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_leaves_nothing_behind(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    models.shared_out(monkeypatch, rows=0)  # all rows go to the file
    net, train, held = case()
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    open_files = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    called = []

    def interrupted(*_arguments, **_options):
        called.append(stage)
        raise KeyboardInterrupt

    monkeypatch.setattr(STAGES[stage], interrupted)
    with pytest.raises(KeyboardInterrupt):
        us.decode(net, train, test=held, holdout=held, progress=False, variance=0.5)
    assert called == [stage]
    assert os.listdir(tmp_path) == []
    assert net.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(random[0], torch.get_rng_state())
    assert random[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    if open_files is not None:
        # The files without a name are closed, too, as soon as nothing refers to the rows.
        gc.collect()
        left = set(os.listdir("/proc/self/fd")) - open_files
        assert not [fd for fd in left if str(tmp_path) in _target(fd)]


def _target(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


# --- what is written ----------------------------------------------------------------------------


def written(n, n_classes, folder):
    """Return the sizes of results.json and of the report of a decode of features."""
    torch.manual_seed(0)
    y = torch.arange(n) % n_classes
    x = torch.randn(n_classes, 16)[y] + 0.3 * torch.randn(n, 16)
    given = torch.where(torch.rand(n) < 0.2, torch.randint(n_classes, (n,)), y)
    decoding = us.decode(None, (x, given), progress=False, probes=("velpic",))
    decoding.save(folder)
    return [(folder / name).stat().st_size for name in ("results.json", "report.html")]


@pytest.mark.slow
def test_results_and_report_grow_neither_with_samples_nor_with_pairs_of_classes(tmp_path):
    few, many, classes = (
        written(n, n_classes, tmp_path / str(at))
        for at, (n, n_classes) in enumerate([(600, 60), (2_400, 60), (2_400, 240)])
    )
    assert all(other <= 1.1 * one + 1_000 for one, other in zip(few, many, strict=True))
    # A line for each class is fine; of pairs there are sixteen times as many.
    assert all(other <= 4 * one for one, other in zip(many, classes, strict=True))


# --- what a process takes -----------------------------------------------------------------------

MEASURE = """
import json, sys
import torch
import underscript as us
from underscript.utils.memory_size import as_bytes

def held(what):
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return 1024 * int(fields[what].split()[0])

n, width, classes, hold, budget = map(int, sys.argv[1:])
torch.manual_seed(0)
y = torch.arange(n + hold) % classes
x = torch.randn(classes, width)[y] + torch.randn(n + hold, width)
# What is loaded on the way is no part of it.
small = torch.randn(60, 4)
us.decode(None, (small, (small[:, 0] > 0).long()), progress=False)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = held("VmRSS")
us.decode(None, (x[:n], y[:n]), holdout=(x[n:], y[n:]), progress=False, memory=budget)
print(json.dumps(held("VmHWM") - before))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("n", "width", "classes", "hold", "budget"),
    [
        pytest.param(3_000, 1_500, 3, 30_000, 330_000_000, marks=pytest.mark.slow),
        pytest.param(4_000, 40, 300, 2_000, 700_000_000, marks=pytest.mark.slow),
    ],
    ids=["a large hold-out", "many classes"],
)
def test_a_process_takes_no_more_than_the_budget(n, width, classes, hold, budget):
    """Without the hold-out on disk, or with scores of all of it, this takes hundreds of MB more."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        MEASURE,
        *map(str, (n, width, classes, hold, budget)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert json.loads(done.stdout) <= budget + 40_000_000
