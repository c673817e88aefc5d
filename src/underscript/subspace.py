"""The public names of `underscript.probes.subspace`."""

from .probes.subspace import *  # noqa: F403
