"""Download the published originals, check their MD5 sums and unpack them safely."""

import gzip
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from typing import IO

import pooch
from tqdm.auto import tqdm

from ...errors import DataError
from ...utils.files import fresh_folder, whole_file
from .catalogue import Download

# Seconds to wait for a connection and for the next bytes. Short, as most failures happen without a
# network, where the user should learn quickly which files to bring.
TIMEOUT = (5, 30)

_BROKEN_ARCHIVE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
)


def fetch(download: Download, folder: Path) -> Path:
    """Download one published file into a folder, unless it is there already.

    Parameters
    ----------
    download : Download
        The file, its MD5 sum and its mirrors, tried in turn.
    folder : Path
        Where to put it; created if needed.

    Returns
    -------
    Path
        The file, whose MD5 sum is the published one.

    Raises
    ------
    DataError
        If no mirror can be reached, or the file there or downloaded has another MD5 sum.
    OutputError
        If the folder cannot be written; no half-written file stays.
    """
    # Imported here, as it is slow and most loads find their files on disk.
    import requests

    target = folder / download.file
    if target.exists():
        _check_md5(target, download.md5, target, "replace or delete the file")
        return target
    made_here = [path for path in (folder, *folder.parents) if not path.exists()]
    failures = []
    for url in download.urls:
        try:
            with whole_file(target) as part:
                # Some servers call a .gz file "gzip-encoded", and requests would then unpack it.
                get = pooch.HTTPDownloader(
                    progressbar=sys.stderr.isatty(),
                    timeout=TIMEOUT,
                    headers={"Accept-Encoding": "identity"},
                )
                try:
                    get(url, str(part), None)
                # It is also an OSError, which whole_file would report as trouble with the disk.
                except requests.RequestException as error:
                    if error.response is not None:
                        error.response.close()  # pooch leaves it open
                    raise DataError(f"{url}: {_reason(error)}") from error
                _check_md5(part, download.md5, url, "nothing was kept; try again later")
        except DataError as error:
            failures.append(error)
        else:
            return target
    for path in made_here:
        with suppress(OSError):
            path.rmdir()
    raise DataError("; ".join(str(failure) for failure in failures)) from failures[-1]


def _check_md5(path: Path, md5: str, origin: Path | str, advice: str) -> None:
    actual = pooch.file_hash(str(path), alg="md5")
    if actual != md5:
        raise DataError(
            f"{origin}: expected the published file with MD5 {md5}, found {actual} "
            f"({path.stat().st_size:,} bytes); {advice}"
        )


def _reason(error: Exception) -> str:
    """Describe an exception of requests in a few words; its own message fills lines."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return f"download broke off ({type(error).__name__})"


def unpack(archive: Path, folder: str, root: Path) -> Path:
    """Unpack one folder of a ``.tar.gz`` or ``.zip`` archive, whole or not at all.

    Parameters
    ----------
    archive : Path
        The archive.
    folder : str
        The archive's top folder; nothing else in it is unpacked.
    root : Path
        Folder to unpack into; `folder` must not exist there with files in it.

    Returns
    -------
    Path
        ``root / folder``.

    Raises
    ------
    DataError
        If the archive is garbled, or holds links or paths that lead out of it.
    OutputError
        If the folder cannot be written.
    """
    members = _tar_members if archive.name.endswith(".tar.gz") else _zip_members
    n_files = 0
    with fresh_folder(root / folder, is_ours=lambda _: False) as work:
        try:
            # closing: after an error, the generator closes its files at once.
            with closing(members(archive)) as opened:
                for name, source in tqdm(
                    opened, f"unpacking {archive.name}", disable=None, leave=False
                ):
                    path = PurePosixPath(name)
                    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
                        raise DataError(
                            f"{archive}: expected paths inside the archive, found {name!r}; "
                            "nothing was unpacked"
                        )
                    if path.parts[:1] == (folder,):
                        target = work.joinpath(*path.parts[1:])
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with target.open("wb") as sink:
                            copyfileobj(source, sink)
                        n_files += 1
        except _BROKEN_ARCHIVE as error:
            raise DataError(
                f"{archive}: expected a whole archive, found {archive.stat().st_size:,} bytes "
                f"that do not unpack ({error}); delete it and get it again"
            ) from error
        if n_files == 0:
            raise DataError(f"{archive}: expected files in the folder {folder}/, found none")
    return root / folder


# Both yield (name, open file) for regular files only, so no link, device, owner or mode reaches the
# disk. pooch's Untar and Unzip do not ensure this, and check no gzip checksum.
def _tar_members(archive: Path) -> Generator[tuple[str, IO[bytes]], None, None]:
    with gzip.open(archive) as packed, tarfile.open(fileobj=packed, mode="r:") as tar:
        for member in tar:
            if member.isdir():
                continue
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is None:
                raise DataError(
                    f"{archive}: expected files and folders only, found a link or device at "
                    f"{member.name!r}; nothing was unpacked"
                )
            with stream:
                yield member.name, stream
        # Read on to the checksum at the end, as tarfile stops at the first block of zeros.
        while packed.read(1 << 20):
            pass


def _zip_members(archive: Path) -> Generator[tuple[str, IO[bytes]], None, None]:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            if not member.is_dir():
                with packed.open(member) as stream:
                    yield member.filename, stream
