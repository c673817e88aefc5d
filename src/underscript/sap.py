"""The public names of `underscript.repair.sap`."""

from .repair.sap import *  # noqa: F403
