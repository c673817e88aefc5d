"""Read any data source as batches, in one known order if possible.

A source is a map-style or iterable `Dataset`, a `DataLoader`, or a pair of arrays. Samples are
identified by their index in the data set: the batch carries it, or it is the running position if
the order is fixed. A loader that only shuffles is read in the data set's order instead.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
)

from ..data.batches import (
    ArrayBatches,
    Batch,
    MappingBatches,
    TupleBatches,
    as_batch,
    is_mapping,
    joined,
    labels_in,
)
from ..data.fingerprints import fingerprints_of
from ..data.forms import arranged, is_array, is_inputs, is_pair
from ..data.loaders import in_order, reading_of
from ..errors import DataError, LabelError, UnderscriptError
from ..utils.class_names import as_classes, texts_in
from ..utils.labels import Labels, as_labels, pick

__all__ = ["Source", "known_index", "text_labels"]

# The first samples of a stream that are compared between two passes.
_COMPARED = 16
_READ_IN_ANY_ORDER = (ArrayBatches, MappingBatches, TupleBatches)


class Source:
    """A data source that can be read again and again, in one known order if possible.

    Parameters
    ----------
    data : Dataset, DataLoader or pair of arrays
        Batches are ``(x, y)``, ``(x, y, index)``, dicts, or bare inputs where labels are not
        needed. A dict of arrays, a table and, with labels, a tuple of several inputs are like a
        pair of arrays.
    role : str
        Name of the data in messages: ``"train"``, ``"test"``, ``"holdout"``, …
    labels : array-like of int, shape (n,), optional
        Labels by index in the data set; they replace those that the data carry.
    true_labels : array-like of int, shape (n,), optional
        The labels before corruption, by index, if known.
    batch_size : int
        For data that do not come in batches.
    class_names : sequence of str, optional
        Names of the classes 0 … K−1, for labels that are text.
    labelled : bool
        Whether to read labels.
    prepare : callable, optional
        Checks or changes each batch before it is given out.

    Raises
    ------
    DataError
        If the source is of an unknown kind, or empty.
    LabelError
        If `labels` or `true_labels` is not a 1-D integer array as long as the data.
    """

    def __init__(
        self,
        data: Any,
        role: str,
        labels: Any = None,
        true_labels: Any = None,
        batch_size: int = 512,
        class_names: Sequence[str] | None = None,
        *,
        labelled: bool = True,
        prepare: Callable[[Batch], Batch] | None = None,
    ):
        # Labels that are replaced may be of any kind.
        labelled = labelled and labels is None
        self._names, self._labelled, self._prepare = class_names, labelled, prepare
        self.role = role
        data = arranged(data, role)
        self.ordered = True
        self._reader: Any
        # Places of the samples in the data set, in reading order; and the data set.
        self._places: Labels | None = None
        self._data: Any = None
        self._whole: int | None = None
        self._grouped = False
        if is_pair(data):
            given = data[1] if labelled else None
            self._reader = ArrayBatches(data[0], given, role, batch_size, class_names)
            self.length: int | None = len(self._reader)
        elif is_array(data):
            self._reader = ArrayBatches(data, None, role, batch_size)
            self.length = len(self._reader)
        elif is_inputs(data):
            inputs, given = data[0], data[1] if labelled else None
            if is_mapping(inputs):
                self._reader = MappingBatches(inputs, role, batch_size, given)
            else:
                self._reader = TupleBatches(inputs, given, role, batch_size)
            self.length = len(self._reader)
        elif isinstance(data, tuple):
            raise DataError(
                f"{role}: expected a pair of arrays (x, y); found a tuple of "
                f"{', '.join(type(part).__name__ for part in data) or 'nothing'}"
            )
        elif isinstance(data, DataLoader):
            reading = reading_of(data)
            self._reader, self.ordered, self.length = (
                reading.reader,
                reading.ordered,
                reading.length,
            )
            self._places, self._whole, self._grouped = (
                reading.places,
                reading.whole,
                reading.grouped,
            )
            self._data = data.dataset
        elif isinstance(data, IterableDataset):
            self._reader, self.length = DataLoader(data, batch_size=batch_size), None
        elif is_mapping(data) and not isinstance(data, Dataset):
            self._reader = MappingBatches(data, role, batch_size)
            self.length = len(self._reader)
        elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not is_mapping(data):
            self._reader, self._data = DataLoader(data, batch_size=batch_size), data
            self.length = len(data)
        else:
            raise DataError(
                f"{role}: expected a Dataset, a DataLoader or a pair of arrays (x, y); "
                f"found {type(data).__name__}"
            )
        if self.length == 0:
            raise DataError(f"{role}: expected at least one sample; found none (length 0)")
        # Samples in a batch.
        self.batch_rows = int(getattr(self._reader, "batch_size", None) or batch_size)
        # Whether batches may be split: true unless the user chose the batch size.
        self.divisible = not isinstance(data, DataLoader)
        # Fingerprints of the first samples of a stream.
        self._first: list[int] | None = None
        # Among several processes: where this one starts, and which batches it runs.
        self._start, self._turn, self._turns, self._parts = 0, 0, 1, 1
        self._partial = False
        self.override = None if labels is None else self._separate(labels, "labels")
        self.truth = None if true_labels is None else self._separate(true_labels, "true_labels")

    @property
    def share_length(self) -> float:
        """Roughly how many samples this process reads; NaN if not known."""
        return math.nan if self.length is None else self.length / self._parts

    def _separate(self, labels: Any, what: str) -> Labels:
        """Return separate labels as int64 (n,), after checking them."""
        what_for = f"{self.role}: {what}"
        array = as_labels(as_classes(labels, self._names, what_for), what_for)
        n = self.length if self._whole is None else self._whole
        if n is not None and len(array) != n:
            raise LabelError(
                f"{self.role}: {what} has {len(array)} entries; the data has {n} samples"
            )
        return array

    @property
    def places(self) -> Labels:
        """Places of the samples in the data set, int64 (n,), in reading order.

        Raises
        ------
        DataError
            If they are not known.
        """
        if self.length is None or not self.ordered:
            raise DataError(
                f"{self.role}: expected a Dataset with a length or arrays, to read in any order"
            )
        return np.arange(self.length) if self._places is None else self._places

    def share(self, rank: int, size: int) -> "Source":
        """Return the part of the data that process `rank` of `size` reads.

        Data of known length and order are cut into stretches. Other data are read whole by every
        process, which runs every `size`-th batch.

        Raises
        ------
        DataError
            If the order is not known, because the processes would not agree on it.
        """
        if size == 1:
            return self
        part = copy.copy(self)
        part._partial, part._parts = True, size
        if not self.ordered:
            raise DataError(
                f"{self.role}: expected data in a known order, to share them among {size} "
                "processes; found a loader with an order of its own: pass its data set"
            )
        if (
            self.length is None
            or (
                isinstance(self._reader, DataLoader)
                and isinstance(self._reader.dataset, IterableDataset)
            )
            or self._grouped
        ):
            part._turn, part._turns = rank, size
            return part
        part._start = self.length * rank // size
        stretch = range(part._start, self.length * (rank + 1) // size)
        if isinstance(self._reader, _READ_IN_ANY_ORDER):
            part._reader = self._reader.part(stretch)
        else:
            part._reader = in_order(self._reader, Subset(self._reader.dataset, stretch))
        return part

    def batches(self) -> Iterator[Batch]:
        """Read the data once, in order; with several processes, only this one's share.

        Raises
        ------
        DataError, LabelError
            If the data raise, a batch has an unknown form, or its labels are not one integer per
            sample.
        """
        position = self._start
        for number, raw in enumerate(self.raw()):
            where = f"{self.role}, batch {number}"
            batch = as_batch(raw, where, position, self._names, labelled=self._labelled)
            index = batch.index
            if index is None and self._places is not None:
                index = self._places[position : position + batch.size]
            elif index is None and self.ordered:
                self._check_again(batch, number)
                index = np.arange(position, position + batch.size, dtype=np.int64)
            labels = batch.labels
            if self.override is not None:
                where = f"{where}: labels"
                labels = pick(self.override, known_index(batch, where, "labels", index), where)
            position += batch.size
            if number % self._turns != self._turn:
                continue
            found = Batch(batch.args, batch.kwargs, labels, index, batch.size)
            yield found if self._prepare is None else self._prepare(found)
        if position == 0 and not self._partial:
            raise DataError(f"{self.role}: expected at least one sample; found none")
        for what, array in (("labels", self.override), ("true_labels", self.truth)):
            if self.length is None and array is not None and len(array) != position:
                raise LabelError(
                    f"{self.role}: {what} has {len(array)} entries; the data has {position} samples"
                )

    def _check_again(self, batch: Batch, number: int) -> None:
        """Check that a stream starts with the same samples whenever it is read.

        Raises
        ------
        DataError
            If it does not, or if every worker of its loader reads the whole stream.
        """
        reader = self._reader
        if not isinstance(reader, DataLoader) or not isinstance(reader.dataset, IterableDataset):
            return
        fingerprints = fingerprints_of(batch)[:_COMPARED].tolist()
        first = self._first
        if first is None:
            self._first = fingerprints if number == 0 else first
        elif (
            number == 0
            and fingerprints
            and first[: len(fingerprints)] != fingerprints[: len(first)]
        ):
            raise DataError(
                f"{self.role}: the data gave other samples when they were read again, so nothing "
                "says which sample is which: yield (x, y, index), or always the same in one order"
            )
        elif number == 1 and reader.num_workers > 1 and fingerprints and fingerprints == first:
            raise DataError(
                f"{self.role}: batches 0 and 1 are the same samples: each of the loader's "
                f"{reader.num_workers} workers reads the whole stream. Let each read a part of it "
                "(torch.utils.data.get_worker_info), or take one worker"
            )

    def reordered(self, places: Labels, size: int) -> Iterator[Batch]:
        """Read the samples at some places of the data set, in any order, in batches of `size`.

        Raises
        ------
        DataError
            If the data can only be read from start to end, or they raise.
        """
        reader: Any = self._reader
        if isinstance(reader, _READ_IN_ANY_ORDER):
            raw: Iterator[Any] = reader.at(places, size)
        elif self.ordered and self.length is not None and self._data is not None:
            chosen = DataLoader(
                Subset(self._data, places.tolist()),
                size,
                collate_fn=reader.collate_fn,
                num_workers=reader.num_workers,
                generator=torch.Generator(),  # not the one that dropout draws from
            )
            raw = iter(chosen)
        else:
            raise DataError(
                f"{self.role}: expected data that can be read in any order, a Dataset with a "
                "length or arrays; found data that come one after another"
            )
        done = 0
        for number, item in enumerate(self.raw(raw)):
            where = f"{self.role}, batch {number}"
            batch = as_batch(item, where, done, self._names, labelled=self._labelled)
            index = places[done : done + batch.size] if batch.index is None else batch.index
            done += batch.size
            yield replace(batch, index=index)

    def raw(self, reader: Any = None) -> Iterator[Any]:
        """Yield the reader's batches; turn its errors into errors about the user's data."""
        number = 0
        try:
            for raw in self._reader if reader is None else reader:
                yield raw
                number += 1
        except UnderscriptError:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            # An error from a worker includes its traceback, with the reason last.
            reason = lines[-1] if lines[0].startswith("Caught ") else lines[0]
            if "equal size" in reason:
                reason = f"{reason.rstrip('.')}; give a DataLoader with a collate_fn that pads"
            raise DataError(
                f"{self.role}: the data raised {type(error).__name__} in batch {number}: {reason}"
            ) from error

    def count_classes(self) -> int:
        """Return the number of classes: one more than the largest label, at least two.

        Raises
        ------
        LabelError
            If the data carry no labels.
        """
        largest = 1
        for known in (self.override, self.truth):
            largest = max([largest, *([] if known is None else known)])
        whole = isinstance(self._reader, ArrayBatches)
        if self.override is None:
            parts = [self._reader.labels] if whole else (batch.labels for batch in self.batches())
            for labels in parts:
                if labels is None:
                    raise LabelError(f"{self.role}: expected labels; the data carry none")
                largest = int(max(largest, labels.max(initial=0)))
        return int(largest) + 1

    def first(self, size: int = 2) -> Batch:
        """Return the first `size` samples; fewer if there are fewer, or if shapes differ."""
        parts: list[Batch] = []
        count = 0
        for batch in self.batches():
            parts.append(batch.take(np.arange(batch.size) < size - count))
            count += parts[-1].size
            if count >= size:
                break
        if not parts:
            raise DataError(f"{self.role}: expected at least one sample; found none")
        return joined(parts)


def text_labels(data: Any, role: str, batch_size: int) -> set[str]:
    """Return the different labels of data if they are text, else an empty set.

    The data are read to their end only if the labels of the first batch are text.
    """
    data = arranged(data, role)
    if is_pair(data) or is_inputs(data):
        return set(texts_in(data[1]) or ())
    texts: set[str] = set()
    for raw in Source(data, role, batch_size=batch_size, labelled=False).raw():
        found = texts_in(labels_in(raw))
        if found is None:
            break
        texts |= set(found)
    return texts


def known_index(batch: Batch, where: str, what: str, index: Labels | None = None) -> Labels:
    """Return the data set indices of a batch's samples.

    Raises
    ------
    LabelError
        If they are not known: the loader has its own order and its batches carry no index.
    """
    index = batch.index if index is None else index
    if index is None:
        raise LabelError(
            f"{where}: {what} need to know which sample is which; the loader is shuffled and its "
            "batches carry no index: yield (x, y, index), or do not shuffle"
        )
    return index
