"""scikit-learn's MLPClassifier as a module: the same predictions, layer by layer."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import underscript as us
from underscript.errors import ModelError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 6))
NEW = RNG.normal(size=(5000, 6))
FOUR = np.abs(X[:, 0] * 3).astype(int).clip(0, 3)


def fitted(y: np.ndarray, x: np.ndarray = X, **options) -> MLPClassifier:
    options = {"hidden_layer_sizes": (9, 7), "max_iter": 20, "random_state": 0} | options
    mlp = MLPClassifier(**options)
    with pytest.warns(Warning, match="Maximum iterations"):
        mlp.fit(x, y)
    return mlp


def predictions(mlp: MLPClassifier, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    network = us.from_sklearn(mlp)
    with torch.no_grad():
        logits = network(torch.from_numpy(x))
    return network.classes_[logits.argmax(1).numpy()], torch.softmax(logits, 1).numpy()


LABELS = {
    "four classes": FOUR,
    "two classes": FOUR % 2,
    "words": np.array(["ant", "bee", "cat", "dog"])[FOUR],
    "two words": np.array(["no", "yes"])[FOUR % 2],
    "numbers with gaps": np.array([-3, 7, 8, 100])[FOUR],
}


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("kind", LABELS)
def test_predictions_are_scikit_learns(kind, activation):
    mlp = fitted(LABELS[kind], activation=activation)
    predicted, probabilities = predictions(mlp, NEW)
    np.testing.assert_array_equal(predicted, mlp.predict(NEW))
    np.testing.assert_allclose(probabilities, mlp.predict_proba(NEW), rtol=0, atol=1e-14)


def test_float32_weights_stay_float32_and_no_hidden_layer_is_fine():
    mlp = fitted(FOUR, X.astype(np.float32))
    assert us.from_sklearn(mlp).fc1.weight.dtype == torch.float32
    predicted, _ = predictions(mlp, NEW.astype(np.float32))
    np.testing.assert_array_equal(predicted, mlp.predict(NEW.astype(np.float32)))
    predicted, _ = predictions(fitted(FOUR, hidden_layer_sizes=()), NEW)
    assert set(predicted) <= {0, 1, 2, 3}


def test_the_classifier_and_random_states_are_left_alone():
    mlp = fitted(FOUR)
    before = [weight.copy() for weight in mlp.coefs_]
    state = torch.get_rng_state()
    network = us.from_sklearn(mlp)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0)
    assert all(np.array_equal(a, b) for a, b in zip(before, mlp.coefs_, strict=True))


def test_its_layers_are_decoded_and_its_own_accuracy_is_told():
    mlp = fitted(LABELS["two words"], hidden_layer_sizes=(16, 8), max_iter=60)
    y = np.searchsorted(mlp.classes_, LABELS["two words"])
    found = us.decode(us.from_sklearn(mlp), (X, y), controls=False, variance=0.5, progress=False)
    assert found.summary["settings"]["layers"] == ["input", "act1", "act2"]
    own = found.summary["model"]["accuracy"]["train_given"]
    assert own == pytest.approx(mlp.score(X, LABELS["two words"]))


@pytest.mark.parametrize(
    ("estimator", "says"),
    [
        (make_pipeline(StandardScaler(), MLPClassifier()), r"pipeline\[-1\]"),
        (MLPClassifier(), r"call its fit\(X, y\) first"),
        (MLPRegressor().set_params(max_iter=1), "found MLPRegressor"),
        (LogisticRegression(), "found LogisticRegression"),
        (torch.nn.Linear(2, 2), "found Linear"),
    ],
)
def test_what_is_no_fitted_classifier_is_one_clear_line(estimator, says):
    with pytest.raises(ModelError, match=says) as caught:
        us.from_sklearn(estimator)
    assert "\n" not in str(caught.value)


def test_several_labels_a_sample_and_a_search_are_refused():
    with pytest.raises(ModelError, match="3 labels"):
        us.from_sklearn(fitted((X[:, :3] > 0).astype(int)))
    search = GridSearchCV(MLPClassifier(max_iter=1000), {"alpha": [1e-4]}, cv=2)
    search.best_estimator_ = fitted(FOUR)
    with pytest.raises(ModelError, match="best_estimator_"):
        us.from_sklearn(search)
