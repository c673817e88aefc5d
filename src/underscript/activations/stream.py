"""Any data source, as batches; and one pass of a model over them that serves every layer.

A source is a map-style or iterable `Dataset`, a `DataLoader`, or a pair of arrays. Samples are
known by their index in the data set: the one that a batch carries, or the running position when
the order is fixed. A loader that only shuffles is read in the data set's order instead.
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


# From a batch and the taps to its rows, if they are known.
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
    """Run the model once over a source and give every tapped layer's rows, batch by batch.

    The model is expected in evaluation mode (see `_capture.undisturbed`). Rows are copies in
    float32 (float64 for a float64 model); nothing is kept between batches.

    Parameters
    ----------
    stage : str
        What the bar says.
    keep : callable, optional
        From indices (n,) to which of them to run; all without it.
    progress : Progress
        The job's bar.
    seen : callable, optional
        From a batch and the taps to its rows, if they are known; None if the model has to run.
    whole : bool
        Run each batch once, as it comes: hooks of one's own count what the model sees.

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
    """Run the model over a source as it is, and over each change of its batches; see `stream`.

    The data are read once. Each batch comes as a list: as it is, then changed in each way.
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
            for each in [batch, *(change(batch) for change in changes)]:
                layers, logits = run(each, where)
                for name, rows in [*layers.items(), ("output", logits)]:
                    if not all_finite(rows):
                        raise DataError(_not_finite(name, rows, each, where))
                views.append(Rows(each, layers, logits))
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
