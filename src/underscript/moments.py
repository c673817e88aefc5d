"""The public names of `underscript.linalg.moments`."""

from .linalg.moments import *  # noqa: F403
