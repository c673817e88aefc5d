"""Convert scikit-learn's MLPClassifier to a torch module, so that its layers can be decoded."""

from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import ModelError

__all__ = ["from_sklearn"]

_ACTIVATIONS = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}


def from_sklearn(mlp: Any) -> nn.Sequential:
    """Return a fitted `sklearn.neural_network.MLPClassifier` as a module.

    Its logits give the same predictions, in the precision of the classifier's weights; class k is
    ``mlp.classes_[k]``. If labels are words, pass ``class_names=mlp.classes_.tolist()`` to
    `decode`; if they are numbers, pass them as ``numpy.searchsorted(mlp.classes_, y)``. A binary
    classifier's single output becomes two logits, 0 and itself, with the same probabilities.

    Parameters
    ----------
    mlp : sklearn.neural_network.MLPClassifier
        Fitted. For a pipeline, give its last step, ``pipeline[-1]``, and transform the inputs with
        the other steps, ``pipeline[:-1].transform(X)``.

    Returns
    -------
    torch.nn.Sequential
        Modules ``fc1``, ``act1``, ``fc2``, …, ``readout``, and the classes as ``classes_``; weights
        are copies.

    Raises
    ------
    ModelError
        If it is another estimator, is not fitted, or is multi-label.

    Examples
    --------
    >>> import underscript as us
    >>> from sklearn.neural_network import MLPClassifier
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], ["no", "no", "yes", "yes"]
    >>> mlp = MLPClassifier(4, solver="lbfgs", random_state=0).fit(X, y)
    >>> model = us.from_sklearn(mlp)
    >>> model.classes_[model(torch.tensor(X, dtype=torch.float64)).argmax(1)].tolist()
    ['no', 'no', 'yes', 'yes']
    """
    if hasattr(mlp, "steps"):
        raise ModelError(
            "expected an MLPClassifier; found a pipeline: give its last step, pipeline[-1], and "
            "inputs that went through the others, pipeline[:-1].transform(X)"
        )
    if hasattr(mlp, "best_estimator_"):
        raise ModelError(
            f"expected an MLPClassifier; found {type(mlp).__name__}: give its .best_estimator_"
        )
    if not hasattr(mlp, "predict_proba") or not hasattr(mlp, "hidden_layer_sizes"):
        raise ModelError(f"expected a fitted MLPClassifier; found {type(mlp).__name__}")
    if not hasattr(mlp, "coefs_"):
        raise ModelError(f"expected a fitted {type(mlp).__name__}; call its fit(X, y) first")
    single = mlp.out_activation_ == "logistic" and mlp.n_outputs_ == 1
    if mlp.out_activation_ != "softmax" and not single:
        raise ModelError(
            f"expected one label a sample; found an {type(mlp).__name__} of {mlp.n_outputs_} "
            "labels. Only single-label classifiers can be decoded"
        )
    network = nn.Sequential()
    *hidden, last = zip(mlp.coefs_, mlp.intercepts_, strict=True)
    for number, (weight, bias) in enumerate(hidden, 1):
        network.add_module(f"fc{number}", _linear(weight, bias))
        network.add_module(f"act{number}", _ACTIVATIONS[mlp.activation]())
    weight, bias = last
    if single:
        # The softmax of (0, z) is the logistic function of z.
        weight = np.concatenate([np.zeros_like(weight), weight], axis=1)
        bias = np.concatenate([np.zeros_like(bias), bias])
    network.add_module("readout", _linear(weight, bias))
    network.classes_ = np.array(mlp.classes_)  # type: ignore[assignment]
    return network.eval()


def _linear(weight: Any, bias: Any) -> nn.Linear:
    """Return a layer with scikit-learn's weights (inputs, outputs) and biases (outputs,)."""
    layer = nn.Linear(weight.shape[0], weight.shape[1], device="meta")  # draws no random numbers
    layer.weight = nn.Parameter(torch.from_numpy(np.array(weight.T, order="C")))
    layer.bias = nn.Parameter(torch.from_numpy(np.array(bias)))
    return layer
