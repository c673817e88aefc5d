"""The public names of `underscript.noise.corruption`."""

from .noise.corruption import *  # noqa: F403
from .noise.corruption import __all__ as __all__
