"""What every claim stands beside: the same decoder on a network that was never trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..activations.hooks import undisturbed
from ..activations.trace import Place
from ..data.source import Source
from ..errors import DataError
from ..probes.ensemble import COMBINED
from ..selection.candidates import Settings
from ..selection.chosen import choose
from ..selection.fitting import Candidate
from ..selection.observers import Agreement, observe
from ..selection.reading import RowsKeeper, keep_rows
from ..selection.refit import refitted
from ..selection.subspaces import fit_subspaces
from ..selection.task import Decoders, Task
from ..utils.labels import Labels
from ..utils.notes import Notes

__all__ = ["step_of", "twin_at", "whole_twin"]

# Samples that a control is fitted to, or tried on, roughly.
_SAMPLES = 5_000

_ONCE = Settings(rounds=1)

Keep = Callable[[Labels], NDArray[np.bool_]]
Records = list[dict[str, Any]]


def twin_at(
    layers: Sequence[str],
    members: Mapping[str, Sequence[Candidate]],
    twin: nn.Module,
    task: Task,
    sources: Mapping[str, Source],
    roles: Sequence[str],
    notes: Notes,
) -> Records:
    """Return the table's rows of a twin at some layers, decoded by what decodes the network.

    By the ensembles that were chosen for the network, their `members` fitted once and without
    perturbed inputs, as it has memorised nothing, to some 5,000 samples, and tried on as many. The
    input, which is the same for both networks, is left out.
    """
    places = [
        place for place in task.places if place.tap.name in layers and place.tap.side != "model"
    ]
    if not places:
        return []
    task = replace(task, places=places, extra=None)
    wanted = [place.tap.name for place in places] + [COMBINED] * (len(layers) > 1)

    def look() -> Records:
        keeper = RowsKeeper(task, None, 0)
        keep_rows(twin, task, sources["train"], keeper, _some(sources["train"]))
        chosen = {place: made for place, made in members.items() if place in wanted}
        decoders = refitted(keeper.kept, task, chosen, Settings())
        return [
            record
            for role in roles
            for record in _tried(twin, task, sources, role, decoders, keep=_some(sources[role]))
        ]

    return _decoded(look, twin, task, notes)


def step_of(source: Source) -> int:
    """Return of how many samples a control looks at one."""
    if source.length is None or not source.ordered:
        return 1
    return max(1, -(-source.length // _SAMPLES))


def _some(source: Source) -> Keep | None:
    """Return which samples are looked at; all if it is not known which is which."""
    step = step_of(source)
    if step == 1:
        return None
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
        fitted = fit_subspaces(
            twin, task, sources["train"], notes, "random twin: ", False, keeper, again
        )
        decoders, chosen = fitted.decoders, None
        if keeper is not None:
            # What there is to say of the data was said of the network.
            names = [place.tap.name for place in task.places]
            chosen = choose(
                twin,
                seeing,
                keeper.kept,
                sources.get("holdout"),
                None,
                Notes(),
                names,
                _ONCE,
                remembers=False,
            )
            decoders |= chosen.keyed(names)
        records: Records = []
        for role in roles:
            seen = chosen.replay(role) if chosen else fitted.kept if role == "train" else None
            records += _tried(twin, task, sources, role, decoders, seen=seen)
        return records

    return _decoded(look, twin, task, notes)


def _tried(
    twin: nn.Module,
    task: Task,
    sources: Mapping[str, Source],
    role: str,
    decoders: Decoders,
    **how: Any,
) -> Records:
    """Return the table's rows of the twin's decoders on one part of the data."""
    source = sources[role]
    (agreement,) = observe(twin, task, source, [Agreement(decoders)], f"decoding {role}", **how)
    records: Records = agreement.records("random", task, decoders, role)
    return records


def _decoded(look: Callable[[], Records], twin: nn.Module, task: Task, notes: Notes) -> Records:
    """Return what `look` finds; a twin that cannot be decoded is noted, and costs no result."""
    try:
        with undisturbed(twin), task.progress.of("random twin: "):
            records = look()
    except DataError as error:
        notes.add(f"the random twin could not be decoded: {error}")
        return []
    return [record for record in records if record["probe"] != "model"]
