"""Our discriminants beside scikit-learn's own, at the sizes of the paper's layers.

    python -m benchmarks.baselines [--rows 60000] [--tests 10000] [--widths 512 2048]

Rows are those of a rectified random layer with ten classes, float32. Each probe is fitted and
predicts, one after the other in this process; what each takes is the best of two runs. Exits 1 if
the two disagree on more than one row in a hundred.
"""

import argparse
import sys
import time
import warnings
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis

from underscript.baselines import LinearDiscriminant, QuadraticDiscriminant

CLASSES = 10
PAIRS: dict[str, tuple[Any, Any]] = {
    "lda": (lambda: LinearDiscriminant(), lambda: LinearDiscriminantAnalysis(solver="lsqr")),
    "qda": (
        lambda: QuadraticDiscriminant(reg_param=0.1),
        lambda: QuadraticDiscriminantAnalysis(reg_param=0.1),
    ),
}


def rows_of(n: int, tests: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows (n, width), labels (n,) and test rows (tests, width)."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLASSES, 64), dtype=np.float32)
    layer = rng.standard_normal((64, width), dtype=np.float32) / 8
    labels = rng.integers(0, CLASSES, n + tests)
    hidden = centres[labels] + rng.standard_normal((n + tests, 64), dtype=np.float32)
    rows = hidden @ layer + 0.1 * rng.standard_normal((n + tests, width), dtype=np.float32)
    rows = np.maximum(rows, 0)
    return rows[:n], labels[:n], rows[n:]


def timed(make: Any, rows: np.ndarray, labels: np.ndarray, tests: np.ndarray) -> tuple[float, Any]:
    """Return seconds of a fit and its predictions, the best of two, and the predictions."""
    best, predicted = float("inf"), None
    for _ in range(2):
        began = time.perf_counter()
        predicted = make().fit(rows, labels).predict(tests)
        best = min(best, time.perf_counter() - began)
    return best, predicted


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--tests", type=int, default=10_000)
    parser.add_argument("--widths", type=int, nargs="*", default=[512, 2048])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| probe | rows | ours, s | scikit-learn, s | ratio | the same class |")
    print("|---|---|---|---|---|---|")
    different = 0
    for width in given.widths:
        rows, labels, tests = rows_of(given.rows, given.tests, width)
        for name, (ours, theirs) in PAIRS.items():
            own_seconds, predicted = timed(ours, rows, labels, tests)
            their_seconds, expected = timed(theirs, rows, labels, tests)
            same = float((predicted == expected).mean())
            different += same < 0.99
            print(
                f"| {name} | {len(rows):,} × {width:,} | {own_seconds:.1f} | {their_seconds:.1f} | "
                f"{their_seconds / own_seconds:.1f} | {same:.2%} |",
                flush=True,
            )
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
