"""Files and folders that are written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from torch import Tensor

from ..errors import OutputError

# Version of the run folder format; raise it when the meaning of the content changes.
RUN_FORMAT = 4
# Columns of the table of layers; figures and reports need all of them.
TABLE_COLUMNS = (
    "model",
    "layer",
    "width",
    "probe",
    "variance",
    "subspace_labels",
    "rank",
    "split",
    "labels",
    "n",
    "accuracy",
    "selected",
)


@contextmanager
def fresh_folder(target: Path, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Give an empty folder that becomes `target` when the block ends without an error.

    The folder is made beside `target` at once, so a place that cannot be written is an error
    before any work is done. On any exception, Ctrl-C included, the folder is removed and `target`
    stays as it was.

    Parameters
    ----------
    target : Path
        The folder to write. If it exists it must be empty, or `is_ours` must return true for it;
        it is then replaced.
    is_ours : callable
        Says whether an existing folder may be replaced.

    Raises
    ------
    OutputError
        If `target` exists and may not be replaced, or cannot be written.
    """
    target = Path(os.path.abspath(target))
    if target.is_symlink() and target.is_dir():
        target = target.resolve()  # keep the link, replace its target
    if target.exists() or target.is_symlink():
        if not target.is_dir():
            raise OutputError(f"{target} is a file; expected a new folder or an earlier run's")
        if any(target.iterdir()) and not is_ours(target):
            raise OutputError(
                f"{target} exists and is not an underscript run; choose another --out, or empty it"
            )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except OSError as error:
        raise OutputError(f"cannot write in {target.parent}: {error.strerror or error}") from error
    try:
        yield work
        work.chmod(0o777 & ~_umask())
        _swap(work, target)
    except OSError as error:
        if isinstance(error, OutputError) and str(work) not in str(error):
            raise
        # The working folder is gone by the time the user reads this.
        reason = (
            str(error).replace(str(work), str(target))
            if isinstance(error, OutputError)
            else (f"cannot write {target}: {error.strerror or error}")
        )
        raise OutputError(f"{reason}; nothing was written there") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _swap(work: Path, target: Path) -> None:
    """Put `work` in the place of `target`; the old folder is deleted last."""
    if not target.exists():
        work.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
    aside = old / target.name
    try:
        target.rename(aside)
        work.rename(target)
    finally:
        # Also after Ctrl-C: between the two renames only `aside` holds the earlier run.
        if aside.exists() and not target.exists():
            aside.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write a text file whole; see `whole_file`."""
    with whole_file(target) as work:
        work.write_text(text, encoding="utf-8")


def write_tensors(
    target: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors from any device to a safetensors file whole; see `whole_file`."""
    there = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(target) as work:
        # Not `save_file`: it does not raise OSError when the disk is full.
        work.write_bytes(safetensors.torch.save(there, metadata))


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes `target` when the block ends without an error.

    Raises
    ------
    OutputError
        If the file cannot be written; an earlier file of that name stays as it was.
    """
    target = Path(os.path.abspath(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.partial-", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    work = Path(name)
    try:
        yield work
        work.chmod(0o666 & ~_umask())
        work.replace(target)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        work.unlink(missing_ok=True)
