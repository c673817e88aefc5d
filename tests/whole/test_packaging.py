"""What is published: metadata, one version, the check of the archives, the release's notes."""

import io
import re
import runpy
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import underscript as us

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
VERSION_FILE = "src/underscript/_version.py"


def tool(name: str) -> SimpleNamespace:
    """Return what a program of tools/ defines, without running it."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / f"{name}.py")))


CHECK = tool("check_dist")
RELEASE = tool("release_notes")


# --- metadata -----------------------------------------------------------------------------------


def test_the_classifiers_name_the_pythons_that_may_install_it():
    named = [
        Version(found[1])
        for line in PROJECT["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line))
    ]
    assert named == sorted(named)
    assert all(version in SpecifierSet(PROJECT["requires-python"]) for version in named)
    assert PROJECT["requires-python"] == f">={named[0]}"
    # Those between are named too.
    assert [version.minor for version in named] == list(range(11, 11 + len(named)))
    assert Version(PYPROJECT["tool"]["mypy"]["python_version"]) == named[0]


def test_the_classifiers_say_what_it_is_and_leave_the_licence_to_its_field():
    classifiers = PROJECT["classifiers"]
    assert len(classifiers) == len(set(classifiers))
    for begin in ("Development Status", "Intended Audience", "Operating System :: OS Independent"):
        assert any(line.startswith(begin) for line in classifiers)
    assert sum(line.startswith("Topic ::") for line in classifiers) >= 2
    assert "Typing :: Typed" in classifiers
    assert (ROOT / "src" / "underscript" / "py.typed").is_file()
    # PyPI refuses a licence's expression beside a licence's classifier.
    assert PROJECT["license"] == "Apache-2.0"
    assert not any(line.startswith("License ::") for line in classifiers)
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_links_are_of_the_repository_that_is_cited():
    (cited,) = re.findall(r'^repository-code: "(.+)"$', CITATION, flags=re.M)
    links = PROJECT["urls"]
    assert list(links) == ["Homepage", "Documentation", "Source", "Issues", "Changelog"]
    for url in links.values():
        assert url == cited or url.startswith(f"{cited}/")
        _, on_main, path = url.partition("/blob/main/")
        assert not on_main or (ROOT / path).is_file()
    hook = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    files = cited.replace("github.com", "raw.githubusercontent.com")
    picture, page = (rule["replacement"] for rule in hook["substitutions"])
    assert f"({files}/v$HFPR_VERSION/" in picture
    assert f"({cited}/blob/v$HFPR_VERSION/" in page


def test_the_version_is_written_once_and_cited():
    assert "version" in PROJECT["dynamic"]
    assert "version" not in PROJECT
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == VERSION_FILE
    assert RELEASE.version_of(ROOT) == us.__version__
    # Between releases _version.py says .dev0 of the next one, which is what is cited.
    (cited,) = re.findall(r"^version: (.+)$", CITATION, flags=re.M)
    assert cited == Version(us.__version__).base_version
    for path in (ROOT / "src").rglob("*.py"):
        if path != ROOT / VERSION_FILE:
            assert us.__version__ not in path.read_text(encoding="utf-8"), path


def test_the_makefile_tests_the_oldest_torch_that_is_allowed():
    (torch,) = (r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "torch")
    (oldest,) = (s.version for s in torch.specifier if s.operator == ">=")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (tested,) = re.findall(r"^OLDEST_TORCH := (.+)$", makefile, flags=re.M)
    assert tested in torch.specifier
    assert Version(tested).release[:2] == Version(oldest).release[:2]


def test_the_sdist_takes_all_that_is_tracked():
    included = PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    tops = {path.removeprefix("/") for path in included}
    assert all((ROOT / name).exists() for name in tops)
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    command = ["git", "ls-files"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name.partition("/")[0] for name in listed.stdout.splitlines()}
    assert tracked - {".gitignore"} == tops  # the build takes .gitignore by itself


@pytest.mark.slow
def test_the_wheel_holds_what_is_not_a_module_too(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"underscript-{us.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert set(CHECK.NEEDED) <= set(names)
    assert f"underscript-{us.__version__}.dist-info/licenses/LICENSE" in names
    assert {name.partition("/")[0] for name in names} == {
        "underscript",
        f"underscript-{us.__version__}.dist-info",
    }


# --- the check of the archives ------------------------------------------------------------------

TRACKED = {
    "README.md": b"# underscript",
    "tests/test_it.py": b"def test(): ...",
    **{f"src/{name}": b"as it is" for name in CHECK.NEEDED},
}


def wheel_of(folder: Path, **changes: bytes | None) -> Path:
    """Write a wheel of TRACKED; `changes` are added by name, or left out if None."""
    about = "underscript-1.0.dist-info"
    held = {k.removeprefix("src/"): v for k, v in TRACKED.items() if k.startswith("src/")}
    held |= {f"{about}/{name}": b"" for name in CHECK.METADATA}
    held[f"{about}/METADATA"] = b"Name: underscript\n\n[docs](https://example.org)\n"
    path = folder / "underscript-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (held | changes).items():
            if content is not None:
                archive.writestr(name, content)
    return path


def sdist_of(folder: Path, **changes: bytes | None) -> Path:
    """Write an sdist of TRACKED; `changes` are added by name, or left out if None."""
    path = folder / "underscript-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in ({"PKG-INFO": b"", **TRACKED} | changes).items():
            if content is not None:
                member = tarfile.TarInfo(f"underscript-1.0/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def test_archives_of_what_is_tracked_pass(tmp_path):
    CHECK.check_wheel(wheel_of(tmp_path), TRACKED)
    CHECK.check_sdist(sdist_of(tmp_path), TRACKED)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("underscript/py.typed", None, "lacks: underscript/py.typed"),
        ("underscript/report/templates/report.css", b"older", "older than.*report.css"),
        ("tests/test_it.py", b"", "not tracked: tests/test_it.py"),
        ("underscript/__pycache__/a.pyc", b"", "not tracked: .*a.pyc"),
        ("underscript-1.0.dist-info/licenses/LICENSE", None, "lacks or has .*: licenses/LICENSE"),
        ("underscript-1.0.dist-info/METADATA", b"\n\n[a](docs/a.md)", "docs/a.md leads nowhere"),
    ],
)
def test_a_wheel_with_other_content_is_refused(tmp_path, name, content, says):
    with pytest.raises(CHECK.CheckError, match=says):
        CHECK.check_wheel(wheel_of(tmp_path, **{name: content}), TRACKED)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tests/test_it.py", None, "lacks: tests/test_it.py"),
        ("runs/big.bin", b"", "not tracked: runs/big.bin"),
        ("PKG-INFO", None, "lacks PKG-INFO"),
    ],
)
def test_an_sdist_with_other_content_is_refused(tmp_path, name, content, says):
    with pytest.raises(CHECK.CheckError, match=says):
        CHECK.check_sdist(sdist_of(tmp_path, **{name: content}), TRACKED)


def test_a_folder_without_archives_says_what_to_do(tmp_path, capsys):
    assert CHECK.main([str(tmp_path)]) == 1
    assert re.search(r"has 0 files \*\.whl, expected 1: run `make dist`", capsys.readouterr().err)


def test_the_commands_of_the_next_steps_are_found():
    printed = """\
underscript decoded this network; not a command

Look at the labels that look wrong.
  underscript report '/tmp/a b/demo' --out beside
Use the decoder.
  python -c "import underscript"
  underscript_x is no command, nor is this: run underscript
Report: demo/report.html
"""
    assert CHECK.next_steps(printed) == [
        "underscript report '/tmp/a b/demo' --out beside",
        'python -c "import underscript"',
    ]
    assert CHECK.next_steps("underscript demo\n") == []


def test_a_step_that_fails_is_an_error_that_shows_it(tmp_path, capsys):
    tools = Path(sys.executable).parent
    assert CHECK.run("python -c 'print(1 + 1)' | cat", tools, tmp_path) == "2\n"
    with pytest.raises(CHECK.CheckError, match=r"exit status 3.*python -c"):
        CHECK.run("python -c 'raise SystemExit(3)'", tools, tmp_path)
    capsys.readouterr()


# --- a release's notes --------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    """Return a folder with the three files that name a version, ready for the tag v1.2.0."""
    (tmp_path / "src" / "underscript").mkdir(parents=True)
    (tmp_path / VERSION_FILE).write_text('"""The version."""\n\n__version__ = "1.2.0"\n')
    (tmp_path / "CITATION.cff").write_text(
        'version: 1.2.0\nrepository-code: "https://example.org/us"\n'
    )
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\n- Not yet.\n\n## 1.2.0 - 2026-01-31\n\n### Fixed\n"
        "- It works ([how](docs/how.md), [why](https://example.org)).\n\n"
        "## 1.1.0 - 2025-12-01\n\n- Older.\n"
    )
    return tmp_path


def test_the_notes_are_the_versions_section(checkout):
    assert RELEASE.notes("v1.2.0", checkout) == (
        "### Fixed\n- It works ([how](https://example.org/us/blob/v1.2.0/docs/how.md), "
        "[why](https://example.org))."
    )


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        (VERSION_FILE, "1.2.0", "1.2.0.dev0", "the tag is v1.2.0, but .* says 1.2.0.dev0"),
        ("CITATION.cff", "1.2.0", "1.1.0", "CITATION.cff has 1.1.0, expected 1.2.0"),
        ("CHANGELOG.md", "## 1.2.0 - 2026-01-31", "## 1.2.0", "no section"),
        ("CHANGELOG.md", "## 1.2.0 - 2026-01-31", "## 1.2.0 - 2026-01-31\n\n## 1", "no section"),
    ],
)
def test_a_tag_that_does_not_agree_is_refused(checkout, file, old, new, says):
    path = checkout / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RELEASE.ReleaseError, match=says):
        RELEASE.notes("v1.2.0", checkout)
