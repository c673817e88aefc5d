"""One bar for a whole job, and how long it will take."""

import io
import logging
import math
import re
import subprocess
import sys
import time
import types
from typing import Any

import pytest
import torch
import tqdm.auto
from torch import Tensor, nn

import models
import underscript as us
from underscript.activations.stream import stream
from underscript.data.source import Source
from underscript.errors import DataError
from underscript.utils.progress import PRODUCTS, RUNS, SILENT, Estimate, Progress, Stage, roughly


class Clock:
    """Seconds that a test says have passed."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def estimate(*stages: Stage, product: float = 0.0) -> tuple[Estimate, Clock]:
    clock = Clock()
    return Estimate(stages, product, clock), clock


def runs(name: str, n: float) -> Stage:
    return Stage(name, {RUNS: n})


def test_what_is_left_is_the_work_left_at_the_measured_rate():
    found, clock = estimate(runs("read", 100), runs("test", 300))
    found.begin("read")
    assert found.left is None
    clock.now += 0.9
    found.advance(10)
    # The first batch is slower than the others.
    assert found.left is None
    clock.now += 2
    found.advance(10)
    assert found.left == pytest.approx((80 + 300) * 0.2)
    clock.now += 1
    found.advance(10)
    assert found.left == pytest.approx((70 + 300) * 0.15)
    found.begin("test")
    assert found.left == pytest.approx(300 * 0.15)
    assert found.stage == runs("test", 300)


def test_a_slow_first_batch_counts_and_so_does_one_that_is_all_there_is():
    found, clock = estimate(runs("read", 100))
    found.begin("read")
    assert found.left is None
    clock.now += 4
    found.advance(20)
    assert found.left == pytest.approx(80 * 0.2)
    found, clock = estimate(runs("read", 10), runs("test", 50))
    found.begin("read")
    clock.now += 0.5
    found.advance(10)
    assert found.left is None
    found.begin("test")
    assert found.left == pytest.approx(50 * 0.05)


def test_a_multiply_add_is_expected_to_take_what_it_takes_here_until_it_is_measured():
    found, clock = estimate(
        Stage.of_parts("choose", [1e9, 3e9]), Stage("together", {PRODUCTS: 2e9}), product=1e-9
    )
    assert found.left == pytest.approx(6 * 1.6)
    found.begin("choose")
    clock.now += 50
    found.advance()
    # 50 seconds for what was expected to take 1.6: what was expected counts for one second.
    rate = (50 + 1) / (1e9 + 1 / 1.6e-9)
    assert found.left == pytest.approx(5e9 * rate)
    found.begin("together")
    assert found.left == pytest.approx(2e9 * rate, rel=0.01)


def test_seconds_of_both_kinds_of_work_are_divided_as_expected():
    found, clock = estimate(
        runs("read", 20), Stage("both", {RUNS: 10, PRODUCTS: 1e9}), runs("last", 100), product=1e-9
    )
    found.begin("read")
    for _ in range(2):
        clock.now += 1.6
        found.advance(10)
    found.begin("both", 10)
    clock.now += 6.4
    found.advance(10)
    # As much for 10 runs as for the products was expected, and both took twice that.
    found.begin("last")
    assert found.left == pytest.approx(100 * (3.2 + 3.2) / 30)


def test_what_ends_early_or_is_left_out_is_not_left():
    found, clock = estimate(runs("try", 50), runs("skipped", 1000), runs("read", 10), runs("a", 5))
    found.begin("try")
    clock.now += 2
    found.advance(10)
    assert found.left == pytest.approx((40 + 1000 + 10 + 5) * 0.2)
    found.begin("read")
    assert found.left == pytest.approx(15 * 0.2)
    found.begin("nobody planned this")
    assert found.left == pytest.approx(5 * 0.2)
    found.begin("a")
    assert found.left == pytest.approx(5 * 0.2)


def test_another_plan_takes_the_place_of_what_is_not_begun():
    found, clock = estimate(runs("try", 10), runs("read", 1000))
    found.begin("try")
    clock.now += 1
    found.advance(10)
    found.expect([runs("try", 10), runs("read", 20), runs("test", 5)])
    assert found.left == pytest.approx(25 * 0.1)
    found.expect([runs("other", 7)])
    assert found.left == pytest.approx(0.7)


def test_time_passes_between_batches_but_never_beyond_the_stage():
    found, clock = estimate(runs("read", 40), runs("test", 20))
    found.begin("read")
    clock.now += 10
    found.advance(10)
    left, share = found.left, found.share
    assert (left, share) == (pytest.approx(50), pytest.approx(10 / 60))
    clock.now += 5
    assert found.left == pytest.approx(45)
    assert found.share == pytest.approx(15 / 60)
    clock.now += 1000
    assert found.left == pytest.approx(20)
    share = found.share
    found.advance(10)
    assert found.left > 1000
    assert found.share == share


def test_no_time_is_told_of_data_of_unknown_length():
    found, clock = estimate(runs("read", math.nan), runs("test", 20))
    assert not found.countable
    found.begin("read", math.nan)
    for _ in range(3):
        clock.now += 2
        found.advance(10)
    assert found.left is None
    assert found.share == 0


def layers_of(net: nn.Module, n: int = 160) -> dict[str, Any]:
    x, y = models.data("rows", n)
    return {
        "model": net,
        "train": (x, y),
        "test": (x[:40] + 0.1, y[:40]),
        "holdout": (x[40:80] + 0.1, y[40:80]),
        "variance": 0.5,
    }


def bars_of(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Make standard error a terminal, and return every bar that is made."""
    made: list[Any] = []

    class Counted(tqdm.auto.tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **how: Any):
            made.append(self)
            super().__init__(*args, **how | {"ncols": 100})

    monkeypatch.setattr(tqdm.auto, "tqdm", Counted)
    monkeypatch.setattr(sys, "stderr", Terminal())
    return made


def frames() -> list[str]:
    """Return what the terminal showed, one state after the other."""
    said = sys.stderr.getvalue()  # type: ignore[attr-defined]
    return [line for line in map(str.strip, re.split(r"[\r\n]+", said)) if line]


def test_a_decode_has_one_bar_with_all_stages_in_order(monkeypatch):
    bars = bars_of(monkeypatch)
    shown = us.decode(**layers_of(models.build("mlp")), controls="full")
    assert len(bars) == 1
    (bar,) = bars
    assert bar.disable
    assert bar.n == bar.total == 1.0
    lines = frames()
    told = [line for line in lines if line.startswith("decoding ") and "|" not in line]
    assert len(told) == 1
    assert re.fullmatch(
        r"decoding \d layers of 160 samples: 1 \+ 3 views, hold-out 40, test 40; about \d+ s",
        told[0],
    )
    names = list(dict.fromkeys(line.split(" |")[0] for line in lines if "|" in line))
    order = [
        "testing the perturbation",
        "reading layers",
        "decomposing",
        "reading the hold-out",
        "choosing by layer",
        "choosing an ensemble",
        "decoding holdout",
        "decoding train",
        "decoding test",
        "random twin: reading layers",
        "random twin: decomposing",
        "random twin: reading the hold-out",
        "random twin: choosing by layer",
        "random twin: choosing an ensemble",
        "random twin: decoding holdout",
        "random twin: decoding test",
    ]
    assert [name for name in names if name in order] == order
    assert any("100%" in line for line in lines[-2:])
    quiet = us.decode(**layers_of(models.build("mlp")), controls="full", progress=False)
    assert len(bars) == 1
    assert shown.table.equals(quiet.table)
    assert shown.label_issues().equals(quiet.label_issues())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": "relu2"},
        {"auto": False},
        {"auto": False, "holdout": None},
        {"controls": "full"},
        {"perturb": "none", "evaluate": ("test", "candidates")},
        {"model": None},
    ],
)
def test_what_is_planned_is_what_is_done(monkeypatch, options):
    bars = bars_of(monkeypatch)
    begun: list[str] = []
    plans: list[list[str]] = []
    begin, expect = Estimate.begin, Estimate.expect

    def counted(self, name, steps=None):
        if not begun:
            plans.append([stage.name for stage in self._stages])
        begin(self, name, steps)
        begun.append(name)

    def planned(self, stages):
        expect(self, stages)
        plans.append([stage.name for stage in self._stages])

    monkeypatch.setattr(Estimate, "begin", counted)
    monkeypatch.setattr(Estimate, "expect", planned)
    us.decode(**layers_of(models.build("mlp")) | options)
    assert len(bars) == 1
    assert begun == plans[-1]
    # What the twin is read at is known at last.
    assert set(plans[-1]) <= set(plans[0])


class Slow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.readout = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.25)
        return self.readout(self.fc(x).relu())


def test_the_bar_moves_between_slow_batches_and_while_one_runs(monkeypatch):
    bars_of(monkeypatch)
    x = torch.randn(48, 6)
    with Progress.of_one("read") as bar, torch.no_grad():
        source = Source((x, torch.zeros(48, dtype=torch.int64)), "train", batch_size=8)
        batches = 0
        for _ in stream(Slow(), source, [], torch.device("cpu"), stage="read", progress=bar):
            batches += 1
    assert batches == 6
    shares = [int(found[1]) for line in frames() if (found := re.search(r"(\d+)%", line))]
    assert shares == sorted(shares)
    # Six batches of a quarter of a second, and a look each fifth.
    assert len(set(shares)) >= 5
    assert shares[-1] == 100
    assert any("left]" in line for line in frames())


class Broken(nn.Module):
    def __init__(self, error: type[BaseException]):
        super().__init__()
        self.body, self.error, self.calls = models.build("mlp"), error, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 9:
            raise self.error("in the model")
        return self.body(x)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_bar_is_left_behind_by_an_error(monkeypatch, error):
    bars = bars_of(monkeypatch)
    with pytest.raises((us.errors.ModelError, KeyboardInterrupt)):
        us.decode(**layers_of(Broken(error)), batch_size=32)
    (bar,) = bars
    assert bar.disable
    assert bar not in tqdm.auto.tqdm._instances
    before = len(frames())
    time.sleep(0.5)
    assert len(frames()) == before
    # What was drawn last is blanks.
    said = sys.stderr.getvalue()
    assert not said.rstrip("\r").rsplit("\r", 1)[-1].strip()


def test_inside_another_bar_there_is_no_line(monkeypatch):
    bars = bars_of(monkeypatch)
    with tqdm.auto.tqdm(total=2, file=sys.stderr) as outer:
        us.decode(**layers_of(models.build("mlp")), controls=False)
        outer.update()
    assert len(bars) == 2
    assert not [line for line in frames() if "samples:" in line]


def test_nothing_is_shown_without_a_terminal_but_the_line_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with caplog.at_level(logging.INFO, "underscript.utils.progress"):
        us.decode(**layers_of(models.build("mlp")), controls=False)
        us.decode(**layers_of(models.build("mlp")), controls=False, progress=False)
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]
    said = [r.getMessage() for r in caplog.records if r.name == "underscript.utils.progress"]
    assert len(said) == 1
    assert "160 samples" in said[0]
    assert "about" in said[0]


def test_a_notebook_has_a_bar_though_its_error_stream_is_no_terminal(monkeypatch):
    bars = bars_of(monkeypatch)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    with Progress.of_one("read") as bar:
        bar.begin("read", 4)
    assert len(bars) == 1
    shell.config.clear()
    with Progress.of_one("read"):
        pass
    assert len(bars) == 1


NOTEBOOK = """
import sys, types, warnings
warnings.simplefilter("error")
class ZMQInteractiveShell:
    config = {config}
    kernel = {kernel}
shell = ZMQInteractiveShell()
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
from underscript.utils.progress import Progress
with Progress.of_one("reading layers") as bar:
    bar.begin("reading layers", 4)
    bar.advance(2)
"""


@pytest.mark.parametrize("config", ["{'IPKernelApp': {}}", "{}"])
def test_without_widgets_a_notebook_has_a_bar_of_text_and_no_warning(config):
    # Notebooks end a line with a return as terminals do; a kernel's error stream is no terminal.
    code = NOTEBOOK.format(config=config, kernel="object()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    said = done.stderr.decode()
    assert done.returncode == 0, said
    shown = [line for line in said.split("\r") if line.strip()]
    assert shown
    assert all(line.startswith(("reading layers |", " |")) for line in shown)
    assert "100%" in shown[-1]
    assert {len(line.rstrip()) for line in shown} <= set(range(60, 91))


def test_a_log_file_of_ipython_without_a_kernel_has_no_bar():
    code = NOTEBOOK.format(config="{}", kernel="None").replace("    kernel = None\n", "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_saved_notebook_keeps_no_bar_at_zero(monkeypatch):
    shown: list[Any] = []

    class Handle:
        def update(self, data: Any, *, raw: bool) -> None:
            shown.append((data, raw))

    class Widget(tqdm.auto.tqdm):  # type: ignore[type-arg]
        """A bar as tqdm.notebook makes it: it has a container and shows it itself, unless told."""

        def __init__(self, *args: Any, display: bool, **how: Any):
            assert not display
            self.container = "the container"
            super().__init__(*args, **how, file=io.StringIO())

        @staticmethod
        def status_printer(file: Any) -> Any:
            return lambda text: None

    Widget.status_printer.__module__ = "tqdm.notebook"

    def display(thing: Any, *, display_id: bool) -> Handle:
        assert display_id
        shown.append(thing)
        return Handle()

    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    notebook = types.SimpleNamespace(
        get_ipython=lambda: shell, display=types.SimpleNamespace(display=display)
    )
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setattr(tqdm.auto, "tqdm", Widget)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Progress.of_one("read") as bar:
        bar.begin("read", 4)
        assert shown == ["the container"]
    assert shown == ["the container", ({"text/plain": ""}, True)]


def test_data_of_unknown_length_have_a_bar_without_time(monkeypatch):
    bars_of(monkeypatch)

    class Endless(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self):
            x, y = models.data("rows", 64)
            yield from zip(x, y, strict=True)

    found = us.decode(models.build("mlp"), Endless(), variance=0.5, controls=False, auto=False)
    assert found.table["n"].max() == 64
    lines = frames()
    assert any(line.startswith("decoding ") and "uncounted" in line for line in lines)
    assert not any("about" in line for line in lines)
    assert any(line.startswith("reading layers [") for line in lines)


def test_what_shows_nothing_does_nothing():
    with SILENT as bar:
        bar.begin("read", 3)
        bar.advance()
        bar.expect([runs("test", 3)])
    with pytest.raises(DataError), SILENT:
        raise DataError("an error")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 s"),
        (7.4, "7 s"),
        (41, "40 s"),
        (91, "2 minutes"),
        (200, "3 minutes"),
        (5399, "90 minutes"),
        (9000, "2.5 hours"),
    ],
)
def test_durations_are_round(seconds, said):
    assert roughly(seconds) == said
