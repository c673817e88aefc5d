"""Reads the generalization that a trained network hides under what it memorised."""

__version__ = "0.1.0.dev0"

from .corruption import corrupt_labels
from .decode import decode
from .decoding import Decoding, load
from .discriminant import RidgeDiscriminant
from .errors import UnderscriptError, UnderscriptWarning
from .from_sklearn import from_sklearn
from .layers import list_layers
from .moments import ClassMoments
from .subspace import MinimumAngleSubspaceClassifier, PrincipalVectorClassifier

__all__ = [
    "ClassMoments",
    "Decoding",
    "MinimumAngleSubspaceClassifier",
    "PrincipalVectorClassifier",
    "RidgeDiscriminant",
    "UnderscriptError",
    "UnderscriptWarning",
    "corrupt_labels",
    "decode",
    "from_sklearn",
    "list_layers",
    "load",
]
