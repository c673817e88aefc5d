"""The rows of the training data and of a hold-out, kept while the network reads them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..activations.perturbation import Perturbation
from ..activations.stream import Rows, stream_views
from ..data.batches import Batch
from ..data.fingerprints import fingerprints_of
from ..data.source import Source
from ..noise.margins import margins_of
from ..utils.labels import Labels
from .kept_rows import FOLDS, KeptRows
from .task import Task

__all__ = ["Held", "RowsKeeper", "keep_holdout", "keep_rows"]


@dataclass
class Held:
    """A hold-out: its rows as they are and, if inputs are perturbed, those of one view.

    Attributes
    ----------
    kept : KeptRows
        The rows, in the order of their arrival.
    labels : Tensor of int64, shape (m,)
        Noisy labels of the samples that choose.
    keep : Tensor of bool, shape (n,), or None
        Which samples of `kept` these are; None if all.
    """

    kept: KeptRows
    labels: Tensor
    keep: Tensor | None = None

    @property
    def fingerprints(self) -> NDArray[np.uint64]:
        """The fingerprints of those samples; empty if inputs have none."""
        fingerprints = (
            self.kept.fingerprints if self.kept.has_fingerprints else np.empty(0, dtype=np.uint64)
        )
        return (
            fingerprints
            if self.keep is None or not len(fingerprints)
            else fingerprints[self.keep.numpy()]
        )

    def take(self, some: Tensor) -> "Held":
        """Return the samples for which `some`, bool (m,), is true."""
        keep = torch.ones(self.kept.n, dtype=torch.bool) if self.keep is None else self.keep.clone()
        keep[keep.clone()] = some
        return Held(self.kept, self.labels[some], keep)

    def blocks(self, layer: str, view: int) -> Iterator[Tensor]:
        """Yield the rows of a layer, block by block, of the samples that choose."""
        start = 0
        for (rows,) in self.kept.blocks(layer, 0, [view]):
            end = start + len(rows)
            if self.keep is not None:
                rows = rows[self.keep[start:end].to(rows.device)]
            yield rows
            start = end


class RowsKeeper:
    """Keeps the rows of the training data and of their perturbed views while they are read.

    Parameters
    ----------
    task : Task
        The layers, and the memory for rows.
    perturbation : Perturbation or None
        How inputs are changed.
    views : int
        How many perturbed views there are.
    beside : KeptRows, optional
        Rows of other data that are in memory already. With these, samples are kept in the order of
        arrival.
    """

    def __init__(
        self,
        task: Task,
        perturbation: Perturbation | None,
        views: int,
        beside: KeptRows | None = None,
    ):
        number = views if perturbation is not None else 0
        self.taps = task.taps
        self.changes: list[Callable[[Batch], Batch]] = []
        if perturbation is not None:
            self.changes = [partial(perturbation, view=view) for view in range(number)]
        memory, folds = task.room.rows, FOLDS
        if beside is not None:
            memory, folds = memory - beside.in_memory, 1
        self.kept = KeptRows(1 + number, memory, folds, task.file)
        # A process may have no samples.
        self.kept.widths.update({tap.name: tap.width for tap in task.taps})

    def see(self, views: Sequence[Rows], labels: Labels) -> None:
        """Keep a batch's rows."""
        batch, layers = views[0].batch, [each.layers for each in views]
        given = torch.from_numpy(labels)
        margins = [margins_of(each.logits, given) for each in views[1:]]
        self.kept.add(
            layers,
            given,
            fingerprints_of(batch),
            batch.index,
            views[0].logits,
            torch.stack(margins).mean(0) if margins else None,
        )


def keep_rows(
    network: nn.Module,
    task: Task,
    source: Source,
    keeper: RowsKeeper,
    keep: Callable[[Labels], NDArray[np.bool_]] | None = None,
    stage: str = "reading layers",
) -> None:
    """Run the network over data, and keep their rows."""
    with task.processes.together():
        for views in stream_views(
            network,
            source,
            task.taps,
            task.device,
            keeper.changes,
            stage=stage,
            keep=keep,
            progress=task.progress,
        ):
            keeper.see(views, task.given(views[0].batch, source))


def keep_holdout(
    network: nn.Module,
    task: Task,
    source: Source,
    perturbation: Perturbation | None,
    kept: KeptRows,
) -> Held:
    """Run the network over the hold-out as it is and perturbed once, and keep all rows.

    The rows of the training data are `kept` already.
    """
    keeper = RowsKeeper(task, perturbation, 1, kept)
    keep_rows(network, task, source, keeper, stage="reading the hold-out")
    return Held(keeper.kept, keeper.kept.labels)
