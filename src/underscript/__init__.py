"""Reads the generalization that a trained network hides under what it memorised."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0.dev0"

from .corruption import corrupt_labels
from .decode import decode
from .decoding import Decoding, load
from .discriminant import RidgeDiscriminant
from .errors import UnderscriptError, UnderscriptWarning
from .from_sklearn import from_sklearn
from .layers import list_layers
from .moments import ClassMoments
from .retrain import Retrained, retrain
from .subspace import MinimumAngleSubspaceClassifier, PrincipalVectorClassifier

__all__ = [
    "ClassMoments",
    "Decoding",
    "MinimumAngleSubspaceClassifier",
    "PrincipalVectorClassifier",
    "Retrained",
    "RidgeDiscriminant",
    "UnderscriptError",
    "UnderscriptWarning",
    "corrupt_labels",
    "decode",
    "from_sklearn",
    "list_layers",
    "load",
    "plots",
    "retrain",
]


def __getattr__(name: str) -> Any:
    """Import `underscript.plots` when it is first asked for: matplotlib takes a while."""
    if name == "plots":
        return import_module(".plots", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
