"""Run a model once over the batches of any data source, for all layers together.

A source is a map-style or iterable `Dataset`, a `DataLoader`, or a pair of arrays. Samples are
identified by their index in the data set: the one that a batch carries, or the running position
when the order is fixed. A loader that only shuffles is read in the data set's order instead.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.batches import Batch
from ..data.source import Source, known_index
from ..errors import DataError
from ..linalg.products import all_finite
from ..utils.labels import Labels
from ..utils.progress import SILENT, Progress
from .hooks import Tap, capture
from .runner import Runner


@dataclass(frozen=True)
class Rows:
    """One batch after the model: per-layer rows (n, width), and logits (n, K), on the device."""

    batch: Batch
    layers: dict[str, Tensor]
    logits: Tensor


# Maps a batch and the taps to the batch's rows, or to None if they are not known.
Seen = Callable[[Batch, Sequence[Tap]], Rows | None]


def stream(
    model: nn.Module,
    source: Source,
    taps: Sequence[Tap],
    device: torch.device,
    *,
    stage: str,
    keep: Callable[[Labels], NDArray[np.bool_]] | None = None,
    progress: Progress = SILENT,
    seen: Seen | None = None,
    whole: bool = False,
) -> Iterator[Rows]:
    """Run the model once over a source and yield every tapped layer's rows, batch by batch.

    The model is expected in evaluation mode (see `hooks.undisturbed`). Rows are copies in
    float32 (float64 for a float64 model); nothing is kept between batches.

    Parameters
    ----------
    stage : str
        Text of the progress bar.
    keep : callable, optional
        Maps indices (n,) to which of them to run; by default all.
    progress : Progress
        The job's progress bar.
    seen : callable, optional
        Maps a batch and the taps to its rows, or to None if the model has to run.
    whole : bool
        Run each batch once, as it comes, for callers whose own hooks count samples.

    Raises
    ------
    ModelError
        If the model raises, or its output holds no logits.
    DataError
        If a layer's rows or the logits are not finite; the message names the layer.
    """
    for (rows,) in stream_views(
        model,
        source,
        taps,
        device,
        (),
        stage=stage,
        keep=keep,
        progress=progress,
        seen=seen,
        whole=whole,
    ):
        yield rows


def stream_views(
    model: nn.Module,
    source: Source,
    taps: Sequence[Tap],
    device: torch.device,
    changes: Sequence[Callable[[Batch], Batch]],
    *,
    stage: str,
    keep: Callable[[Labels], NDArray[np.bool_]] | None = None,
    progress: Progress = SILENT,
    seen: Seen | None = None,
    whole: bool = False,
) -> Iterator[list[Rows]]:
    """Run the model over a source and over changed versions of its batches; see `stream`.

    The data are read once. Each batch yields a list: its own rows, then those of each change.
    """
    runs = 1 + len(changes)
    progress.begin(stage, source.share_length * runs)
    with capture(model, taps) as tapped:
        run = Runner(model, tapped, device, divisible=source.divisible, tries=not whole)
        for number, batch in enumerate(source.batches()):
            where = f"{source.role}, batch {number}"
            size = batch.size
            if keep is not None:
                batch = batch.take(keep(known_index(batch, where, "setting samples aside")))
                if not batch.size:
                    progress.advance(runs * size)
                    continue
            known = None if seen is None else seen(batch, taps)
            if known is not None:
                progress.advance(runs * size)
                yield [known]
                continue
            views = []
            for view in [batch, *(change(batch) for change in changes)]:
                layers, logits = run(view, where)
                for name, rows in [*layers.items(), ("output", logits)]:
                    if not all_finite(rows):
                        raise DataError(_not_finite(name, rows, view, where))
                views.append(Rows(view, layers, logits))
                progress.advance(size)
            yield views


def _not_finite(name: str, rows: Tensor, batch: Batch, where: str) -> str:
    bad = torch.nonzero(~torch.isfinite(rows).all(dim=1))[:, 0].cpu().numpy()
    what = "the model's output" if name == "output" else f"layer {name!r}"
    sample = int(batch.index[bad[0]]) if batch.index is not None else int(bad[0])
    return (
        f"{where}: {what} gives NaN or infinite values for {len(bad)} of {batch.size} samples, "
        f"the first at index {sample}; check the inputs and the weights"
    )
