"""How a result was made: versions and machine."""

import os
import platform
import sys
from typing import Any

import numpy as np
import sklearn
import torch

from .._version import __version__


def versions() -> dict[str, str]:
    """Return the versions of the libraries that compute."""
    return {
        "underscript": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }


def peak_memory() -> int | None:
    """Return this process's peak memory so far in bytes; None if it is not known."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def machine(device: str) -> dict[str, Any]:
    """Describe the machine and the device that was used."""
    facts = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
    }
    if torch.device(device).type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts
