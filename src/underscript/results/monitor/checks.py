"""What a monitor checks at the end of an epoch: that the network and the labels are the same."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...errors import DataError, LayerError
from .probe import ProbeReader, ProbeRows, ProbeSet
from .samples import SampleRecords

__all__ = ["as_step", "read_same_layers", "warn_of_other_labels"]

# So many modules of a network are named in a message.
_NAMED = 8


def as_step(step: Any) -> int:
    """Return what an epoch is called as a whole number.

    Raises
    ------
    DataError
        If it is none.
    """
    try:
        return operator.index(step)
    except TypeError:
        raise DataError(f"step: expected a whole number; found {step!r}") from None


def read_same_layers(
    reader: ProbeReader, network: nn.Module, before: Sequence[str], bases: Mapping[str, Tensor]
) -> ProbeRows:
    """Run the network over the probe.

    Parameters
    ----------
    reader : ProbeReader
        What runs it.
    network : torch.nn.Module
        The network.
    before : sequence of str
        The layers of the last reading; empty if there was none.
    bases : mapping of str to Tensor, shape (width, k)
        Their bases, if they are known.

    Raises
    ------
    LayerError
        If the network has other layers.
    """
    expected = f"end_epoch: expected the network of earlier epochs, with layers {', '.join(before)}"
    try:
        rows = reader.read(network)
    except LayerError as error:
        if not before:
            raise
        parts = [name for name, _ in network.named_modules() if name]
        found = ", ".join([*parts[:_NAMED], *(["…"] if len(parts) > _NAMED else [])])
        raise LayerError(f"{expected}; found one with modules {found}: {error}") from error
    if before and list(rows.layers) != list(before):
        raise LayerError(f"{expected}; found {', '.join(rows.layers)}")
    for name, (plain, *_) in rows.layers.items():
        if name in bases and len(bases[name]) != plain.shape[1]:
            raise LayerError(
                f"{expected}; {name!r} had {len(bases[name])} values, and now has {plain.shape[1]}"
            )
    return rows


def warn_of_other_labels(records: SampleRecords, probe: ProbeSet) -> None:
    """Warn if `update` was given other labels for the probe's samples than the probe has.

    Then either the labels have changed, or `index` is not the place in the data.
    """
    if "soft" in records.notes:
        return
    given = records.labels_of(probe.index)
    known = given >= 0
    other = known & (given != probe.labels)
    if not other.any():
        return
    first = int(np.flatnonzero(other)[0])
    records.notes.warn(
        "labels",
        f"end_epoch: update was given other labels for {other.sum()} of the {known.sum()} probe "
        f"samples that it has seen, the first at index {probe.index[first]}: {given[first]}, where "
        f"the probe has {probe.labels[first]}. Give update each sample's place in the data of "
        "Monitor as its index. If labels change on purpose, what is said of the layers, the alarm "
        "and the epoch to keep is about those at the start",
        level=4,
    )
