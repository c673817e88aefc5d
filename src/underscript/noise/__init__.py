"""Label noise: how it is made, how it is estimated, and what it says of a label."""

from .estimate import Noise, estimate_noise

__all__ = ["Noise", "estimate_noise"]
