"""The data sets of `underscript.experiments.datasets`."""

from .experiments.datasets import *  # noqa: F403
