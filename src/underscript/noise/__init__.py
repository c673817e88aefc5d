"""Label noise: how to make it, how to estimate it, and what it says about a label."""

from .estimate import Noise, estimate_noise

__all__ = ["Noise", "estimate_noise"]
