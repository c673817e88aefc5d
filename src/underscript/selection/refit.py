"""Fits the ensembles that were chosen for one network to another network's rows."""

from collections.abc import Mapping, Sequence

import torch

from ..probes.ensemble import COMBINED
from .candidates import Fits, LayersFit, Settings, on_one_scale
from .chosen_decoder import auto_key, combined
from .fitting import Candidate, Fitted, Grid
from .greedy import Scores
from .kept_rows import KeptRows
from .task import Decoders, Task

__all__ = ["refitted"]


def refitted(
    kept: KeptRows, task: Task, members: Mapping[str, Sequence[Candidate]], settings: Settings
) -> Decoders:
    """Return ensembles of the same discriminants, fitted once to all rows as they are.

    Nothing is chosen, so no folds are left out.

    Parameters
    ----------
    kept : KeptRows
        Rows of the task's layers.
    members : mapping of str to sequence of Candidate
        The ensembles' members, by layer and for all layers together (`COMBINED`). Members at layers
        without rows are left out.
    """
    shared = LayersFit.of(kept, task, settings)

    def ours(made: Sequence[Candidate]) -> list[Candidate]:
        return [
            each._replace(perturbed=False, n_features=shared.n_features if each.n_features else 0)
            for each in made
            if each.layer in kept.widths
        ]

    here = {place: ours(made) for place, made in members.items()}
    groups: dict[tuple[str, bool], list[Candidate]] = {}
    for each in {each for made in here.values() for each in made}:
        groups.setdefault((each.layer, each.n_features > 0), []).append(each)
    fitted: dict[Candidate, Fitted] = {}
    features = {}
    task.progress.begin("fitting")
    for layer in sorted({layer for layer, _ in groups}):
        for lift in (False, True):
            some = groups.get((layer, lift), [])
            if not some:
                continue
            ridges = tuple(sorted({each.ridge for each in some}))
            rounds = 1 + max(each.round for each in some)
            of_layer, maps = shared.fit(layer, lift, Grid(ridges, rounds, (False,)), folds=False)
            fitted |= of_layer
            if maps is not None:
                features[layer] = maps
        task.progress.advance()
    for fit in fitted.values():
        fit.spread = on_one_scale(torch.cat(task.processes.gather(fit.plain)))
    fits = Fits(fitted, features, Scores([], [], torch.empty(0), [], None), shared.classes, 1)
    return {
        auto_key(place): combined(fits, made, 1.0, None, task)
        for place, made in here.items()
        if made and (place != COMBINED or len({each.layer for each in made}) > 1)
    }
