"""The public names of `underscript.repair.sap`."""

from .repair.sap import *  # noqa: F403
from .repair.sap import __all__ as __all__
