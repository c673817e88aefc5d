"""Turn whatever the data give into batches that the model takes."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError, LabelError
from ..utils.class_names import as_classes
from ..utils.labels import Labels, as_labels
from .tables import numbers_of

LABEL_KEYS = ("labels", "label", "y", "target", "targets")
INPUT_KEYS = ("x", "input", "inputs", "image", "images")
INDEX_KEYS = ("index", "indices", "idx")


@dataclass(frozen=True)
class Batch:
    """The inputs of one model call, with labels and indices of the samples.

    `index` and `labels` have shape (n,) and dtype int64. `labels` is None if the data carry none,
    `index` is None if no stable one is known.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    labels: Labels | None
    index: Labels | None
    size: int

    def part(self, some: slice) -> "Batch":
        """Return a slice of the samples, as a smaller batch that shares memory."""
        return self._cut(some, some, len(range(*some.indices(self.size))))

    def take(self, keep: NDArray[np.bool_]) -> "Batch":
        """Return the samples for which `keep` is true, as a smaller batch."""
        return self.at(np.flatnonzero(keep))

    def at(self, places: NDArray[np.int64]) -> "Batch":
        """Return the samples at some places, in that order."""
        return self._cut(places, torch.from_numpy(places), len(places))

    def _cut(self, some: Any, rows: slice | Tensor, size: int) -> "Batch":
        def cut(value: Any) -> Any:
            if not per_sample(value, self.size):
                return value
            return value[rows.to(value.device) if isinstance(rows, Tensor) else rows]

        return Batch(
            tuple(cut(value) for value in self.args),
            {name: cut(value) for name, value in self.kwargs.items()},
            None if self.labels is None else self.labels[some],
            None if self.index is None else self.index[some],
            size,
        )


def joined(parts: Sequence[Batch]) -> Batch:
    """Return batches as one, or only the first if their samples differ in shape or kind."""
    first = parts[0]
    values = [[*part.args, *part.kwargs.values()] for part in parts]
    alike = all(
        len(tensors) == len(values[0])
        and all(
            isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape[1:] == b.shape[1:]
            for a, b in zip(tensors, values[0], strict=True)
        )
        for tensors in values
    )
    if len(parts) == 1 or not alike:
        return first
    columns = [torch.cat(column) for column in zip(*values, strict=True)]
    labels = [part.labels for part in parts if part.labels is not None]
    index = [part.index for part in parts if part.index is not None]
    return Batch(
        tuple(columns[: len(first.args)]),
        dict(zip(first.kwargs, columns[len(first.args) :], strict=True)),
        np.concatenate(labels) if len(labels) == len(parts) else None,
        np.concatenate(index) if len(index) == len(parts) else None,
        sum(part.size for part in parts),
    )


class _Stretch:
    """Samples in order, or a consecutive part of them."""

    stretch: range

    def part(self, stretch: range) -> Self:
        """Return the batches of consecutive samples."""
        other = copy.copy(self)
        other.stretch = stretch
        return other


class ArrayBatches(_Stretch):
    """Slices of a pair of numpy or torch arrays, without copying the arrays whole."""

    def __init__(
        self,
        inputs: Any,
        labels: Any,
        role: str,
        batch_size: int,
        names: Sequence[str] | None = None,
    ):
        self.inputs = inputs.detach() if isinstance(inputs, Tensor) else _as_array(inputs, role)
        if self.inputs.ndim == 0 or self.inputs.dtype in (np.dtype(object), np.dtype(str)):
            raise DataError(
                f"{role}: expected an array of inputs, shape (n, …); found a scalar or ragged rows"
            )
        if labels is not None:
            labels = as_labels(as_classes(labels, names, f"{role} labels"), f"{role} labels")
        self.labels = labels
        if self.labels is not None and len(self.labels) != len(self.inputs):
            raise LabelError(
                f"{role}: expected as many labels as inputs; "
                f"found {len(self.labels)} labels and {len(self.inputs)} inputs"
            )
        self.batch_size = batch_size

        self.stretch = range(len(self.inputs))

    def __len__(self) -> int:
        return len(self.inputs)

    def at(self, places: Labels, size: int) -> Iterator[Any]:
        """Yield the samples at some positions, `size` at a time."""
        for start in range(0, len(places), size):
            chosen = places[start : start + size]
            if isinstance(self.inputs, Tensor):
                inputs = self.inputs[torch.from_numpy(chosen).to(self.inputs.device)]
            else:
                rows = self.inputs[chosen]
                inputs = torch.from_numpy(rows.astype(rows.dtype.newbyteorder("=")))
            yield inputs if self.labels is None else (inputs, self.labels[chosen])

    def __iter__(self) -> Iterator[Any]:
        for start in range(self.stretch.start, self.stretch.stop, self.batch_size):
            part = slice(start, min(start + self.batch_size, self.stretch.stop))
            inputs = self.inputs[part]
            if not isinstance(inputs, Tensor):
                # torch cannot view read-only, byte-swapped or negatively strided memory.
                inputs = torch.from_numpy(np.array(inputs, dtype=inputs.dtype.newbyteorder("=")))
            else:
                inputs = inputs.clone()  # a model that works in place must not change the data
            yield inputs if self.labels is None else (inputs, self.labels[part])


class MappingBatches(_Stretch):
    """Slices of a mapping of arrays, such as a tokenizer returns for all texts at once.

    Labels, if they stand apart from the mapping, take the place of those in it.
    """

    def __init__(self, data: Any, role: str, batch_size: int, labels: Any = None):
        self.values = {str(name): data[name] for name in data.keys()}  # noqa: SIM118 - a UserDict
        if labels is not None:
            self.values = {k: v for k, v in self.values.items() if k not in LABEL_KEYS}
            self.values["labels"] = labels if isinstance(labels, Tensor) else np.asarray(labels)
        arrays = {
            name: _array_of(value) if isinstance(value, list) else value
            for name, value in self.values.items()
            if isinstance(value, Tensor | np.ndarray | list)
        }
        sized = {name: value for name, value in arrays.items() if value.ndim}
        lengths = {name: len(value) for name, value in sized.items()}
        if len(set(lengths.values())) != 1 or any(v.dtype == object for v in sized.values()):
            raise DataError(
                f"{role}: expected a dict of arrays with a row for each sample, padded to one "
                f"length; found {', '.join(f'{k} of {n}' for k, n in lengths.items()) or 'none'}"
            )
        self.sized, self.batch_size = sized, batch_size
        self.stretch = range(next(iter(lengths.values())))

    def __len__(self) -> int:
        return len(self.stretch)

    def at(self, places: Labels, size: int) -> Iterator[Any]:
        """Yield the samples at some positions, `size` at a time."""
        for start in range(0, len(places), size):
            chosen = places[start : start + size]
            yield self.values | {name: value[chosen] for name, value in self.sized.items()}

    def __iter__(self) -> Iterator[Any]:
        return self.at(np.asarray(self.stretch), self.batch_size)


def _array_of(values: list[Any]) -> NDArray[Any]:
    """Return a list as an array: of objects, if its rows are of several lengths."""
    try:
        return np.asarray(values)
    except ValueError:
        return np.asarray([None] * len(values), dtype=object)


class TupleBatches(_Stretch):
    """Slices of several arrays, the inputs of one network, with or without labels."""

    def __init__(self, inputs: Sequence[Any], labels: Any, role: str, batch_size: int):
        arrays = [*inputs, *([] if labels is None else [labels])]
        self.arrays = [a if isinstance(a, Tensor) else _as_array(a, role) for a in arrays]
        self.labelled, self.batch_size = labels is not None, batch_size
        lengths = [len(array) if array.ndim else 0 for array in self.arrays]
        if len(set(lengths)) > 1:
            raise DataError(
                f"{role}: expected as many rows in each input, and as many labels; "
                f"found {', '.join(map(str, lengths))}"
            )
        self.stretch = range(lengths[0])

    def __len__(self) -> int:
        return len(self.stretch)

    def at(self, places: Labels, size: int) -> Iterator[Any]:
        """Yield the samples at some positions, `size` at a time."""
        for start in range(0, len(places), size):
            chosen = [array[places[start : start + size]] for array in self.arrays]
            inputs = chosen[: len(chosen) - self.labelled]
            yield tuple(inputs), chosen[-1] if self.labelled else None

    def __iter__(self) -> Iterator[Any]:
        return self.at(np.asarray(self.stretch), self.batch_size)


def _as_array(inputs: Any, role: str) -> NDArray[Any]:
    """Return inputs as an array; a table must hold numbers."""
    return numbers_of(inputs, role) if is_table(inputs) else np.asarray(inputs)


def as_batch(
    raw: Any,
    where: str,
    start: int = 0,
    names: Sequence[str] | None = None,
    *,
    labelled: bool = True,
) -> Batch:
    """Make a batch of ``x``, ``(x, y)``, ``(x, y, index)`` or a dict."""
    inputs: list[Any] = []
    kwargs: dict[str, Any] = {}
    if is_mapping(raw):
        rest = dict(raw)
        labels = next((rest.pop(key) for key in LABEL_KEYS if key in rest), None)
        index = next((rest.pop(key) for key in INDEX_KEYS if key in rest), None)
        if not rest:
            raise DataError(f"{where}: the dict has no inputs beside its labels and index")
        if len(rest) == 1 and next(iter(rest)) in INPUT_KEYS:
            inputs = list(rest.values())
        else:
            kwargs = {str(name): value for name, value in rest.items()}
    elif isinstance(raw, tuple | list) and len(raw) in (1, 2, 3):
        first, labels, index = [*raw, None, None][:3]
        if is_mapping(first):
            kwargs = {str(name): value for name, value in first.items()}
        elif isinstance(first, tuple | list) and all(hasattr(part, "shape") for part in first):
            inputs = list(first)
        else:
            inputs = [first]
    elif isinstance(raw, Tensor | np.ndarray):
        inputs, labels, index = [raw], None, None
    else:
        kind = f"{type(raw).__name__}" + (f" of {len(raw)}" if hasattr(raw, "__len__") else "")
        raise DataError(
            f"{where}: expected (x, y), (x, y, index) or a dict with labels; found a {kind}"
        )
    args = tuple(_as_tensor(value) for value in inputs)
    kwargs = {name: _as_tensor(value) for name, value in kwargs.items()}
    values = [*args, *kwargs.values()]
    sized = [value for value in values if isinstance(value, Tensor)]
    if not sized or sized[0].ndim == 0:
        found = _in_place_of_tensors(values)
        raise DataError(f"{where}: expected a tensor of inputs, shape (n, …); found {found}")
    size = len(sized[0])
    what = f"{where} labels"
    given = None
    if labels is not None and labelled:
        given = as_labels(as_classes(labels, names, what, start), what, start)
    known = None if index is None else _as_index(index, where)
    for what, array in (("labels", given), ("index entries", known)):
        if array is not None and len(array) != size:
            raise LabelError(f"{where}: found {len(array)} {what} for {size} inputs")
    return Batch(args, kwargs, given, known, size)


def labels_in(raw: Any) -> Any:
    """Return the labels of a batch as they are; None if it has none."""
    if is_mapping(raw):
        return next((raw[key] for key in LABEL_KEYS if key in raw), None)
    return raw[1] if isinstance(raw, tuple | list) and len(raw) in (2, 3) else None


def _in_place_of_tensors(values: Sequence[Any]) -> str:
    """Say what there is in place of a tensor."""
    for value in values:
        first = value[0] if isinstance(value, list | tuple) and value else value
        if isinstance(first, str):
            return f"text, {first[:30]!r}; give a tokenizer's output"
    return "none"


def _as_index(index: Any, where: str) -> Labels:
    """Return positions in the data set.

    Raises
    ------
    LabelError
        If they are not positions: a path or a name does not say where a sample is.
    """
    try:
        return as_labels(index, f"{where} index")
    except LabelError as error:
        if _whole(index):
            raise
        raise LabelError(
            f"{where}: expected (x, y, index), the index being each sample's place in the data "
            f"set, a whole number of at least 0; found {_shown(index)}. Leave out what else there "
            "is (collate_fn)"
        ) from error


def _whole(index: Any) -> bool:
    kind = getattr(index, "dtype", None)
    return kind is not None and not str(kind).startswith(("float", "torch.float", "<U", "object"))


def _shown(values: Any) -> str:
    first = values[0] if isinstance(values, list | tuple) and values else values
    return f"{first!r}"[:60]


def _as_tensor(value: Any) -> Any:
    if isinstance(value, Tensor) and value.requires_grad:
        return value.detach()
    numeric = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    return torch.from_numpy(np.array(value)) if numeric else value


def per_sample(value: Any, size: int) -> TypeGuard[Tensor]:
    """Say whether a batch's value is a tensor with one row for each of `size` samples."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == size


def is_table(data: Any) -> bool:
    """Say whether data are a table of columns, such as pandas'."""
    return hasattr(data, "dtypes") and hasattr(data, "columns")


def is_mapping(data: Any) -> bool:
    """Say whether data are a mapping of names to values."""
    # Hugging Face's BatchEncoding is a UserDict: a mapping, not a dict.
    return isinstance(data, Mapping) or hasattr(data, "keys")
