"""Optional packages: imported when they are first needed, with one line where they are missing."""

import importlib
from typing import Any

from ..errors import PackageError, UnderscriptError


def optional_package(
    name: str, extra: str, purpose: str, error: type[UnderscriptError] = PackageError
) -> Any:
    """Import an optional package.

    Parameters
    ----------
    name : str
        The module to import, such as ``"fiftyone"``.
    extra : str
        The extra of this package that installs it.
    purpose : str
        What needs it, to begin the message with.
    error : type of UnderscriptError
        What to raise.

    Returns
    -------
    module

    Raises
    ------
    UnderscriptError
        Of the type `error`, if the module is not installed or cannot be imported; the message names
        the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as problem:
        missing = getattr(problem, "name", None) or name
        # A package that is there but lacks one of its own needs says which.
        own = name == missing or name.startswith(f"{missing}.")
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        why = "" if own else f", and its import fails ({lines[0]})"
        raise error(
            f"{purpose} the package {name} is needed{why}; install the extra: "
            f"pip install 'underscript[{extra}]'"
        ) from problem
