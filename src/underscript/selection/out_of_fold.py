"""An ensemble's out-of-fold scores of all training samples."""

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

__all__ = ["gathered_values", "out_of_fold_values"]


def out_of_fold_values(
    fits: Fits, kept: KeptRows, readers: Sequence[Reader], task: Task
) -> Float[Tensor, "n classes"]:
    """Return the readers' summed scores of this process's samples, fold by fold, out of fold.

    Readers of perturbed rows are averaged over all views.
    """
    perturbed = list(range(1, kept.views)) or [0]
    # Readers of the same rows are scored together.
    by_rows: dict[tuple[str, int, bool], list[Fitted]] = {}
    for at, moved in readers:
        candidate = fits.candidates[at]
        by_rows.setdefault((candidate.layer, candidate.n_features, moved), []).append(
            fits.fitted[candidate]
        )
    by_fold = []
    for fold in range(FOLDS):
        n = len(kept.part(fold).labels)
        fold_values = torch.zeros(n, len(fits.classes))
        for (layer, n_features, moved), some in by_rows.items():
            views, start = perturbed if moved else [0], 0
            linears = [candidate.without[fold] for candidate in some]
            weights = torch.tensor(
                [
                    1 / (candidate.moved_spread if moved else candidate.plain_spread)
                    for candidate in some
                ]
            )
            for blocks in kept.blocks(layer, fold, views):
                for rows in blocks:
                    # Rows that come from a file are on the CPU.
                    seen = rows.to(task.device)
                    seen = fits.features[layer](seen) if n_features else seen
                    scores = scores_of(seen, linears, 1).view(len(rows), len(some), -1).cpu()
                    together = torch.einsum("nmk,m->nk", scores, weights)
                    fold_values[start : start + len(rows)] += together / len(views)
                start += len(blocks[0])
        by_fold.append(fold_values)
    return torch.cat(by_fold)


def gathered_values(
    values: Tensor, kept: KeptRows, fits: Fits, task: Task
) -> tuple[Float[Tensor, "m classes"], Int[Tensor, " m"]]:
    """Return values and labels (as class places) of the samples that choose, of all processes.

    They are in the order of `Fits.scores`.
    """
    parts = [kept.part(fold) for fold in range(FOLDS)]
    place = places_of(fits.classes, task.n_classes)
    of_fold = torch.split(values, [len(part.labels) for part in parts])
    some = slice(None, None, fits.steps)
    gathered = task.processes.gather(
        (
            torch.cat([each[some] for each in of_fold]),
            place[torch.cat([part.labels[some] for part in parts])],
            np.concatenate([part.fingerprints[some] for part in parts]),
        )
    )
    order = np.argsort(mixed(np.concatenate([part[2] for part in gathered])), kind="stable")
    at = torch.from_numpy(order)
    all_values = torch.cat([part[0] for part in gathered])
    all_labels = torch.cat([part[1] for part in gathered])
    return all_values[at], all_labels[at]
