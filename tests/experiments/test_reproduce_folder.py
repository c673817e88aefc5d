"""A grid's folder: what is finished there is neither lost nor run twice, and damage is told."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from small_grids import plan_of
from underscript.cli.command_line import main
from underscript.errors import OutputError
from underscript.experiments import grid, units
from underscript.experiments.reproduce import reproduce

pytestmark = pytest.mark.usefixtures("quick_recipe")


def untimed(out):
    """The results of run 1 but for E5, E6 and their times, which `ARGUMENTS` do not ask for."""
    table = pd.read_csv(out / "results.csv")
    table = table[(table["run"] == 1) & ~table["experiment"].isin(["E5", "E6"])]
    table = table.drop(columns=[name for name in table if name.endswith(("_s", "_flops"))])
    return table.reset_index(drop=True)


@pytest.mark.slow
def test_what_is_finished_is_not_run_again(finished, monkeypatch):
    plan, out, first = finished
    for unit in units.BY_NAME.values():
        monkeypatch.setitem(
            units.BY_NAME, unit.name, replace(unit, run=lambda _work: pytest.fail("run twice"))
        )
    again = reproduce(plan, out, progress=False)
    pd.testing.assert_frame_equal(again.results, first.results)
    fewer = reproduce(plan_of("E1", corruptions=(0.6,), runs=1), out, progress=False)
    assert len(fewer.results) == len(first.results)


RUNNER = """
import sys
from dataclasses import replace
from underscript.experiments import presets, units
from underscript.cli import main

key = "quick", "mlp"
presets._RECIPES[key] = replace(presets._RECIPES[key], max_epochs=3, samples=300)
units.RETRAINING_EPOCHS = 2
units_left = int(sys.argv[1])
if units_left:
    from underscript.experiments import grid
    finish = grid._finish

    def counted(unit, work):
        global units_left
        units_left -= 1
        if not units_left:
            # Half-written files, as when the machine loses its power in the middle.
            (work.folder / f".{unit.name}.csv.partial-1").write_text("half")
            (work.folder / f"{unit.name}.csv").write_text("half")
            print("now", flush=True)
            import time
            time.sleep(600)
        finish(unit, work)

    grid._finish = counted
sys.exit(main(sys.argv[2:]))
"""

ARGUMENTS = [
    "reproduce",
    "digits-mlp",
    "--corruption",
    "0,0.6",
    "--runs",
    "1",
    "--only",
    "E1,E3,E4",
]


@pytest.mark.slow
@pytest.mark.parametrize(("at", "number"), [(2, signal.SIGKILL), (5, signal.SIGINT)])
def test_a_grid_goes_on_where_it_was_stopped(finished, tmp_path, at, number):
    _, reference, _ = finished
    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER)
    out = tmp_path / "out"
    command = [sys.executable, str(runner)]
    running = subprocess.Popen(
        [*command, str(at), *ARGUMENTS, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert running.stdout.readline() == "now\n"
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    if number == signal.SIGINT:
        assert running.returncode == 130
        assert f"finished cells are kept in {out}: run the same command" in err
    assert len(list(out.glob("cells/*/*.json"))) == at - 1
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*.json")}
    done = subprocess.run(
        [*command, "0", *ARGUMENTS, "--out", str(out)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert before.items() <= {path: path.stat().st_mtime_ns for path in before}.items()
    assert not list(out.glob("cells/*/.*"))
    pd.testing.assert_frame_equal(untimed(out), untimed(reference))


@pytest.mark.slow
def test_several_jobs_give_the_same(finished, tmp_path):
    _, reference, _ = finished
    runner = tmp_path / "runner.py"
    # Worker processes begin anew: they import the recipe from here.
    runner.write_text(
        RUNNER.replace("sys.exit(main(sys.argv[2:]))", "")
        + 'if __name__ == "__main__":\n    sys.exit(main(sys.argv[2:]))\n'
    )
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, str(runner), "0", *ARGUMENTS, "--jobs", "2", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(untimed(out), untimed(reference))


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path):
    runner = tmp_path / "runner.py"
    runner.write_text(
        RUNNER.replace("max_epochs=3", "max_epochs=100").replace("sys.exit(main(sys.argv[2:]))", "")
        + 'if __name__ == "__main__":\n    sys.exit(main(sys.argv[2:]))\n'
    )
    out = tmp_path / "out"
    running = subprocess.Popen(
        [sys.executable, str(runner), "0", *ARGUMENTS, "--jobs", "2", "--out", str(out)],
        stderr=subprocess.DEVNULL,
    )
    workers = []
    try:
        # Two workers; the third child looks after what they share.
        while len(workers) < 3 or not list(out.glob("cells/*")):
            assert running.poll() is None
            children = f"/proc/{running.pid}/task/{running.pid}/children"
            workers = [int(child) for child in Path(children).read_text().split()]
            time.sleep(0.1)
    finally:
        running.kill()
        running.wait()
    # They look twice a second, but those that only start must first get so far.
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_damaged_network_is_trained_again_and_said(small_copy, caplog):
    plan, out, first = small_copy
    folder = out / "cells" / "c0.6-run1"
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (folder / "layers.json").unlink()
    again = reproduce(plan, out, progress=False)
    assert str(weights) in caplog.text
    assert "c0.6-run1 is trained again" in caplog.text
    pd.testing.assert_frame_equal(again.results, first.results)


def test_a_damaged_table_is_named(small_copy):
    plan, out, _ = small_copy
    table = out / "cells" / "c0.6-run1" / "layers.csv"
    table.write_bytes(b"")
    with pytest.raises(OutputError, match=r"layers\.csv is damaged .* remove layers\.json"):
        reproduce(plan, out, progress=False)


def test_one_process_at_a_time(small):
    plan, out, _ = small
    with (
        grid._held(plan, out),
        pytest.raises(OutputError, match="another process works in"),
        grid._held(plan, out),
    ):
        pass


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["reproduce", "digits-mlp", "--corruption", "0.6", "--runs", "1", "--out", "out"]

    def full(_self, _data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert main(arguments) == 2
    printed = capsys.readouterr().err.strip()
    assert "No space left on device" in printed
    assert printed.count("\n") == 0
    assert main(arguments) == 0


def test_a_folder_of_other_settings_is_refused(small):
    _, out, _ = small
    with pytest.raises(
        OutputError, match=r"variance \(0\.99 there, 0\.5 asked for\); choose another --out"
    ):
        reproduce(plan_of(variance=0.5), out, progress=False)
    with pytest.raises(OutputError, match=r"noise \(\"symmetric\" there, \"pair\" asked for\)"):
        reproduce(plan_of(noise="pair"), out, progress=False)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(OutputError, match="holds no grid"):
        reproduce(plan_of(), tmp_path, progress=False)
    with pytest.raises(OutputError, match="is a file"):
        reproduce(plan_of(), tmp_path / "thesis.tex", progress=False)
