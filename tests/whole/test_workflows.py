"""GitHub's workflows call what is there, on the Pythons that are promised, with few rights."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in FILES}
# "on" is a truth value in YAML 1.1, which PyYAML reads.
FLOWS: dict[str, Any] = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
JOBS = [
    pytest.param(job, id=f"{flow}-{name}")
    for flow, content in FLOWS.items()
    for name, job in content["jobs"].items()
]
TARGETS = set(
    re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
)


def commands(job: dict[str, Any]) -> str:
    return "\n".join(step["run"] for step in job["steps"] if "run" in step)


def targets(shell: str) -> list[str]:
    """Return what `make` is called with in a script."""
    return re.findall(r"^(?!\s*#).*?\bmake ([a-z-]+)", shell, flags=re.M)


def test_both_workflows_are_there():
    assert set(FLOWS) == {"tests", "publish"}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_calls_what_is_there(job):
    assert set(targets(commands(job))) <= TARGETS
    for program in re.findall(r"python (\S+\.py)", commands(job)):
        assert (ROOT / program).is_file()
    assert job["runs-on"].startswith("ubuntu-")
    assert job["timeout-minutes"] <= 90


def test_what_ci_calls_is_in_the_makefile_and_tested_on_github():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert targets(script) == ["test", "check-dist"]
    jobs = FLOWS["tests"]["jobs"].values()
    assert {name for job in jobs for name in targets(commands(job))} >= set(targets(script))


def test_the_pythons_are_those_of_the_classifiers():
    begin = "Programming Language :: Python :: 3."
    named = [f"3.{c.removeprefix(begin)}" for c in PROJECT["classifiers"] if c.startswith(begin)]
    assert FLOWS["tests"]["jobs"]["tests"]["strategy"]["matrix"]["python"] == named
    assert PROJECT["requires-python"] == f">={named[0]}"
    used = re.findall(r'python-version: "(.+)"', "".join(TEXTS.values()))
    assert used
    assert set(used) <= set(named)


def test_torch_comes_without_cuda():
    for flow in FLOWS.values():
        assert flow["env"]["PIP_EXTRA_INDEX_URL"].endswith("/whl/cpu")


@pytest.mark.parametrize("name", TEXTS)
def test_every_action_is_pinned_to_a_commit_and_says_which_version_that_is(name):
    used = re.findall(r"uses: (.+)", TEXTS[name])
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    # One version of an action, everywhere.
    every = set(re.findall(r"uses: (.+)", "".join(TEXTS.values())))
    assert len(every) == len({action.partition("@")[0] for action in every})


def test_each_job_has_only_the_rights_that_it_needs():
    assert FLOWS["tests"]["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in FLOWS["tests"]["jobs"].values())
    assert FLOWS["publish"]["permissions"] == {}
    rights = {name: job["permissions"] for name, job in FLOWS["publish"]["jobs"].items()}
    assert rights == {
        "build": {"contents": "read"},
        "pypi": {"id-token": "write"},
        "github": {"contents": "write"},
    }
    assert "secrets." not in "".join(TEXTS.values())  # PyPI trusts the workflow; no token is kept


def test_what_is_published_was_tested_and_agrees_with_its_tag():
    flow = FLOWS["publish"]
    assert flow[True] == {"push": {"tags": ["v*"]}}
    jobs = flow["jobs"]
    assert jobs["pypi"]["needs"] == "build"
    assert jobs["github"]["needs"] == "pypi"
    assert jobs["pypi"]["environment"]["name"] == "pypi"
    assert targets(commands(jobs["build"])) == ["test", "check-dist"]
    assert 'tools/release_notes.py "$GITHUB_REF_NAME"' in commands(jobs["build"])
    # A tag's name comes from outside: the shell reads it from a variable, it is never pasted in.
    for job in jobs.values():
        assert "${{" not in commands(job)
    kept = {s["with"]["name"] for s in jobs["build"]["steps"] if "upload" in s.get("uses", "")}
    for name in ("pypi", "github"):
        steps = jobs[name]["steps"]
        assert {s["with"]["name"] for s in steps if "download" in s.get("uses", "")} <= kept
