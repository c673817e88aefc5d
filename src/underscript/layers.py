"""The public names of `underscript.activations.layers`."""

from .activations.layers import *  # noqa: F403
