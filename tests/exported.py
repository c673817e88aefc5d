"""A made-up run with flagged samples, for the tests of what goes to other tools."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sample_runs import run_of
from underscript.decoding import Decoding

NASTY = (
    "=1+1",
    'say "hi" & <b>',
    "two\nlines",
    "größe",
    "\tcmd",
    "$given_label",
    "bell\x07",
    "cat",
    "cat",
)
# What tells classes apart that have the same name.
DISTINCT = [*NASTY[:8], "cat (8)"]


def made(
    names: Sequence[str] | None = NASTY,
    index: Any = None,
    flagged: bool = True,
    n: int = 60,
    n_classes: int = len(NASTY),
) -> Decoding:
    """A decoding of n samples; of those that are flagged, the next class is predicted."""
    rng = np.random.default_rng(0)
    given = rng.integers(0, n_classes, n)
    quality = rng.random(n)
    wrong = (quality < 0.3) & flagged
    predicted = np.where(wrong, (given + 1) % n_classes, given)
    twin = np.full(n, -1)
    if flagged:
        twin[:2] = [1, 0] if index is None else [index[1], index[0]]
    issues = pd.DataFrame(
        {
            "is_label_issue": wrong,
            "label_quality": quality,
            "given_label": given,
            "predicted_label": predicted,
            "second_label": (predicted + 1) % n_classes,
            "margin": 4 * quality - 2,
            "confidence": rng.random(n),
            "conflicting_duplicate": twin,
        },
        index=pd.Index(np.arange(n) if index is None else index, name="index"),
    )
    model = {
        "n_classes": n_classes,
        "class_names": None if names is None else list(names),
    }
    return run_of({"model": model}, pd.DataFrame(), issues=issues)
