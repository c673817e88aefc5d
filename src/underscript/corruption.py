"""The public names of `underscript.noise.corruption`."""

from .noise.corruption import *  # noqa: F403
