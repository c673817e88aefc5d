"""The public names of `underscript.results.issues`."""

from .results.issues import *  # noqa: F403
