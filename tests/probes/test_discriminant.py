"""Discriminants with a ridge, against their definition in float64 and against scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics.pairwise import rbf_kernel

from underscript import RidgeDiscriminant
from underscript.probes.discriminant import ClassSums, PooledMoments
from underscript.probes.random_features import FourierFeatures
from underscript.utils.distributed import ALONE

DIGITS, LABELS = load_digits(return_X_y=True)


def plain(x: np.ndarray, y: np.ndarray, rows: np.ndarray, ridge: float) -> np.ndarray:
    """Return the scores of Gaussian classes of equal weight, as they are defined."""
    x, rows = x.astype(np.float64), rows.astype(np.float64)
    classes = np.unique(y)
    means = np.stack([x[y == k].mean(0) for k in classes])
    within = sum((x[y == k] - m).T @ (x[y == k] - m) for k, m in zip(classes, means, strict=True))
    # The ridge is relative to the variance of all rows, whatever their labels.
    amount = ridge * x.var(0).mean()
    covariance = within / len(x) + amount * np.eye(x.shape[1])
    weights = np.linalg.solve(covariance, means.T)
    return rows @ weights - (means.T * weights).sum(0) / 2


def up_to_a_constant(scores: np.ndarray) -> np.ndarray:
    return scores - scores.mean(1, keepdims=True)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    n=st.integers(20, 300),
    width=st.integers(1, 30),
    n_classes=st.integers(2, 6),
    ridge=st.floats(0.01, 10),
    offset=st.floats(-20, 20),
)
def test_scores_are_those_of_the_definition(seed, n, width, n_classes, ridge, offset):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    x = (rng.normal(size=(n, width)) + rng.normal(size=(n_classes, width))[y] + offset).astype("f4")
    found = RidgeDiscriminant(ridge=ridge).fit(x, y)
    ours = found._linear(torch.from_numpy(x)).numpy()
    expected = up_to_a_constant(plain(x, y, x, ridge))
    error = np.abs(up_to_a_constant(ours) - expected).max()
    assert error < 2e-3 * (1 + np.abs(expected).max())


def test_a_small_ridge_is_scikit_learns_discriminant():
    x = DIGITS[:, DIGITS.std(0) > 0.5]
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(10, 0.1)).fit(x, LABELS)
    ours = RidgeDiscriminant(ridge=1e-5).fit(x, LABELS)
    assert (ours.predict(x) == theirs.predict(x)).mean() > 0.998


def test_one_covariance_serves_other_labels():
    x = torch.from_numpy(DIGITS.astype(np.float32))
    centre = x[:10].mean(0)
    moments = PooledMoments(centre)
    for part in x.split(100):
        moments.update(part)
    covariance = moments.covariance([0.1])
    for labels in (LABELS, LABELS[::-1].copy(), np.where(LABELS == 3, 4, LABELS)):
        sums = ClassSums(10, centre)
        for part, given_labels in zip(x.split(64), torch.from_numpy(labels).split(64), strict=True):
            sums.update(part, given_labels)
        found = covariance.discriminants([sums.total(ALONE)])[0][0.1]
        present = np.unique(labels)
        scores = found(x).numpy()
        assert np.isneginf(np.delete(scores, present, axis=1)).all()
        expected = plain(DIGITS, labels, DIGITS, 0.1)
        np.testing.assert_allclose(
            up_to_a_constant(scores[:, present]), up_to_a_constant(expected), atol=0.05
        )


@pytest.mark.parametrize("n", [5, 39, 40, 41])
def test_few_rows_are_factorised_as_rows_and_say_the_same(n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 40)).astype("f4") + 3, np.arange(n) % 3
    x[:, :10] *= 30  # the ridge is small beside some directions, and large beside others
    centre, ridges = torch.from_numpy(x[:2].mean(0)), (0.01, 1.0)
    moments, sums = PooledMoments(centre), ClassSums(3, centre)
    moments.update(torch.from_numpy(x))
    sums.update(torch.from_numpy(x), torch.from_numpy(y))
    covariance = moments.covariance(ridges)
    (found,) = covariance.discriminants([sums.total(ALONE)])
    precise = np.cov(x.astype("f8").T, bias=True)
    mean = x.astype("f8").mean(0)
    for ridge in ridges:
        ours = found[ridge](torch.from_numpy(x))
        expected = up_to_a_constant(plain(x, y, x, ridge))
        error = np.abs(up_to_a_constant(ours.numpy()) - expected).max()
        assert error < 1e-4 * (1 + np.abs(expected).max())
    regular = precise + ridges[0] * x.astype("f8").var(0).mean() * np.eye(40)
    solved = np.linalg.solve(regular, mean)
    np.testing.assert_allclose(covariance.one(), solved / (1 + mean @ solved), rtol=1e-3)


def test_features_approximate_a_gaussian_kernel_of_unit_rows():
    x = torch.from_numpy(DIGITS[:60].astype(np.float32))
    features = FourierFeatures.drawn(x, 20_000, seed=0)
    unit = DIGITS[:60] / np.linalg.norm(DIGITS[:60], axis=1, keepdims=True)
    length = np.median(np.linalg.norm(unit[:30] - unit[30:], axis=1))
    seen = features(x).double().numpy()
    np.testing.assert_allclose(
        2 * seen @ seen.T / 20_000, rbf_kernel(unit, gamma=1 / (2 * length**2)), atol=0.05
    )


@pytest.mark.parametrize("width", [257, 512, 700])
def test_structured_directions_approximate_the_kernel_and_are_what_they_say(width):
    rng = np.random.default_rng(0)
    x = torch.from_numpy((rng.normal(size=(80, width)) + 0.5).astype(np.float32))
    features = FourierFeatures.drawn(x, 20_000, seed=0)
    assert features.structured is not None
    unit = x.double() / x.double().norm(dim=1, keepdim=True)
    length = float((unit[:40] - unit[40:]).norm(dim=1).median())
    seen = features(x).double().numpy()
    kernel = rbf_kernel(unit.numpy(), gamma=1 / (2 * length**2))
    np.testing.assert_allclose(2 * seen @ seen.T / 20_000, kernel, atol=0.05)
    # What is written to a file are the directions themselves.
    dense = FourierFeatures(features.directions, features.phases)
    np.testing.assert_allclose(seen, dense(x.double()), atol=2e-5)
    # What is read from a file is as fast, and the same to the last digit.
    restored = FourierFeatures.restored(
        0, features.directions, features.phases, None, features.structured.length
    )
    assert torch.equal(restored(x), features(x))
    other = FourierFeatures.restored(1, features.directions, features.phases, None, 1.0)
    assert other.structured is None
    one = features(x[3:4])
    torch.testing.assert_close(one, features(x)[3:4], rtol=0, atol=2e-6)


def test_features_see_what_a_plane_cannot():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 2)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    assert RidgeDiscriminant().fit(x, y).score(x, y) < 0.65
    assert RidgeDiscriminant(n_features=200, ridge=0.01).fit(x, y).score(x, y) > 0.95


def test_probabilities_and_decisions_are_consistent():
    found = RidgeDiscriminant(n_features=100).fit(DIGITS, LABELS)
    chances = found.predict_proba(DIGITS)
    np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-5)
    assert (chances.argmax(1) == found.predict(DIGITS)).all()
    assert (found.decision_function(DIGITS).argmax(1) == found.predict(DIGITS)).all()


def test_rows_that_do_not_vary_predict_without_a_warning():
    x = np.ones((40, 3), dtype=np.float32)
    found = RidgeDiscriminant(n_features=8).fit(np.zeros_like(x), np.arange(40) % 2)
    assert np.isfinite(found.decision_function(x)).all()
    assert np.isfinite(RidgeDiscriminant().fit(x, np.arange(40) % 2).decision_function(x)).all()


@pytest.mark.parametrize("settings_", [{"ridge": 0}, {"ridge": -1}, {"n_features": -1}])
def test_settings_out_of_range_are_named(settings_):
    with pytest.raises(ValueError, match=next(iter(settings_))):
        RidgeDiscriminant(**settings_).fit(DIGITS, LABELS)
