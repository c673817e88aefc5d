"""Scores and labels whose truth is known, for tests of how memory is measured."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from underscript.selection.candidates import Fits
from underscript.selection.fitting import Candidate
from underscript.selection.greedy import Scores


def fits_of(
    plain: list[Tensor],
    moved: list[Tensor],
    given: Tensor,
    layers: Sequence[str],
    holdout: Sequence[Tensor] = (),
    held: Tensor | None = None,
) -> Fits:
    """Return candidates with these scores, of which nothing was fitted."""
    names = [Candidate(layer, 0, True, 0.1 + at, 0) for at, layer in enumerate(layers)]
    made = Scores(plain, moved, given, list(holdout), held)
    return Fits(dict.fromkeys(names), {}, made, torch.arange(plain[0].shape[1]), 1)


def labels_that_are_hard_to_tell(
    n: int, n_classes: int, wrong: float, draw: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw scores (n, K), classes as uncertain as softmax says, and labels, some of them wrong."""
    first = torch.randn(n, n_classes, generator=draw)
    true = torch.multinomial(torch.softmax(4 * first, 1), 1, generator=draw)[:, 0]
    shift = torch.randint(1, n_classes, (n,), generator=draw) * (
        torch.rand(n, generator=draw) < wrong
    )
    return first, true, (true + shift) % n_classes


def scores_that_remember(left: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Plain and perturbed scores of one layer, given labels and true ones; 40 % are redrawn.

    Memory adds 4 to each given label's score on inputs as they are, `left` of that on others.
    """
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 6, 5_000)
    given = np.where(rng.random(5_000) < 0.4, rng.integers(0, 6, 5_000), true)
    knows = 3.0 * np.eye(6)[true]
    plain, moved = (
        knows + rng.normal(size=knows.shape) + 4.0 * share * np.eye(6)[given] for share in (1, left)
    )
    return tuple(torch.from_numpy(each) for each in (plain, moved, given, true))
