"""The public names of `underscript.results.geometry`."""

from .results.geometry import *  # noqa: F403
from .results.geometry import __all__ as __all__
