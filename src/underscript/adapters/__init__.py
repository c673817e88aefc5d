"""`Monitor` in training loops of other libraries; and data that say which sample is which."""

from .indexed import Indexed

__all__ = ["Indexed"]
