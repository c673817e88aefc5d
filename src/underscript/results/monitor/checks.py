"""What a monitor checks at the end of an epoch: that the network and the labels are the same."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from ...errors import LayerError
from .probe import ProbeReader, ProbeRows, ProbeSet
from .samples import SampleRecords

__all__ = ["read_same_layers", "warn_of_other_labels"]


def read_same_layers(reader: ProbeReader, network: nn.Module, before: Sequence[str]) -> ProbeRows:
    """Run the network over the probe.

    Parameters
    ----------
    reader : ProbeReader
        What runs it.
    network : torch.nn.Module
        The network.
    before : sequence of str
        The layers of the last reading; empty if there was none.

    Raises
    ------
    LayerError
        If the network has other layers.
    """
    expected = f"end_epoch: expected the network of earlier epochs, with layers {', '.join(before)}"
    try:
        rows = reader.read(network)
    except LayerError as error:
        if before:
            raise LayerError(f"{expected}; {error}") from error
        raise
    if before and list(rows.layers) != list(before):
        raise LayerError(f"{expected}; found {', '.join(rows.layers)}")
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
