"""Out-of-fold scores that are made once candidates are fitted: ensembles', and of another view."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from .candidates import Fits, in_order, places_of
from .fitting import Fitted, scores_of
from .kept_rows import FOLDS, KeptRows
from .readers import Reader
from .task import Task

__all__ = ["AnotherView", "gathered_values", "out_of_fold_values"]

# `Scores.moved` are of the first perturbed view.
_ANOTHER = 2


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
            for blocks in kept.blocks(layer, fold, views):
                for rows in blocks:
                    # Rows that come from a file are on the CPU.
                    seen = rows.to(task.device)
                    seen = fits.features[layer](seen) if n_features else seen
                    together = _together(seen, some, fold, moved)
                    fold_values[start : start + len(rows)] += together / len(views)
                start += len(blocks[0])
        by_fold.append(fold_values)
    return torch.cat(by_fold)


def _together(
    seen: Tensor, fitted: Sequence[Fitted], fold: int, moved: bool
) -> Float[Tensor, "n classes"]:
    """Return the summed scores of candidates that read the same rows, each on its scale."""
    scores = scores_of(seen, [each.without[fold] for each in fitted], 1)
    spreads = [each.moved_spread if moved else each.plain_spread for each in fitted]
    weights = torch.tensor([1 / spread for spread in spreads])
    return torch.einsum("nmk,m->nk", scores.view(len(seen), len(fitted), -1).cpu(), weights)


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
    at = torch.from_numpy(in_order([part[2] for part in gathered]))
    all_values = torch.cat([part[0] for part in gathered])
    all_labels = torch.cat([part[1] for part in gathered])
    return all_values[at], all_labels[at]


@dataclass(frozen=True)
class AnotherView:
    """Scores of a second perturbed view, which shares no chance with `Fits.scores`.

    Attributes
    ----------
    fits : Fits
        All candidates.
    kept : KeptRows
        This process's rows, of at least two perturbed views.
    task : Task
        How layers are read.
    """

    fits: Fits
    kept: KeptRows
    task: Task

    def scores(self, layer: str, step: int) -> Float[Tensor, "m classes"]:
        """Return the summed out-of-fold scores of a layer's candidates.

        Parameters
        ----------
        layer : str
            The layer.
        step : int
            Every `step`-th sample of `Fits.scores` is scored.
        """
        start, lengths, order = self._placed
        wanted = order[::step]
        places, values = [], []
        for fold, length in enumerate(lengths):
            inside = np.sort(wanted[(wanted >= start) & (wanted < start + length)])
            places.append(inside)
            values.append(self._of_fold(layer, fold, (inside - start) * self.fits.steps))
            start += length
        gathered = self.task.processes.gather((np.concatenate(places), torch.cat(values)))
        # Ranks and folds ascend, so all places do.
        at = np.searchsorted(np.concatenate([part[0] for part in gathered]), wanted)
        return torch.cat([part[1] for part in gathered])[torch.from_numpy(at)]

    @cached_property
    def _placed(self) -> tuple[int, list[int], NDArray[np.int64]]:
        """Where this process's samples begin, how many each fold has, and the order of all."""
        parts = [self.kept.part(fold).fingerprints[:: self.fits.steps] for fold in range(FOLDS)]
        prints = self.task.processes.gather(np.concatenate(parts))
        start = sum(len(each) for each in prints[: self.task.processes.rank])
        return start, [len(part) for part in parts], in_order(prints)

    def _of_fold(self, layer: str, fold: int, places: NDArray[np.int64]) -> Tensor:
        """Return the scores of some of a fold's rows, which ascend; each row's mean is zero."""
        by_features: dict[int, list[Fitted]] = {}
        for candidate, fitted in self.fits.fitted.items():
            if candidate.layer == layer:
                by_features.setdefault(candidate.n_features, []).append(fitted)
        parts, start = [torch.empty(0, len(self.fits.classes))], 0
        for (rows,) in self.kept.blocks(layer, fold, [_ANOTHER]):
            inside = places[(places >= start) & (places < start + len(rows))] - start
            start += len(rows)
            picked = rows[torch.from_numpy(inside).to(rows.device)].to(self.task.device)
            total = torch.zeros(len(inside), len(self.fits.classes))
            for n_features, some in by_features.items():
                seen = self.fits.features[layer](picked) if n_features else picked
                total += _together(seen, some, fold, moved=True)
            parts.append(total - total.mean(1, keepdim=True))
        return torch.cat(parts)
