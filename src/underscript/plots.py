"""The figures of `underscript.report.plots`."""

from .report.plots import *  # noqa: F403
