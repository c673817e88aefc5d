"""The other probes: what holds for all of them."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils.estimator_checks import parametrize_with_checks

from reference import relu_rows, singular_rows, split_rows
from underscript.errors import DataError, LabelError
from underscript.probes.baselines import (
    BASELINES,
    AlignmentClassifier,
    LinearDiscriminant,
    LogisticRegression,
    NearestClassMean,
    NearestNeighbours,
    QuadraticDiscriminant,
    RobustDiscriminant,
    row_moments,
)

MOMENT_PROBES = [
    LinearDiscriminant(),
    LinearDiscriminant(shrinkage=0.2),
    QuadraticDiscriminant(),
    QuadraticDiscriminant(reg_param=0.1),
    NearestClassMean(),
    RobustDiscriminant(),
    AlignmentClassifier(),
]


def again(probe):
    return type(probe)(**probe.get_params())


@parametrize_with_checks([LinearDiscriminant(), NearestNeighbours()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [probe() for name, probe in BASELINES.items() if name not in ("lda", "knn")]
    + [LinearDiscriminant(shrinkage=0.1), RobustDiscriminant(max_iter=10)]
)
def test_scikit_learn_checks_of_the_others(estimator, check):
    check(estimator)


def test_the_registry_has_the_probes_of_the_paper_and_the_rivals():
    assert list(BASELINES) == ["knn", "lda", "qda", "ncm", "logistic", "rog", "fine"]


@pytest.mark.parametrize("probe", MOMENT_PROBES, ids=str)
@pytest.mark.parametrize("rows", [split_rows, singular_rows])
def test_shared_moments_fit_the_same(probe, rows):
    X, y, T, _ = rows(300, 60, 4, dtype=np.float32)
    moments = row_moments(X, y)
    # In this order each finds what the ones before have left.
    for other in (RobustDiscriminant(), AlignmentClassifier(), QuadraticDiscriminant()):
        other.fit_moments(moments)
    shared, own = again(probe).fit_moments(moments), again(probe).fit(X, y)
    np.testing.assert_array_equal(shared.decision_function(T), own.decision_function(T))
    np.testing.assert_array_equal(shared.classes_, own.classes_)
    assert shared.n_features_in_ == own.n_features_in_


def test_moments_are_those_of_the_rows():
    X, _ = relu_rows(400, 30, 3)
    y = np.repeat([0, 1, 2], [10, 30, 360])  # fewer rows than features, as many, more
    X += 1e6  # Sums of squares would lose ten digits.
    moments = row_moments(X, y)
    total = 0
    for k in range(3):
        away = X[y == k] - X[y == k].mean(0)
        np.testing.assert_allclose(moments.scatter(k), away.T @ away, atol=1e-6)
        np.testing.assert_allclose(moments.centred(k), away, atol=1e-9)
        total = total + away.T @ away
    np.testing.assert_allclose(moments.pooled(), total, atol=1e-6)
    assert moments.counts.tolist() == [10, 30, 360]


@pytest.mark.parametrize("name", BASELINES)
def test_the_order_of_samples_does_not_matter(name):
    X, y, T, _ = split_rows(500, 20, 4)
    order = np.random.default_rng(0).permutation(500)
    one, other = BASELINES[name]().fit(X, y), BASELINES[name]().fit(X[order], y[order])
    np.testing.assert_array_equal(one.predict(T), other.predict(T))
    if name == "knn":
        np.testing.assert_array_equal(one.kneighbors(T), order[other.kneighbors(T)])
    else:
        exact = 1e-3 if name == "logistic" else 1e-8
        np.testing.assert_allclose(
            one.decision_function(T), other.decision_function(T), rtol=exact, atol=exact
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [split_rows, singular_rows])
@pytest.mark.parametrize("name", BASELINES)
def test_a_common_scale_changes_no_answer(name, rows, dtype):
    X, y, T, _ = rows(300, 20, 4, dtype=dtype)
    expected = BASELINES[name]().fit(X, y).predict(T)
    for scale in (2.0**-30, 2.0**30):
        found = BASELINES[name]().fit(X * dtype(scale), y).predict(T * dtype(scale))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", BASELINES)
def test_float32_rows_are_as_good_as_float64(name):
    X, y, T, _ = split_rows(500, 20, 4, dtype=np.float32)
    single = BASELINES[name]().fit(X, y).predict(T)
    double = BASELINES[name]().fit(X.astype(np.float64), y).predict(T.astype(np.float64))
    assert (single == double).mean() >= (0.99 if name in ("logistic", "rog") else 1)


@pytest.mark.parametrize("name", BASELINES)
def test_tells_digits_apart(name):
    # Their margins are dead in all images, or in all of one class.
    X, y = load_digits(return_X_y=True)
    train, test, labels, truth = train_test_split(X, y, test_size=0.4, random_state=0, stratify=y)
    names = np.array([f"digit {k}" for k in range(10)])
    probe = BASELINES[name]().fit(train, names[labels])
    assert probe.score(test, names[truth]) >= 0.88


@pytest.mark.parametrize("name", BASELINES)
def test_counts_of_operations_grow_with_rows(name):
    X, y, _, _ = split_rows(300, 20, 4)
    probe = BASELINES[name]().fit(X, y)
    for count in (probe.fit_flops, probe.predict_flops):
        assert 0 < count(1000) < count(10_000) <= 10 * count(1000)


def test_counts_of_operations():
    X, y, _, _ = split_rows(300, 20, 4)
    flops = {name: probe().fit(X, y).predict_flops(7) for name, probe in BASELINES.items()}
    linear = 2 * 7 * 20 * 4
    assert flops["knn"] == 2 * 7 * 300 * 20
    assert flops["qda"] == 7 * 4 * 20**2
    assert [flops[name] for name in ("lda", "ncm", "logistic", "rog", "fine")] == [linear] * 5
    assert LinearDiscriminant().fit(X, y).fit_flops(300) == 300 * 20**2 + 2 * 20**3 / 3


@pytest.mark.parametrize(
    "probe",
    [
        NearestNeighbours(k=0),
        NearestNeighbours(k=2.5),
        LinearDiscriminant(shrinkage="auto"),
        LinearDiscriminant(shrinkage=1.5),
        QuadraticDiscriminant(reg_param=-0.1),
        QuadraticDiscriminant(ridge=0),
        LogisticRegression(C=0),
        LogisticRegression(max_iter=0),
        RobustDiscriminant(support=0),
        RobustDiscriminant(support=1.1),
        RobustDiscriminant(max_iter=0),
        RobustDiscriminant(ridge=float("inf")),
    ],
    ids=str,
)
def test_hyper_parameters_out_of_range(probe):
    X, y = relu_rows(60, 5, 3)
    [name] = {
        key for key, value in probe.get_params().items() if value != type(probe)().get_params()[key]
    }
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        probe.fit(X, y)


def test_moments_want_finite_rows_and_a_label_each():
    X, y = relu_rows(60, 5, 3)
    with pytest.raises(LabelError, match="one class"):
        row_moments(X, np.zeros(60))
    with pytest.raises(LabelError, match="60 labels"):
        row_moments(X, y[:-1])
    X[3, 2] = np.nan
    with pytest.raises(DataError, match="finite"):
        row_moments(X, y)


def test_an_unknown_device():
    X, y = relu_rows(60, 5, 3)
    with pytest.raises(DataError, match="device"):
        NearestClassMean(device="abacus").fit(X, y)
