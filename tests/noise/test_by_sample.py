import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from underscript.errors import LabelError
from underscript.noise.corruption import corrupt_labels, transition_matrix, wrong_share

PMD = ["pmd-1", "pmd-2", "pmd-3"]
# The authors' noise functions of the margin m.
TAU = {
    "pmd-1": lambda m: 0.5 - 0.5 * m**2,
    "pmd-2": lambda m: 1 - m**3,
    "pmd-3": lambda m: 1 - (m**3 + m**2 + m) / 3,
}


def posterior_with(margins):
    """Return scores of four classes: class 1 leads by a margin, class 3 is second, 0 and 2 last."""
    margins = np.asarray(margins, dtype=float)
    second = (0.96 - margins) / 2
    rest = np.full_like(second, 0.02)
    return np.log(np.stack([rest, second + margins, rest, second], axis=1))


def changed_share(margins, degree, kind, n=20_000):
    """Return how often labels of class 1 change, by margin, and check what they become."""
    scores = np.repeat(posterior_with(margins), n, axis=0)
    labels = corrupt_labels(np.ones(len(scores), int), degree, kind=kind, scores=scores, seed=2)
    assert set(np.unique(labels)) <= {1, 3}
    return (labels == 3).reshape(-1, n).mean(axis=1)


@pytest.mark.parametrize("kind", PMD)
@pytest.mark.parametrize("degree", [0.35, 0.7])
def test_margin_noise_is_the_published_one(kind, degree):
    # Their code keeps a label with probability (1 − τ) / f. The factor is found here by bisection.
    margins = np.array([0.1, 0.3, 0.6, 0.9])
    low, high = 1e-6, 100.0
    for _ in range(200):
        factor = (low + high) / 2
        change = 1 - np.minimum(1, (1 - TAU[kind](margins)) / factor)
        low, high = (factor, high) if change.mean() < degree else (low, factor)
    found = changed_share(margins, degree, kind)
    assert (np.abs(found - change) <= 4 * np.sqrt(change * (1 - change) / 20_000)).all()
    # Where the lead is large enough, no label changes at all.
    assert (np.diff(found)[change[:-1] > 0] < 0).all()


@pytest.mark.parametrize("kind", PMD)
def test_a_low_degree_changes_only_labels_near_the_boundary(kind):
    found = changed_share([0.0, 0.3, 0.6, 0.9], 0.05, kind)
    assert found[0] > 0.1
    assert found[-1] == 0
    assert found.mean() == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("kind", PMD)
@pytest.mark.parametrize("degree", [0.05, 0.35, 0.7, 1.0])
def test_margin_noise_makes_the_degree_wrong_and_gives_the_second_class(kind, degree):
    X, y = load_digits(return_X_y=True)
    scores = LogisticRegression(C=0.1, max_iter=500).fit(X / 16, y).decision_function(X / 16)
    true, scores = np.tile(y, 20), np.tile(scores, (20, 1))
    noisy = corrupt_labels(true, degree, kind=kind, scores=scores, seed=3)
    deviation = np.sqrt(degree * (1 - degree) / len(true))
    assert abs(wrong_share(true, noisy) - degree) <= 4 * deviation
    first, second = np.argsort(-scores, axis=1)[:, :2].T
    wrong = noisy != true
    assert (noisy == np.where(first == true, second, first))[wrong].all()


def test_a_sample_that_the_scores_put_into_another_class_is_as_on_the_boundary():
    scores = np.log([[0.5, 0.5], [0.01, 0.99], [0.99, 0.01]])
    for kind in PMD:
        noisy = np.array(
            [
                corrupt_labels([0, 0, 0], 0.5, kind=kind, scores=scores, seed=seed)
                for seed in range(2000)
            ]
        )
        boundary, beyond, sure = noisy.mean(axis=0)
        assert abs(boundary - beyond) < 4 * np.sqrt(0.5 / 2000)
        assert beyond > sure


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=30),
    st.sampled_from(PMD),
    st.sampled_from([0.0, 1.0, 800.0, 1e308]),
    st.floats(0, 1),
)
def test_scores_that_overflow_are_probabilities_of_nought_and_one(y, kind, scale, degree):
    scores = scale * (2.0 * np.eye(4)[y] - 1.0)
    noisy = corrupt_labels(y, degree, kind=kind, scores=scores)
    assert ((noisy >= 0) & (noisy < 4)).all()
    assert (corrupt_labels(y, 1.0, kind=kind, scores=scores) != y).all()
    assert (corrupt_labels(y, 0.0, kind=kind, scores=scores) == y).all()


def blobs(n=300, seed=0):
    """Return points of three classes in the plane, around (0, 0), (10, 0) and (30, 0)."""
    rng = np.random.default_rng(seed)
    true = np.repeat([0, 1, 2], n)
    return rng.standard_normal((3 * n, 2)) + np.array([[0, 0], [10, 0], [30, 0]])[true], true


@given(st.floats(0, 1), st.integers(0, 100), st.integers(1, 400) | st.none())
@settings(max_examples=30)
def test_cluster_noise_makes_exactly_the_degree_wrong(degree, seed, clusters):
    features, true = blobs()
    noisy = corrupt_labels(
        true, degree, kind="cluster", features=features, clusters=clusters, seed=seed
    )
    assert (noisy != true).sum() == round(degree * len(true))


def test_cluster_noise_gives_the_class_whose_mean_is_nearest():
    features, true = blobs()
    noisy = corrupt_labels(true, 1.0, 5, kind="cluster", features=features)
    assert (noisy == np.array([1, 0, 1])[true]).all()
    matrix = transition_matrix(true, noisy, 5)
    assert (matrix[3:] == np.eye(5)[3:]).all()  # A class without samples has no mean.


def test_wrong_labels_of_cluster_noise_fill_balls_of_one_radius():
    features, true = blobs()
    noisy = corrupt_labels(true, 0.3, kind="cluster", features=features, clusters=3, seed=4)
    wrong = noisy != true
    # The neighbours of a wrong label are wrong far more often than others.
    for k in range(3):
        rows = features[true == k]
        distance = np.linalg.norm(rows[:, None] - rows[None], axis=2)
        nearest = np.argsort(distance, axis=1)[:, 1:6]
        of_class = wrong[true == k]
        assert of_class[nearest[of_class]].mean() > 0.8
        assert of_class[nearest[~of_class]].mean() < 0.2


def test_the_radius_is_the_same_for_all_classes_so_tight_ones_change_more():
    features, true = blobs()
    features[true == 2] = (features[true == 2] - [30, 0]) / 10 + [30, 0]
    noisy = corrupt_labels(true, 0.4, kind="cluster", features=features, clusters=5)
    shares = [(noisy != true)[true == k].mean() for k in range(3)]
    assert shares[2] > 0.95 > 0.5 > max(shares[:2])


@pytest.mark.parametrize("scale", [1e-300, 1e3, 1e306])
def test_cluster_noise_does_not_depend_on_the_scale_of_features(scale):
    features, true = blobs()
    expected = corrupt_labels(true, 0.3, kind="cluster", features=features)
    same = corrupt_labels(true, 0.3, kind="cluster", features=features * scale)
    assert (same == expected).mean() > 0.99


def test_by_default_there_is_a_centre_for_every_88_samples():
    features, true = blobs(n=178)
    default = corrupt_labels(true, 0.2, kind="cluster", features=features)
    for clusters, alike in ((3, True), (2, False), (4, False)):
        noisy = corrupt_labels(true, 0.2, kind="cluster", features=features, clusters=clusters)
        assert (noisy == default).all() == alike


def test_features_that_are_all_alike_still_change_the_degree():
    noisy = corrupt_labels([0, 1] * 10, 0.5, kind="cluster", features=np.zeros((20, 2)))
    assert (noisy != [0, 1] * 10).sum() == 10


@pytest.mark.parametrize("kind", PMD)
def test_seeds_of_margin_noise_differ(kind):
    scores = posterior_with(np.full(200, 0.2))
    first, second = (
        corrupt_labels(np.ones(200, int), 0.5, kind=kind, scores=scores, seed=seed)
        for seed in (0, 1)
    )
    assert (first != second).any()


def test_seeds_of_cluster_noise_differ():
    features, true = blobs()
    first, second = (
        corrupt_labels(true, 0.3, kind="cluster", features=features, seed=seed) for seed in (0, 1)
    )
    assert (first != second).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "pmd-1"}, "kind='pmd-1' needs scores=, found none"),
        ({"kind": "cluster"}, "kind='cluster' needs features=, found none"),
        (
            {"kind": "pair", "scores": np.eye(2)},
            "is for kind='instance' or 'pmd-1' or 'pmd-2' or 'pmd-3' alone, found it with .*'pair'",
        ),
        ({"kind": "pmd-4", "scores": np.eye(2)}, "unknown kind .* 'pmd-4'; choose one of"),
        ({"kind": "pmd-2", "scores": np.eye(3)}, r"scores: .* \(2, 3\); found \(3, 3\)"),
        ({"kind": "cluster", "features": np.eye(3)}, r"each of 2 labels.* found shape \(3, 3\)"),
        ({"kind": "cluster", "features": np.ones((2, 0))}, r"one column; found shape \(2, 0\)"),
        ({"kind": "cluster", "features": [1.0, 2.0]}, r"features: expected a matrix"),
        ({"kind": "cluster", "features": [[0], [np.nan]]}, "finite numbers; found nan in sample 1"),
        ({"kind": "cluster", "features": np.eye(2), "clusters": 0}, "clusters must be an integer"),
        (
            {"kind": "cluster", "features": np.eye(2), "clusters": 1.5},
            "clusters must be an integer",
        ),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message):
    with pytest.raises(LabelError, match=message) as caught:
        corrupt_labels([0, 1], 0.5, **arguments)
    assert "\n" not in str(caught.value)
