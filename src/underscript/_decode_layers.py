"""The layers that `decode` reads, of a network and of earlier checkpoints of it, and the memory."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ._decode_request import Data, Request
from .activations.layers import resolve
from .activations.together import places_together
from .activations.trace import Place, Survey, survey, with_input
from .errors import UnderscriptError
from .repair.checkpoints import find_checkpoints
from .repair.earlier import load_together, some_evenly
from .repair.read_out import Target, find_read_out
from .results.cost import Plan, may_fit, trial_runs
from .selection import Key
from .selection.budget import Shares, Sizes
from .selection.sizes import sizes_of, tried_on, within
from .selection.task import Task
from .utils.class_names import check_number
from .utils.notes import Notes
from .utils.progress import Progress
from .utils.row_file import check_room

__all__ = ["Traced", "trace_layers"]

# With more checkpoints there are more candidates, and room for fewer samples that choose among
# them. So many must be able to, if there are as many.
_CHOOSING = 2_000


@dataclass(frozen=True)
class Traced:
    """The layers to read, and the plan for them.

    Attributes
    ----------
    seen : Survey
        What a run over a few inputs shows of the network.
    task : Task
        The layers that are decoded, and how.
    asked : list of str
        Layers that may be chosen.
    read : list of Place
        Layers that candidates are fitted to; always with the input, even if it is not decoded.
    target : Target or str
        The network's last linear layer, or why there is none to rewrite.
    sizes : Sizes
        What the memory use depends on.
    tried : int
        Number of inputs that a perturbation is tried on.
    plan : Plan
        The stages and their work.
    bar : Progress
        The bar that shows the plan.
    """

    seen: Survey
    task: Task
    asked: list[str]
    read: list[Place]
    target: Target | str
    sizes: Sizes
    tried: int
    plan: Plan
    bar: Progress

    @property
    def vectors(self) -> Key | None:
        """The key of the class vectors of the read-out's input, which are always fitted."""
        return self.task.extra


def trace_layers(request: Request, data: Data, notes: Notes) -> tuple[Data, Traced]:
    """Find the layers and divide the memory; refuse at once what cannot be done.

    Returns
    -------
    Data
        The same, with the checkpoints that are decoded together with the network.
    Traced
    """
    network, device, processes = data.network, data.device, data.processes
    seen = survey(
        network, data.example.take(np.arange(data.example.size) < 3), device, request.pool
    )
    check_number(request.names, seen.n_classes, alone=data.alone)
    # Without a network whole numbers are quantities, not names as a network would read them.
    layers = "input" if data.alone and request.layers is None else request.layers
    places = resolve(seen, network, layers)
    asked = list(places)
    if request.controls and layers is not None:
        places = with_input(places, seen.all_places)
    read = with_input(places, seen.all_places) if request.auto else []
    target = find_read_out(seen, network, places)
    tried = tried_on(data.example, request.usable)
    perturbable = request.auto and request.perturb != "none"
    vectors = None
    if isinstance(target, Target):
        vectors = Key(target.layer, "velpic", None, "corrupted")
    of_target = [
        p.width for p in places if isinstance(target, Target) and p.tap.name == target.layer
    ]

    def planned(steps: Sequence[int] | None) -> tuple[Task, Sizes, list[Place]]:
        """Return the task, its sizes and the layers to read, with checkpoints of some steps."""
        decoded, reading = places, read
        if steps is not None:
            decoded, reading = places_together(places, steps), places_together(read, steps)
        task = Task(
            decoded,
            request.probes or ("masc",),
            request.shares,
            request.subspace_labels,
            seen.n_classes,
            device,
            request.seed,
            processes=processes,
            extra=vectors,
            cheap=request.probes is None and request.auto,
            samples=data.whole.length,
            keeps=not request.auto,
            known=request.known,
        )
        sizes = sizes_of(task, data.sources, network, data.example, seen, tried * request.perturbs)
        copies = 0 if steps is None else len(steps)
        sizes = replace(
            sizes,
            widths=tuple(place.width for place in reading),
            twin=(1 + copies) * sizes.twin * bool(request.controls),
            copies=copies * sizes.twin,
            read_out=of_target[0] if of_target and request.auto else 0,
            views=request.views * perturbable,
        )
        return task, sizes, reading

    steps = None
    if request.checkpoints is not None:
        fits = perturbable and may_fit(data.example)
        data = _with_checkpoints(
            request, data, notes, lambda some: replace(planned(some)[1], fits_views=fits)
        )
        steps = data.steps
    task, sizes, read = planned(steps)
    task = within(task, sizes, request.usable)
    trial = trial_runs(data.example, min(tried, data.whole.length or tried))
    networks = 1 + len(steps or ())
    plan = Plan(
        task,
        read,
        data.sources,
        request.evaluate,
        # The network alone is tried; a run is of all networks.
        trial=trial * request.perturbs / networks,
        views=request.views * request.perturbs,
        fits=request.perturbs and may_fit(data.example),
        read_out=isinstance(target, Target),
        controls=request.controls,
        networks=networks,
    )
    shown = request.progress and processes.rank == 0
    bar = Progress(plan.stages(), plan.line, shown=shown, device=device)
    task = replace(task, progress=bar)
    asked = asked if steps is None else places_together(asked, steps)
    names = [place.tap.name for place in asked]
    return data, Traced(seen, task, names, read, target, sizes, tried, plan, bar)


def _with_checkpoints(
    request: Request, data: Data, notes: Notes, sizes_for: Callable[[Sequence[int]], Sizes]
) -> Data:
    """Load checkpoints of the network, as many as the memory allows."""
    with data.processes.together():
        found, lines = find_checkpoints(request.checkpoints)
    steps = [one.step for one in found]
    used = steps
    while len(used) > 1 and not _fit(data, sizes_for(used), request.usable):
        used = some_evenly(steps, len(used) - 1)
    if len(used) < len(steps):
        shown = ", ".join(map(str, used[:12])) + (" …" if len(used) > 12 else "")
        lines.append(
            f"checkpoints: {len(used)} of {len(steps)} are decoded, evenly chosen by step "
            f"({shown}): more would need more memory or disk (memory, --memory)"
        )
    with data.processes.together():
        earlier = load_together(data.model, [one for one in found if one.step in used])
    for line in [*lines, *earlier.notes]:
        notes.add(line)
    network = earlier.network
    if data.network is not data.model:
        network = copy.deepcopy(network).to(data.device)
    return replace(data, network=network, together=earlier.network, earlier=earlier)


def _fit(data: Data, sizes: Sizes, memory: int) -> bool:
    """Return whether every process has room, and enough samples can choose."""
    try:
        room = Shares.of(sizes, memory)
        check_room(room.on_disk(sizes))
        choosing = room.scores >= sizes.of_sample * min(sizes.samples, _CHOOSING)
    except UnderscriptError:
        choosing = False
    return all(data.processes.gather(choosing or not sizes.widths))
