"""The figures of `underscript.report.plots`."""

from .report.plots import *  # noqa: F403
from .report.plots import __all__ as __all__
