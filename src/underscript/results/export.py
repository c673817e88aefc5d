"""Exports for other tools: probabilities of all training samples, tables for spreadsheets."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..activations.hooks import undisturbed
from ..activations.stream import stream
from ..data.batches import Batch
from ..data.source import Source
from ..errors import DataError
from ..probes.ensemble import rows_for
from ..utils.class_names import for_spreadsheets
from ..utils.device import device_of
from ..utils.files import whole_file
from ..utils.progress import Progress
from .decoder import Decoder

# Arrays of more bytes than this are kept in a file only.
_ROOM = 1 << 30

Probabilities = NDArray[np.float32]


def pred_probs(
    best: Decoder,
    data: Any,
    index: NDArray[np.int64],
    path: Path | None,
    odds: Tensor | None = None,
) -> Probabilities:
    """Return a decoder's probabilities (n, K), a row for each entry of `index`.

    See `Decoding.pred_probs`. If `odds` are given, log-odds (n, K) in the order of `index`, the
    probabilities are theirs.
    """
    if not hasattr(best.estimator, "predict_proba"):
        raise AttributeError(f"{best.probe} has no probabilities; decode with auto=True")
    shape = len(index), len(best.estimator.classes_)
    source = Source(data, "train", labelled=False)
    if path is None:
        if 4 * shape[0] * shape[1] > _ROOM:
            raise DataError(
                f"pred_probs: {shape[0]:,} × {shape[1]:,} probabilities take more than 1 GiB; give "
                "path=, a .npy file to keep them in"
            )
        probabilities = np.empty(shape, dtype=np.float32)
        _fill(probabilities, best, source, index, odds)
        return probabilities
    with whole_file(path) as work, _mapped(work, shape) as probabilities:
        _fill(probabilities, best, source, index, odds)
    written: Probabilities = np.load(path, mmap_mode="r")
    return written


@contextmanager
def _mapped(path: Path, shape: tuple[int, int]) -> Iterator[Probabilities]:
    """Yield an array that is the file's content."""
    room = os.statvfs(path.parent)
    needed = 4 * shape[0] * shape[1]
    if room.f_bavail * room.f_frsize < needed:
        # Writing to a mapped file on a full disk ends the process.
        raise OSError(28, f"no room for {needed:,} bytes")
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    yield array
    array.flush()


def _fill(
    probabilities: Probabilities,
    best: Decoder,
    source: Source,
    index: NDArray[np.int64],
    odds: Tensor | None,
) -> None:
    """Write each sample's probabilities to its row."""
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    filled = np.zeros(len(index), dtype=bool)
    position = 0
    for batch, values in _batches(best, source, odds is None):
        indices = batch.index
        if indices is None:
            indices = np.arange(position, position + batch.size)
        position += batch.size
        places = np.searchsorted(ordered, indices)
        known = places < len(ordered)
        known[known] = ordered[places[known]] == indices[known]
        if not known.all():
            raise DataError(
                f"pred_probs: found a sample with index {indices[~known][0]}, which was not "
                f"decoded; expected the {len(index):,} samples that were"
            )
        if odds is not None:
            values = odds[torch.from_numpy(order[places])]
        assert values is not None
        probabilities[order[places]] = torch.softmax(values.double(), 1).cpu().numpy()
        filled[order[places]] = True
    if not filled.all():
        raise DataError(
            f"pred_probs: expected the {len(index):,} samples that were decoded; "
            f"found {int(filled.sum()):,} of them"
        )


def _batches(best: Decoder, source: Source, decide: bool) -> Iterator[tuple[Batch, Tensor | None]]:
    """Yield batches; with `decide` also the decoder's values for them."""
    if not decide:
        yield from ((batch, None) for batch in source.batches())
        return
    model = best._model()
    stage = "probabilities"
    with undisturbed(model), Progress.of_one(stage) as bar:
        for rows in stream(model, source, best.taps, device_of(model), stage=stage, progress=bar):
            yield rows.batch, best.estimator.decide(rows_for(best.layer, rows.layers))


def write_spreadsheet(table: pd.DataFrame, path: Path) -> None:
    """Write a CSV file that a spreadsheet opens; text that would be a formula is made harmless."""
    words = [str(name) for name in table if table[name].dtype.kind not in "biuf"]
    safe = table.assign(**{name: table[name].map(for_spreadsheets) for name in words})
    text = safe.to_csv(lineterminator="\n")
    # Spreadsheets read a file as UTF-8 only with a mark; ASCII needs none.
    marked = "utf-8" if text.isascii() else "utf-8-sig"
    path.write_text(text, encoding=marked, newline="")
