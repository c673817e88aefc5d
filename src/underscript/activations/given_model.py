"""What a user hands over as a model: a module as it was written, or one line about what it is."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import ModelError

__all__ = ["as_module", "as_written"]


def as_written(model: Any) -> Any:
    """Return the module that `torch.compile` was given; of another one itself."""
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    return model


def as_module(model: Any) -> nn.Module:
    """Return a model as it was written.

    Raises
    ------
    ModelError
        If it is no module of torch; the message says what it is, and what to do.
    """
    model = as_written(model)
    if isinstance(model, nn.Module):
        return model
    name = type(model).__name__
    if isinstance(model, type):
        found = f"the class {model.__name__}; give an instance of it, {model.__name__}(…)"
    elif isinstance(model, Mapping):
        found = (
            f"a {name} of {', '.join(map(str, list(model)[:3]))}, …; make the network, then "
            "network.load_state_dict(…)"
        )
    elif isinstance(model, str | os.PathLike):
        found = (
            f"the path {str(model)!r}; make the network and load its weights "
            "(network.load_state_dict), or use the command line (--model, --weights)"
        )
    elif isinstance(model, torch.export.ExportedProgram):
        found = "an ExportedProgram, which has no layers to read; give the module it was made from"
    elif hasattr(model, "coefs_"):
        found = f"a {name} of scikit-learn; us.from_sklearn makes a module of it"
    elif isinstance(getattr(model, "model", None), nn.Module):
        found = f"a {name}; give its network, .model"
    else:
        found = name
    raise ModelError(f"model: expected a torch.nn.Module; found {found}")
