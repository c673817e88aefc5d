"""The candidates of a layer: the same as fitted plainly, one by one; and never with own labels."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from plain_fits import candidates, fingerprints_of, fitted, rows

from underscript.probes.random_features import FourierFeatures
from underscript.selection import fitting
from underscript.selection.fitting import Candidate, Grid

GRID = Grid((0.01, 0.3), 3, (False, True))


def agreement(one, other):
    return float((np.asarray(one).argmax(1) == np.asarray(other).argmax(1)).mean())


def assert_near(actual, expected, rtol=1e-3):
    """Compare scores; small ones to the same digits as the others are."""
    expected = np.asarray(expected)
    atol = rtol * np.abs(expected).mean()
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=rtol, atol=atol)


def key_of(candidate: Candidate):
    return candidate.perturbed, candidate.ridge, candidate.round


def assert_same_candidates(actual, expected, some, features=None):
    assert {key_of(each) for each in actual} == set(expected)
    order = some.by_fold
    views = [torch.from_numpy(view) for view in some.views]
    for candidate, fit in actual.items():
        plain = expected[key_of(candidate)]
        for ours, theirs in ((fit.plain, plain.plain[order]), (fit.moved, plain.moved[order])):
            assert agreement(ours, theirs) >= 0.999, candidate
            assert_near(ours, theirs)
        for ours, theirs in zip(
            [fit.whole, *fit.without], [plain.whole, *plain.without], strict=True
        ):
            for view in views:
                lifted = view if features is None else features(view)
                assert_near(ours(lifted), lifted.double().numpy() @ theirs[0] + theirs[1])


BOTH = (False, True)
CASES = {
    "two perturbed views": ({}, GRID),
    "none": ({"moved": 0}, Grid((0.01, 0.3), 3, (False,))),
    "one, for scores only": ({"moved": 1}, Grid((0.1,), 2, (False,))),
    "70 classes": ({"n": 2000, "width": 8, "n_classes": 70}, Grid((0.3,), 2, BOTH)),
    "wide rows": ({"n": 120, "width": 200, "n_classes": 3}, Grid((0.3,), 3, BOTH)),
}


@pytest.mark.parametrize(("drawn", "grid"), CASES.values(), ids=CASES)
def test_every_candidate_is_what_is_fitted_plainly(drawn, grid):
    some = rows(**drawn)
    assert_same_candidates(fitted(some, grid), candidates(some, grid), some)


def test_random_features_are_fitted_as_rows_are():
    some = rows()
    features = FourierFeatures.drawn(torch.from_numpy(some.views[0]), 150, 0)
    grid = Grid((0.03, 1.0), 3, (False, True))
    fits = fitted(some, grid, features=features)
    assert {each.n_features for each in fits} == {150}
    assert_same_candidates(fits, candidates(some, grid, features=features), some, features)


@pytest.mark.parametrize("enough", [3000, 1000])
def test_a_covariance_of_some_of_many_rows_is_that_of_all_but_for_chance(enough, monkeypatch):
    """Of many samples one perturbed view counts; what the covariance is of is written out here."""
    monkeypatch.setattr(fitting, "_ROWS", enough)
    some, grid = rows(n=3000), Grid((0.1,), 1, (True,))
    turn = np.random.default_rng(0).integers(0, 100, 3000)
    order, folds = some.by_fold, some.folds
    turns = [torch.from_numpy(turn[order][folds[order] == k]) for k in range(3)]
    ((_, fit),) = fitted(some, grid, turns=turns).items()
    plain, *moved = (view.astype(np.float64) for view in some.views)
    turned = np.where(turn[:, None] % 2 == 0, *moved)
    counts = turn // 2 % (3000 // enough) == 0
    n, total, second = 0.0, np.zeros(24), np.zeros((24, 24))
    for fold in range(3):
        here = counts & (folds == fold)
        share = (folds == fold).sum() / here.sum()
        for part in (plain[here], turned[here]):
            n += share * len(part)
            total += share * part.sum(0)
            second += share * part.T @ part
    mean = total / n
    regular = second / n - np.outer(mean, mean)
    regular += 0.1 * np.diag(regular).mean() * np.eye(24)
    means = np.stack(
        [
            np.concatenate([view[some.given == k] for view in (plain, turned)]).mean(0) - mean
            for k in range(5)
        ]
    )
    weights = np.linalg.solve(regular, means.T)
    expected = plain @ weights - 0.5 * np.diag(means @ weights) - mean @ weights
    ours = fit.whole(torch.from_numpy(some.views[0])).double().numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    ((_, exact),) = fitted(some, grid).items()
    scored = [fit.without[k](torch.from_numpy(turned[folds == k]).float()) for k in range(3)]
    assert_near(fit.moved, torch.cat(scored))
    same = agreement(torch.from_numpy(ours), exact.whole(torch.from_numpy(some.views[0])))
    assert 0.95 < same < 1


def test_what_is_fitted_without_a_fold_is_what_a_fit_to_the_other_folds_gives():
    some = rows()
    every = fitted(some, GRID)
    for fold in range(3):
        others = some.taken(some.folds != fold)
        for candidate, fit in fitted(others, GRID).items():
            expected = every[candidate].without[fold]
            view = torch.from_numpy(some.views[0])
            assert agreement(fit.whole(view), expected(view)) >= 0.999
            assert_near(fit.whole(view), expected(view))


# Own labels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("room", [0, 1 << 30])
def test_a_samples_label_changes_nothing_that_scores_it(features, room):
    some = rows()
    maps = FourierFeatures.drawn(torch.from_numpy(some.views[0]), 60, 0) if features else None
    before = fitted(some, GRID, features=maps, room=room)
    order = some.by_fold
    for sample in (0, 1, 2, 500):
        other = some.taken(np.arange(len(some.given)))
        other.given[sample] = (other.given[sample] + 1) % 5
        after = fitted(other, GRID, features=maps, room=room)
        same_fold = some.folds[order] == some.folds[sample]
        for candidate, fit in before.items():
            for one, two in (
                (fit.plain, after[candidate].plain),
                (fit.moved, after[candidate].moved),
            ):
                assert torch.equal(one[same_fold], two[same_fold]), candidate
                if not candidate.round:
                    assert not torch.equal(one[~same_fold], two[~same_fold]), candidate


def test_labels_that_say_nothing_are_predicted_by_chance_in_every_round():
    rng = np.random.default_rng(1)
    n, width = 600, 100
    some = rows(n=n, width=width, n_classes=4, wrong=1.0, remembered=0.0)
    some.views = [rng.normal(size=(n, width)).astype(np.float32) for _ in range(3)]
    given = torch.from_numpy(some.given)
    for candidate, fit in fitted(some, GRID).items():
        in_sample = (fit.whole(torch.from_numpy(some.views[0])).argmax(1) == given).double().mean()
        assert in_sample > 0.35, candidate
        for scores in (fit.plain, fit.moved):
            right = (scores.argmax(1) == given[some.by_fold]).double().mean()
            assert float(right) == pytest.approx(0.25, abs=0.075), candidate  # 4 standard errors


# Classes that are rare ----------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [5, 70])
def test_a_class_that_a_fit_has_never_seen_is_never_its_answer(n_classes):
    some = rows(n=800, n_classes=n_classes)
    rare = n_classes - 1
    some.given[some.given == rare] = 0
    some.given[np.flatnonzero(some.folds == 1)[:9]] = rare
    fits = fitted(some, GRID, n_classes)
    here = some.folds[some.by_fold] == 1
    for candidate, fit in fits.items():
        for scores in (fit.plain, fit.moved):
            assert bool(torch.isfinite(scores).all())
            assert not bool((scores[here].argmax(1) == rare).any()), candidate
            assert torch.equal(scores[here, rare], scores[here].amin(1))
        assert bool(torch.isneginf(fit.without[1].intercepts[rare]))
        for linear in (fit.whole, fit.without[0], fit.without[2]):
            assert bool(torch.isfinite(linear.intercepts).all())
            assert bool(torch.isfinite(linear.coefficients).all())
    plain = candidates(some, GRID, n_classes)
    for candidate, fit in fits.items():
        expected = np.nan_to_num(plain[key_of(candidate)].moved[some.by_fold], nan=-np.inf)
        assert agreement(fit.moved, expected) >= 0.999


@pytest.mark.parametrize("folds", [1, 2])
def test_folds_without_samples_leave_finite_scores(folds):
    some = rows(n=200)
    some.fingerprints = fingerprints_of(np.arange(200) % folds)
    for fit in fitted(some, GRID).values():
        assert bool(torch.isfinite(fit.plain).all())
        assert bool(torch.isfinite(fit.moved).all())
        # What is fitted without the only fold has seen nothing.
        assert (folds == 1) == (not bool(fit.plain.any()))


def test_rows_that_do_not_vary_leave_finite_scores():
    some = rows(n=200)
    some.views = [np.ones_like(view) for view in some.views]
    for fit in fitted(some, GRID).values():
        assert bool(torch.isfinite(fit.plain).all())
        assert bool(torch.isfinite(fit.whole(torch.from_numpy(some.views[0]))).all())


# The same by other ways ---------------------------------------------------------------------


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_rows_read_again_for_each_pass_give_the_same_as_those_in_memory(moved):
    some = rows(moved=moved)
    grid = Grid((0.01, 0.3), 3, (False, True) if moved else (False,))
    features = FourierFeatures.drawn(torch.from_numpy(some.views[0]), 60, 0)
    for maps in (None, features):
        cached = fitted(some, grid, features=maps)
        again = fitted(some, grid, features=maps, room=0)
        for candidate, fit in cached.items():
            torch.testing.assert_close(fit.plain, again[candidate].plain, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(fit.moved, again[candidate].moved, rtol=1e-5, atol=1e-5)


def test_the_order_of_samples_does_not_matter():
    some = rows()
    order = np.random.default_rng(3).permutation(len(some.given))
    other = some.taken(order)
    one, two = fitted(some, GRID), fitted(other, GRID, batch=77)
    back = np.argsort(order[other.by_fold])
    for candidate, fit in one.items():
        first = np.asarray(fit.moved)[np.argsort(some.by_fold)]
        second = np.asarray(two[candidate].moved)[back]
        assert agreement(first, second) >= 0.999
        assert_near(second, first)


# More rows in a fold than are worked on at once; in the second case one more.
@pytest.mark.parametrize(("steps", "n"), [(2, 14_000), (3, 14_000), (7, 14_000), (7, 12_291)])
def test_of_each_fold_every_so_many_samples_keep_their_scores(steps, n):
    some = rows(n=n, width=4, n_classes=3, moved=1)
    grid = Grid((0.1,), 2, (True,))
    some.fingerprints = fingerprints_of(np.arange(n) % 3)
    whole, part = fitted(some, grid), fitted(some, grid, steps=steps)
    ends = np.cumsum([0, *np.bincount(np.arange(n) % 3)])
    places = np.concatenate([np.arange(start, end, steps) for start, end in pairwise(ends)])
    for candidate, fit in whole.items():
        torch.testing.assert_close(part[candidate].plain, fit.plain[places])
        torch.testing.assert_close(part[candidate].moved, fit.moved[places])
        assert_near(part[candidate].whole.coefficients, fit.whole.coefficients)


def test_rows_in_a_temporary_file_give_the_same_candidates():
    some = rows()
    one, two = fitted(some, GRID), fitted(some, GRID, memory=1000)
    for candidate, fit in one.items():
        torch.testing.assert_close(fit.moved, two[candidate].moved)
