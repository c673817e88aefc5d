"""scikit-learn's `MLPClassifier`: turned into a module with the same predictions, then decoded."""

import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import underscript as us

names = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
X, true = load_digits(return_X_y=True)
X, given = X / 16, names[us.corrupt_labels(true, 0.4, seed=0)]  # 36 % wrong

mlp = MLPClassifier((256, 128), max_iter=60, learning_rate_init=3e-3, random_state=0)
with warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):
    mlp.fit(X[:1200], given[:1200])

model = us.from_sklearn(mlp)  # of a pipeline: pipeline[-1], and pipeline[:-1].transform(X)
decoding = us.decode(
    model,
    (X[:1200], given[:1200]),
    test=(X[1200:], names[true[1200:]]),
    class_names=mlp.classes_.tolist(),  # of classes that are numbers: searchsorted(classes_, y)
)
print(decoding.verdict)
print(mlp.classes_[decoding.best.predict(X[1200:1210])])  # the better classifier
