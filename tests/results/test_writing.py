"""A run folder is written whole or not at all, and over nothing that is not a run."""

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import underscript as us
from run_folders import FILES, contents
from underscript.errors import OutputError
from underscript.results import run_folder as _run_folder
from underscript.results.run_folder import is_run
from underscript.utils.files import fresh_folder, whole_file

# Places that must not be written ------------------------------------------------------------


FOREIGN: dict[str, Callable[[Path], Any]] = {
    "a folder of one's own": lambda place: (place / "thesis.tex").write_text("years of work"),
    "another program's results.json": lambda place: (place / "results.json").write_text("{}"),
    "a broken results.json": lambda place: (place / "results.json").write_text("{"),
    "hidden files only": lambda place: (place / ".git").mkdir(),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_that_is_no_run_is_refused_and_untouched(found, tmp_path, kind):
    place = tmp_path / "place"
    place.mkdir()
    FOREIGN[kind](place)
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="not an underscript run"):
        found.save(place)
    assert contents(tmp_path) == before


def test_a_file_is_refused_and_untouched(found, tmp_path):
    (tmp_path / "place").write_text("years of work")
    before = contents(tmp_path)
    for place in (tmp_path / "place", tmp_path / "place" / "below"):
        with pytest.raises(OutputError) as caught:
            found.save(place)
        assert "\n" not in str(caught.value)
        with pytest.raises(OutputError):
            found.report(place / "r.html")
    assert contents(tmp_path) == before


def test_a_link_to_an_earlier_run_stays_a_link(found, run):
    # `latest` → the run: what the user set up is theirs; the run that it names is replaced.
    link = run.parent / "latest"
    link.symlink_to(run, target_is_directory=True)
    (run / "left-over.txt").write_text("of the earlier run")
    found.save(link)
    assert link.is_symlink()
    assert us.load(link).verdict == found.verdict
    assert not (run / "left-over.txt").exists()


# Failures in the middle ---------------------------------------------------------------------


# Failures in the middle ---------------------------------------------------------------------


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Make every write beyond `size` bytes of a file fail, as on a full disk, by the real system.

    Python ignores the signal that goes with it, so the write raises OSError.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("largest", FILES)
@pytest.mark.parametrize("earlier", [False, True])
def test_a_disk_that_is_full_leaves_everything_as_it_was(found, run, largest, earlier):
    # One byte less than a file needs: that one cannot be written, smaller ones can.
    size = (run / largest).stat().st_size - 1
    if not earlier:
        shutil.rmtree(run)
    before = contents(run.parent)
    with files_limited_to(size), pytest.raises(OutputError, match="nothing was written") as caught:
        found.save(run)
    assert "\n" not in str(caught.value)
    assert str(run) in str(caught.value)
    assert contents(run.parent) == before


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OutputError),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (RuntimeError("a bug"), RuntimeError),
    ],
    ids=["disk full", "no permission", "Ctrl-C", "bug"],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_whatever_stops_a_write_leaves_everything_as_it_was(
    found, run, monkeypatch, error, expected, earlier
):
    if not earlier:
        shutil.rmtree(run)
    before = contents(run.parent)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(_run_folder, "_write_decoder", fail)
    with pytest.raises(expected) as caught:
        found.save(run)
    if expected is OutputError:
        assert error.strerror in str(caught.value)
    assert contents(run.parent) == before


@pytest.mark.parametrize("error", [OSError(errno.EBUSY, "busy"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [1, 2])
def test_the_earlier_run_survives_whatever_stops_the_swap(found, run, monkeypatch, error, at):
    # First the earlier folder is moved aside, then the new one takes its place: between the two
    # there is none, and the earlier one must come back.
    before = contents(run.parent)
    rename, calls = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == at:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        found.save(run)
    assert contents(run.parent) == before


def test_the_folder_is_claimed_before_the_work(tmp_path):
    # A job of hours must not find out at its end that it cannot write.
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="cannot write"),
        fresh_folder(tmp_path / "file" / "run", is_run),
    ):
        pytest.fail("the work began")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError()]
)
def test_a_single_file_is_whole_or_as_it_was(tmp_path, error):
    target = tmp_path / "report.html"
    for earlier in (None, "earlier"):
        if earlier is not None:
            target.write_text(earlier)
        before = contents(tmp_path)
        expected = OutputError if isinstance(error, OSError) else type(error)
        with pytest.raises(expected), whole_file(target) as work:  # noqa: PT012
            work.write_text("half")
            raise error
        assert contents(tmp_path) == before
    with whole_file(target) as work:
        work.write_text("whole")
    assert contents(tmp_path) == {"report.html": b"whole"}


def test_a_report_that_cannot_be_written_leaves_the_earlier_one(found, tmp_path):
    target = tmp_path / "report.html"
    found.report(target)
    before = contents(tmp_path)
    with files_limited_to(1000), pytest.raises(OutputError, match=r"report\.html"):
        found.report(target)
    assert contents(tmp_path) == before
