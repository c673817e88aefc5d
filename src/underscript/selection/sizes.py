"""Collects the sizes that a decode's memory depends on, and shares out the budget."""

from dataclasses import replace

from torch import Tensor, nn

from ..activations.runner import at_once
from ..activations.trace import Survey
from ..data.batches import Batch
from ..data.source import Source
from ..utils.row_file import check_room
from .budget import Shares, Sizes
from .candidates import Settings
from .task import Task

__all__ = ["sizes_of", "tried_on", "within"]

# Inputs for the test whether a perturbation keeps their meaning: at most, at least, and the part of
# the memory that they may take (1 / 16).
_TRIED_ON, _TRIED_AT_LEAST, _TO_TRY = 2048, 256, 16


def tried_on(example: Batch, budget: int) -> int:
    """Return the number of training inputs for testing if a perturbation keeps their meaning."""
    per_input = _bytes_of(example) // max(1, example.size)
    return max(_TRIED_AT_LEAST, min(_TRIED_ON, budget // (_TO_TRY * max(1, per_input))))


def _bytes_of(batch: Batch) -> int:
    values = [*batch.args, *batch.kwargs.values()]
    return sum(each.nbytes for each in values if isinstance(each, Tensor))


def sizes_of(
    task: Task,
    sources: dict[str, Source],
    network: nn.Module,
    example: Batch,
    seen: Survey,
    tried: int,
) -> Sizes:
    """Return the sizes that a decode's memory depends on, as far as the survey shows them."""
    n = {
        role: -(-(source.length or 0) // task.processes.size)
        for role, source in sources.items()
        if role != "test"
    }
    probed = [p.width for p in task.places if task.keys(p.tap.name, "corrupted")]
    settings = Settings()
    inputs = _bytes_of(example) // max(1, example.size)
    most = max(source.batch_rows for source in sources.values())
    at_most = max(
        at_once(network, example, task.device, source.batch_rows, source.divisible)
        for source in sources.values()
    )
    return Sizes(
        samples=n["train"],
        held=n.get("holdout", 0),
        n_classes=task.n_classes,
        probed=tuple(probed),
        sets=len(task.subspace_labels),
        features=min(settings.features, n["train"] // 2 + 1 if n["train"] else settings.features),
        rounds=settings.rounds,
        ridges=max(len(settings.ridges), len(settings.feature_ridges)),
        # A layer's input, its output, and what is added to the output.
        network=12 * at_most * max(place.width for place in seen.whole),
        of_view=most * (inputs + 4 * sum(place.width for place in task.places)),
        # As they are, and in two views.
        tried=3 * tried * inputs,
        twin=sum(each.nbytes for each in network.parameters()),
    )


def within(task: Task, sizes: Sizes, budget: int) -> Task:
    """Return the task with its memory shared out, or refuse a budget that is too small."""
    with task.processes.together():
        room = Shares.of(sizes, budget)
        check_room(room.on_disk(sizes))
    return replace(task, sizes=sizes, room=room)
