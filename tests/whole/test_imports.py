"""What is imported when: the package and the command line's arguments come without torch.

torch, scikit-learn and pandas take seconds to import. `underscript --help` and a wrong argument
must not wait for them, so the package imports a public name when it is first asked for, and the
command line imports the commands when its arguments are read.
"""

import pkgutil
import subprocess
import sys

import pytest

import underscript as us

SLOW = {"torch", "sklearn", "scipy", "pandas", "matplotlib"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=True
    )


def imported_by(code: str) -> set[str]:
    """Return the packages that are imported when some code has run in a new process."""
    done = run("-c", f"{code}\nimport sys\nprint(*sys.modules, file=sys.stderr)")
    return {module.split(".")[0] for module in done.stderr.splitlines()[-1].split()}


def test_the_package_comes_without_torch_until_a_name_is_asked_for():
    assert not SLOW & imported_by("import underscript as us; us.UnderscriptError, dir(us)")
    assert SLOW & imported_by("import underscript as us; us.decode") >= {"torch", "sklearn"}


def test_the_command_starts_without_torch():
    done = run("-X", "importtime", "-m", "underscript", "--version")
    assert done.stdout == f"underscript {us.__version__}\n"
    modules = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "underscript.cli" in modules
    assert not SLOW & modules


def test_arguments_are_read_without_torch():
    code = """
from underscript.cli import main
for help in (["--help"], ["decode", "--help"], ["reproduce", "--help"], ["study", "--help"]):
    try:
        main(help)
    except SystemExit as end:
        assert end.code == 0
for wrong in ([], ["nothing"], ["decode"], ["decode", "--memory", "lots"], ["layers", "--no"]):
    assert main(wrong) == 2
"""
    assert not SLOW & imported_by(code)


@pytest.mark.parametrize("name", us.__all__)
def test_every_public_name_is_there(name):
    assert name in dir(us)
    thing = getattr(us, name)
    scope: dict = {}
    exec("from underscript import *", scope)
    assert scope[name] is thing


@pytest.mark.slow
def test_no_module_takes_the_place_of_a_function():
    # `import underscript.x` sets the package's attribute x, whatever stood there.
    modules = {module.name for module in pkgutil.iter_modules(us.__path__)}
    assert modules & set(us.__all__) == {"plots"}
    every = [f"underscript.{name}" for name in sorted(modules) if not name.startswith("__")]
    run("-c", f"import underscript as us, {', '.join(every)}\nassert callable(us.decode)")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'underscript' has no attribute 'no_such'"):
        _ = us.no_such
    assert not hasattr(us, "__wrapped__")
