"""The public names of `underscript.probes.discriminant`."""

from .probes.discriminant import *  # noqa: F403
from .probes.discriminant import __all__ as __all__
