"""Finished grids that the tests of `reproduce` share."""

import shutil
from dataclasses import replace

import pytest

from small_grids import TINY, plan_of
from underscript.experiments import presets, units
from underscript.experiments.reproduce import reproduce


@pytest.fixture
def quick_recipe(monkeypatch):
    for key, preset in presets._RECIPES.items():
        if key[0] == "quick":
            monkeypatch.setitem(presets._RECIPES, key, replace(preset, **TINY))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished grid of all experiments, two degrees and two runs."""
    with pytest.MonkeyPatch.context() as patch:
        recipe = presets._RECIPES["quick", "mlp"]
        patch.setitem(presets._RECIPES, ("quick", "mlp"), replace(recipe, **TINY))
        patch.setattr(units, "RETRAINING_EPOCHS", 2)
        plan = plan_of("E1", "E2", "E3", "E4", "E5", "E6")
        out = tmp_path_factory.mktemp("grids") / "all"
        return plan, out, reproduce(plan, out, progress=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A finished grid of one cell, for what needs no more."""
    with pytest.MonkeyPatch.context() as patch:
        recipe = presets._RECIPES["quick", "mlp"]
        patch.setitem(presets._RECIPES, ("quick", "mlp"), replace(recipe, **TINY))
        plan = plan_of("E1", "E2", corruptions=(0.6,), runs=1)
        out = tmp_path_factory.mktemp("grids") / "small"
        return plan, out, reproduce(plan, out, progress=False)


@pytest.fixture
def small_copy(small, tmp_path):
    """A copy of it that the test may damage."""
    plan, out, result = small
    return plan, shutil.copytree(out, tmp_path / "out"), result
