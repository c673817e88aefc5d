"""What a monitor shows while it watches: nothing, a line an epoch, or one figure in a notebook."""

import io
import re
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from tqdm import tqdm

import models
import underscript as us
from underscript.report import Live
from watched import Watched, watched

N = 120


def data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, models.CLASSES, N)
    x = rng.normal(size=(N, models.WIDTH)) + 3 * np.eye(models.CLASSES, models.WIDTH)[y]
    return x.astype(np.float32), np.where(rng.random(N) < 0.3, (y + 1) % models.CLASSES, y)


def watch(kind=us.Monitor, epochs=3, **settings):
    monitor = kind(data(), n_probe=60, **settings)
    torch.manual_seed(0)
    model = models.mlp()
    for _ in range(epochs):
        monitor.end_epoch(model)
    return monitor


def table(text: str) -> list[str]:
    """Return the lines of the table: heading and numbers."""
    return [line for line in text.splitlines() if re.match(r"epoch| *\d+ ", line)]


def test_it_is_quiet_unless_it_is_asked(capsys):
    watch()
    assert capsys.readouterr() == ("", "")


def test_there_is_a_line_for_each_epoch_that_is_read(capsys):
    monitor = watch(epochs=5, live=True, every=2)
    out, err = capsys.readouterr()
    assert out == ""
    head, *lines = table(err)
    assert [line.split()[0] for line in lines] == ["2", "4"]
    last = monitor.history[monitor.history["epoch"] == 4].set_index("layer")
    own = last.loc["(network)"]
    layers = last["accuracy"].drop("(network)")
    numbers = (own["plain"], own["perturbed"], own["memory"], layers.max(), own["noise_rate"])
    assert lines[-1].split()[1:6] == [f"{100 * number:.1f}" for number in numbers]
    assert lines[-1].split()[6] == str(monitor.recommended.epoch)
    assert head.split()[:4] == ["epoch", "network", "exact", "changed"]


def test_lines_are_in_columns_of_at_most_80_letters(capsys):
    live, monitor = Live(), watched([9999, 10_000], ["fc"], keep=10_000, holdout=True)
    for _ in range(35):
        live.show(monitor)
    err = capsys.readouterr().err
    assert max(map(len, err.splitlines())) <= 80
    heads = [line for line in table(err) if line.startswith("epoch")]
    assert len(heads) == 2  # again after thirty lines
    ends = [match.end() for match in re.finditer(r"[a-z-]+( [a-z-]+)*", heads[0])]
    for line in table(err):
        if not line.startswith("epoch"):
            # Each number ends where its heading does.
            found = [match.end() for match in re.finditer(r"\d+(\.\d)?", line)]
            assert found[:-1] == ends[:-1]


def test_an_alarm_is_told_once_and_again_if_it_comes_back(capsys):
    class Told(Watched):
        @property
        def alarm(self):
            if self._epoch not in (2, 3, 5):
                return None
            return types.SimpleNamespace(epoch=2, step=2, evidence="it remembers " + 20 * "much ")

        @property
        def recommended(self):
            return types.SimpleNamespace(epoch=2, step=2, why="")

    watch(Told, epochs=5, live=True)
    lines = capsys.readouterr().err.splitlines()
    told = [at for at, line in enumerate(lines) if line.startswith("MEMORISES: it remembers")]
    epochs = [lines[at - 1].split()[0] for at in told]
    assert epochs == ["2", "5"]
    stars = [line.split()[0] for line in table("\n".join(lines)) if line.endswith("*")]
    assert stars == ["2"]


def test_a_bar_that_runs_stays_below_the_lines(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with tqdm(total=2, file=stream) as bar:
        watch(epochs=1, live=True)
        bar.update()
    shown = stream.getvalue()
    # The bar is cleared, the lines are whole, and the bar is drawn again.
    assert any(line.split()[:1] == ["1"] for line in shown.splitlines())
    assert shown.rindex("2/2" if "2/2" in shown else "/2 [") > shown.rindex("epoch")


def test_training_goes_on_where_nobody_listens(monkeypatch):
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert len(watch(live=True).history["epoch"].unique()) == 3


def test_a_notebook_has_one_figure_that_is_drawn_anew(monkeypatch, capsys):
    shown: list[Any] = []

    class Handle:
        def update(self, page: Any, *, raw: bool) -> None:
            assert raw
            shown.append(page)

    def display(page: Any, *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        assert not shown
        shown.append(page)
        return Handle()

    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    notebook = types.SimpleNamespace(
        version_info=(9, 0, 0),  # which matplotlib asks for
        get_ipython=lambda: shell,
        display=types.SimpleNamespace(display=display),
    )
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monitor = watch(epochs=3, live=True)
    assert [set(page) for page in shown] == [{"text/html", "text/plain"}] * 3
    assert shown[-1]["text/html"] == monitor._repr_html_()
    assert shown[-1]["text/plain"] == monitor.verdict
    assert capsys.readouterr().err == ""


def test_how_it_is_shown_is_no_setting_of_the_run(tmp_path, capsys):
    watch(epochs=1, folder=tmp_path / "m", live=True)
    assert "live" not in (tmp_path / "m" / "monitor.json").read_text()
    capsys.readouterr()
    for live in (False, True):
        resumed = us.Monitor.resume(tmp_path / "m", data(), live=live)
        resumed.end_epoch(models.mlp())
        assert bool(table(capsys.readouterr().err)) == live
    again = us.Monitor.resume(tmp_path / "m", data())
    again.end_epoch(models.mlp())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_shows(monkeypatch, capsys, rank):
    monkeypatch.setattr(us.Monitor, "_is_first", rank == 0)
    watch(epochs=1, live=True)
    assert bool(capsys.readouterr().err) == (rank == 0)
