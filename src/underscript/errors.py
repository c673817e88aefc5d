"""What can go wrong, as one small hierarchy.

Every message is one line that says what was expected, what was found, where, and what to do.
The command line turns each of these into that line and exit code 2; anything else that escapes
is a failure of underscript itself (exit code 1).
"""

__all__ = [
    "ArgumentError",
    "DataError",
    "DistributedError",
    "LabelError",
    "LayerError",
    "ModelError",
    "OutputError",
    "PackageError",
    "UnderscriptError",
    "UnderscriptWarning",
]


class UnderscriptError(Exception):
    """Base of every error that a user can act on."""


class ArgumentError(UnderscriptError, TypeError):
    """A keyword argument that a function does not have."""


class DataError(UnderscriptError, ValueError):
    """Inputs, files or batches that are not what was expected."""


class LabelError(DataError):
    """Labels that are out of range, of another length or type than the data asks for."""


class LayerError(UnderscriptError, LookupError):
    """A layer that does not exist, never fires, or gives no usable rows."""


class ModelError(UnderscriptError, ValueError):
    """A model or weights that cannot be used."""


class OutputError(UnderscriptError, OSError):
    """A folder or file that cannot be written, or is not what it should be."""


class PackageError(UnderscriptError, ImportError):
    """An optional package that is not installed, or cannot be imported."""


class DistributedError(UnderscriptError, RuntimeError):
    """Another process of those that share the work failed or is gone."""


class UnderscriptWarning(UserWarning):
    """A defined answer in a corner where the user should know about it."""


#: The name that it had before.
TeamError = DistributedError
