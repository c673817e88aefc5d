"""Looks up out-of-fold log-odds of samples in a later pass, in whatever order they come."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.batches import Batch
from ..data.fingerprints import fingerprints_of

__all__ = ["LogOdds", "OutOfFoldLogOdds", "SampleLookup"]


class LogOdds(NamedTuple):
    """What is known of training samples by fits that have not seen their labels.

    `of_classes`, float32 (n, K), are log-odds of all classes, which do not depend on a sample's own
    label. `by_margins`, float64 (n,), are what the network's margins add to those of its label.
    """

    of_classes: Tensor
    by_margins: Tensor

    def at(self, places: Tensor) -> Self:
        """Return those of some samples."""
        return self._replace(of_classes=self.of_classes[places], by_margins=self.by_margins[places])


@dataclass
class SampleLookup:
    """Looks up the places of samples among those that this process read before.

    Attributes
    ----------
    fingerprints : ndarray of uint64, shape (n,)
        Fingerprints of the inputs, in the order in which they were read.
    index : ndarray of int64, shape (n,), or None
        The samples' places in the data set, if known.
    """

    fingerprints: NDArray[np.uint64]
    index: NDArray[np.int64] | None

    def of(self, batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the places of a batch's samples, and which of them are known.

        Samples whose input has changed since are recognised by their index.
        """
        at, is_known = np.zeros(batch.size, dtype=np.int64), np.zeros(batch.size, dtype=bool)
        fingerprints = fingerprints_of(batch)
        if len(fingerprints) == batch.size:
            at, is_known = _looked_up(self._by_print, fingerprints)
        if not is_known.all() and self._by_index is not None and batch.index is not None:
            other, known = _looked_up(self._by_index, batch.index)
            at, is_known = np.where(is_known, at, other), is_known | known
        return at, is_known

    @cached_property
    def _by_print(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        return _sorted(self.fingerprints)

    @cached_property
    def _by_index(self) -> tuple[NDArray[Any], NDArray[np.int64]] | None:
        return None if self.index is None else _sorted(self.index)


@dataclass
class OutOfFoldLogOdds:
    """Out-of-fold log-odds of this process's training samples.

    Attributes
    ----------
    odds : LogOdds
        In the order in which they were read.
    known : SampleLookup
        The samples of these values.
    """

    odds: LogOdds
    known: SampleLookup

    def of(self, batch: Batch, otherwise: Callable[[], Tensor]) -> LogOdds:
        """Return the log-odds of a batch, in its present order.

        Parameters
        ----------
        batch : Batch
            Training samples.
        otherwise : callable
            Returns log-odds (m, K) for samples that are not known; their margins add nothing.
        """
        at, is_known = self.known.of(batch)
        found = self.odds.at(torch.from_numpy(at))
        if is_known.all():
            return found
        here = torch.from_numpy(is_known)
        of_classes = torch.where(here[:, None], found.of_classes, otherwise().cpu().float())
        return LogOdds(of_classes, found.by_margins * here)


def _sorted(names: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    order = np.argsort(names, kind="stable")
    return names[order], order


def _looked_up(
    known: tuple[NDArray[Any], NDArray[np.int64]], names: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the places of names among the known ones, and whether each is known."""
    ascending, order = known
    if not len(ascending):
        return np.zeros(len(names), dtype=np.int64), np.zeros(len(names), dtype=bool)
    near = np.searchsorted(ascending, names).clip(max=len(ascending) - 1)
    return order[near], np.asarray(ascending[near] == names)
