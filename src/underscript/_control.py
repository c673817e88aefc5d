"""What every claim stands beside: the same decoder on a network that was never trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ._capture import undisturbed
from ._labels import Labels
from ._notes import Notes
from ._passes import Decoders, Task, count, fit
from ._stream import Source
from ._survey import Place
from .errors import DataError
from .selection.chosen import choose
from .selection.decoder import RowsKeeper, Settings, keep_rows

__all__ = ["twin_at", "whole_twin"]

# Samples that a control is fitted to, or tried on, roughly.
_SAMPLES = 5_000

_ONCE = Settings(rounds=1)

Keep = Callable[[Labels], NDArray[np.bool_]]
Records = list[dict[str, Any]]


def twin_at(
    layers: Sequence[str],
    twin: nn.Module,
    task: Task,
    sources: Mapping[str, Source],
    roles: Sequence[str],
    notes: Notes,
) -> Records:
    """Return the table's rows of a twin at some layers, decoded as the network itself is.

    Fitted once and without perturbed inputs, as it has memorised nothing, to some 5,000 samples,
    and tried on as many. The input, which is the same for both networks, is left out.
    """
    places = [
        place for place in task.places
        if place.tap.name in layers and place.tap.side != "model"
    ]  # fmt: skip
    if not places:
        return []
    task = replace(task, places=places, extra=None)
    names = [place.tap.name for place in places]

    def look() -> Records:
        keeper = RowsKeeper(task, None, 0)
        keep_rows(twin, task, sources["train"], keeper, "random twin", _some(sources["train"]))
        fitted = choose(twin, task, keeper.kept, None, None, Notes(), names, _ONCE, remembers=False)
        decoders = fitted.keyed(names)
        return [
            record
            for role in roles
            for record in _tried(twin, task, sources, role, decoders, keep=_some(sources[role]))
        ]

    return _decoded(look, twin, notes)


def _some(source: Source) -> Keep | None:
    """Return which samples are looked at; all if it is not known which is which."""
    if source.length is None or not source.ordered or source.length <= _SAMPLES:
        return None
    step = -(-source.length // _SAMPLES)
    return lambda index: np.asarray(index % step == 0)


def whole_twin(
    twin: nn.Module,
    task: Task,
    voters: list[Place],
    sources: Mapping[str, Source],
    roles: Sequence[str],
    notes: Notes,
) -> Records:
    """Return the table's rows of a twin at all layers, by all that the network is decoded by.

    With `voters` it is decoded by an ensemble as the network itself is, though fitted once and
    without perturbed inputs: it has memorised nothing.
    """
    # The input is the same for both networks.
    task = replace(
        task, extra=None, places=[place for place in task.places if place.tap.side != "model"]
    )
    if not task.places:
        return []

    def look() -> Records:
        seeing = replace(task, places=voters)
        keeper = RowsKeeper(seeing, None, 0) if voters else None
        again = "train" in roles and keeper is None
        fitted = fit(
            twin, task, sources["train"], notes, "random twin: ", False, keeper, again
        )  # fmt: skip
        decoders, chosen = fitted.decoders, None
        if keeper is not None:
            # What there is to say of the data was said of the network.
            names = [place.tap.name for place in task.places]
            chosen = choose(
                twin, seeing, keeper.kept, sources.get("holdout"), None, Notes(), names, _ONCE,
                remembers=False,
            )  # fmt: skip
            decoders |= chosen.keyed(names)
        records: Records = []
        for role in roles:
            seen = chosen.replay(role) if chosen else fitted.kept if role == "train" else None
            records += _tried(twin, task, sources, role, decoders, seen=seen)
        return records

    return _decoded(look, twin, notes)


def _tried(
    twin: nn.Module,
    task: Task,
    sources: Mapping[str, Source],
    role: str,
    decoders: Decoders,
    **how: Any,
) -> Records:
    """Return the table's rows of the twin's decoders on one part of the data."""
    counts = count(twin, task, sources[role], decoders, f"random twin, {role}", **how)
    return counts.records("random", task, decoders, role)


def _decoded(look: Callable[[], Records], twin: nn.Module, notes: Notes) -> Records:
    """Return what `look` finds; a twin that cannot be decoded is noted, and costs no result."""
    try:
        with undisturbed(twin):
            records = look()
    except DataError as error:
        notes.add(f"the random twin could not be decoded: {error}")
        return []
    return [record for record in records if record["probe"] != "model"]
