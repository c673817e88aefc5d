"""Objects that a user names on the command line: ``FILE.py:name``."""

import contextlib
import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from torch import nn

from ..data.from_disk import is_data_file, read_data
from ..errors import DataError, ModelError, UnderscriptError
from ..repair.weights import load_weights

_MODULES: dict[Path, ModuleType] = {}


def load_object(spec: str, what: str) -> Any:
    """Return the object that ``FILE.py:name`` or ``module:name`` names.

    A function or class is called without arguments, and its result is returned. A file is run
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
    file = spec.rpartition(":")[0]
    with contextlib.redirect_stdout(sys.stderr):
        thing = _attribute(spec, what)
        if callable(thing) and not isinstance(thing, nn.Module):
            try:
                thing = thing()
            except UnderscriptError:
                raise
            except Exception as error:
                name = spec.rpartition(":")[2]
                raise DataError(f"{what}: {name}() raised {_where(error, file)}") from error
    if thing is None:
        raise DataError(f"{what}: {spec} is None; expected it to return the thing")
    return thing


def load_function(spec: str, what: str) -> Callable[[Any], Any]:
    """Return the function that ``FILE.py:name`` or ``module:name`` names, without calling it.

    Raises
    ------
    DataError
        If the file or the attribute is not there, or it cannot be called.
    """
    with contextlib.redirect_stdout(sys.stderr):
        function = _attribute(spec, what)
    if not callable(function) or isinstance(function, type):
        kind = "a class" if isinstance(function, type) else type(function).__name__
        raise DataError(f"{what}: expected {spec} to be a function; found {kind}")
    return cast(Callable[[Any], Any], function)


def _attribute(spec: str, what: str) -> Any:
    file, colon, name = spec.rpartition(":")
    if not colon or not file or not name:
        raise DataError(f"{what}: expected FILE.py:name; found {spec!r}")
    module = _load_module(file, what)
    if not hasattr(module, name):
        own = [key for key in vars(module) if not key.startswith("_")]
        close = difflib.get_close_matches(name, own, n=3, cutoff=0.4)
        hint = f"; the closest are {', '.join(close)}" if close else ""
        raise DataError(f"{what}: {file} has no attribute {name!r}{hint}")
    return getattr(module, name)


def load_data(spec: str, what: str, *, column: bool = False) -> Any:
    """Return the data that ``FILE.py:name`` names or files hold; see `load_object`, `read_data`."""
    if is_data_file(spec):
        return read_data(spec, what, column=column)
    return load_object(spec, what)


def load_model(spec: str, weights: str | None) -> nn.Module:
    """Return the model that ``FILE.py:name`` builds, with weights from a file.

    Raises
    ------
    DataError, ModelError
        If it is not a module, or the weights cannot be read or do not fit.
    """
    model = load_object(spec, "--model")
    if not isinstance(model, nn.Module):
        hint = "; us.from_sklearn makes one of it" if hasattr(model, "coefs_") else ""
        raise ModelError(
            f"--model: {spec} gave {type(model).__name__}; expected an nn.Module{hint}"
        )
    if weights is not None:
        load_weights(model, weights)
    return model


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
    # Register its folder, so that it can import its neighbours; and its name, so that the workers
    # of a DataLoader find its classes.
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
