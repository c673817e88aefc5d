"""A real browser, and what looks for barriers."""

import io
import shutil
import subprocess
import tarfile

import pytest

AXE = "axe-core@4.14.1"


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on the path (Debian: apt-get install chromium)")
    with api.sync_playwright() as play:
        # As root, as in containers, Chromium has no sandbox.
        found = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """The accessibility checker's script, from npm; it is no part of this package."""
    folder = tmp_path_factory.mktemp("axe")
    try:
        subprocess.run(
            ["npm", "pack", AXE, "--silent"],
            cwd=folder,
            check=True,
            timeout=60,
            capture_output=True,
        )
        (archive,) = folder.glob("*.tgz")
        with tarfile.open(archive) as packed:
            script = packed.extractfile("package/axe.min.js")
            assert script is not None
            return io.TextIOWrapper(script, "utf-8").read()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        pytest.skip(f"{AXE} cannot be had from npm ({type(error).__name__})")
