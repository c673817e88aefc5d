"""Which samples a DataLoader gives, and in what order they are read.

Results refer to a sample by its place in the data set. So a loader is read in a known order: the
places that its sampler draws, each once, in the data set's order.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ..utils.labels import Labels

__all__ = ["Reading", "in_order", "reading_of"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How a loader is read.

    Attributes
    ----------
    reader : DataLoader
        The loader that gives the batches.
    ordered : bool
        Whether the order is known: `places`, or the data set's own.
    length : int or None
        Number of samples, if known.
    places : ndarray of int64, shape (length,), or None
        Places of the samples in the data set, in reading order; None if consecutive.
    whole : int or None
        Number of samples in the data set.
    grouped : bool
        Whether the user made the batches, which then cannot be cut differently.
    """

    reader: Any
    ordered: bool
    length: int | None
    places: Labels | None = None
    whole: int | None = None
    grouped: bool = False


def reading_of(loader: DataLoader[Any]) -> Reading:
    """Return how to read a loader; the random states of its samplers do not change."""
    data: Any = loader.dataset
    whole = len(data) if hasattr(data, "__len__") else None
    if isinstance(data, IterableDataset):
        return Reading(loader, True, whole, whole=whole)
    batches, sampler = loader.batch_sampler, loader.sampler
    if batches is None:
        return _of_ready_batches(loader, sampler)
    plain = type(batches) is BatchSampler
    sampler = getattr(batches, "sampler", sampler)
    if plain and type(sampler) is SequentialSampler and not batches.drop_last:  # type: ignore[attr-defined]
        return Reading(loader, True, whole, whole=whole)
    replaced = isinstance(sampler, RandomSampler | WeightedRandomSampler) and sampler.replacement
    drawn = plain and type(sampler) is RandomSampler and sampler.num_samples == whole
    if plain and (type(sampler) is SequentialSampler or drawn or replaced):
        # The sampler shuffles, drops the last batch or draws samples again. Read each sample
        # once instead, so that every pass and every table agree on which is which.
        logger.info("the loader shuffles, drops or draws again; its data set is read in order")
        return Reading(in_order(loader, data), True, whole, whole=whole)
    if plain:
        drawn_places = _places(sampler)
        if drawn_places is not None and isinstance(sampler, DistributedSampler):
            drawn_places = np.unique(drawn_places)  # it repeats samples to fill up
        if drawn_places is None or not _different(drawn_places):
            return Reading(loader, False, None, whole=whole)
        places = np.sort(drawn_places)
        reader = in_order(loader, Subset(data, places.tolist()))
        return Reading(reader, True, len(places), places, whole)
    return _of_own_batches(loader, batches, data, whole)


def _of_own_batches(loader: DataLoader[Any], batches: Any, data: Any, whole: int | None) -> Reading:
    """Return how to read a user's own batches: as they are, if the sampler lists their places."""
    lists, places = _lists(batches)
    if not lists:
        return Reading(loader, False, None, whole=whole)
    reader = DataLoader(data, batch_sampler=_Fixed(lists), **_like(loader))
    return Reading(reader, True, len(places), places, whole, grouped=True)


def _of_ready_batches(loader: DataLoader[Any], sampler: Any) -> Reading:
    """Return how to read a loader without a batch size: the data set itself gives batches."""
    inner = getattr(sampler, "sampler", sampler)
    data: Any = loader.dataset
    if isinstance(sampler, BatchSampler) and type(inner) is not SequentialSampler:
        # Bulk loading: the data set makes a batch from a list of places.
        lists, places = _lists(sampler)
        if lists:
            reader = DataLoader(data, batch_size=None, sampler=_Fixed(lists), **_like(loader))
            whole = len(data) if hasattr(data, "__len__") else None
            return Reading(reader, True, len(places), places, whole, grouped=True)
    # The number of samples is unknown; the order is known unless the sampler has its own.
    return Reading(loader, type(inner) is SequentialSampler, None)


def _lists(batches: Any) -> tuple[list[list[int]], Labels]:
    """Return the places of each batch, and of all; empty if unknown or if a place repeats."""
    lists = [list(map(int, batch)) for batch in _drawn(batches)] if _finite(batches) else []
    places = np.asarray([place for batch in lists for place in batch], dtype=np.int64)
    return (lists, places) if _different(places) else ([], places)


class _Fixed:
    """A sampler with a fixed list of batches."""

    def __init__(self, batches: Sequence[Sequence[int]]):
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def in_order(loader: DataLoader[Any], data: Any) -> DataLoader[Any]:
    """Return a loader with the same settings over other data, in the order of the data."""
    size: Any = getattr(loader.batch_sampler, "batch_size", None) or loader.batch_size
    return DataLoader(data, batch_size=size, **_like(loader))


def _like(loader: DataLoader[Any]) -> dict[str, Any]:
    return {
        "collate_fn": loader.collate_fn,
        "num_workers": loader.num_workers,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "timeout": loader.timeout,
        "pin_memory": loader.pin_memory,
    }


def _places(sampler: Any) -> Labels | None:
    """Return the places that a sampler draws, in any order; None if they are not places."""
    if type(sampler) is SubsetRandomSampler:
        places: Iterable[Any] = sampler.indices
    elif not _finite(sampler):
        return None
    else:
        places = _drawn(sampler)
    try:
        return np.asarray([int(place) for place in places], dtype=np.int64)
    except (TypeError, ValueError):
        return None


def _drawn(sampler: Any) -> list[Any]:
    """Return one pass of a sampler; all random states stay unchanged, its own too."""
    own = getattr(getattr(sampler, "sampler", sampler), "generator", None)
    generator = own if isinstance(own, torch.Generator) else torch.Generator()
    state = generator.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            return list(sampler)
    finally:
        generator.set_state(state)


def _finite(sampler: Any) -> bool:
    return hasattr(sampler, "__len__")


def _different(places: Labels) -> bool:
    return len(places) > 0 and len(np.unique(places)) == len(places)
