"""What a user names on the command line: ``FILE.py:name``, and files of weights."""

import contextlib
import difflib
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .errors import DataError, ModelError, UnderscriptError

# Under which a checkpoint that holds more than weights usually keeps them.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_MODULES: dict[Path, ModuleType] = {}


def load_object(spec: str, what: str) -> Any:
    """Return the thing that ``FILE.py:name`` or ``module:name`` names.

    A function or class is called without arguments and its result is the thing. A file is run
    once, however often it is named. What it prints goes to standard error.

    Parameters
    ----------
    spec : str
        A path or module, a colon, and an attribute.
    what : str
        The option it comes from, for messages.

    Raises
    ------
    DataError
        If the file or the attribute is not there, or either raises.
    """
    file, colon, name = spec.rpartition(":")
    if not colon or not file or not name:
        raise DataError(f"{what}: expected FILE.py:name; found {spec!r}")
    with contextlib.redirect_stdout(sys.stderr):
        module = _load_module(file, what)
        if not hasattr(module, name):
            own = [key for key in vars(module) if not key.startswith("_")]
            close = difflib.get_close_matches(name, own, n=3, cutoff=0.4)
            hint = f"; the closest are {', '.join(close)}" if close else ""
            raise DataError(f"{what}: {file} has no attribute {name!r}{hint}")
        thing = getattr(module, name)
        if callable(thing) and not isinstance(thing, nn.Module):
            try:
                thing = thing()
            except UnderscriptError:
                raise
            except Exception as error:
                raise DataError(f"{what}: {name}() raised {_where(error, file)}") from error
    if thing is None:
        raise DataError(f"{what}: {spec} is None; expected it to return the thing")
    return thing


def load_model(spec: str, weights: str | None) -> nn.Module:
    """Return the model that ``FILE.py:name`` builds, with weights from a file.

    Raises
    ------
    DataError, ModelError
        If it is not a module, or the weights cannot be read or do not fit.
    """
    model = load_object(spec, "--model")
    if not isinstance(model, nn.Module):
        raise ModelError(f"--model: {spec} gave {type(model).__name__}; expected an nn.Module")
    if weights is not None:
        fit_weights(model, read_weights(Path(weights)), weights)
    return model


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file, or from a torch file without unpickling code.

    Raises
    ------
    ModelError
        If the file is not there, is damaged, or holds anything but tensors by name.
    """
    if not path.is_file():
        raise ModelError(f"--weights: {path} is not a file")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"--weights: cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        # torch raises many kinds here; its advice to trust the file is not ours.
        raise ModelError(
            f"--weights: {path} is not a safetensors file or a plain state dict, or is damaged "
            f"({type(error).__name__}); nothing in it was run. Save model.state_dict() again"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ModelError(
            f"--weights: {path} holds {type(found).__name__}, not a state dict of tensors by name"
        )
    return found


def fit_weights(model: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Load weights into a model, all of them or none.

    Raises
    ------
    ModelError
        If names are missing or unexpected, or shapes differ; the message lists them.
    """
    if weights and all(key.startswith("module.") for key in weights):
        # nn.DataParallel adds this to every name.
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    own = model.state_dict()
    missing = [key for key in own if key not in weights]
    unexpected = [key for key in weights if key not in own]
    shapes = [
        f"{key} is {tuple(weights[key].shape)}, the model's {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
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


def _load_module(file: str, what: str) -> ModuleType:
    path = Path(file)
    if path.suffix != ".py" and not path.exists():
        # Like `python -m`: modules of the current folder can be named.
        if "" not in sys.path:
            sys.path.insert(0, "")
        try:
            return importlib.import_module(file)
        except ModuleNotFoundError as error:
            if error.name and (file == error.name or file.startswith(f"{error.name}.")):
                raise DataError(f"{what}: there is no file or module {file!r}") from error
            raise DataError(f"{what}: {file} raised {_where(error, file)}") from error
        except Exception as error:
            raise DataError(f"{what}: {file} raised {_where(error, file)}") from error
    if not path.is_file():
        raise DataError(f"{what}: {file} is not a file")
    path = path.resolve()
    if path in _MODULES:
        return _MODULES[path]
    spec = importlib.util.spec_from_file_location(f"underscript_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise DataError(f"{what}: {file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Its own folder, so that it can import its neighbours; and its name, so that classes in it
    # can be found by the workers of a DataLoader.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise DataError(f"{what}: {file} raised {_where(error, file)}") from error
    _MODULES[path] = module
    return module


def _where(error: BaseException, file: str) -> str:
    """Return an exception in one line, with the last line of the user's file that it passed."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).name == Path(file).name
    ]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    at = f" (line {lines[-1]})" if lines else ""
    message = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}{at}: {message}"
