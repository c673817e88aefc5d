"""Batches that wait to be counted: many are counted at once, which is cheaper."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, LabelError, UnderscriptWarning
from ...utils.labels import Labels, as_labels, check_range

__all__ = ["Counted", "Notes", "Pending"]

# So many samples are counted at once, or so many logits: what a processor's cache holds (1 MB in
# float32), and more on a device that waits each time.
_ROWS, _VALUES, _VALUES_AWAY = 8192, 1 << 18, 1 << 22
# What torch's losses leave out.
_IGNORED = -100


class Notes(dict[str, str]):
    """What was warned of, by kind; each is shown once."""

    def warn(self, kind: str, message: str, level: int = 6) -> None:
        """Warn, unless it was done before; the user's line is so many calls up."""
        if kind not in self:
            self[kind] = message
            warnings.warn(message, UnderscriptWarning, stacklevel=level)


class Counted(NamedTuple):
    """Samples that are counted now: on the CPU, logits finite and labels in range.

    Attributes
    ----------
    values : Tensor of float32, shape (n, K)
        Logits.
    labels, numbers : ndarray of int64, shape (n,)
        Given labels, and the samples' numbers in the data set.
    calls : ndarray of int64, shape (n,)
        In which call of the epoch, from 1, each was given.
    """

    values: Tensor
    labels: Labels
    numbers: Labels
    calls: Labels


class Pending:
    """Batches that were given and not yet counted.

    They are copied on the device where they are, for the user may change them. So a GPU waits only
    when they are taken.

    Parameters
    ----------
    notes : Notes
        Takes what is warned of.

    Attributes
    ----------
    n_classes : int
        K; 0 before the first batch.
    calls : int
        Batches that were given in this epoch.
    late : LabelError or None
        What `take` found to be wrong, to be raised once the rest is counted.
    """

    def __init__(self, notes: Notes):
        self.notes = notes
        self.n_classes = 0
        self.calls = 0
        self.late: LabelError | None = None
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []
        self._calls: list[int] = []
        self._rows = 0
        # Whether labels are known to be in range, and logits finite.
        self._looked_at = True

    def add(self, logits: Any, labels: Any, index: Any) -> bool:
        """Keep a copy of a batch, and return whether what is kept should now be taken.

        Raises
        ------
        DataError, LabelError
            As `SampleRecords.update`; the batch then is not kept.
        """
        logits, labels, index = _tensor(logits), _tensor(labels), _tensor(index)
        shape = logits.shape
        if len(shape) != 2 or shape[1] < 2:
            raise DataError(_no_logits(tuple(shape)))
        n, k = shape
        if self.n_classes != k and self.n_classes != 0:
            raise DataError(
                f"update: expected logits of {self.n_classes} classes as before; found {k}"
            )
        if n == 0 and labels.numel() == 0 and index.numel() == 0:
            self.calls += 1
            return False
        if index.dtype != torch.int64 or index.shape != (n,):
            _check_index(index, n)
        if labels.shape != (n,):
            labels = self._hard(labels, n, k)
        if labels.dtype != torch.int64:
            # The message is that of all labels; a new tensor of integers comes back.
            labels = _integers(labels)
        values = logits.detach().to(torch.float32, copy=True)
        if values.is_inference():
            # One of those cannot be changed in place later.
            with torch.inference_mode(False):
                values = values.clone()
        if not _away(labels):
            found = labels.numpy()
            # Negative ones are large without their sign.
            if (found.view(np.uint64) >= k).any():
                numbers = index.cpu().long().numpy()
                kept = torch.from_numpy(self._in_range(found, numbers, k))
                values, labels = values[kept.to(values.device)], labels[kept]
                index = index[kept.to(index.device)]
                n = len(labels)
        else:
            self._looked_at = False
        self.n_classes = k
        self.calls += 1
        self._batches.append((values, labels.clone(), index.to(torch.int64, copy=True)))
        self._calls.append(self.calls)
        self._rows += n
        if _away(values):
            self._looked_at = False
            return self._rows >= _ROWS or self._rows * k >= _VALUES_AWAY
        # A sum of finite numbers may overflow; `take` looks closely.
        if not math.isfinite(float(values.sum())):
            self._looked_at = False
            return True
        return self._rows >= _ROWS or self._rows * k >= _VALUES

    def take(self) -> Counted | None:
        """Return all that is kept, in the order in which it was given, and forget it.

        None if there is nothing, or all of it is left out. What is wrong with labels that nobody
        has looked at yet is in `late`; the other samples are returned.
        """
        batches, calls = self._batches, self._calls
        self._batches, self._calls, self._rows = [], [], 0
        if not batches:
            return None
        lengths = [len(batch[1]) for batch in batches]
        values, labels, index = (_together(parts) for parts in zip(*batches, strict=True))
        counted = Counted(
            values, labels.numpy(), index.numpy(), np.repeat(np.asarray(calls), lengths)
        )
        if self._looked_at:
            return counted
        self._looked_at = True
        try:
            kept = self._in_range(counted.labels, counted.numbers, self.n_classes)
        except LabelError as error:
            self.late = error
            kept = (counted.labels >= 0) & (counted.labels < self.n_classes)
        counted = _some(counted, kept)
        kept = torch.isfinite(counted.values).all(1).numpy()
        if not kept.all():
            lost = counted.numbers[~kept]
            self.notes.warn(
                "not finite",
                f"update: the logits of {len(lost)} of {len(kept)} samples are NaN or infinite, "
                f"the first at index {lost[0]}; they are left out. Check the loss and the step "
                "size",
            )
            counted = _some(counted, kept)
        return counted if len(counted.numbers) else None

    def _in_range(self, labels: Labels, numbers: Labels, k: int) -> Any:
        """Return which samples have a label, bool (n,).

        Raises
        ------
        LabelError
            If a label is out of range.
        """
        kept = labels != _IGNORED
        some, theirs = labels[kept], numbers[kept]
        if len(some) and some.min() < 0:
            at = int(np.argmin(some))
            raise LabelError(
                f"update: expected classes 0 … {k - 1}; found {some[at]} at index {theirs[at]}"
            )
        check_range(some, k, theirs, "update")
        if not kept.all():
            self.notes.warn(
                "ignored",
                f"update: the label of some samples is {_IGNORED}, the first at index "
                f"{numbers[~kept][0]}; as in torch's losses, they are left out",
            )
        return kept

    def _hard(self, labels: Tensor, n: int, k: int) -> Tensor:
        """Return the class with the largest share of soft labels.

        Raises
        ------
        LabelError
            If the labels are neither one a sample nor shares of classes.
        """
        if labels.shape != (n, k) or not labels.is_floating_point():
            raise LabelError(
                f"update: expected one label for each of the {n} samples; found shape "
                f"{tuple(labels.shape)}"
            )
        if "soft" not in self.notes:
            totals = labels.detach().double().sum(1)
            if not bool(((totals - 1).abs() < 0.01).all()):
                raise LabelError(
                    "update: expected one label for each sample, or shares of classes that add up "
                    f"to 1; found rows that add up to {float(totals.min()):.3g} … "
                    f"{float(totals.max()):.3g}. Several labels a sample cannot be watched"
                )
            self.notes.warn(
                "soft",
                "update: the labels are soft, as mixup makes them; the class with the largest "
                "share counts as given. AUM and forgetting events then are about mixed inputs: "
                "give plain inputs, or read the layers only",
            )
        return labels.detach().argmax(1)


def _away(part: Tensor) -> bool:
    """Return whether looking at a tensor makes its device wait."""
    return part.device.type != "cpu"


def _tensor(part: Any) -> Tensor:
    """Return what the user gave as a tensor.

    Raises
    ------
    DataError
        If it is no array of numbers.
    """
    if isinstance(part, Tensor):
        return part
    try:
        return torch.as_tensor(np.asarray(part))
    except (TypeError, ValueError) as error:
        found = getattr(part, "dtype", type(part).__name__)
        raise DataError(f"update: expected tensors or arrays of numbers; found {found}") from error


def _no_logits(shape: tuple[int, ...]) -> str:
    found = f"update: expected logits of shape (n, classes) with at least 2 classes; found {shape}"
    if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1):
        return found + ". Of one logit make two: torch.cat([torch.zeros_like(logit), logit], 1)"
    if len(shape) > 2:
        return found + ". Of sequences make rows, each word with a number and a label of its own"
    return found


def _check_index(index: Tensor, n: int) -> None:
    kinds = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
    if index.shape != (n,) or index.dtype not in kinds:
        raise DataError(
            f"update: expected an integer index of each of the {n} samples, int64 or smaller; "
            f"found {index.dtype}, shape {tuple(index.shape)}"
        )


def _integers(labels: Tensor) -> Tensor:
    """Return labels of another type as int64.

    Raises
    ------
    LabelError
        If they are no integers.
    """
    if labels.dtype in (torch.int32, torch.uint8, torch.int16, torch.int8):
        return labels.long()
    return torch.from_numpy(as_labels(labels, "update: labels"))


def _together(parts: tuple[Tensor, ...]) -> Tensor:
    """Return parts as one tensor on the CPU; from each device they come in one copy."""
    if len({part.device for part in parts}) > 1:
        parts = tuple(part.cpu() for part in parts)
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).cpu()


def _some(counted: Counted, kept: Any) -> Counted:
    values, labels, numbers, calls = counted
    return Counted(values[torch.from_numpy(kept)], labels[kept], numbers[kept], calls[kept])
