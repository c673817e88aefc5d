"""The public names of `underscript.probes.discriminant`."""

from .probes.discriminant import *  # noqa: F403
