"""Turn what a user passes as a model into a module, or explain why it is none."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import ModelError

__all__ = ["as_module", "as_written"]


def as_written(model: Any) -> Any:
    """Return the module behind `torch.compile`; any other model is returned unchanged."""
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    return model


def as_module(model: Any) -> nn.Module:
    """Return the user's module, without the wrapper of `torch.compile`.

    Raises
    ------
    ModelError
        If it is not a torch module; the message says what it is and what to do.
    """
    model = as_written(model)
    if isinstance(model, nn.Module):
        return model
    name = type(model).__name__
    if isinstance(model, type):
        what = f"the class {model.__name__}; give an instance of it, {model.__name__}(…)"
    elif isinstance(model, Mapping):
        what = (
            f"a {name} of {', '.join(map(str, list(model)[:3]))}, …; make the network, then "
            "network.load_state_dict(…)"
        )
    elif isinstance(model, str | os.PathLike):
        what = (
            f"the path {str(model)!r}; make the network and load its weights "
            "(network.load_state_dict), or use the command line (--model, --weights)"
        )
    elif isinstance(model, torch.export.ExportedProgram):
        what = "an ExportedProgram, which has no layers to read; give the module it was made from"
    elif hasattr(model, "coefs_"):
        what = f"a {name} of scikit-learn; us.from_sklearn makes a module of it"
    elif isinstance(getattr(model, "model", None), nn.Module):
        what = f"a {name}; give its network, .model"
    else:
        what = name
    raise ModelError(f"model: expected a torch.nn.Module; found {what}")
