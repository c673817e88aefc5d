"""Scores and labels whose truth is known, for tests of how memory is measured."""

from collections.abc import Sequence

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
