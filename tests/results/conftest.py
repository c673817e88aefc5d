"""A saved run that the tests of run folders share."""

import shutil
from pathlib import Path

import pytest

import models
import underscript as us
from run_folders import make


@pytest.fixture(scope="session")
def found() -> us.Decoding:
    return make(models.build("mlp", seed=3))


@pytest.fixture(scope="session")
def saved(found: us.Decoding, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "run"
    found.save(folder)
    return folder


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    """A run folder that the test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "run"))
