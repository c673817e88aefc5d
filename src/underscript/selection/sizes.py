"""What the memory of a decode depends on, and the start of one that keeps to its budget."""

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

# So many tell whether a perturbation keeps what inputs mean; fewer where they would take more than
# this share of the memory.
_TRIED_ON, _TRIED_AT_LEAST, _TO_TRY = 2048, 256, 16


def tried_on(example: Batch, budget: int) -> int:
    """Return how many training inputs tell whether a perturbation keeps what they mean."""
    each = _bytes_of(example) // max(1, example.size)
    return max(_TRIED_AT_LEAST, min(_TRIED_ON, budget // (_TO_TRY * max(1, each))))


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
    """Return what the memory of a decode depends on, as far as the survey shows it."""
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
        # What goes into a layer, what comes out of it, and what is added to that.
        network=12 * at_most * max(place.width for place in seen.whole),
        of_view=most * (inputs + 4 * sum(place.width for place in task.places)),
        # As they are, and in two views.
        tried=3 * tried * inputs,
        twin=sum(each.nbytes for each in network.parameters()),
    )


def within(task: Task, sizes: Sizes, budget: int) -> Task:
    """Return the task with its memory shared out, or refuse what cannot be kept to."""
    with task.processes.together():
        room = Shares.of(sizes, budget)
        check_room(room.on_disk(sizes))
    return replace(task, sizes=sizes, room=room)
