"""What each training sample did during training, from the logits of every batch.

- *AUM*, the area under the margin: the logit of the given label minus the largest other logit,
  averaged over epochs (Pleiss et al. 2020, arXiv 2001.10528).
- *Forgetting events*: how often a sample was predicted as labelled, and in its next epoch was not
  (Toneva et al. 2019, arXiv 1812.05159).
- *Confidence*, *variability* and *correctness*: mean and standard deviation of the probability of
  the given label, and the share of epochs in which it was predicted (Swayamdipta et al. 2020,
  arXiv 2009.10795).
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DataError, LabelError, UnderscriptWarning
from ...utils.labels import Labels, as_labels, check_range

__all__ = ["SampleRecords"]

# Probabilities of all classes are kept for as many samples × classes (128 MB in float32).
MOST_PROBABILITIES = 1 << 25
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
# The same of the epoch that runs.
_EPOCH = {
    "seen": np.bool_,
    "margin": np.float64,
    "chance": np.float64,
    "predicted": np.int64,
    "given": np.int64,
}


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
    n_classes : int
        K; 0 before the first batch.
    notes : dict of str to str
        What was warned of, by kind; each is shown once.
    """

    def __init__(self, keep_logits: bool = False):
        self.keep_logits = keep_logits
        self.n_classes = 0
        self.notes: dict[str, str] = {}
        self._places: dict[int, int] = {}
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

    def update(self, logits: Any, labels: Any, index: Any) -> None:
        """Add a batch.

        Parameters
        ----------
        logits : Tensor or array, shape (n, K)
            On any device; a GPU waits once.
        labels : Tensor or array of int, shape (n,)
            Given labels. Of soft labels, shape (n, K), the largest counts, with a warning.
        index : Tensor or array of int, shape (n,)
            The samples' numbers in the data set: any integers.

        Raises
        ------
        DataError
            If shapes do not fit, the number of classes changes, or indices are no integers.
        LabelError
            If labels are no integers, or out of range.
        """
        values, given, numbers = self._checked(logits, labels, index)
        finite = torch.isfinite(values).all(1).numpy()
        if not finite.all():
            lost = numbers[~finite]
            self._warn(
                "not finite",
                f"update: the logits of {len(lost)} of {len(numbers)} samples are NaN or infinite, "
                f"the first at index {lost[0]}; they are left out. Check the loss and the step "
                "size",
            )
            values, given, numbers = (
                values[torch.from_numpy(finite)],
                given[finite],
                numbers[finite],
            )
        if not len(numbers):
            return
        at = self._places_of(numbers)
        labels_at = torch.from_numpy(given)[:, None]
        own = values.gather(1, labels_at)
        rival = values.scatter(1, labels_at, -torch.inf).amax(1)
        chances = torch.softmax(values, 1)
        # Where an index occurs twice, numpy assigns the last value.
        epoch = self._epoch
        epoch["seen"][at] = True
        epoch["margin"][at] = (own[:, 0].double() - rival.double()).numpy()
        epoch["chance"][at] = chances.gather(1, labels_at)[:, 0].double().numpy()
        epoch["predicted"][at] = values.argmax(1).numpy()
        epoch["given"][at] = given
        if self._chances is not None:
            self._chances[at] = chances.numpy()
        if self._logits is not None:
            self._logits[at] = values.numpy()

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
        """
        epoch, total, n = self._epoch, self._totals, len(self)
        at = np.flatnonzero(epoch["seen"][:n])
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
            self._sums[at] += self._chances[at]
        epoch["seen"][:] = False
        if self._logits is None:
            return None
        return self._index()[at], given, self._logits[at].copy()

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
        order = np.argsort(self._index(), kind="stable")
        order = order[total["epochs"][order] > 0]
        epochs = total["epochs"][order]
        confidence = total["chances"][order] / epochs
        spread = np.maximum(total["squares"][order] / epochs - confidence**2, 0.0) ** 0.5
        return pd.DataFrame(
            {
                "index": self._index()[order],
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

    def mean_chances(self) -> NDArray[np.float32] | None:
        """Return mean probabilities (n, K) in the order of `table`; None for too many."""
        if self._sums is None:
            return None
        n = len(self)
        order = np.argsort(self._index(), kind="stable")
        epochs = self._totals["epochs"][:n][order]
        order, epochs = order[epochs > 0], epochs[epochs > 0]
        return np.asarray(self._sums[order] / epochs[:, None], dtype=np.float32)

    def state(self) -> dict[str, Tensor]:
        """Return everything that ended epochs left, as tensors."""
        n = len(self)
        state = {name: torch.from_numpy(values[:n].copy()) for name, values in self._totals.items()}
        state["index"] = torch.from_numpy(self._index())
        if self._sums is not None:
            state["sums"] = torch.from_numpy(self._sums[:n].copy())
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
        numbers = state["index"].numpy().tolist()
        self._places = {number: place for place, number in enumerate(numbers)}
        if len(self._places) != len(numbers):
            raise DataError("samples: expected each index once; found one twice")
        for name, dtype in _TOTALS.items():
            values = state[name].numpy()
            if values.dtype != dtype or values.ndim != 1:
                raise DataError(f"samples: expected {name!r} as {dtype.__name__}, shape (n,)")
            self._totals[name] = values.copy()
        n = len(numbers)
        self._epoch = {name: np.zeros(n, dtype) for name, dtype in _EPOCH.items()}
        self.n_classes = n_classes
        self._keep_classes(n)
        if self._sums is None:
            return
        if "sums" in state and tuple(state["sums"].shape) == self._sums.shape:
            self._sums[:] = state["sums"].numpy()
        else:
            self.notes.setdefault("sums", "samples: probabilities were not kept")
            self._sums = self._chances = None

    def _checked(self, logits: Any, labels: Any, index: Any) -> tuple[Tensor, Labels, Labels]:
        """Return a batch on the CPU: logits in float32, labels and indices in int64."""
        logits, labels, index = (
            part.detach() if isinstance(part, Tensor) else torch.as_tensor(np.asarray(part))
            for part in (logits, labels, index)
        )
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise DataError(
                "update: expected logits of shape (n, classes) with at least 2 classes; found "
                f"{tuple(logits.shape)}"
            )
        n, k = logits.shape
        if self.n_classes not in (0, k):
            raise DataError(
                f"update: expected logits of {self.n_classes} classes as before; found {k}"
            )
        if index.shape != (n,) or index.is_floating_point() or index.dtype == torch.bool:
            raise DataError(
                f"update: expected an integer index of each of the {n} samples; found "
                f"{index.dtype}, shape {tuple(index.shape)}"
            )
        if labels.shape == (n, k) and labels.is_floating_point():
            self._warn(
                "soft",
                "update: the labels are soft, as mixup makes them; the class with the largest "
                "share counts as given. AUM and forgetting events then are about mixed inputs: "
                "give plain inputs, or read the layers only",
            )
            labels = labels.argmax(1)
        if labels.shape != (n,):
            raise LabelError(
                f"update: expected one label for each of the {n} samples; found shape "
                f"{tuple(labels.shape)}"
            )
        values, given, numbers = _on_cpu(logits, labels, index)
        given_labels = check_range(as_labels(given, "update: labels"), k, numbers, "update")
        self.n_classes = k
        return values, given_labels, numbers

    def _places_of(self, numbers: Labels) -> NDArray[np.int64]:
        """Return the rows of some indices; new ones are added at the end."""
        places = self._places
        at = [places.setdefault(number, len(places)) for number in numbers.tolist()]
        self._grow(len(places))
        return np.asarray(at, dtype=np.int64)

    def _grow(self, n: int) -> None:
        held = len(self._totals["epochs"])
        if n > held:
            size = max(1024, 2 * held, n)
            for arrays in (self._totals, self._epoch):
                for name, values in arrays.items():
                    arrays[name] = np.concatenate([values, np.zeros(size - held, values.dtype)])
            self._keep_classes(size)

    def _keep_classes(self, size: int) -> None:
        """Make room for the probabilities, and perhaps logits, of so many samples."""
        shape = size, self.n_classes
        if self.keep_logits:
            self._logits = _longer(self._logits, shape)
        if size * self.n_classes > MOST_PROBABILITIES:
            self.notes["sums"] = (
                f"samples: probabilities of {self.n_classes:,} classes for so many samples are too "
                "many to keep; predicted labels are those of each sample's last epoch"
            )
            self._sums = self._chances = None
        elif "sums" not in self.notes:
            self._sums = _longer(self._sums, shape)
            self._chances = _longer(self._chances, shape)

    def _start_anew(self, at: NDArray[np.int64]) -> None:
        self._warn(
            "changed",
            f"update: the labels of {len(at)} samples are not those of their last epoch, the first "
            f"at index {self._index()[at[0]]}; these samples are counted anew from here. With "
            "labels that change on purpose, AUM is about the latest only",
        )
        for name in ("epochs", "margins", "chances", "squares", "correct", "forgotten", "learned"):
            self._totals[name][at] = 0
        self._totals["was_correct"][at] = False
        if self._sums is not None:
            self._sums[at] = 0

    def _index(self) -> Labels:
        return np.fromiter(self._places, dtype=np.int64, count=len(self))

    def _predicted(self) -> Labels:
        n = len(self)
        if self._sums is None:
            return self._totals["last"][:n]
        return np.asarray(self._sums[:n].argmax(1), dtype=np.int64)

    def _warn(self, kind: str, message: str) -> None:
        """Warn once of each kind."""
        if kind not in self.notes:
            self.notes[kind] = message
            warnings.warn(message, UnderscriptWarning, stacklevel=4)


def _on_cpu(logits: Tensor, labels: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Labels]:
    """Bring a batch to the CPU in one copy, if all of it is on one other device."""
    logits, labels, index = logits.float(), labels.long(), index.long()
    devices = {part.device for part in (logits, labels, index)}
    if len(devices) == 1 and logits.device.type != "cpu":
        logits, labels, index = _unpacked(_packed(logits, labels, index).cpu())
    return logits.cpu(), labels.cpu(), index.cpu().numpy()


def _packed(logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
    """Return the bits of float32 logits and int64 labels and indices side by side, int32."""
    # As numbers, float64 would not hold every index.
    whole = torch.stack([labels, index], 1).view(torch.int32)
    return torch.cat([logits.contiguous().view(torch.int32), whole], 1)


def _unpacked(bits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_packed` was given."""
    whole = bits[:, -4:].contiguous().view(torch.int64)
    return bits[:, :-4].contiguous().view(torch.float32), whole[:, 0], whole[:, 1]


def _longer(values: NDArray[np.float32] | None, shape: tuple[int, int]) -> NDArray[np.float32]:
    longer = np.zeros(shape, np.float32)
    if values is not None:
        longer[: len(values)] = values
    return longer
