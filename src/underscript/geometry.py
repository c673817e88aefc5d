"""The public names of `underscript.results.geometry`."""

from .results.geometry import *  # noqa: F403
