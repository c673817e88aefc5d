"""What the machine can do: its matrix-product rate and LAPACK's time, which make the floor."""

import os
import platform
import time
from collections.abc import Callable

import torch


def best_of(run: Callable[[], object], times: int = 5) -> float:
    """Return the shortest of a few runs, in seconds, after one that does not count."""
    run()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return min(found)


def product_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """Return multiply-adds a second of the faster of the two products that decoding is made of."""
    rates = []
    if dtype == torch.bfloat16:
        # Without units for it a product of the full size would take minutes.
        size = min(size, 512)
    for n, d, m in ((3 * size, size, size), (2 * size, size, 3 * size)):
        left, right = (torch.ones(shape, dtype=dtype) for shape in ((n, d), (d, m)))
        if n == 3 * size:
            left, right = torch.ones(size, n, dtype=dtype), torch.ones(n, m, dtype=dtype)
        out = torch.empty(left.shape[0], m, dtype=dtype)
        work = left.shape[0] * left.shape[1] * m
        rates.append(work / best_of(lambda a=left, b=right, c=out: torch.mm(a, b, out=c)))
    return max(rates)


def eigen_seconds(matrix: torch.Tensor) -> float:
    """Return LAPACK's time for all eigenvectors of one symmetric matrix."""
    return best_of(lambda: torch.linalg.eigh(matrix), 2)


def description() -> dict[str, object]:
    """Return what the numbers belong to."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            found = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        name = found[0] if found else name
    except OSError:
        pass
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
