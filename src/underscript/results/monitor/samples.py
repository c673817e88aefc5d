"""What each training sample did during training, from the logits of every batch.

- *AUM*, the area under the margin: the logit of the given label minus the largest other logit,
  averaged over epochs (Pleiss et al. 2020, arXiv 2001.10528).
- *Forgetting events*: how often a sample was predicted as labelled, and in its next epoch was not
  (Toneva et al. 2019, arXiv 1812.05159).
- *Confidence*, *variability* and *correctness*: mean and standard deviation of the probability of
  the given label, and the share of epochs in which it was predicted (Swayamdipta et al. 2020,
  arXiv 2009.10795).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DataError
from ...utils.labels import Labels
from .pending import Counted, Notes, Pending
from .places import Places

__all__ = ["SampleRecords"]

# Probabilities of all classes are kept for as many samples × classes (64 MB in float32, twice).
MOST_PROBABILITIES = 1 << 24
# Samples whose probabilities are added up at once, so that little is copied.
_AT_ONCE = 4096
# The numbers that are kept of each sample over epochs, and their types.
_TOTALS = {
    "epochs": np.int64,
    "margins": np.float64,
    "chances": np.float64,
    "squares": np.float64,
    "correct": np.int64,
    "forgotten": np.int64,
    "learned": np.int64,
    "label": np.int64,
    "last": np.int64,
    "was_correct": np.bool_,
}
# The same of the epoch that runs; `call` is 0 for a sample that it has not seen.
_EPOCH = {
    "call": np.int64,
    "margin": np.float64,
    "chance": np.float64,
    "predicted": np.int64,
    "given": np.int64,
}
# Those of them that are integers, and the others.
_WHOLE, _REAL = ("call", "predicted", "given"), ("margin", "chance")


class SampleRecords:
    """Records of each sample, whose number need not be known before.

    An epoch ends with `end_epoch`. Of a sample that is seen several times in an epoch the last time
    counts, so that records do not depend on the order or the size of batches. Epochs in which a
    sample is not seen do not count for it. A sample whose label changes starts anew.

    Parameters
    ----------
    keep_logits : bool
        Whether `end_epoch` returns the logits.

    Attributes
    ----------
    notes : Notes
        What was warned of, by kind; each is shown once.
    """

    def __init__(self, keep_logits: bool = False):
        self.keep_logits = keep_logits
        self.notes = Notes()
        self._pending = Pending(self.notes)
        self._places = Places()
        self._totals: dict[str, NDArray[Any]] = {
            name: np.zeros(0, dtype) for name, dtype in _TOTALS.items()
        }
        self._epoch: dict[str, NDArray[Any]] = {
            name: np.zeros(0, dtype) for name, dtype in _EPOCH.items()
        }
        # Sums over epochs, and the epoch that runs; None if there are too many.
        self._sums: NDArray[np.float32] | None = None
        self._chances: NDArray[np.float32] | None = None
        self._logits: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self._places)

    @property
    def n_classes(self) -> int:
        """K; 0 before the first batch."""
        return self._pending.n_classes

    def update(self, logits: Any, labels: Any, index: Any) -> None:
        """Add a batch. It is copied, and counted later together with others.

        Parameters
        ----------
        logits : Tensor or array, shape (n, K)
            On any device; a GPU waits once in some thousand samples.
        labels : Tensor or array of int, shape (n,)
            Given labels; samples with -100 are left out, with a warning. Of soft labels, shape
            (n, K), the largest counts, with a warning.
        index : Tensor or array of int, shape (n,)
            The samples' numbers in the data set: any integers.

        Raises
        ------
        DataError
            If shapes do not fit, the number of classes changes, or indices are no integers.
        LabelError
            If labels are no integers, or out of range. Labels on a GPU are looked at later, so the
            error may come from a later call.
        """
        if self._pending.add(logits, labels, index):
            self.count()

    def count(self) -> None:
        """Count the batches that wait for it.

        Raises
        ------
        LabelError
            If a label is out of range.
        """
        counted = self._pending.take()
        if counted is not None:
            self._count(counted)
        if (error := self._pending.late) is not None:
            self._pending.late = None
            raise error

    def end_epoch(self, number: int) -> tuple[Labels, Labels, NDArray[np.float32]] | None:
        """Add the epoch to the records.

        Parameters
        ----------
        number : int
            Its number, from 1.

        Returns
        -------
        tuple or None
            With `keep_logits`: indices (n,), labels (n,) and logits (n, K) of the epoch.

        Raises
        ------
        LabelError
            If a label is out of range.
        """
        self.count()
        epoch, total, n = self._epoch, self._totals, len(self)
        at = np.flatnonzero(epoch["call"][:n])
        given, margin, chance = (epoch[name][at] for name in ("given", "margin", "chance"))
        correct = epoch["predicted"][at] == given
        changed = (total["epochs"][at] > 0) & (total["label"][at] != given)
        if changed.any():
            self._start_anew(at[changed])
        first = correct & (total["learned"][at] == 0)
        total["learned"][at[first]] = number
        total["forgotten"][at] += total["was_correct"][at] & ~correct
        total["was_correct"][at] = correct
        total["epochs"][at] += 1
        total["margins"][at] += margin
        total["chances"][at] += chance
        total["squares"][at] += chance**2
        total["correct"][at] += correct
        total["label"][at] = given
        total["last"][at] = epoch["predicted"][at]
        if self._sums is not None and self._chances is not None:
            for start in range(0, len(at), _AT_ONCE):
                some = at[start : start + _AT_ONCE]
                self._sums[some] += self._chances[some]
        logits = None if self._logits is None else self._logits[at]
        index = self._places.numbers[at]
        self.forget_epoch()
        return None if logits is None else (index, given, logits)

    def running_epoch(self, n_classes: int) -> dict[str, Tensor]:
        """Return what the epoch that runs has counted, for `merge` in another process.

        Parameters
        ----------
        n_classes : int
            K, which this process may not know yet.

        Returns
        -------
        dict of str to Tensor
            A row for each sample: `whole`, int64, its number and the integers of the epoch;
            `real`, float64, the others; `chances` and `logits`, float32 (n, K), if they are kept.
        """
        self._pending.n_classes = n_classes
        if "sums" in self.notes:
            self._sums = self._chances = None
        at = np.flatnonzero(self._epoch["call"][: len(self)])
        whole = [self._places.numbers[at], *(self._epoch[name][at] for name in _WHOLE)]
        real = [self._epoch[name][at] for name in _REAL]
        parts: dict[str, NDArray[Any]] = {"whole": np.stack(whole, 1), "real": np.stack(real, 1)}
        nothing = np.zeros((0, n_classes), np.float32)
        if "sums" not in self.notes:
            parts["chances"] = nothing if self._chances is None else self._chances[at]
        if self.keep_logits:
            parts["logits"] = nothing if self._logits is None else self._logits[at]
        return {name: torch.from_numpy(part) for name, part in parts.items()}

    def merge(self, parts: Mapping[str, Tensor]) -> None:
        """Add what `running_epoch` returned elsewhere; of a sample the later call counts."""
        found = {name: part.numpy() for name, part in parts.items()}
        number, *whole = found["whole"].T
        if not len(number):
            return
        at = self._places.rows_of(np.ascontiguousarray(number))
        self._grow(len(self._places))
        later = whole[0] >= self._epoch["call"][at]
        at = at[later]
        for name, values in zip((*_WHOLE, *_REAL), (*whole, *found["real"].T), strict=True):
            self._epoch[name][at] = values[later]
        if self._chances is not None:
            self._chances[at] = found["chances"][later]
        if self._logits is not None:
            self._logits[at] = found["logits"][later]

    def table(self) -> pd.DataFrame:
        """Return one row per sample, in the order of the index.

        Returns
        -------
        pandas.DataFrame
            `index`; `epochs` in which it was seen; `aum`; `forgetting_events`; `learned_epoch`, the
            first epoch in which it was predicted as labelled (0: never); `confidence`,
            `variability`, `correctness`; `given_label`; `predicted_label`, by the mean
            probabilities over epochs.
        """
        n = len(self)
        total = {name: values[:n] for name, values in self._totals.items()}
        order = np.argsort(self._places.numbers, kind="stable")
        order = order[total["epochs"][order] > 0]
        epochs = total["epochs"][order]
        confidence = total["chances"][order] / epochs
        spread = np.maximum(total["squares"][order] / epochs - confidence**2, 0.0) ** 0.5
        return pd.DataFrame(
            {
                "index": self._places.numbers[order],
                "epochs": epochs,
                "aum": total["margins"][order] / epochs,
                "forgetting_events": total["forgotten"][order],
                "learned_epoch": total["learned"][order],
                "confidence": confidence,
                "variability": spread,
                "correctness": total["correct"][order] / epochs,
                "given_label": total["label"][order],
                "predicted_label": self._predicted()[order],
            }
        )

    def labels_of(self, numbers: Labels) -> Labels:
        """Return the last given label of some samples, int64 (m,); -1 for those not seen."""
        at = self._places.find(numbers)
        seen = (
            (at >= 0) & (self._totals["epochs"][at] > 0) if len(self) else np.zeros(len(at), bool)
        )
        labels = np.full(len(numbers), -1, np.int64)
        labels[seen] = self._totals["label"][at[seen]]
        return labels

    def mean_chances(self) -> NDArray[np.float32] | None:
        """Return mean probabilities (n, K) in the order of `table`; None for too many."""
        if self._sums is None:
            return None
        n = len(self)
        order = np.argsort(self._places.numbers, kind="stable")
        epochs = self._totals["epochs"][:n][order]
        order, epochs = order[epochs > 0], epochs[epochs > 0]
        return np.asarray(self._sums[order] / epochs[:, None], dtype=np.float32)

    def state(self) -> dict[str, Tensor]:
        """Return everything that ended epochs left, as tensors; they share memory with it."""
        n = len(self)
        state = {name: torch.from_numpy(values[:n]) for name, values in self._totals.items()}
        state["index"] = torch.from_numpy(self._places.numbers)
        if self._sums is not None:
            state["sums"] = torch.from_numpy(self._sums[:n])
        return state

    def load_state(self, state: Mapping[str, Tensor], n_classes: int) -> None:
        """Take over what `state` returned.

        Raises
        ------
        DataError
            If parts are missing, or of another shape or type.
        """
        lengths = {len(state[name]) for name in (*_TOTALS, "index") if name in state}
        missing = [name for name in (*_TOTALS, "index") if name not in state]
        if missing or len(lengths) > 1:
            what = f"no {missing[0]!r}" if missing else "columns of different lengths"
            raise DataError(f"samples: expected one number of each kind a sample; found {what}")
        numbers = state["index"].numpy()
        if numbers.dtype != np.int64 or len(np.unique(numbers)) != len(numbers):
            raise DataError("samples: expected each index once, as int64; found others")
        self._places = Places(numbers)
        for name, dtype in _TOTALS.items():
            values = state[name].numpy()
            if values.dtype != dtype or values.ndim != 1:
                raise DataError(f"samples: expected {name!r} as {dtype.__name__}, shape (n,)")
            self._totals[name] = values.copy()
        n = len(numbers)
        self._epoch = {name: np.zeros(n, dtype) for name, dtype in _EPOCH.items()}
        self._pending.n_classes = n_classes
        if not n:
            return
        self._keep_classes(n, n)
        if self._sums is None:
            return
        if "sums" in state and tuple(state["sums"].shape) == (n, n_classes):
            self._sums[:n] = state["sums"].numpy()
        else:
            self.notes.setdefault("sums", "samples: probabilities were not kept")
            self._sums = self._chances = None

    def _count(self, counted: Counted) -> None:
        """Put samples into the epoch that runs."""
        values, labels, numbers, calls = counted
        at = self._places.rows_of(numbers)
        self._grow(len(self._places))
        if self._logits is not None:
            self._logits[at] = values.numpy()
        given = torch.from_numpy(labels)
        own = values.gather(1, given[:, None])[:, 0]
        # The copy is ours, so all is done in place.
        rival, other = values.scatter_(1, given[:, None], -torch.inf).max(1)
        # Of equal ones the first, as argmax.
        wins = (own > rival) | ((own == rival) & (given < other))
        top = torch.maximum(own, rival)
        chances, own_chances = values.sub_(top[:, None]).exp_(), (own - top).exp_()
        total = chances.scatter_(1, given[:, None], own_chances[:, None]).sum(1)
        chances /= total[:, None]
        # Where an index occurs twice, numpy assigns the last value.
        epoch = self._epoch
        epoch["call"][at] = calls
        epoch["margin"][at] = (own.double() - rival.double()).numpy()
        epoch["chance"][at] = (own_chances / total).numpy()
        epoch["predicted"][at] = torch.where(wins, given, other).numpy()
        epoch["given"][at] = labels
        if self._chances is not None:
            self._chances[at] = chances.numpy()

    def forget_epoch(self) -> None:
        """Forget what the epoch that runs has counted."""
        self._epoch["call"][:] = 0
        self._pending.calls = 0

    def _grow(self, n: int) -> None:
        """Make room for so many samples."""
        held = len(self._totals["epochs"])
        size = held if n <= held else max(1024, 2 * held, n)
        if size > held:
            for arrays in (self._totals, self._epoch):
                for name, values in arrays.items():
                    arrays[name] = np.concatenate([values, np.zeros(size - held, values.dtype)])
        self._keep_classes(n, size)

    def _keep_classes(self, n: int, size: int) -> None:
        """Make room for probabilities, and perhaps logits, of n samples, and of `size` soon."""
        if self.keep_logits:
            self._logits = _longer(self._logits, size, self.n_classes)
        if "sums" in self.notes:
            return
        if n * self.n_classes > MOST_PROBABILITIES:
            self.notes["sums"] = (
                f"samples: probabilities of {self.n_classes:,} classes for so many samples are too "
                "many to keep; predicted labels are those of each sample's last epoch"
            )
            self._sums = self._chances = None
        elif self._sums is None:
            # All at once: memory is taken where something is written, and nothing is ever moved.
            shape = MOST_PROBABILITIES // self.n_classes, self.n_classes
            self._sums, self._chances = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def _start_anew(self, at: NDArray[np.int64]) -> None:
        self.notes.warn(
            "changed",
            f"update: the labels of {len(at)} samples are not those of their last epoch, the first "
            f"at index {self._places.numbers[at[0]]}; these samples are counted anew from here. "
            "With labels that change on purpose, AUM is about the latest only",
        )
        for name in ("epochs", "margins", "chances", "squares", "correct", "forgotten", "learned"):
            self._totals[name][at] = 0
        self._totals["was_correct"][at] = False
        if self._sums is not None:
            self._sums[at] = 0

    def _predicted(self) -> Labels:
        n = len(self)
        if self._sums is None:
            return self._totals["last"][:n]
        return np.asarray(self._sums[:n].argmax(1), dtype=np.int64)


def _longer(values: NDArray[np.float32] | None, rows: int, columns: int) -> NDArray[np.float32]:
    if values is not None and len(values) >= rows:
        return values
    longer = np.zeros((rows, columns), np.float32)
    if values is not None:
        longer[: len(values)] = values
    return longer
