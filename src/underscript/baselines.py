"""The public names of `underscript.probes.baselines`."""

from .probes.baselines import *  # noqa: F403
from .probes.baselines import __all__ as __all__
