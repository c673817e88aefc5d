"""Run a grid of cells: each unit once, even if the run is interrupted."""

import fcntl
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..errors import DataError, DistributedError, OutputError, UnderscriptWarning
from ..utils.files import write_text
from .plan import Cell, Plan
from .units import BY_NAME, TRAINING, Unit, units_of
from .work import DamagedError, Work, as_json

__all__ = ["is_grid", "run_grid"]

logger = logging.getLogger(__name__)

# Version of grid folders, raised when the meaning of their files changes.
GRID_FORMAT = 1
SETTINGS = "settings.json"

Key = tuple[Cell, str]


def is_grid(folder: Path) -> bool:
    """Return whether a folder holds a grid."""
    return (folder / SETTINGS).is_file()


def run_grid(plan: Plan, out: Path, *, jobs: int = 1, progress: bool = True) -> None:
    """Run the unfinished units of a plan.

    Parameters
    ----------
    plan : Plan
        The grid to run.
    out : Path
        The grid's folder: new or empty, or one with the same fixed settings, whose finished units
        stay.
    jobs : int
        Units that run at once, each in its own process with its share of the threads.
    progress : bool
        Show progress bars on a terminal.

    Raises
    ------
    DataError
        If the data set is not available, or `jobs` is below 1.
    OutputError
        If the folder holds something else or a grid of other settings, cannot be written, or is
        in use by another process.
    """
    if jobs < 1:
        raise DataError(f"jobs: expected at least 1; found {jobs}")
    with _held(plan, out):
        waiting = {(cell, unit.name): unit for cell, unit in units_of(plan)}
        total = len(waiting)
        for cell, name in list(waiting):
            if Work(plan, cell, out).is_done(name):
                del waiting[cell, name]
        # Load the data before training, so that a missing data set fails at once.
        if waiting:
            _ = Work(plan, next(iter(waiting))[0], out).data
        with tqdm(
            total=total,
            initial=total - len(waiting),
            desc=plan.experiment,
            unit="unit",
            disable=None if progress else True,
        ) as bar:
            try:
                if jobs == 1:
                    _one_by_one(plan, out, waiting, bar, progress)
                else:
                    _side_by_side(plan, out, waiting, bar, jobs)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"interrupted; finished cells are kept in {out}: run the same command to go on"
                ) from None


def _one_by_one(plan: Plan, out: Path, waiting: dict[Key, Unit], bar: Any, progress: bool) -> None:
    for cell, name in waiting:
        bar.set_postfix_str(f"{cell.name} {name}")
        _run(name, Work(plan, cell, out, progress))
        bar.update()


def _side_by_side(plan: Plan, out: Path, waiting: dict[Key, Unit], bar: Any, jobs: int) -> None:
    """Give units to worker processes as soon as the units that they need are finished."""
    threads = max(1, torch.get_num_threads() // jobs)
    running: dict[Future[None], Key] = {}
    left = dict(waiting)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(threads, os.getpid()))
    try:
        while left or running:
            for key, unit in list(left.items()):
                unfinished = {*left, *running.values()}
                if len(running) < jobs and unfinished.isdisjoint(unit.needs(key[0])):
                    del left[key]
                    running[pool.submit(_run, key[1], Work(plan, key[0], out))] = key
            bar.set_postfix_str(", ".join(f"{cell.name} {name}" for cell, name in running.values()))
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                del running[future]
                future.result()
                bar.update()
        pool.shutdown()
    except BrokenProcessPool:
        raise DistributedError(
            "a worker process died (perhaps for lack of memory); finished cells are kept: run the "
            "same command again, with fewer --jobs"
        ) from None
    finally:
        # After an error or Ctrl-C, nothing else stops work that has begun.
        for process in (getattr(pool, "_processes", None) or {}).values():
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(threads: int, parent: int) -> None:
    """Set up a worker process; it ignores Ctrl-C, as the parent ends it then.

    The parent passes its own process id, as it may be gone before this process has started.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process once its parent is gone, for whatever reason."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _run(name: str, work: Work) -> None:
    """Run one unit; if the network's file is damaged, train the network again first."""
    unit = BY_NAME[name]
    _make(work.folder)
    try:
        _finish(unit, work)
    except DamagedError as error:
        logger.warning("%s is damaged: %s is trained again", error, error.work.cell.name)
        _finish(TRAINING, error.work)
        _finish(unit, work)


def _finish(unit: Unit, work: Work) -> None:
    """Run one unit; its JSON file, written last, marks it as finished."""
    (work.folder / f"{unit.name}.json").unlink(missing_ok=True)
    started = time.perf_counter()
    with warnings.catch_warnings():
        # The unit's file lists them.
        warnings.simplefilter("ignore", UnderscriptWarning)
        record = unit.run(work)
    record = {
        "unit": unit.name,
        "corruption": work.cell.corruption,
        "run": work.cell.run,
        **record,
        "unit_seconds": round(time.perf_counter() - started, 3),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": str(work.plan.device),
    }
    write_text(work.folder / f"{unit.name}.json", as_json(record))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error


@contextmanager
def _held(plan: Plan, out: Path) -> Iterator[None]:
    """Lock the folder against other processes, and make sure that it belongs to this plan."""
    out = Path(os.path.abspath(out))
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; expected a new folder or an earlier grid's")
    if out.is_dir() and not is_grid(out) and any(path.name != ".lock" for path in out.iterdir()):
        raise OutputError(f"{out} exists and holds no grid; choose another --out, or empty it")
    _make(out)
    try:
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise OutputError(f"cannot write in {out}: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"another process works in {out}; wait for it to end") from None
        fixed = {"format": GRID_FORMAT, **plan.fixed}
        if is_grid(out):
            _compare(out, fixed)
        else:
            write_text(out / SETTINGS, json.dumps(fixed, indent=2) + "\n")
        # Remove files that a killed process left half-written.
        for path in out.glob("cells/*/.*.partial-*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        yield


def _compare(out: Path, fixed: dict[str, Any]) -> None:
    path = out / SETTINGS
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(stored, dict)
    except (OSError, ValueError, AssertionError):
        raise OutputError(f"{path} is damaged; choose another --out") from None
    # Folders from before networks had a width hold whole ones.
    there, asked = {"recipe.width": 1.0, **_flat(stored)}, _flat(fixed)
    differ = [
        f"{name} ({_short(there.get(name))} there, {_short(value)} asked for)"
        for name, value in asked.items()
        if there.get(name) != value
    ]
    if differ:
        raise OutputError(
            f"{out} holds a grid of other settings: {', '.join(differ)}; choose another --out"
        )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with ``recipe.NAME`` in place of the mapping `recipe`."""
    recipe = settings.get("recipe")
    named = recipe if isinstance(recipe, dict) else {}
    flat = {name: value for name, value in settings.items() if name != "recipe"}
    return flat | {f"recipe.{name}": value for name, value in named.items()}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
