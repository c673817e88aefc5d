"""Reads the generalization that a trained network hides under what it memorised."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import UnderscriptError, UnderscriptWarning

if TYPE_CHECKING:
    from ._decode import decode
    from ._monitor import Monitor, load_monitor
    from ._trace import Trace, load_trace, trace
    from .activations.from_sklearn import from_sklearn
    from .activations.layers import list_layers
    from .decoding import Decoding, load
    from .linalg.moments import ClassMoments
    from .noise.corruption import corrupt_labels
    from .probes.discriminant import RidgeDiscriminant
    from .probes.subspace import MinimumAngleSubspaceClassifier, PrincipalVectorClassifier
    from .repair.retraining import Retrained, retrain
    from .report import plots

from ._version import __version__ as __version__

__all__ = [
    "ClassMoments",
    "Decoding",
    "MinimumAngleSubspaceClassifier",
    "Monitor",
    "PrincipalVectorClassifier",
    "Retrained",
    "RidgeDiscriminant",
    "Trace",
    "UnderscriptError",
    "UnderscriptWarning",
    "corrupt_labels",
    "decode",
    "from_sklearn",
    "list_layers",
    "load",
    "load_monitor",
    "load_trace",
    "plots",
    "retrain",
    "trace",
]

# Imported when first asked for: torch, scikit-learn and pandas take seconds, which `--version` and
# a wrong argument on the command line need not cost. No module has the name of a function: once
# imported it would take the function's place.
_MODULES = {
    "ClassMoments": "linalg.moments",
    "Decoding": "decoding",
    "MinimumAngleSubspaceClassifier": "probes.subspace",
    "Monitor": "_monitor",
    "PrincipalVectorClassifier": "probes.subspace",
    "Retrained": "repair.retraining",
    "RidgeDiscriminant": "probes.discriminant",
    "Trace": "_trace",
    "corrupt_labels": "noise.corruption",
    "decode": "_decode",
    "from_sklearn": "activations.from_sklearn",
    "list_layers": "activations.layers",
    "load": "decoding",
    "load_monitor": "_monitor",
    "load_trace": "_trace",
    "retrain": "repair.retraining",
    "trace": "_trace",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name == "plots":
        return import_module(".report.plots", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
