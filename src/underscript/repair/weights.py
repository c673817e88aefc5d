"""Read and write weights: safetensors, state dicts and checkpoints; no code in them is run."""

import json
import logging
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import ModelError
from ..utils.files import write_tensors

__all__ = ["fit_weights", "load_weights", "read_weights", "write_weights"]

logger = logging.getLogger(__name__)

# Keys under which checkpoints that hold more usually keep the weights: Lightning's first.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def load_weights(model: nn.Module, spec: str, *, quiet: bool = False) -> None:
    """Load weights into a model, all of them or none.

    Parameters
    ----------
    spec : str
        A file; or ``FILE:PART`` if it holds the weights of several models, such as a Lightning
        module's ``model`` and ``teacher``.
    quiet : bool
        Do not tell which part of a larger model was taken.

    Raises
    ------
    ModelError
        If the file cannot be read without running code, or its weights do not fit.
    """
    path, part = Path(spec), ""
    if not path.is_file() and ":" in spec:
        name, _, part = spec.rpartition(":")
        path = Path(name)
    weights = read_weights(path)
    if part:
        start = f"{part.rstrip('.')}."
        chosen = {
            key.removeprefix(start): value
            for key, value in weights.items()
            if key.startswith(start)
        }
        if not chosen:
            parts = ", ".join(dict.fromkeys(key.partition(".")[0] for key in weights))
            raise ModelError(f"--weights: {path} has no part {part!r}; its parts are {parts}")
        weights = chosen
    fit_weights(model, weights, spec, quiet=quiet)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file, or from a torch file without unpickling code.

    If a checkpoint holds more, as Lightning's do, its state dict is returned.

    Raises
    ------
    ModelError
        If the file is not there, is damaged, needs code to be read, or holds no tensors by name.
    """
    if not path.is_file():
        raise ModelError(f"--weights: {path} is not a file")
    if path.suffix == ".json":
        return _read_shards(path)
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"--weights: cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        # torch raises many kinds here, and advises to trust the file; we do not.
        raise ModelError(_unreadable(path, error)) from error
    held = list(loaded) if isinstance(loaded, dict) else []
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        what = f"a dict of {', '.join(map(str, held[:5]))}" if held else type(loaded).__name__
        raise ModelError(f"--weights: {path} holds {what}, not a state dict of tensors by name")
    return loaded


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Read the files that a Hugging Face index (``….index.json``) lists, from its folder.

    Raises
    ------
    ModelError
        If it is no such index, or a file is missing or cannot be read.
    """
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({str(name) for name in places.values()})
    except OSError as error:
        raise ModelError(f"--weights: cannot read {index}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"--weights: {index} is no index of weights in several files (no weight_map)"
        ) from error
    weights: dict[str, Tensor] = {}
    for name in files:
        if Path(name).name != name:
            raise ModelError(f"--weights: {index} names {name}, which is not beside it")
        if not (index.parent / name).is_file():
            raise ModelError(
                f"--weights: {index} lists {len(files)} files of weights; {name} is not beside it"
            )
        weights |= read_weights(index.parent / name)
    return weights


def write_weights(path: Path, model: nn.Module, metadata: dict[str, str] | None = None) -> None:
    """Write a model's weights as safetensors, whole or not at all.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    # Copies: tied weights are written under each of their names.
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    write_tensors(path, weights, metadata)


def _unreadable(path: Path, error: Exception) -> str:
    """Return one line on why a file is no state dict, and what to do."""
    classes = _classes_in(path, error)
    if not classes:
        return (
            f"--weights: {path} is not a safetensors file or a plain state dict, or is damaged "
            f"({type(error).__name__}); nothing in it was run. Save model.state_dict() again"
        )
    shown = ", ".join(classes[:3]) + (f" and {len(classes) - 3} more" if len(classes) > 3 else "")
    code = (
        f"import torch; d = torch.load({str(path)!r}, map_location='cpu', weights_only=False); "
        f"d = next((d[k] for k in {_WRAPPERS} if k in d), d) if isinstance(d, dict) else d; "
        "torch.save(d.state_dict() if hasattr(d, 'state_dict') else d, 'weights.pt')"
    )
    return (
        f"--weights: {path} cannot be read without running code, as it holds {shown}; nothing in "
        f'it was run. Where you trust it, save its weights alone: python -c "{code}"'
    )


def _classes_in(path: Path, error: Exception) -> list[str]:
    """Return the names that a torch file would import, without importing them."""
    if not zipfile.is_zipfile(path):
        return []
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        # torch before 2.6 only says in its error which name it met first.
        return re.findall(r"Unsupported global: GLOBAL (\S+) was not an allowed", str(error))
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a damaged file may raise anything here
        return []


def fit_weights(
    model: nn.Module, weights: Mapping[str, Tensor], name: str, *, quiet: bool = False
) -> None:
    """Load weights into a model, all of them or none.

    Names may begin with the prefix that the model had in a larger one (``module.`` of
    nn.DataParallel, ``_orig_mod.`` of torch.compile, ``model.`` in a Lightning module); other
    weights of the larger one are ignored.

    Raises
    ------
    ModelError
        If names are missing or unexpected, or shapes differ, or several parts of a larger model
        fit; the message lists them.
    """
    own, start, left = model.state_dict(), "", list[str]()
    weights = _with_tied(model, weights)
    missing = [key for key in own if key not in weights]
    if missing and len(prefixes := _prefixes(own, weights)) > 0:
        if len(prefixes) > 1:
            parts = ", ".join(f"{name}:{prefix.rstrip('.')}" for prefix in prefixes)
            raise ModelError(
                f"--weights: several parts of {name} fit {type(model).__name__}; "
                f"give one of {parts}"
            )
        start = prefixes[0]
        left = sorted(key for key in weights if not key.startswith(start))
        weights = {
            key.removeprefix(start): value
            for key, value in weights.items()
            if key.startswith(start)
        }
        missing = []
    lazy = {key for key, value in own.items() if is_lazy(value)}
    unexpected = [key for key in weights if key not in own]
    shapes = [
        f"{key} is {tuple(weights[key].shape)}, the model's {tuple(own[key].shape)}"
        for key in own
        if key in weights and key not in lazy and weights[key].shape != own[key].shape
    ]
    problems = [
        f"{title}: {', '.join(items[:5])}{f' and {len(items) - 5} more' if len(items) > 5 else ''}"
        for title, items in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("other shapes", shapes),
        )
        if items
    ]
    if problems:
        raise ModelError(
            f"--weights: {name} does not fit {type(model).__name__}; {'; '.join(problems)}"
        )
    model.load_state_dict(weights)
    if left and not quiet:
        logger.warning(
            "--weights: the part %s of %s was taken; left: %s%s",
            start.rstrip("."),
            name,
            ", ".join(left[:3]),
            f" and {len(left) - 3} more" if len(left) > 3 else "",
        )


def _with_tied(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under all names of tied parameters: safetensors keeps only one."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    complete = dict(weights)
    for tied in names.values():
        known = [name for name in tied if name in weights]
        complete |= {name: weights[known[0]] for name in tied if known and name not in weights}
    return complete


def _prefixes(own: Mapping[str, Any], weights: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes under which the weights have all of the model's own names."""
    first = min(own, key=len, default=None)
    if first is None:
        return []
    starts = [key.removesuffix(first) for key in weights if key.endswith(f".{first}")]
    return [start for start in starts if all(f"{start}{key}" in weights for key in own)]
