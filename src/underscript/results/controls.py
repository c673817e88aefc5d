"""The control for every claim: the same decoder on a network that was never trained."""

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
from ..selection.chosen_decoder import choose
from ..selection.fitting import Candidate
from ..selection.observers import Agreement, observe
from ..selection.reading import RowsKeeper, keep_rows
from ..selection.refit import refitted
from ..selection.subspaces import fit_subspaces
from ..selection.task import Decoders, Task
from ..utils.labels import Labels
from ..utils.notes import Notes

__all__ = ["control_at_layers", "full_control", "step_of"]

# Roughly how many samples a control is fitted to, and evaluated on.
_SAMPLES = 5_000

_ONCE = Settings(rounds=1)

Keep = Callable[[Labels], NDArray[np.bool_]]
Records = list[dict[str, Any]]


def control_at_layers(
    layers: Sequence[str],
    members: Mapping[str, Sequence[Candidate]],
    twin: nn.Module,
    task: Task,
    sources: Mapping[str, Source],
    roles: Sequence[str],
    notes: Notes,
) -> Records:
    """Return the table's rows of a twin at some layers, decoded by the network's ensembles.

    The `members` of the ensembles are fitted once to some 5,000 samples and evaluated on as many;
    without perturbed inputs, as the twin has memorised nothing. The input is left out, as it is the
    same for both networks.
    """
    places = [
        place for place in task.places if place.tap.name in layers and place.tap.side != "model"
    ]
    if not places:
        return []
    task = replace(task, places=places, extra=None)
    wanted = [place.tap.name for place in places] + [COMBINED] * (len(layers) > 1)

    def decode_twin() -> Records:
        keeper = RowsKeeper(task, None, 0)
        keep_rows(twin, task, sources["train"], keeper, _every_nth(sources["train"]))
        chosen = {place: candidates for place, candidates in members.items() if place in wanted}
        decoders = refitted(keeper.kept, task, chosen, Settings())
        return [
            record
            for role in roles
            for record in _evaluated(
                twin, task, sources, role, decoders, keep=_every_nth(sources[role])
            )
        ]

    return _decoded(decode_twin, twin, task, notes)


def step_of(source: Source) -> int:
    """Return n, where a control uses every n-th sample."""
    if source.length is None or not source.ordered:
        return 1
    return max(1, -(-source.length // _SAMPLES))


def _every_nth(source: Source) -> Keep | None:
    """Return the filter of samples that a control uses; None if it uses all."""
    step = step_of(source)
    if step == 1:
        return None
    return lambda index: np.asarray(index % step == 0)


def full_control(
    twin: nn.Module,
    task: Task,
    voters: list[Place],
    sources: Mapping[str, Source],
    roles: Sequence[str],
    notes: Notes,
) -> Records:
    """Return the table's rows of a twin at all layers, by all decoders of the network.

    With `voters` an ensemble is chosen for it as for the network, but fitted once and without
    perturbed inputs, as the twin has memorised nothing.
    """
    # The input is the same for both networks.
    task = replace(
        task, extra=None, places=[place for place in task.places if place.tap.side != "model"]
    )
    if not task.places:
        return []

    def decode_twin() -> Records:
        voter_task = replace(task, places=voters)
        keeper = RowsKeeper(voter_task, None, 0) if voters else None
        again = "train" in roles and keeper is None
        fitted = fit_subspaces(
            twin, task, sources["train"], notes, "random twin: ", False, keeper, again
        )
        decoders, chosen = fitted.decoders, None
        if keeper is not None:
            # Notes() is dropped: the network's own choice has made these notes already.
            names = [place.tap.name for place in task.places]
            chosen = choose(
                twin,
                voter_task,
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
            records += _evaluated(twin, task, sources, role, decoders, seen=seen)
        return records

    return _decoded(decode_twin, twin, task, notes)


def _evaluated(
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


def _decoded(
    decode_twin: Callable[[], Records], twin: nn.Module, task: Task, notes: Notes
) -> Records:
    """Return the twin's rows; if it cannot be decoded, add a note and return none."""
    try:
        with undisturbed(twin), task.progress.of("random twin: "):
            records = decode_twin()
    except DataError as error:
        notes.add(f"the random twin could not be decoded: {error}")
        return []
    return [record for record in records if record["probe"] != "model"]
