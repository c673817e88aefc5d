"""Every corner has a defined answer: the one that the docstrings give."""

import copy
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from reference import relu_rows
from underscript import MinimumAngleSubspaceClassifier as Masc
from underscript import PrincipalVectorClassifier as Velpic
from underscript import UnderscriptWarning
from underscript.errors import DataError, LabelError

NOT_FINITE = r"NaN|infinity"
BOTH = pytest.mark.parametrize("make", [Masc, Velpic])


def fitted(n_classes=3, width=12, **parameters):
    X, y = relu_rows(60, width, n_classes)
    return Masc(**{"rank": 2, **parameters}).fit(X, y), X, y


# --- rows ---------------------------------------------------------------------------------------


def test_a_zero_row_is_at_ninety_degrees_from_everything():
    """A dead ReLU layer gives it. All classes tie, so the first is predicted."""
    decoder, X, _ = fitted()
    zeros = np.zeros((2, 12))
    np.testing.assert_array_equal(decoder.angles(zeros), np.pi / 2)
    np.testing.assert_array_equal(decoder.decision_function(zeros), 0)
    assert decoder.predict(zeros).tolist() == [0, 0]
    mixed = np.concatenate([zeros, X])
    np.testing.assert_array_equal(decoder.predict(mixed)[2:], decoder.predict(X))


def test_a_zero_row_is_at_ninety_degrees_where_complements_are_used():
    decoder, _, _ = fitted(rank=9)
    assert decoder.tensors()["columns"].tolist() == [3, 2, 3]  # class 1 never uses a feature
    np.testing.assert_array_equal(decoder.angles(np.zeros((1, 12))), np.pi / 2)
    assert decoder.predict(np.zeros((1, 12))).tolist() == [0]


def test_zero_rows_among_the_training_rows_do_not_turn_a_subspace():
    decoder, X, y = fitted()
    padded = np.concatenate([X, np.zeros((30, 12))])
    other = Masc(rank=2).fit(padded, np.concatenate([y, np.arange(30) % 3]))
    np.testing.assert_allclose(other.angles(X), decoder.angles(X), atol=1e-7)
    assert other.class_count_.tolist() == [30, 30, 30]


@BOTH
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_are_not_finite_are_an_error(make, bad, dtype):
    X, y = relu_rows(60, 12, 3, dtype=dtype)
    broken = X.copy()
    broken[7, 3] = bad
    with pytest.raises(ValueError, match=NOT_FINITE):
        make().fit(broken, y)
    with pytest.raises(ValueError, match=NOT_FINITE):
        make().partial_fit(broken, y)
    decoder = make().fit(X, y)
    for ask in (decoder.predict, decoder.decision_function, decoder.angles):
        with pytest.raises(ValueError, match=NOT_FINITE):
            ask(broken)
    with pytest.raises(ValueError, match=NOT_FINITE):
        decoder.predict(torch.from_numpy(broken))
    # The refused batch left nothing behind.
    with pytest.raises(ValueError, match=NOT_FINITE):
        decoder.partial_fit(broken, y)
    np.testing.assert_array_equal(decoder.predict(X), make().fit(X, y).predict(X))


@BOTH
def test_features_that_overflow_when_squared_are_an_error_that_says_so(make):
    X, y = relu_rows(60, 12, 3)
    with pytest.raises(DataError, match=r"class 0: the features overflow when squared; scale them"):
        make().fit(X * 1e200, y)


@BOTH
def test_no_rows_or_another_width_are_an_error(make):
    X, y = relu_rows(60, 12, 3)
    with pytest.raises(ValueError, match="0 sample"):
        make().fit(X[:0], y[:0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        make().fit(X, y[:-1])
    decoder = make().fit(X, y)
    with pytest.raises(ValueError, match="12 features"):
        decoder.predict(X[:, :11])
    with pytest.raises(ValueError, match="12 features"):
        decoder.partial_fit(X[:, :11], y)
    with pytest.raises(ValueError, match="0 sample"):
        decoder.predict(X[:0])
    with pytest.raises(ValueError, match="2D"):
        decoder.predict(X[0])


@BOTH
def test_nothing_is_predicted_before_fitting(make):
    with pytest.raises(NotFittedError):
        make().predict(np.zeros((2, 3)))


# --- classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [8, 300])
def test_a_class_with_one_sample_is_the_line_through_it(width):
    X, y = relu_rows(61, width, 2)
    y = np.where(np.arange(61) == 60, 2, y)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*whole space.*")
        decoder = Masc().fit(X, y)
        assert decoder.class_count_[2] == decoder.ranks_[2] == 1
    line = X[60] / np.linalg.norm(X[60])
    np.testing.assert_allclose(
        decoder.bases_[2] @ decoder.bases_[2].T, np.outer(line, line), atol=1e-9
    )
    assert decoder.predict(-3 * X[60:]).tolist() == [2]
    np.testing.assert_allclose(decoder.angles(X[60:])[0, 2], 0, atol=1e-7)
    np.testing.assert_allclose(Velpic().fit(X, y).vectors_[2], line, atol=1e-9)


@pytest.mark.parametrize("lacking", [0, 1, 3])
@pytest.mark.parametrize("rank", [2, 9])
def test_a_class_without_samples_is_never_predicted(lacking, rank):
    X, y = relu_rows(60, 12, 3)
    present = [k for k in range(4) if k != lacking]
    decoder = Masc(rank=rank).partial_fit(X, np.asarray(present)[y], classes=range(4))
    queries = np.concatenate([X, -X, np.zeros((1, 12)), np.eye(12)])
    with pytest.warns(UnderscriptWarning, match=f"class {lacking} has no samples.*never predicted"):
        predicted = decoder.predict(queries)
    assert lacking not in predicted
    plain = Masc(rank=rank).fit(X, y)
    np.testing.assert_array_equal(predicted, np.asarray(present)[plain.predict(queries)])
    scores = decoder.decision_function(queries)
    assert np.isneginf(scores[:, lacking]).all()
    assert np.isfinite(scores[:, present]).all()
    np.testing.assert_allclose(decoder.angles(queries)[:, lacking], np.pi / 2)
    closeness = decoder.closeness(torch.from_numpy(queries))
    assert (closeness[:, lacking] == 0).all()
    assert (decoder.ranks_[lacking], decoder.class_count_[lacking]) == (0, 0)
    assert decoder.bases_[lacking].shape == (12, 0)
    assert decoder.eigenvalues_[lacking].shape == (0,)


def test_a_class_of_zero_rows_only_is_never_predicted():
    X, y = relu_rows(60, 12, 3)
    with pytest.warns(UnderscriptWarning, match="class 0 has no samples, or only zero rows"):
        decoder = Masc(rank=2).fit(X * (y > 0)[:, None], y)
    assert decoder.class_count_.tolist() == [20, 20, 20]
    assert decoder.ranks_.tolist() == [0, 2, 2]
    assert decoder.predict(np.zeros((1, 12))).tolist() == [1]
    assert 0 not in decoder.predict(X)


@pytest.mark.parametrize("lacking", [0, 1])
def test_of_two_classes_the_one_with_samples_is_always_predicted(lacking):
    X, _ = relu_rows(60, 12, 3)
    decoder = Masc(rank=2).partial_fit(X, np.full(60, 1 - lacking), classes=[0, 1])
    queries = np.concatenate([X, np.zeros((1, 12))])
    with pytest.warns(UnderscriptWarning, match=f"class {lacking} has no samples"):
        scores = decoder.decision_function(queries)
    assert (scores == (np.inf if lacking == 0 else -np.inf)).all()
    assert (decoder.predict(queries) == 1 - lacking).all()


def test_saved_tensors_keep_a_class_without_samples():
    X, y = relu_rows(60, 12, 3)
    decoder = Masc(rank=2).partial_fit(X, y + 1, classes=range(4))
    with pytest.warns(UnderscriptWarning, match="class 0"):
        tensors = decoder.tensors()
    other = Masc().set_tensors(tensors)
    np.testing.assert_array_equal(other.decision_function(X), decoder.decision_function(X))


def test_many_empty_classes_are_one_short_warning():
    X, y = relu_rows(60, 12, 3)
    decoder = Masc(rank=2).partial_fit(X, y, classes=range(100))
    with pytest.warns(UnderscriptWarning) as caught:
        decoder.predict(X)
    assert len(caught) == 1
    decoder.predict(X)  # and no second time: any warning here would be an error
    assert "class 3, 4, 5, 6, 7 and 92 more has no samples" in str(caught[0].message)


@BOTH
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_one_class_alone_is_an_error(make, method):
    X, _ = relu_rows(60, 12, 3)
    with pytest.raises(LabelError, match="expected at least 2 classes; found one class"):
        getattr(make(), method)(X, np.ones(60, dtype=int))


@BOTH
def test_labels_of_unknown_classes_are_an_error_and_leave_nothing_behind(make):
    X, y = relu_rows(60, 12, 3)
    decoder = make().partial_fit(X, y)
    before = decoder.predict(X)
    for unknown in (-1, 3, 7):
        with pytest.raises(LabelError, match=rf"expected classes \[0, 1, 2\]; found .*{unknown}"):
            decoder.partial_fit(X, np.where(y == 1, unknown, y))
    with pytest.raises(LabelError, match="classes differs"):
        decoder.partial_fit(X, y, classes=[0, 1, 2, 3])
    np.testing.assert_array_equal(decoder.predict(X), before)
    with pytest.raises(LabelError, match="found"):
        make().partial_fit(X, np.array(["a", "b", "c"])[y], classes=["a", "b"])


@BOTH
def test_continuous_labels_are_an_error(make):
    X, y = relu_rows(60, 12, 3)
    with pytest.raises(ValueError, match="continuous"):
        make().fit(X, y + 0.5)


# --- ranks --------------------------------------------------------------------------------------


def test_a_class_that_is_the_whole_space_warns_and_is_at_no_angle_from_everything():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 5)), np.arange(80) % 2
    X[y == 0, 3:] = 0
    with pytest.warns(UnderscriptWarning, match=r"class 1 is the whole space \(5 dimensions\)"):
        decoder = Masc(variance=1.0).fit(X, y)
    assert decoder.ranks_.tolist() == [3, 5]
    queries = rng.normal(size=(50, 5))
    np.testing.assert_array_equal(decoder.angles(queries)[:, 1], 0)
    assert (decoder.predict(queries) == 1).all()
    # Even so a zero row is at 90° from it.
    np.testing.assert_array_equal(decoder.angles(np.zeros((1, 5))), np.pi / 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_classes_that_are_all_the_whole_space_tie_exactly(dtype):
    X = np.random.default_rng(0).normal(size=(90, 6)).astype(dtype)
    with pytest.warns(UnderscriptWarning, match="class a, b, c is the whole space"):
        decoder = Masc(variance=1.0).fit(X, np.array(["a", "b", "c"])[np.arange(90) % 3])
    assert set(decoder.predict(X)) == {"a"}
    np.testing.assert_array_equal(decoder.decision_function(X), 1)


def test_exact_ties_go_to_the_first_class():
    decoder = Masc().fit(np.eye(3), ["c", "a", "b"])
    rows = [[0.0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1], [-1, 1, 0]]
    assert decoder.predict(rows).tolist() == ["a", "b", "a", "a", "a"]
    twins = Masc(rank=1).fit([[1.0, 2, 3]] * 4, [5, 2, 5, 2])
    assert twins.predict([[1.0, 2, 3], [3, 2, 1]]).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("variance", "rank"), [(0.3, 1), (0.49, 1), (0.5, 2), (0.74, 2), (0.75, 3), (0.9, 3), (1.0, 3)]
)
def test_the_rank_is_one_more_than_the_shares_within_the_variance(variance, rank):
    """Energies 4, 2, 2 of 8: leading shares 0.5, 0.75 and 1, of which the equal one counts."""
    rows = np.zeros((6, 5))
    rows[0, 1], rows[1, 2], rows[2, 3] = 2, np.sqrt(2), np.sqrt(2)
    rows[1:3] = [[0, 0, 1, 1, 0], [0, 0, 1, -1, 0]]
    rows[3:, :] = np.eye(5)[[0, 0, 4]]
    decoder = Masc(variance=variance).fit(rows, [0, 0, 0, 1, 1, 1])
    assert decoder.ranks_[0] == rank
    np.testing.assert_allclose(decoder.eigenvalues_[0], [4, 2, 2])


@pytest.mark.parametrize("width", [12, 200])
def test_all_of_the_variance_is_the_span_of_the_rows(width):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = rng.normal(size=(60, 4)) @ rng.normal(size=(4, width))
    X += rng.normal(size=(3, width))[y]  # each class: 4 directions and its mean
    decoder = Masc(variance=1.0).fit(X, y)
    assert decoder.ranks_.tolist() == [5, 5, 5]
    np.testing.assert_allclose(np.take_along_axis(decoder.angles(X), y[:, None], 1), 0, atol=1e-6)
    assert (decoder.predict(X) == y).mean() > 0.9


@pytest.mark.parametrize("width", [8, 200])
def test_a_rank_larger_than_a_class_has_keeps_what_there_is_and_warns(width):
    X, y = relu_rows(60, width, 2)
    y = np.where(np.arange(60) < 3, 2, y)
    with pytest.warns(UnderscriptWarning, match=r"class 2 has fewer directions than the rank 5"):
        decoder = Masc(rank=5).fit(X, y)
    assert decoder.ranks_.tolist() == [5, 5, 3]


def test_a_rank_larger_than_the_width_is_the_whole_space():
    X, y = relu_rows(200, 6, 2)
    with pytest.warns(UnderscriptWarning) as caught:
        decoder = Masc(rank=50).fit(X, y)
    assert decoder.ranks_.tolist() == [6, 6]
    assert {str(w.message).split(" 0, 1 ")[1][:13] for w in caught} == {
        "is the whole ",
        "has fewer dir",
    }


def test_one_feature_is_a_line():
    with pytest.warns(UnderscriptWarning, match="whole space"):
        decoder = Masc().fit([[1.0], [2.0], [-3.0]], [0, 1, 1])
    assert decoder.predict([[5.0], [0.0]]).tolist() == [0, 0]


# --- hyper-parameters ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        *({"variance": v} for v in (0, 0.0, -0.5, 1.01, np.nan, np.inf, "0.9", None, [0.9], 0.9j)),
        *({"rank": r} for r in (0, -1, 2.0, "2", [2], np.nan)),
    ],
)
def test_hyper_parameters_out_of_range_are_an_error_when_fitting(parameters):
    X, y = relu_rows(60, 12, 3)
    ((name, value),) = parameters.items()
    decoder = Masc(**parameters)  # as scikit-learn wants it, nothing is checked here
    for method in (decoder.fit, decoder.partial_fit):
        with pytest.raises(ValueError, match=rf"{name}: expected .* found ") as caught:
            method(X, y)
        assert repr(value) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "parameters",
    [{"variance": 1}, {"variance": np.float32(0.5)}, {"rank": np.int64(2)}, {"variance": 1e-9}],
)
def test_any_real_share_and_any_integer_rank_will_do(parameters):
    X, y = relu_rows(60, 30, 3)
    assert (Masc(**parameters).fit(X, y).ranks_ >= 1).all()


def test_the_smallest_share_is_one_direction():
    assert fitted(rank=None, variance=1e-300)[0].ranks_.tolist() == [1, 1, 1]


def test_hyper_parameters_are_keyword_only():
    with pytest.raises(TypeError):
        Masc(0.9)


# --- estimators ---------------------------------------------------------------------------------


@BOTH
def test_a_clone_is_unfitted_and_a_copy_predicts_the_same(make):
    X, y = relu_rows(60, 12, 3)
    decoder = make().fit(X, y)
    with pytest.raises(NotFittedError):
        clone(decoder).predict(X)
    copied = copy.deepcopy(decoder)
    np.testing.assert_array_equal(copied.decision_function(X), decoder.decision_function(X))


@BOTH
def test_a_decoder_made_from_tensors_learns_anew_or_says_that_it_cannot_go_on(make):
    """It has no moments to add to; `fit` starts afresh all the same."""
    X, y = relu_rows(60, 12, 3)
    decoder = make().fit(X, y)
    other = make().set_tensors(decoder.tensors())
    with pytest.raises(ValueError, match=r"\w"):
        other.partial_fit(X, y)
    np.testing.assert_array_equal(other.predict(X), decoder.predict(X))
    np.testing.assert_array_equal(other.fit(X, y).predict(X), decoder.predict(X))


@BOTH
def test_tensors_replace_what_was_fitted_before(make):
    X, y = relu_rows(60, 12, 3)
    decoder, other = make().fit(X, y), make().fit(X[:, ::-1] ** 2, y)
    other.set_tensors(decoder.tensors())
    np.testing.assert_array_equal(other.decision_function(X), decoder.decision_function(X))
    with pytest.raises(ValueError, match=r"\w"):
        other.partial_fit(X, y)


@BOTH
def test_a_first_batch_that_is_refused_leaves_the_decoder_unfitted(make):
    X, y = relu_rows(60, 12, 3)
    decoder = make()
    with pytest.raises(LabelError):
        decoder.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(NotFittedError):
        decoder.predict(X)
    decoder.partial_fit(X, y, classes=[0, 1, 2])
    np.testing.assert_array_equal(decoder.predict(X), make().fit(X, y).predict(X))
