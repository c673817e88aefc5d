"""An ensemble's scores of all training samples, each by what has not seen its label."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._mixing import mixed
from .._passes import Task
from .decoder import Fits
from .fitting import scores_of
from .kept_rows import FOLDS, KeptRows

__all__ = ["everybodys", "out_of_fold_values"]


def out_of_fold_values(
    fits: Fits, kept: KeptRows, members: Sequence[int], task: Task
) -> Float[Tensor, "n classes"]:
    """Return the ensemble's scores of this process's samples, fold by fold, out of fold.

    The mean over perturbed views.
    """
    views = list(range(1, kept.views)) or [0]
    found = []
    for fold in range(FOLDS):
        n = len(kept.part(fold).labels)
        mine = torch.zeros(n, len(fits.classes))
        for at in members:
            each = fits.candidates[at]
            fitted, start = fits.fitted[each], 0
            for blocks in kept.blocks(each.layer, fold, views):
                for rows in blocks:
                    # What went to a file comes back on the CPU.
                    seen = rows.to(task.device)
                    seen = fits.features[each.layer](seen) if each.n_features else seen
                    scores = scores_of(seen, [fitted.without[fold]], 1).cpu()
                    scores /= fitted.moved_spread * len(views)
                    mine[start : start + len(rows)] += scores
                start += len(blocks[0])
        found.append(mine)
    return torch.cat(found)


def everybodys(
    values: Tensor, kept: KeptRows, fits: Fits, task: Task
) -> tuple[Float[Tensor, "m classes"], Int[Tensor, " m"]]:
    """Return everybody's values of the samples that choose, and their labels among classes."""
    parts = [kept.part(fold) for fold in range(FOLDS)]
    place = torch.full((task.n_classes,), -1)
    place[fits.classes] = torch.arange(len(fits.classes))
    labels = place[torch.cat([part.labels for part in parts])]
    prints = np.concatenate([part.prints for part in parts])
    found = task.team.gather((values[:: fits.steps], labels[:: fits.steps], prints[:: fits.steps]))
    order = np.argsort(mixed(np.concatenate([part[2] for part in found])), kind="stable")
    at = torch.from_numpy(order)
    return torch.cat([part[0] for part in found])[at], torch.cat([part[1] for part in found])[at]
