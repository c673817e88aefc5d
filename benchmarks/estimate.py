"""``make estimate``: time and memory a process for sizes that are not at hand.

Measures the machine's constants, then works the formulas of docs/engine.md out for several
numbers of processes like this machine. The network's own forward passes come on top.
"""

import sys
from dataclasses import dataclass

import torch

from . import machine

_GIB = 2.0**30


@dataclass(frozen=True)
class Case:
    """A layer of n rows and K equal classes, decoded at a rank, with predictions for some rows."""

    name: str
    n: int
    width: int
    n_classes: int
    rank: int
    queries: int


CASES = (
    Case("1.28 million × 2,048, 1,000 classes", 1_280_000, 2048, 1000, 900, 50_000),
    Case("50,000 × 16,384, 10 classes", 50_000, 16_384, 10, 4000, 10_000),
)


def main() -> None:
    """Print the table."""
    double = machine.product_rate(torch.float64)
    single = machine.product_rate(torch.float32)
    square = torch.randn(2048, 3000, dtype=torch.float64)
    eigen = machine.eigen_seconds(square @ square.T) / 2048**3
    out = sys.stdout
    out.write(f"{machine.description()}\n")
    out.write(
        f"float64 {2 * double / 1e9:,.0f} GFLOP/s, float32 {2 * single / 1e9:,.0f} GFLOP/s, "
        f"eigenvectors {eigen:.1e} s × d³\n\n"
    )
    out.write(
        "| case | path | processes | sums s | eigenvectors s | predictions s | rows sent GiB | "
        "statistics GiB | bases GiB |\n|---|---|---|---|---|---|---|---|---|\n"
    )
    for case in CASES:
        for size in (1, 8, 64):
            out.write(_line(case, size, double, single, eigen))


def _line(case: Case, size: int, double: float, single: float, eigen: float) -> str:
    own = case.n / case.n_classes
    by_rows = case.width > own
    # Half of a symmetric product, and what tiles of 256 columns compute twice.
    half = 0.56
    if by_rows:
        sums = case.n_classes * own**2 * case.width * half / double
        solve = eigen * own**3 + own * case.width * case.rank / double
        held = 4 * case.n * case.width / size
        sent = 4 * case.n * case.width * (size - 1) / size
    else:
        sums = case.n * case.width**2 * half / double
        solve = eigen * case.width**3
        held = 8 * case.n_classes * case.width**2
        sent = 8 * case.n_classes * case.width**2 * (size > 1)
    columns = case.rank if by_rows else min(case.rank, case.width - case.rank)
    predict = case.queries * case.width * case.n_classes * columns / single
    rounds = -(-case.n_classes // size)
    # In float32, and rounded to bfloat16 for screening.
    bases = 6 * case.n_classes * case.width * columns
    cells = [
        case.name,
        "rows" if by_rows else "moments",
        f"{size}",
        f"{sums / size:,.0f}",
        f"{rounds * solve:,.0f}",
        f"{predict / size:,.0f}",
        f"{sent / _GIB:,.1f}",
        f"{held / _GIB:,.1f}",
        f"{bases / _GIB:,.1f}",
    ]
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    main()
