import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict
from sklearn.svm import SVC

from underscript.errors import DataError, LabelError
from underscript.experiments import confusion
from underscript.experiments.confusion import weak_scores
from underscript.noise.by_sample import capped_shares
from underscript.noise.corruption import corrupt_labels, transition_matrix, wrong_share

labels = st.lists(st.integers(0, 6), max_size=60).map(lambda y: np.array(y, dtype=np.int64))

T = np.array(
    [
        [0.5, 0.5, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0],
        [0.1, 0.2, 0.3, 0.4],
        [0.0, 0.0, 1.0, 0.0],
    ]
)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.images.astype(np.float32), data.target.astype(np.int64)


@pytest.fixture(scope="module")
def weak(digits):
    return weak_scores(*digits, 10, seed=0)


def noise(kind, n, seed):
    """Give the keywords that a kind of noise needs for n labels of seven classes."""
    generator = np.random.default_rng(seed)
    if kind == "transition":
        return {"kind": kind, "transition": generator.dirichlet(np.ones(7), size=7)}
    if kind == "instance" or kind.startswith("pmd"):
        return {"kind": kind, "scores": 3 * generator.standard_normal((n, 7))}
    if kind == "cluster":
        return {"kind": kind, "features": generator.standard_normal((n, 3)), "clusters": 2}
    return {"kind": kind}


KINDS = ["symmetric", "pair", "transition", "instance", "pmd-1", "pmd-2", "pmd-3", "cluster"]
kinds = st.sampled_from(KINDS)


@pytest.mark.parametrize("degree", [0.2, 0.4, 0.8, 1.0])
@pytest.mark.parametrize("n_classes", [2, 10])
def test_share_of_wrong_labels_is_that_of_the_paper(degree, n_classes):
    true = np.arange(60_000) % n_classes
    given_labels = corrupt_labels(true, degree, n_classes, seed=42)
    expected = degree * (n_classes - 1) / n_classes
    deviation = np.sqrt(expected * (1 - expected) / len(true))
    assert abs((given_labels != true).mean() - expected) < 4 * deviation


def test_redrawn_labels_are_uniform_over_all_classes():
    given_labels = corrupt_labels(np.full(50_000, 3), 1.0, 5, seed=1)
    counts = np.bincount(given_labels, minlength=5)
    assert np.abs(counts - 10_000).max() < 4 * np.sqrt(50_000 * 0.2 * 0.8)


def test_symmetric_noise_of_a_seed_is_what_it_always_was():
    # What the first version of corrupt_labels drew: runs on disk are reproduced with it.
    assert corrupt_labels(np.arange(40) % 10, 0.6, 10, seed=42).tolist() == [
        *[0, 4, 2, 3, 6, 5, 6, 7, 7, 8, 4, 1, 2, 3, 8, 2, 2, 6, 8, 9],
        *[0, 1, 2, 3, 4, 7, 7, 6, 4, 9, 0, 1, 5, 4, 5, 5, 0, 1, 2, 9],
    ]
    assert corrupt_labels(np.arange(40) % 7, 0.4, seed=3).tolist() == [
        *[2, 5, 2, 3, 0, 5, 6, 5, 1, 3, 6, 4, 5, 6, 0, 1, 4, 3, 4, 2],
        *[6, 0, 2, 1, 3, 4, 5, 6, 4, 1, 1, 1, 4, 5, 2, 0, 0, 2, 3, 1],
    ]


@given(labels, st.floats(0, 1), st.integers(0, 2**32), kinds)
def test_any_labels_stay_labels(y, degree, seed, kind):
    before = y.copy()
    extra = noise(kind, len(y), seed)
    given_labels = corrupt_labels(y, degree, 7, seed=seed, **extra)
    assert given_labels.dtype == np.int64
    assert given_labels.shape == y.shape
    assert ((given_labels >= 0) & (given_labels < 7)).all()
    assert (y == before).all()
    assert (given_labels == corrupt_labels(y, degree, 7, seed=seed, **extra)).all()


@given(labels, st.integers(0, 1000), kinds)
def test_degree_zero_changes_nothing_and_gives_a_copy(y, seed, kind):
    given_labels = corrupt_labels(y, 0, seed=seed, **noise(kind, len(y), seed))
    assert (given_labels == y).all()
    assert not np.shares_memory(given_labels, y)


@given(labels, st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000), kinds)
def test_a_label_changed_at_a_low_degree_is_changed_alike_at_a_higher_one(y, a, b, seed, kind):
    extra = noise(kind, len(y), seed)
    less, more = (corrupt_labels(y, degree, 7, seed=seed, **extra) for degree in sorted((a, b)))
    assert (more[less != y] == less[less != y]).all()


@pytest.mark.parametrize("degree", [0.2, 0.7, 1.0])
def test_pair_noise_gives_the_next_class_and_is_always_wrong(degree):
    true = np.arange(50_000) % 5
    given_labels = corrupt_labels(true, degree, kind="pair", seed=4)
    wrong = given_labels != true
    assert (given_labels[wrong] == (true[wrong] + 1) % 5).all()
    assert abs(wrong.mean() - degree) <= 4 * np.sqrt(degree * (1 - degree) / len(true))


@pytest.mark.parametrize("kind", KINDS)
def test_one_class_has_nothing_to_become(kind):
    extra = {"transition": [[1]], "scores": np.ones((9, 1)), "features": np.eye(9)}
    used = {name: extra[name] for name in noise(kind, 9, 0) if name in extra}
    assert not corrupt_labels(np.zeros(9, int), 1.0, kind=kind, **used).any()


@pytest.mark.parametrize("degree", [0.3, 1.0])
def test_transition_noise_follows_the_matrix(degree):
    true = np.arange(100_000) % 4
    given_labels = corrupt_labels(true, degree, kind="transition", transition=T, seed=5)
    expected = (1 - degree) * np.eye(4) + degree * T
    deviation = np.sqrt(expected * (1 - expected) / 25_000)
    # Also: what the matrix rules out never happens, where the deviation is 0.
    assert (np.abs(transition_matrix(true, given_labels, 4) - expected) <= 4 * deviation).all()
    share = degree * (1 - np.diag(T)).mean()
    assert abs(wrong_share(true, given_labels) - share) < 0.01


def test_a_permutation_is_a_transition_matrix_too():
    matrix = np.eye(6, dtype=int)[[3, 4, 5, 0, 1, 2]]
    true = np.arange(600) % 6
    given_labels = corrupt_labels(true, 1.0, kind="transition", transition=matrix)
    assert (given_labels == (true + 3) % 6).all()


def test_a_row_sum_may_be_off_by_rounding():
    off = T * (1 + 9e-7)
    expected = corrupt_labels(np.arange(4), 1.0, kind="transition", transition=T)
    assert (corrupt_labels(np.arange(4), 1.0, kind="transition", transition=off) == expected).all()


@pytest.mark.parametrize("degree", [0.05, 0.2, 0.4, 0.6, 0.9, 1.0])
def test_instance_noise_makes_the_degree_wrong(digits, weak, degree):
    true = np.tile(digits[1], 20)
    given_labels = corrupt_labels(
        true, degree, kind="instance", scores=np.tile(weak, (20, 1)), seed=6
    )
    # The variance of the sum of unequal chances is at most that of equal ones.
    deviation = np.sqrt(degree * (1 - degree) / len(true))
    assert abs(wrong_share(true, given_labels) - degree) <= 4 * deviation


def test_instance_noise_changes_hard_samples_more_often_than_easy_ones(digits, weak):
    true = digits[1]
    hard_first = np.argsort(np.exp(weak)[np.arange(len(true)), true] / np.exp(weak).sum(axis=1))
    tenth = len(true) // 10
    for degree in (0.1, 0.4, 0.8):
        wrong = np.mean(
            [
                corrupt_labels(true, degree, kind="instance", scores=weak, seed=seed) != true
                for seed in range(30)
            ],
            axis=0,
        )[hard_first]
        assert wrong[:tenth].mean() > 1.2 * wrong.mean() > 1.5 * wrong[-tenth:].mean() > 0


def test_instance_noise_follows_its_formula():
    # Two kinds of samples of class 1; the chances are worked out by hand.
    shares = np.array([[0.1, 0.8, 0.1, 0.0], [0.1, 0.2, 0.4, 0.3]])
    scores = np.repeat(np.log(np.maximum(shares, 1e-300)), 50_000, axis=0)
    true = np.ones(100_000, dtype=np.int64)
    for degree, easy, hard in ((0.25, 0.1, 0.4), (0.5, 0.2, 0.8), (0.8, 0.6, 1.0)):
        given_labels = corrupt_labels(true, degree, kind="instance", scores=scores, seed=7)
        for part, chance, wrong in (
            (given_labels[:50_000], easy, [0.5, 0, 0.5, 0]),
            (given_labels[50_000:], hard, [1 / 8, 0, 4 / 8, 3 / 8]),
        ):
            expected = chance * np.array(wrong) + (1 - chance) * np.eye(4)[1]
            found = np.bincount(part, minlength=4) / 50_000
            assert (np.abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / 5e4)).all()


@given(
    st.lists(st.floats(0, 1) | st.sampled_from([0.0, 1.0, 1e-300]), min_size=1, max_size=40),
    st.floats(0, 1),
)
def test_chances_of_change_average_to_the_degree_and_rise_with_hardness(hardness, degree):
    hardness = np.array(hardness)
    chances = capped_shares(hardness, degree)
    assert chances.mean() == pytest.approx(degree, rel=1e-9, abs=1e-300)
    assert ((chances >= 0) & (chances <= 1)).all()
    in_order = chances[np.argsort(hardness, kind="stable")]
    assert (np.diff(in_order) >= 0).all()
    below_one = (chances < 1) & (hardness > 1e-200)
    if below_one.any() and degree > 1e-200:
        ratios = chances[below_one] / hardness[below_one]
        assert ratios == pytest.approx(ratios[0], rel=1e-9)


@given(labels, st.integers(0, 1000), st.sampled_from([0.0, 1.0, 800.0, 1e308]))
def test_instance_noise_at_degree_one_never_gives_the_true_class(y, seed, scale):
    # Also where the weak model is so sure of the true class that all others underflow.
    scores = scale * (2.0 * np.eye(7)[y] - 1.0)
    given_labels = corrupt_labels(y, 1.0, kind="instance", scores=scores, seed=seed)
    assert (given_labels != y).all()


def test_where_others_vanish_they_are_drawn_by_what_is_left_of_them():
    true = np.zeros(40_000, dtype=np.int64)
    scores = np.tile([5000.0, -1.0, -1.0, -1.0, -1.0], (len(true), 1))
    given_labels = corrupt_labels(true, 1.0, kind="instance", scores=scores)
    counts = np.bincount(given_labels, minlength=5)
    assert counts[0] == 0
    assert np.abs(counts[1:] - 10_000).max() < 4 * np.sqrt(40_000 * 0.25 * 0.75)


def test_observed_transitions_and_wrong_share():
    expected = [[0.5, 0.25, 0.25, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    true, given_labels = [0, 0, 0, 0, 2], torch.tensor([0, 1, 0, 2, 0])
    found = transition_matrix(true, given_labels, 4)
    assert found.tolist() == expected
    assert found.dtype == np.float64
    assert wrong_share(true, given_labels) == 0.6
    empty = np.array([], dtype=np.int64)
    assert wrong_share(empty, empty) == 0.0
    assert (transition_matrix(empty, empty, 3) == np.eye(3)).all()


@given(labels, st.floats(0, 1), st.integers(0, 1000))
def test_observed_transitions_are_probabilities_that_give_the_wrong_share(y, degree, seed):
    given_labels = corrupt_labels(y, degree, 7, seed=seed)
    found = transition_matrix(y, given_labels, 7)
    assert found.sum(axis=1) == pytest.approx(1)
    wrong = np.bincount(y, minlength=7) @ (1 - np.diag(found))
    assert wrong == pytest.approx(wrong_share(y, given_labels) * len(y))


def test_seeds_differ_and_the_global_random_state_is_left_alone():
    true = np.arange(1000) % 10
    before = np.random.get_state()[1].copy()  # noqa: NPY002 (the state that must not change)
    first, second = corrupt_labels(true, 0.5, seed=0), corrupt_labels(true, 0.5, seed=1)
    assert (first != second).any()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_tensors_and_lists_are_labels_too():
    true = np.arange(100) % 10
    expected = corrupt_labels(true, 0.5)
    for same in (torch.from_numpy(true), true.tolist(), true.astype(np.uint8)):
        assert (corrupt_labels(same, 0.5) == expected).all()


@pytest.mark.parametrize("convert", [np.ndarray.tolist, torch.tensor, np.float32])
def test_tensors_and_lists_are_matrices_too(convert):
    true = np.arange(80) % 4
    for name, kind, values in (
        ("transition", "transition", np.eye(4)[::-1] / 2 + np.eye(4) / 2),
        ("scores", "instance", np.arange(320.0).reshape(80, 4) % 7),
    ):
        expected = corrupt_labels(true, 0.5, kind=kind, **{name: values})
        same = corrupt_labels(true, 0.5, kind=kind, **{name: convert(values)})
        assert (same == expected).all()
    half = torch.tensor(values, dtype=torch.bfloat16, requires_grad=True)
    assert (corrupt_labels(true, 0.5, kind="instance", scores=half) == expected).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 1]], 0.5), r"expected one label a sample, shape \(n,\); found \(1, 2\)"),
        (([0.0, 1.0], 0.5), "integer classes .* found dtype float64"),
        (([True, False], 0.5), "integer classes .* found dtype bool"),
        (([0, -1], 0.5), "found -1 at index 1"),
        (([0, 3], 0.5, 3), "from 0 to 2 for n_classes=3, found 3 at position 1"),
        (([0, 1], 0.5, 0), "n_classes must be"),
        (([0, 1], 0.5, 2.5), "n_classes must be"),
        (([0, 1], 1.1), "degree must be .* found 1.1"),
        (([0, 1], -0.1), "degree must be"),
        (([0, 1], float("nan")), "degree must be"),
        (([0, 1], float("inf")), "degree must be"),
        (([0, 1], "half"), "degree must be"),
        (([0, 1], 0.5, 2, "pairwise"), r"'pairwise'; choose one of \['symmetric', 'pair', "),
        (([0, 1], 0.5, 2, "symmetric", -1), "seed must be"),
        (([0, 1], 0.5, 2, "symmetric", None), "seed must be"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message):
    with pytest.raises(LabelError, match=message) as caught:
        corrupt_labels(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("transition", "n_classes", "message"),
    [
        (None, None, "kind='transition' needs transition="),
        ([[1, 0]], None, r"shape \(1, 1\); found \(1, 2\): row 0 holds 2"),
        ([[1, 0], [0, 1], [0, 1]], None, r"shape \(3, 3\); found \(3, 2\): row 0 holds 2"),
        ([[1, 0, 0], [0, 1, 0]], 3, r"shape \(3, 3\); found \(2, 3\): row 2 is missing"),
        ([[1, 0], [0, 1], [0, 1]], 2, r"shape \(2, 2\); found \(3, 2\): row 2 is one too many"),
        ([[1, 0], [0, 1]], 3, r"shape \(3, 3\); found \(2, 2\): row 0 holds 2"),
        ([[1, 0], [1]], None, "rows of one length; row 1 is of another"),
        ([[1, 0], [0, [1]]], None, "rows of one length; row 1 is of another"),
        ([1, 0], None, r"expected a matrix; found shape \(2,\)"),
        ([["a", "b"], ["c", "d"]], None, "expected numbers; found dtype <U1"),
        ([[1, 0], [np.nan, 1]], None, "finite numbers; found nan in row 1, column 0"),
        ([[1, 0], [0, np.inf]], None, "finite numbers; found inf in row 1, column 1"),
        ([[1, 0], [1.5, -0.5]], None, "at least 0; found -0.5 in row 1, column 1"),
        ([[1, 0], [0.5, 0.49]], None, "sum to 1; found 0.99 for row 1"),
        ([[1, 0], [0.5, 0.500002]], None, "sum to 1; found 1.000002 for row 1"),
        ([[1e308, 1e308], [0, 1]], None, "sum to 1; found inf for row 0"),
        ([[1]], None, "from 0 to 0 for n_classes=1, found 1 at position 1"),
    ],
)
def test_a_bad_transition_matrix_is_one_clear_line(transition, n_classes, message):
    with pytest.raises(LabelError, match=message) as caught:
        corrupt_labels([0, 1], 0.5, n_classes, "transition", transition=transition)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scores", "n_classes", "message"),
    [
        (None, None, "kind='instance' needs scores="),
        ([[1, 0]], None, r"shape \(2, 2\); found \(1, 2\): sample 1 is missing"),
        ([[1, 0]] * 3, None, r"shape \(2, 2\); found \(3, 2\): sample 2 is one too many"),
        ([[1, 0]] * 2, 3, r"shape \(2, 3\); found \(2, 2\): sample 0 holds 2"),
        (np.ones((2, 0)), None, r"shape \(2, 1\); found \(2, 0\): sample 0 holds 0"),
        ([[1, 0], [1, 0, 0]], None, "rows of one length; sample 1 is of another"),
        ([[1, 0], [0, -np.inf]], None, "finite numbers; found -inf in sample 1, column 1"),
        ([[1], [0]], None, "from 0 to 0 for n_classes=1, found 1 at position 1"),
    ],
)
def test_bad_scores_are_one_clear_line(scores, n_classes, message):
    with pytest.raises(LabelError, match=message) as caught:
        corrupt_labels([0, 1], 0.5, n_classes, "instance", scores=scores)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("symmetric", "transition"),
        ("symmetric", "scores"),
        ("pair", "transition"),
        ("pair", "scores"),
        ("transition", "scores"),
        ("instance", "transition"),
        ("pmd-1", "features"),
        ("instance", "clusters"),
        ("cluster", "scores"),
    ],
)
def test_what_a_kind_has_no_use_for_is_an_error(kind, name):
    scores = {"scores": np.eye(2)}
    used = {"transition": {"transition": np.eye(2)}, "instance": scores, "pmd-1": scores}
    used["cluster"] = {"features": np.eye(2)}
    extra = {**used.get(kind, {}), name: 1 if name == "clusters" else np.eye(2)}
    with pytest.raises(LabelError, match=f"{name}= is for kind=.* found it with kind='{kind}'"):
        corrupt_labels([0, 1], 0.5, kind=kind, **extra)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [0], 2), "as many given as true labels; found 1 and 2"),
        (([0, 3], [0, 1], 3), "true labels: expected classes 0 … 2; found 3 at index 1"),
        (([0, 1], [4, 1], 3), "given labels: expected classes 0 … 2; found 4 at index 0"),
        (([0, 1], [0, -1], 3), "given labels: .* found -1 at index 1"),
        (([0, 1], [0, 1], 0), "n_classes must be"),
    ],
)
def test_labels_that_cannot_be_compared_are_one_clear_line(arguments, message):
    with pytest.raises(LabelError, match=message):
        transition_matrix(*arguments)


def test_wrong_share_needs_as_many_labels_on_both_sides():
    with pytest.raises(LabelError, match="as many given as true labels"):
        wrong_share([0, 1], [0])


def test_weak_scores_beat_chance_and_lose_to_a_strong_model(digits, weak):
    images, true = digits
    assert weak.shape == (len(true), 10)
    assert weak.dtype == np.float64
    strong = cross_val_predict(SVC(), images.reshape(len(true), -1), true, cv=2)
    accuracy = (weak.argmax(axis=1) == true).mean()
    assert 0.8 < accuracy < (strong == true).mean() - 0.02
    shares = np.exp(weak) / np.exp(weak).sum(axis=1, keepdims=True)
    halfway = (0.1 + accuracy) / 2
    assert shares[np.arange(len(true)), true].mean() == pytest.approx(halfway, abs=1e-5)


def test_weak_scores_are_those_of_ridge_regression_on_the_other_half(digits, weak):
    images, true = digits
    X = images.reshape(len(true), -1).astype(np.float64)
    order = np.random.default_rng(0).permutation(len(true))
    a, b = np.array_split(order, 2)
    expected = np.empty_like(weak)
    for fitted, scored in ((a, b), (b, a)):
        ridge = 0.01 * X[fitted].var(axis=0).sum() * len(fitted) / X.shape[1]
        model = Ridge(alpha=ridge).fit(X[fitted], np.eye(10)[true[fitted]])
        expected[scored] = model.predict(X[scored])
    factor = (weak * expected).sum() / (expected**2).sum()
    assert weak == pytest.approx(factor * expected, rel=1e-6, abs=1e-6)


def test_weak_scores_have_not_seen_the_labels_that_they_score():
    # With more features than samples a fit reproduces labels that are pure chance.
    generator = np.random.default_rng(1)
    inputs = generator.standard_normal((400, 500)).astype(np.float32)
    true = generator.integers(10, size=400)
    accuracy = (weak_scores(inputs, true, 10, seed=0).argmax(axis=1) == true).mean()
    assert accuracy < 0.1 + 4 * np.sqrt(0.1 * 0.9 / 400)


def test_weak_scores_depend_on_the_seed_alone(digits, weak):
    before = np.random.get_state()[1].copy()  # noqa: NPY002 (the state that must not change)
    assert (weak_scores(*digits, 10, seed=0) == weak).all()
    assert (weak_scores(torch.from_numpy(digits[0]), digits[1], 10, seed=0) == weak).all()
    assert (weak_scores(*digits, 10, seed=1) != weak).any()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_large_inputs_are_pooled_before_they_are_scored(digits, weak, monkeypatch):
    monkeypatch.setattr(confusion, "MOST_FEATURES", 64)
    # Four copies of each pixel downwards and two across average to the digits themselves.
    large = np.repeat(np.repeat(digits[0], 4, axis=1), 2, axis=2)
    assert (weak_scores(large, digits[1], 10, seed=0) == weak).all()


def test_a_feature_without_a_neighbour_is_kept_in_pooling():
    true = np.arange(40) % 2
    inputs = np.zeros((40, 4097), dtype=np.float32)
    inputs[:, -1] = true
    assert (weak_scores(inputs, true, 2, seed=0).argmax(axis=1) == true).all()


def test_inputs_that_are_all_alike_are_scored_alike():
    inputs = np.ones((60, 4), dtype=np.float32)
    assert not weak_scores(inputs, np.zeros(60, int), 1, seed=0).any()
    # Each half knows only how common the classes are in the other.
    scores = weak_scores(inputs, np.arange(60) % 3, 3, seed=0)
    assert np.isfinite(scores).all()
    assert len(np.unique(scores, axis=0)) <= 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones(4), [0] * 4, 2, 0), DataError, r"shape \(n, ...\).* found \(4,\)"),
        ((np.ones((1, 4)), [0], 2, 0), DataError, "n at least 2"),
        ((np.ones((4, 0)), [0] * 4, 2, 0), DataError, r"found \(4, 0\)"),
        (([[0.0], [np.nan]], [0, 1], 2, 0), DataError, "not in sample 1"),
        ((np.ones((4, 2)), [0] * 3, 2, 0), LabelError, "each of 4 inputs; found 3"),
        ((np.ones((4, 2)), [0, 1, 2, 3], 3, 0), LabelError, "found 3 at index 3"),
        ((np.ones((4, 2)), [0] * 4, 0, 0), LabelError, "n_classes must be"),
        ((np.ones((4, 2)), [0] * 4, 2, -1), LabelError, "seed must be"),
        ((np.ones((4, 2)), [0] * 4, 2, None), LabelError, "seed must be"),
    ],
)
def test_bad_input_to_weak_scores_is_one_clear_line(arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        weak_scores(*arguments)
    assert "\n" not in str(caught.value)
