"""Standard output may be closed, full, or know few letters: no result is lost over it."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from ..errors import OutputError

__all__ = ["print_json", "print_line", "printed", "sound_streams", "to_nowhere"]


def sound_streams() -> None:
    """Open standard streams that are missing, and replace letters that they cannot show.

    A closed descriptor would be given to the next file that is opened.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, mode)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - stays open
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _Forgiving(sys.stderr)


class _Forgiving:
    """A stream for messages: if it cannot be written, they are lost and nothing else happens."""

    def __init__(self, stream: io.TextIOWrapper):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


@contextlib.contextmanager
def printed(kept: str = "") -> Iterator[None]:
    """Run code that prints a result which is saved already.

    Parameters
    ----------
    kept : str
        Where it is saved.

    Raises
    ------
    OutputError
        If standard output cannot be written; a closed pipe is no error.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        to_nowhere()
    except OSError as error:
        to_nowhere()
        where = f"; the result is in {kept}" if kept else ""
        raise OutputError(
            f"standard output cannot be written: {error.strerror or error}{where}"
        ) from error


def to_nowhere() -> None:
    """Discard what is still to be written to standard output, or Python complains at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON, in letters that standard output has."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    text = json.dumps(value, ensure_ascii=not encoding.startswith("utf"), allow_nan=False)
    print_line(text)


def print_line(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
