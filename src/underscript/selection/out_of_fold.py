"""An ensemble's scores of all training samples, each by what has not seen its label."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..utils.hashing import mixed
from .candidates import Fits, places_of
from .fitting import Fitted, scores_of
from .kept_rows import FOLDS, KeptRows
from .readers import Reader
from .task import Task

__all__ = ["everybodys", "out_of_fold_values"]


def out_of_fold_values(
    fits: Fits, kept: KeptRows, readers: Sequence[Reader], task: Task
) -> Float[Tensor, "n classes"]:
    """Return what readers say together of this process's samples, fold by fold, out of fold.

    What is read on perturbed rows is the mean over all views.
    """
    perturbed = list(range(1, kept.views)) or [0]
    # Readers of the same numbers are one discriminant.
    alike: dict[tuple[str, int, bool], list[Fitted]] = {}
    for at, moved in readers:
        each = fits.candidates[at]
        alike.setdefault((each.layer, each.n_features, moved), []).append(fits.fitted[each])
    found = []
    for fold in range(FOLDS):
        n = len(kept.part(fold).labels)
        mine = torch.zeros(n, len(fits.classes))
        for (layer, n_features, moved), some in alike.items():
            views, start = perturbed if moved else [0], 0
            linears = [each.without[fold] for each in some]
            weights = torch.tensor(
                [1 / (each.moved_spread if moved else each.plain_spread) for each in some]
            )
            for blocks in kept.blocks(layer, fold, views):
                for rows in blocks:
                    # What went to a file comes back on the CPU.
                    seen = rows.to(task.device)
                    seen = fits.features[layer](seen) if n_features else seen
                    scores = scores_of(seen, linears, 1).view(len(rows), len(some), -1).cpu()
                    together = torch.einsum("nmk,m->nk", scores, weights)
                    mine[start : start + len(rows)] += together / len(views)
                start += len(blocks[0])
        found.append(mine)
    return torch.cat(found)


def everybodys(
    values: Tensor, kept: KeptRows, fits: Fits, task: Task
) -> tuple[Float[Tensor, "m classes"], Int[Tensor, " m"]]:
    """Return everybody's values of the samples that choose, and their labels among classes."""
    parts = [kept.part(fold) for fold in range(FOLDS)]
    place = places_of(fits.classes, task.n_classes)
    labels = place[torch.cat([part.labels for part in parts])]
    prints = np.concatenate([part.prints for part in parts])
    found = task.processes.gather(
        (values[:: fits.steps], labels[:: fits.steps], prints[:: fits.steps])
    )
    order = np.argsort(mixed(np.concatenate([part[2] for part in found])), kind="stable")
    at = torch.from_numpy(order)
    return torch.cat([part[0] for part in found])[at], torch.cat([part[1] for part in found])[at]
