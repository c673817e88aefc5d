"""The data sets of `underscript.experiments.datasets`."""

from .experiments.datasets import *  # noqa: F403
from .experiments.datasets import __all__ as __all__
