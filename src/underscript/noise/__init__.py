"""Label noise: how it is made, how it is estimated, and what it says of a label."""

from .calibration import Calibration, calibrate, class_bias, expected_calibration_error
from .estimate import Noise, beyond_chance, chance_right, estimate_noise, largest_rate
from .transitions import estimated_transitions

__all__ = [
    "Calibration",
    "Noise",
    "beyond_chance",
    "calibrate",
    "chance_right",
    "class_bias",
    "estimate_noise",
    "estimated_transitions",
    "expected_calibration_error",
    "largest_rate",
]
