"""Print what CHANGELOG.md says of a version, if everything is ready to release it.

    python tools/release_notes.py TAG

TAG is v and the version, such as v0.1.0. It must be the version in src/underscript/_version.py and
in CITATION.cff, and have a section with a date in CHANGELOG.md. If something does not agree, one
line says what, and the exit status is 1.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class ReleaseError(Exception):
    """The tag and the files do not agree."""


def main(arguments: list[str]) -> int:
    """Print the notes of a tag."""
    if len(arguments) != 1:
        print("usage: python tools/release_notes.py TAG", file=sys.stderr)
        return 2
    try:
        print(notes(arguments[0], ROOT))
    except ReleaseError as error:
        print(f"release_notes: {error}", file=sys.stderr)
        return 1
    return 0


def notes(tag: str, root: Path) -> str:
    """Return the section of a tag's version in the changelog, without its heading.

    Raises
    ------
    ReleaseError
        If the tag is not the version of the package and of CITATION.cff, or the changelog has no
        section for it.
    """
    version = version_of(root)
    if tag != f"v{version}":
        raise ReleaseError(
            f"the tag is {tag}, but src/underscript/_version.py says {version}: tag v{version}"
        )
    cited = re.search(r"^version: *(\S+)$", read(root, "CITATION.cff"), flags=re.M)
    if not cited or cited[1] != version:
        found = cited[1] if cited else "no version"
        raise ReleaseError(f"CITATION.cff has {found}, expected {version}")
    changelog = read(root, "CHANGELOG.md")
    heading = rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$"
    section = re.search(rf"{heading}\n(.*?)(?=^## |\Z)", changelog, flags=re.M | re.S)
    if not section or not section[1].strip():
        raise ReleaseError(
            f'CHANGELOG.md has no section "## {version} - YYYY-MM-DD" with something in it'
        )
    # On the page of a release, links lead to the files of the tag.
    files = f"{repository(root)}/blob/{tag}/"
    return re.sub(r"\]\((?!https?:|#)", lambda _: f"]({files}", section[1].strip())


def repository(root: Path) -> str:
    """Return the address of the repository."""
    found = re.search(r'^repository-code: "([^"]+)"$', read(root, "CITATION.cff"), flags=re.M)
    if not found:
        raise ReleaseError("CITATION.cff has no repository-code")
    return found[1]


def version_of(root: Path) -> str:
    """Return the package's version, without importing it."""
    found = re.search(
        r'^__version__ = "([^"]+)"$', read(root, "src/underscript/_version.py"), flags=re.M
    )
    if not found:
        raise ReleaseError('src/underscript/_version.py has no line __version__ = "…"')
    return found[1]


def read(root: Path, name: str) -> str:
    """Return the text of a file of the checkout."""
    return (root / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
