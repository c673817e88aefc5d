"""The public names of `underscript.probes.baselines`."""

from .probes.baselines import *  # noqa: F403
