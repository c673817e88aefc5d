"""Check a wheel and an sdist as their users get them: `make check-dist`.

    python tools/check_dist.py [FOLDER]

FOLDER (default: dist) holds one wheel and one sdist of this checkout. What is in them must be what
is tracked here. Then the wheel is installed in an environment of its own, outside of the checkout
and with constraints.txt; there the demo runs, and after it each command that the demo proposes, as
printed. The sdist is installed in a second environment. If something is wrong, one line says what,
and the exit status is 1.
"""

import email
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "src/underscript/"
# Of the kinds of file that are no modules, one each that a wheel is broken without.
NEEDED = (
    "underscript/py.typed",
    "underscript/report/templates/report.html.j2",
    "underscript/report/templates/report.css",
    "underscript/report/templates/report.js",
)
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
COMMAND = re.compile(r"\s+((?:underscript|python) .*)")
LIMIT_S = 1200


class CheckError(Exception):
    """Something is wrong with what would be published."""


def main(arguments: list[str]) -> int:
    """Check everything, and say how long each part took."""
    folder = Path(arguments[0] if arguments else ROOT / "dist").resolve()
    try:
        wheel, sdist = one_of(folder, "*.whl"), one_of(folder, "*.tar.gz")
        tracked = tracked_files()
        check_wheel(wheel, tracked)
        check_sdist(sdist, tracked)
        print(f"contents: {wheel.name} and {sdist.name} hold what is tracked")
        with tempfile.TemporaryDirectory(prefix="underscript-dist-") as place:
            if Path(place).resolve().is_relative_to(ROOT):
                raise CheckError(f"{place} is in the checkout; set TMPDIR to a folder outside")
            try_wheel(wheel, Path(place) / "wheel")
            try_sdist(sdist, Path(place) / "sdist")
    except CheckError as error:
        print(f"check-dist: {error}", file=sys.stderr)
        return 1
    return 0


def one_of(folder: Path, pattern: str) -> Path:
    """Return the only file of a kind in a folder."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise CheckError(f"{folder} has {len(found)} files {pattern}, expected 1: run `make dist`")
    return found[0]


def tracked_files() -> dict[str, bytes]:
    """Return the content of the files that git tracks, by their paths in the checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = [name for name in listed.stdout.split("\0") if name]
    if listed.returncode or not names:
        raise CheckError(f"git lists no files in {ROOT}; this needs a clone, not an unpacked sdist")
    return {name: (ROOT / name).read_bytes() for name in names if (ROOT / name).is_file()}


def check_wheel(wheel: Path, tracked: dict[str, bytes]) -> None:
    """Check that a wheel holds the package as it is tracked, its licence, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    about = "-".join(wheel.name.split("-")[:2]) + ".dist-info/"
    same_files(
        wheel.name,
        {name: content for name, content in held.items() if not name.startswith(about)},
        {k.removeprefix("src/"): v for k, v in tracked.items() if k.startswith(PACKAGE)},
    )
    if missing := [name for name in NEEDED if name not in held]:
        raise CheckError(f"{wheel.name} lacks {', '.join(missing)}")
    described = {name.removeprefix(about) for name in held if name.startswith(about)}
    if described != METADATA:
        odd = ", ".join(sorted(described ^ METADATA))
        raise CheckError(f"{wheel.name}: {about} lacks or has too much: {odd}")
    page = email.message_from_bytes(held[f"{about}METADATA"]).get_payload()
    if relative := re.findall(r"\]\((?!https?:|#)([^)]*)\)", str(page)):
        raise CheckError(f"{wheel.name}: the README's link to {relative[0]} leads nowhere on PyPI")


def check_sdist(sdist: Path, tracked: dict[str, bytes]) -> None:
    """Check that an sdist holds all that is tracked, so that the tests run from it too."""
    with tarfile.open(sdist) as archive:
        held = {
            member.name.partition("/")[2]: archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
            if member.isfile()
        }
    if "PKG-INFO" not in held:
        raise CheckError(f"{sdist.name} lacks PKG-INFO")
    same_files(sdist.name, {k: v for k, v in held.items() if k != "PKG-INFO"}, tracked)


def same_files(name: str, held: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Check that an archive's files are those of the checkout."""
    for what, names in (
        ("lacks", expected.keys() - held.keys()),
        ("has files that are not tracked", held.keys() - expected.keys()),
        ("is older than", {k for k in held.keys() & expected.keys() if held[k] != expected[k]}),
    ):
        if names:
            shown = ", ".join(sorted(names)[:5])
            raise CheckError(f"{name} {what}: {shown} ({len(names)} in all)")


def try_wheel(wheel: Path, place: Path) -> None:
    """Install a wheel, run the demo, and run what the demo proposes."""
    tools = installed(wheel, place / "venv")
    away = place / "away"
    away.mkdir()
    out = place / "demo"
    printed = run(["underscript", "demo", "--out", str(out)], tools, away)
    for name in ("report.html", "label_issues.csv"):
        if not (out / name).is_file() or not (out / name).stat().st_size:
            raise CheckError(f"underscript demo wrote no {name} in {out}")
    steps = next_steps(printed)
    if not steps:
        raise CheckError('the demo proposes no command: no line such as "  underscript export …"')
    for step in steps:
        run(step, tools, away)


def try_sdist(sdist: Path, place: Path) -> None:
    """Install an sdist: it builds, and the package is there."""
    installed(sdist, place / "venv")


def next_steps(printed: str) -> list[str]:
    """Return the commands that are proposed: indented lines of ``underscript`` or ``python``."""
    return [
        found[1].rstrip() for line in printed.splitlines() if (found := COMMAND.fullmatch(line))
    ]


def installed(archive: Path, folder: Path) -> Path:
    """Install an archive in a new environment, try it, and return its folder of programs."""
    folder.parent.mkdir(parents=True)
    venv.create(folder, with_pip=True)
    tools = folder / "bin"
    pip = ["python", "-m", "pip", "--disable-pip-version-check"]
    constraints = str(ROOT / "constraints.txt")
    run([*pip, "install", "--quiet", "-c", constraints, str(archive)], tools, folder.parent)
    run([*pip, "check"], tools, folder.parent)
    version = run(["underscript", "--version"], tools, folder.parent).strip()
    code = (
        "import pathlib, underscript as us; print(us.__version__, "
        "(pathlib.Path(us.__file__).parent / 'py.typed').resolve(strict=True))"
    )
    imported, _, typed = run(["python", "-c", code], tools, folder.parent).strip().partition(" ")
    named = re.split(r"-|\.tar\.gz", archive.name)[1]
    if version != f"underscript {named}" or imported != named:
        raise CheckError(f"{archive.name} installs as {version!r}, imported as {imported}")
    if not Path(typed).is_relative_to(folder.resolve()):
        raise CheckError(f"{archive.name}: the package is imported from {typed}, not from {folder}")
    return tools


def run(command: list[str] | str, tools: Path, folder: Path) -> str:
    """Run a command with an environment's programs first, and return what it prints.

    A text is run by the shell, as a person would who pasted it.
    """
    ours = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    ours |= {"PATH": f"{tools}:{os.environ['PATH']}", "VIRTUAL_ENV": str(tools.parent)}
    shown = command if isinstance(command, str) else " ".join(command)
    started = time.monotonic()
    try:
        done = subprocess.run(
            command if isinstance(command, str) else [str(tools / command[0]), *command[1:]],
            shell=isinstance(command, str),
            cwd=folder,
            env=ours,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckError(f"more than {LIMIT_S} s: {shown}") from error
    print(f"{time.monotonic() - started:6.1f} s  {shown.splitlines()[0]}", flush=True)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
        raise CheckError(f"exit status {done.returncode}, in {folder}: {shown}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
