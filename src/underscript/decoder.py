"""The public names of `underscript.results.decoder`."""

from .results.decoder import *  # noqa: F403
