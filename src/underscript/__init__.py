"""Reads the generalization that a trained network hides under what it memorised."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import UnderscriptError, UnderscriptWarning

if TYPE_CHECKING:
    from . import plots
    from ._decode import decode
    from ._from_sklearn import from_sklearn
    from ._retrain import Retrained, retrain
    from .corruption import corrupt_labels
    from .decoding import Decoding, load
    from .discriminant import RidgeDiscriminant
    from .layers import list_layers
    from .moments import ClassMoments
    from .subspace import MinimumAngleSubspaceClassifier, PrincipalVectorClassifier

__version__ = "0.1.0.dev0"

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

# Imported when first asked for: torch, scikit-learn and pandas take seconds, which `--version` and
# a wrong argument on the command line need not cost. No module has the name of a function: once
# imported it would take the function's place.
_MODULES = {
    "ClassMoments": "moments",
    "Decoding": "decoding",
    "MinimumAngleSubspaceClassifier": "subspace",
    "PrincipalVectorClassifier": "subspace",
    "Retrained": "_retrain",
    "RidgeDiscriminant": "discriminant",
    "corrupt_labels": "corruption",
    "decode": "_decode",
    "from_sklearn": "_from_sklearn",
    "list_layers": "layers",
    "load": "decoding",
    "retrain": "_retrain",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name == "plots":
        return import_module(".plots", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
