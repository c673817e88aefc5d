"""Agreement with the prototype that the decoder was developed with, if it is at hand."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_fits import fingerprints_of, fitted, rows

from underscript.selection.fitting import Grid
from underscript.selection.likelihood import likelihoods
from underscript.selection.memorisation import corrected

FILE = "shared/prototypes/crossfit_select.py"
FOUND = [above / FILE for above in Path(__file__).resolve().parents if (above / FILE).exists()]


@pytest.fixture(scope="module")
def prototype():
    if not FOUND:
        pytest.skip(f"the prototype is not at hand: no {FILE} in a folder above")
    spec = importlib.util.spec_from_file_location("crossfit_select", FOUND[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Features:
    """The prototype's random features, as the library takes them."""

    def __init__(self, function, n_features):
        self.function, self.phases = function, torch.zeros(n_features)

    def __call__(self, rows):
        return self.function(rows)


def agreement(one, other):
    return float((one.argmax(1) == other.argmax(1)).double().mean())


def over_views(fit, views, folds):
    """Return out-of-fold scores summed over perturbed views, as the prototype has them."""
    total = torch.zeros_like(fit.plain)
    for fold, linear in enumerate(fit.without):
        here = torch.from_numpy(folds == fold)
        total[here] = sum(linear(view[here]) for view in views)
    return total


def test_candidates_are_the_prototypes(prototype, monkeypatch):
    some = rows(n=1500, width=20, n_classes=6, moved=3)
    some.fingerprints = fingerprints_of(np.arange(1500) % 3)
    test = torch.from_numpy(
        rows(n=1500, width=20, n_classes=6, moved=0, seed=0).views[0][::-1].copy()
    )
    views = [torch.from_numpy(view) for view in some.views]
    layers = {"fc": {"plain": views[0], "perturbed": views[1:], "test": test}}
    fourier = prototype.fourier
    monkeypatch.setattr(prototype, "fourier", lambda rows: fourier(rows, n_features=200))
    theirs = prototype.candidates(layers, torch.from_numpy(some.given), 6)
    lifts = {"linear": None, "fourier": Features(prototype.fourier(views[0]), 200)}
    order = torch.from_numpy(some.by_fold)
    same, compared = [], 0
    for lift, features in lifts.items():
        # The prototype's candidates of plain rows do not share the others' covariance.
        grids = [Grid(prototype.RIDGES[lift], prototype.ROUNDS, (kind,)) for kind in (False, True)]
        made = [fitted(some, grid, features=features) for grid in grids]
        for candidate, fit in (made[0] | made[1]).items():
            kind = "both" if candidate.perturbed else "plain"
            other = theirs["fc", lift, kind, candidate.ridge, candidate.round]
            seen = [view if features is None else features(view) for view in [test, *views]]
            outputs = [fit.whole(view) for view in seen]
            pairs = [
                (over_views(fit, seen[2:], some.folds), other["out"]),
                (fit.plain, other["as_is"][order]),
                (outputs[0], other["ends"][0]),
                (sum(outputs[1:]), other["in"]),
            ]
            for ours, expected in pairs:
                same.append(agreement(ours, expected))
                torch.testing.assert_close(prototype.scaled(ours), expected, rtol=1e-2, atol=1e-2)
            compared += 1
    assert compared == len(theirs) == 24
    assert min(same) >= 0.999


def test_likelihoods_are_the_prototypes(prototype):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (400,), generator=generator)
    for sure in (0.0, 0.5, 3.0):
        scores = torch.randn(400, 5, generator=generator)
        scores[torch.arange(300), labels[:300]] += sure
        # The prototype's grid ends at 0.8.
        ours = float(likelihoods(scores, labels)[:, :9].max())
        assert ours == pytest.approx(
            prototype.likelihood(prototype.scaled(scores), labels, 5), abs=1e-4
        )


def test_the_correction_is_the_prototypes(prototype):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (500,), generator=generator)
    out, as_is = (torch.randn(500, 4, generator=generator) for _ in range(2))
    as_is[torch.arange(400), labels[:400]] += 5
    shares = [(each.argmax(1) == labels).double().mean() for each in (as_is, out)]
    chosen = prototype.select_corrected({"one": {"out": out, "as_is": as_is}}, labels, 0.12)
    assert chosen == ["one"]
    expected = (float(shares[1]) - 0.12 * float(shares[0])) / 0.88
    assert float(corrected(*shares, 0.12)) == pytest.approx(expected)
