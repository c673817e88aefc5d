"""Each of the other probes against scikit-learn, or against its definition in plain float64."""

import warnings
from math import ceil

import numpy as np
import pytest
import torch
from sklearn import linear_model
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis

import reference
from reference import DEAD, relu_rows, singular_rows, split_rows
from underscript import MinimumAngleSubspaceClassifier
from underscript.errors import LabelError
from underscript.probes.baselines import (
    AlignmentClassifier,
    LinearDiscriminant,
    LogisticRegression,
    NearestClassMean,
    QuadraticDiscriminant,
    RobustDiscriminant,
)
from underscript.probes.discriminants import minimum_norm, regular_factor


def pooled_covariance(X, y, means, kept=None):
    kept = np.ones(len(X), dtype=bool) if kept is None else kept
    away = (X - means[y])[kept]
    return away.T @ away / len(away)


def gaussian_scores(X, means, precision, priors):
    return X @ precision @ means.T - 0.5 * np.sum(means @ precision * means, 1) + np.log(priors)


# --- linear discriminant ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shrinkage", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("n_classes", [2, 10])
def test_linear_discriminant_is_scikit_learns(dtype, shrinkage, n_classes):
    X, y, T, _ = split_rows(1500, 40, n_classes, dtype=dtype)
    wide_X, wide_T = X.astype(np.float64), T.astype(np.float64)
    plain = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(wide_X, y)
    probe = LinearDiscriminant(shrinkage=shrinkage).fit(X, y)
    np.testing.assert_allclose(probe.means_, plain.means_, rtol=1e-12)
    np.testing.assert_allclose(
        probe.decision_function(T), plain.decision_function(wide_T), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_array_equal(probe.predict(T), plain.predict(wide_T))


@pytest.mark.parametrize("n", [1500, 30])  # more, and fewer, rows than features
def test_singular_covariance_takes_the_minimum_norm_solution(n):
    X, y, T, _ = singular_rows(n, 40, 3)
    probe = LinearDiscriminant().fit(X, y)
    means = np.stack([X[y == k].mean(0) for k in range(3)])
    precision = np.linalg.pinv(pooled_covariance(X, y, means), rcond=1e-12, hermitian=True)
    expected = gaussian_scores(T, means, precision, np.bincount(y) / n)
    np.testing.assert_allclose(probe.decision_function(T), expected, rtol=1e-6, atol=1e-6)
    assert not probe.coef_[:, DEAD].any()


def test_dead_features_are_as_in_scikit_learn():
    X, y, T, _ = split_rows(800, 30, 4)
    X[:, [DEAD, 11, 12]] = 0
    plain = LinearDiscriminantAnalysis(solver="lsqr").fit(X, y)
    probe = LinearDiscriminant().fit(X, y)
    np.testing.assert_allclose(probe.coef_, plain.coef_, atol=1e-9)
    np.testing.assert_array_equal(probe.predict(T), plain.predict(T))


def test_minimum_norm_solutions():
    rng = np.random.default_rng(0)
    for width, rank in [(20, 20), (20, 7), (20, 0)]:
        half = torch.from_numpy(rng.normal(size=(width, rank)))
        columns = torch.from_numpy(rng.normal(size=(width, 3)))
        expected = torch.linalg.pinv(half @ half.T, rtol=1e-12, hermitian=True) @ columns
        torch.testing.assert_close(minimum_norm(half @ half.T, columns), expected)
        assert (regular_factor(half @ half.T) is not None) == (rank == width)


# --- quadratic discriminant ---------------------------------------------------------------------


# --- quadratic discriminant ---------------------------------------------------------------------


@pytest.mark.parametrize("reg_param", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_quadratic_discriminant_is_scikit_learns(reg_param, n_classes):
    X, y, T, _ = split_rows(1500, 30, n_classes)
    probe = QuadraticDiscriminant(reg_param=reg_param).fit(X, y)
    plain = QuadraticDiscriminantAnalysis(reg_param=reg_param).fit(X, y)
    # Before 1.9 scikit-learn divided by one less; then only the answers are nearly the same.
    if np.isclose(plain.scalings_[0].sum(), np.trace(quadratic_covariance(X[y == 0], reg_param))):
        np.testing.assert_allclose(
            probe.decision_function(T), plain.decision_function(T), rtol=1e-8, atol=1e-8
        )
    assert (probe.predict(T) == plain.predict(T)).mean() > 0.995
    assert probe.added_ == 0


def quadratic_covariance(rows, reg_param=0.0, added=0.0):
    covariance = np.cov(rows.T, bias=True)
    return (1 - reg_param) * covariance + (reg_param + added) * np.eye(len(covariance))


@pytest.mark.parametrize("reg_param", [0.0, 0.1])
@pytest.mark.parametrize("sizes", [(200, 300, 250), (200, 25, 1), (20, 30, 40)])
def test_quadratic_discriminant_by_its_definition(reg_param, sizes):
    # Classes with more, exactly as many, and fewer rows than features.
    y = np.repeat(range(3), sizes)
    X, _ = relu_rows(len(y), 40, 3)
    X[:, DEAD] = 0
    T, _ = relu_rows(100, 40, 3, seed=1)
    probe = QuadraticDiscriminant(reg_param=reg_param, ridge=1e-2).fit(X, y)
    means = np.stack([X[y == k].mean(0) for k in range(3)])
    added = 0 if reg_param else 1e-2 * np.trace(pooled_covariance(X, y, means)) / 40
    assert probe.added_ == pytest.approx(added)
    expected = np.empty((100, 3))
    for k in range(3):
        covariance = quadratic_covariance(X[y == k], reg_param, added)
        away = T - means[k]
        distance = (away * np.linalg.solve(covariance, away.T).T).sum(1)
        expected[:, k] = (
            np.log(sizes[k] / len(y)) - (distance + np.linalg.slogdet(covariance)[1]) / 2
        )
    np.testing.assert_allclose(probe.decision_function(T), expected, rtol=1e-8)


def test_what_no_class_uses_favours_none():
    X, y, T, _ = split_rows(2000, 12, 3)
    with_dead = [np.concatenate([rows, np.zeros((len(rows), 5))], 1) for rows in (X, T)]
    probe = QuadraticDiscriminant(ridge=1e-9).fit(with_dead[0], y)
    plain = QuadraticDiscriminant().fit(X, y)
    assert probe.added_ > 0
    scores = [p.decision_function(t) for p, t in ((probe, with_dead[1]), (plain, T))]
    differences = [score - score[:, :1] for score in scores]
    np.testing.assert_allclose(differences[0], differences[1], atol=1e-5)


# --- nearest class mean -------------------------------------------------------------------------


def test_nearest_class_mean_by_its_definition():
    X, y, T, truth = split_rows(500, 30, 4)
    probe = NearestClassMean().fit(X, y)
    means = np.stack([X[y == k].mean(0) for k in range(4)])
    cosines = T @ means.T / np.linalg.norm(T, axis=1)[:, None] / np.linalg.norm(means, axis=1)
    np.testing.assert_allclose(probe.decision_function(T), cosines, atol=1e-12)
    np.testing.assert_array_equal(probe.predict(T), cosines.argmax(1))
    assert probe.score(T, truth) > 0.6


def test_zero_rows_and_zero_means_have_cosine_zero():
    probe = NearestClassMean().fit([[1.0, 0], [-1.0, 0], [0, 2], [0, 3]], ["a", "a", "b", "b"])
    assert probe.predict([[0.0, 0.0], [1.0, 0.0], [0.1, 1.0], [0.1, -1.0]]).tolist() == list("aaba")


# --- logistic regression ------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 4])
def test_logistic_regression_is_scikit_learns(n_classes):
    X, y, T, _ = split_rows(300, 8, n_classes)
    X, T = 50 * X, 50 * T
    probe = LogisticRegression(C=0.1, max_iter=1000).fit(X, y)
    scale = np.sqrt((X**2).mean())
    plain = linear_model.LogisticRegression(C=0.1, max_iter=1000).fit(X / scale, y)
    assert probe.scale_ == pytest.approx(scale)
    np.testing.assert_allclose(probe.predict_proba(T), plain.predict_proba(T / scale), atol=1e-8)
    np.testing.assert_allclose(
        probe.decision_function(T), plain.decision_function(T / scale), atol=1e-8
    )
    np.testing.assert_array_equal(probe.predict(T), plain.predict(T / scale))
    linear = T @ probe.coef_.T + probe.intercept_
    np.testing.assert_allclose(probe.decision_function(T), np.squeeze(linear), atol=1e-8)
    assert probe.converged_
    assert 1 < probe.n_iter_ < 1000


def test_logistic_regression_says_that_it_did_not_converge():
    X, y = relu_rows(300, 20, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe = LogisticRegression(max_iter=2).fit(X, y)
    assert not probe.converged_
    assert probe.n_iter_ == 2


# --- robust discriminant ------------------------------------------------------------------------


def gaussian_rows(n, width, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.normal(size=(n_classes, width))[y] + rng.normal(size=(n, width))
    return X @ rng.normal(size=(width, width)), y


def plain_robust(X, y, support, max_iter, ridge):
    """Step by step as the docstring says it."""
    kept = np.ones(len(X), dtype=bool)
    classes = range(y.max() + 1)
    for step in range(max_iter + 1):
        means = np.stack([X[kept & (y == k)].mean(0) for k in classes])
        covariance = pooled_covariance(X, y, means, kept)
        covariance += ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        precision = np.linalg.inv(covariance)
        new = np.zeros(len(X), dtype=bool)
        for k in classes:
            places = np.flatnonzero(y == k)
            away = X[places] - means[k]
            order = np.argsort((away @ precision * away).sum(1), kind="stable")
            new[places[order[: ceil(support * len(places))]]] = True
        if step == max_iter or (new == kept).all():
            break
        kept = new
    return kept, means, precision


@pytest.mark.parametrize("singular", [False, True])
@pytest.mark.parametrize(("support", "max_iter"), [(0.5, 1), (0.5, 30), (0.8, 3), (1.0, 2)])
def test_robust_discriminant_by_its_definition(singular, support, max_iter):
    X, y, T, _ = (singular_rows if singular else split_rows)(600, 20, 3)
    probe = RobustDiscriminant(support=support, max_iter=max_iter).fit(X, y)
    kept, means, precision = plain_robust(X, y, support, max_iter, 1e-6)
    np.testing.assert_array_equal(probe.support_, kept)
    np.testing.assert_allclose(probe.means_, means, atol=1e-12)
    expected = gaussian_scores(T, means, precision, np.bincount(y) / len(y))
    np.testing.assert_allclose(probe.decision_function(T), expected, rtol=1e-5, atol=1e-5)
    assert probe.n_iter_ <= max_iter
    assert probe.converged_ or probe.n_iter_ == max_iter


def test_determinants_fall_until_nothing_changes():
    X, y = gaussian_rows(900, 15, 3)
    determinants = []
    for steps in range(1, 40):
        probe = RobustDiscriminant(max_iter=steps, ridge=1e-12).fit(X, y)
        covariance = pooled_covariance(X, y, probe.means_, probe.support_)
        determinants.append(np.linalg.slogdet(covariance)[1])
        if probe.converged_:
            break
    assert probe.converged_
    assert 3 <= probe.n_iter_ == len(determinants)
    assert (np.diff(determinants) <= 1e-9).all()


def test_with_all_rows_it_is_the_linear_discriminant():
    X, y, T, _ = split_rows(600, 20, 3)
    robust = RobustDiscriminant(support=1.0, ridge=1e-12).fit(X, y)
    plain = LinearDiscriminant().fit(X, y)
    assert robust.converged_
    assert robust.n_iter_ == 1
    np.testing.assert_allclose(robust.decision_function(T), plain.decision_function(T), rtol=1e-6)


@pytest.mark.parametrize("max_iter", [1, 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_means_survive_gross_label_noise(dtype, max_iter):
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(4, 10))
    truth = np.arange(4000) % 4
    X = (centres[truth] + rng.normal(size=(4000, 10))).astype(dtype)
    given_labels = truth.copy()
    wrong = rng.random(4000) < 0.3
    given_labels[wrong] = (truth[wrong] + rng.integers(1, 4, size=wrong.sum())) % 4
    robust = RobustDiscriminant(max_iter=max_iter).fit(X, given_labels)
    plain = LinearDiscriminant().fit(X, given_labels)
    errors = [np.linalg.norm(probe.means_ - centres, axis=1) for probe in (robust, plain)]
    assert errors[0].max() < 0.2 * errors[1].min()
    assert wrong[robust.support_].mean() < (0.05 if max_iter == 1 else 0.01)
    assert robust.score(X, truth) >= plain.score(X, truth)


def test_outliers_leave_no_trace_in_the_covariance():
    X, y = gaussian_rows(600, 12, 3)
    X[:60] *= 1e8
    probe = RobustDiscriminant(max_iter=30).fit(X, y)
    kept, means, precision = plain_robust(X, y, 0.5, 30, 1e-6)
    assert 3 <= probe.n_iter_ < 30
    assert not probe.support_[:60].any()
    np.testing.assert_array_equal(probe.support_, kept)
    np.testing.assert_allclose(probe.coef_, means @ precision, rtol=1e-8)


# --- alignment ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "width"), [(600, 30), (60, 50), (400, 600)])
def test_alignment_by_its_definition(dtype, n, width):
    X, y, T, truth = split_rows(n, width, 4, dtype=dtype)
    probe = AlignmentClassifier().fit(X, y)
    wide = T.astype(np.float64)
    expected = np.empty((n, 4))
    for k in range(4):
        vector = reference.principal_directions(X[y == k].astype(np.float64))[1][:, 0]
        expected[:, k] = (wide @ vector / np.linalg.norm(wide, axis=1)) ** 2
    np.testing.assert_allclose(probe.decision_function(T), expected, atol=1e-6)
    np.testing.assert_allclose(probe.alignment(T, truth), expected[np.arange(n), truth], atol=1e-6)
    np.testing.assert_array_equal(probe.predict(T), expected.argmax(1))


def test_alignment_is_masc_of_rank_one():
    X, y, T, _ = split_rows(400, 30, 4)
    masc = MinimumAngleSubspaceClassifier(rank=1).fit(X, y)
    probe = AlignmentClassifier().fit(X, y)
    np.testing.assert_allclose(probe.decision_function(T), masc.decision_function(T), atol=1e-9)
    np.testing.assert_array_equal(probe.predict(T), masc.predict(T))


def test_alignment_is_lower_where_the_label_is_wrong():
    X, y = relu_rows(1000, 30, 4)
    labels = np.array(list("abcd"))[y]
    wrong = np.arange(1000) % 5 == 0
    labels[wrong] = np.roll(labels, 1)[wrong]
    wrong = labels != np.array(list("abcd"))[y]
    scores = AlignmentClassifier().fit(X, labels).alignment(X, labels)
    assert np.median(scores[wrong]) < np.median(scores[~wrong])


def test_alignment_of_zero_rows_and_zero_classes():
    X = np.array([[0.0, 0], [0, 0], [1, 2], [2, 4]])
    probe = AlignmentClassifier().fit(X, [0, 0, 1, 1])
    np.testing.assert_allclose(probe.alignment(X, [0, 1, 1, 0]), [0, 0, 1, 0])
    assert probe.predict([[0.0, 0], [1, 1]]).tolist() == [0, 1]


def test_alignment_wants_known_labels_one_a_row():
    X, y = relu_rows(60, 5, 3)
    probe = AlignmentClassifier().fit(X, y)
    with pytest.raises(LabelError, match="found 7"):
        probe.alignment(X, np.where(y == 2, 7, y))
    with pytest.raises(LabelError, match="60 labels"):
        probe.alignment(X, y[:5])
