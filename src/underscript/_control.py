"""What every claim stands beside: the same decoder on a network that was never trained."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ._capture import undisturbed
from ._labels import Labels
from ._notes import Notes
from ._passes import Task, count, fit
from ._stream import Source
from ._survey import Place
from .errors import DataError
from .selection.chosen import choose
from .selection.decoder import RowsKeeper, Settings, keep_rows

__all__ = ["twin_at", "whole_twin"]

# Samples that a control is fitted to, or tried on, roughly.
_SAMPLES = 5_000

_ONCE = Settings(rounds=1)


def twin_at(
    layers: Sequence[str],
    twin: nn.Module,
    task: Task,
    sources: Mapping[str, Source],
    roles: Sequence[str],
    notes: Notes,
) -> list[dict[str, Any]]:
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

    def look() -> list[dict[str, Any]]:
        keeper = RowsKeeper(task, None, 0)
        keep_rows(twin, task, sources["train"], keeper, "random twin", _some(sources["train"]))
        fitted = choose(twin, task, keeper.kept, None, None, Notes(), names, _ONCE, remembers=False)
        decoders = fitted.keyed(names)
        records: list[dict[str, Any]] = []
        for role in roles:
            counts = count(
                twin, task, sources[role], decoders, f"random twin, {role}",
                keep=_some(sources[role]),
            )  # fmt: skip
            records += counts.records("random", task, decoders, role)
        return records

    return _decoded(look, twin, notes)


class _Some:
    """Every so many samples of the data."""

    def __init__(self, step: int):
        self.step = step

    def __call__(self, index: Labels) -> NDArray[np.bool_]:
        return np.asarray(index % self.step == 0)


def _some(source: Source) -> _Some | None:
    """Return which samples are looked at; all if it is not known which is which."""
    if source.length is None or not source.ordered or source.length <= _SAMPLES:
        return None
    return _Some(-(-source.length // _SAMPLES))


def whole_twin(
    twin: nn.Module,
    task: Task,
    voters: list[Place],
    sources: Mapping[str, Source],
    roles: Sequence[str],
    notes: Notes,
) -> list[dict[str, Any]]:
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

    def look() -> list[dict[str, Any]]:
        seeing = replace(task, places=voters)
        keeper = RowsKeeper(seeing, None, 0) if voters else None
        decoders, _ = fit(
            twin, task, sources["train"], notes, "random twin: ", False, keeper
        )  # fmt: skip
        chosen = None
        if keeper is not None:
            # What there is to say of the data was said of the network.
            names = [place.tap.name for place in task.places]
            chosen = choose(
                twin, seeing, keeper.kept, sources.get("holdout"), None, Notes(), names, _ONCE,
                remembers=False,
            )  # fmt: skip
            decoders |= chosen.keyed(names)
        records: list[dict[str, Any]] = []
        for role in roles:
            counts = count(
                twin, task, sources[role], decoders, f"random twin, {role}",
                seen=None if chosen is None else chosen.replay(role),
            )  # fmt: skip
            records += counts.records("random", task, decoders, role)
        return records

    return _decoded(look, twin, notes)


def _decoded(look: Any, twin: nn.Module, notes: Notes) -> list[dict[str, Any]]:
    """Return what `look` finds; a twin that cannot be decoded is noted, and costs no result."""
    try:
        with undisturbed(twin):
            records = look()
    except DataError as error:
        notes.add(f"the random twin could not be decoded: {error}")
        return []
    return [record for record in records if record["probe"] != "model"]
