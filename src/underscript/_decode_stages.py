"""The stages of `decode`; each takes the results of the stages before it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._decode_request import Data, Request
from .activations.kept import Kept
from .activations.layers import resolve
from .activations.perturbation import Perturbation, choose_perturbation
from .activations.trace import Place, Survey, survey, with_input
from .activations.untrained import untrained
from .errors import ModelError
from .probes.subspace import MinimumAngleSubspaceClassifier
from .repair.read_out import ReadOut, ReadOutTrial, Target, find_read_out
from .results.contradictions import overlaps
from .results.controls import control_at_layers, full_control
from .results.cost import Plan, may_fit, trial_runs
from .results.decoder import Decoder
from .results.evaluation import Evaluation, evaluate, predictions_later
from .results.examples import Worst
from .results.geometry import geometry
from .results.issues import Predictions
from .results.summary import Findings, run_of
from .selection import Key, Selection, held_out_tenth, select
from .selection.budget import Sizes
from .selection.chosen_decoder import Chosen, choose
from .selection.decoded_read_out import decoded_read_out
from .selection.observers import Agreement, Fingerprints, observe
from .selection.reading import RowsKeeper
from .selection.sizes import sizes_of, tried_on, within
from .selection.subspaces import fit_subspaces
from .selection.task import Decoders, Task
from .utils.class_names import check_number
from .utils.notes import Clock, Notes
from .utils.progress import Progress
from .utils.row_file import RowFile

# Bytes that log-odds of all training samples may take.
_KEPT_ODDS = 1 << 28


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


def trace_layers(request: Request, data: Data) -> Traced:
    """Find the layers and divide the memory; refuse at once what cannot be done."""
    network, device, processes = data.network, data.device, data.processes
    seen = survey(
        network, data.example.take(np.arange(data.example.size) < 3), device, request.pool
    )
    check_number(request.names, seen.n_classes, alone=data.alone)
    # Without a network whole numbers are quantities, not names as a network would read them.
    layers = "input" if data.alone and request.layers is None else request.layers
    places = resolve(seen, network, layers)
    asked = [place.tap.name for place in places]
    if request.controls and layers is not None:
        places = with_input(places, seen.all_places)
    read = with_input(places, seen.all_places) if request.auto else []
    target = find_read_out(seen, network, places)
    vectors = None
    if isinstance(target, Target):
        vectors = Key(target.layer, "velpic", None, "corrupted")
    task = Task(
        places,
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
    )
    tried = tried_on(data.example, request.memory)
    sizes = sizes_of(task, data.sources, network, data.example, seen, tried * request.perturbs)
    of_target = [
        p.width for p in places if isinstance(target, Target) and p.tap.name == target.layer
    ]
    sizes = replace(
        sizes,
        widths=tuple(place.width for place in read),
        twin=sizes.twin * bool(request.controls),
        read_out=of_target[0] if of_target and request.auto else 0,
    )
    perturbable = request.auto and request.perturb != "none"
    task = within(task, replace(sizes, views=request.views * perturbable), request.memory)
    trial = trial_runs(data.example, min(tried, data.whole.length or tried))
    plan = Plan(
        task,
        read,
        data.sources,
        request.evaluate,
        trial=trial * request.perturbs,
        views=request.views * request.perturbs,
        fits=request.perturbs and may_fit(data.example),
        read_out=isinstance(target, Target),
        controls=request.controls,
    )
    shown = request.progress and processes.rank == 0
    bar = Progress(plan.stages(), plan.line, shown=shown, device=device)
    task = replace(task, progress=bar)
    return Traced(seen, task, asked, read, target, sizes, tried, plan, bar)


@dataclass(frozen=True)
class FittedLayers:
    """The results of one pass over the training data and their perturbed views.

    Attributes
    ----------
    task : Task
        As before, with the memory that the perturbation leaves.
    decoders, selecting : dict of Key to estimator
        Subspaces of every layer; and those fitted without the held-out tenth.
    trial : ReadOutTrial or None
        Tries candidates for the network's last layer.
    perturbation : Perturbation or None
        How inputs are changed.
    keeper : RowsKeeper or None
        The rows that candidates are fitted to.
    kept : Kept or None
        The rows for a second pass, without an ensemble.
    agreement : Agreement
        How often the network agrees with its training labels.
    fingerprints : Fingerprints
        Fingerprints of the training inputs.
    counts : ndarray of int64, shape (K,)
        Number of training labels of each class.
    """

    task: Task
    decoders: Decoders
    selecting: Decoders
    trial: ReadOutTrial | None
    perturbation: Perturbation | None
    keeper: RowsKeeper | None
    kept: Kept | None
    agreement: Agreement
    fingerprints: Fingerprints
    counts: NDArray[np.int64]


def fit_layers(
    request: Request, data: Data, traced: Traced, notes: Notes, clock: Clock
) -> FittedLayers:
    """Run the network over the training data, for class statistics and rows to choose by."""
    task, keeper, perturbation = traced.task, None, None
    if request.auto:
        with clock("perturb"):
            # Every process looks at the same samples.
            if not data.alone:
                perturbation = choose_perturbation(
                    request.perturb,
                    data.network,
                    data.whole.first(traced.tried),
                    data.device,
                    request.seed,
                    notes,
                    traced.bar,
                )
            views = 0 if perturbation is None else request.views
            fits = perturbation is not None and perturbation.fits
            sizes = replace(traced.sizes, views=views, fits_views=fits)
            task = within(task, sizes, request.memory)
            traced.bar.expect(replace(traced.plan, task=task, views=views, fits=fits).stages())
            keeper = RowsKeeper(replace(task, places=traced.read), perturbation, request.views)
    with clock("fit"):
        hold_out = request.holdout is None and not request.auto
        again = not request.auto and (hold_out or "train" in request.evaluate)
        fitted = fit_subspaces(
            data.network, task, data.sources["train"], notes, "", hold_out, keeper, again
        )
    decoders, selecting, trial = fitted.decoders, fitted.selecting, None
    if traced.vectors is not None:
        assert isinstance(traced.target, Target)
        trial = ReadOutTrial(traced.target, decoders[traced.vectors])
        if "velpic" not in task.probes:
            decoders.pop(traced.vectors)
            selecting.pop(traced.vectors, None)
    return FittedLayers(
        task,
        decoders,
        selecting,
        trial,
        perturbation,
        keeper,
        fitted.kept,
        fitted.own,
        fitted.fingerprints,
        fitted.labels,
    )


@dataclass
class Choice:
    """The decoder that was chosen with noisy labels only.

    Attributes
    ----------
    selection : Selection
        The decoder and why.
    chosen : Chosen or None
        The ensemble; None with ``auto=False``.
    evaluation : Evaluation
        What was measured on the way.
    """

    selection: Selection
    chosen: Chosen | None
    evaluation: Evaluation


def choose_decoder(
    request: Request, data: Data, traced: Traced, fitted: FittedLayers, notes: Notes, clock: Clock
) -> Choice:
    """Choose an ensemble of candidates, or the best of the table's decoders."""
    evaluation = Evaluation(Worst(request.show, traced.seen.n_classes))
    evaluation.fingerprints["train"] = fitted.fingerprints.all()
    if request.auto:
        with clock("choose"):
            assert fitted.keeper is not None
            chosen = choose(
                data.network,
                replace(fitted.task, places=traced.read),
                fitted.keeper.kept,
                data.sources.get("holdout"),
                fitted.perturbation,
                notes,
                traced.asked,
            )
            fitted.decoders.update(chosen.keyed([p.tap.name for p in fitted.task.places]))
            if fitted.trial is not None:
                fitted.trial.add(*decoded_read_out(chosen, fitted.trial.target.layer))
            return Choice(chosen.selection, chosen, evaluation)
    with clock("select"):
        if "holdout" in data.sources:
            evaluate(
                data.network,
                fitted.task,
                data.sources["holdout"],
                fitted.decoders,
                evaluation,
                "choosing",
                trial=fitted.trial,
            )
            assert evaluation.holdout is not None
            return Choice(select(evaluation.holdout.scores, "holdout"), None, evaluation)
        (agreement,) = observe(
            data.network,
            fitted.task,
            data.sources["train"],
            [Agreement(fitted.selecting)],
            "choosing",
            keep=partial(held_out_tenth, seed=request.seed),
            seen=fitted.kept,
        )
        return Choice(select(agreement.scores, "held-out tenth"), None, evaluation)


def evaluate_all(
    request: Request, data: Data, fitted: FittedLayers, choice: Choice, clock: Clock
) -> Evaluation:
    """Evaluate the decoders on each part of the data; the chosen one on all training labels."""
    evaluation, chosen = choice.evaluation, choice.chosen
    key = choice.selection.key
    if puts_off(request, data):
        own = fitted.agreement
        evaluation.records += own.records("trained", fitted.task, fitted.decoders, "train")
        evaluation.wrong_label_share = own.wrong_share
    with clock("evaluate"):
        # Without an ensemble the hold-out was decoded for the choice already.
        for role in ("holdout", "train", "test") if request.auto else ("train", "test"):
            full = role == "holdout" or role in request.evaluate
            wanted = full or (role == "train" and not puts_off(request, data))
            if role not in data.sources or not wanted:
                continue
            seen = fitted.kept if role == "train" else None
            evaluate(
                data.network,
                fitted.task,
                data.sources[role],
                fitted.decoders if full else {key: fitted.decoders[key]},
                evaluation,
                f"decoding {role}",
                chosen=key if role == "train" or request.auto else None,
                noise=None if chosen is None else chosen.noise,
                unseen=None if chosen is None else chosen.out_of_fold,
                trial=fitted.trial,
                seen=seen if chosen is None else chosen.replay(role),
            )
    if chosen is not None:
        with clock("oracle"):
            tests = data.sources.get("test") if "candidates" in request.evaluate else None
            evaluation.candidates = chosen.candidates(tests)
    if data.alone:
        evaluation.records = [record for record in evaluation.records if record["probe"] != "model"]
    return evaluation


def puts_off(request: Request, data: Data) -> bool:
    """Return whether the training data are decoded only when somebody asks for that.

    Not with several processes, which would have to ask together.
    """
    return not request.auto and "train" not in request.evaluate and data.processes.size == 1


def collect_findings(
    request: Request,
    data: Data,
    traced: Traced,
    fitted: FittedLayers,
    choice: Choice,
    evaluation: Evaluation,
    clock: Clock,
) -> Findings:
    """Return the results to keep: the decoder, class geometry, what can be transferred."""
    task, key, chosen = fitted.task, choice.selection.key, choice.chosen
    taps = [place.tap for place in task.places]
    best = Decoder.of(
        key, fitted.decoders[key], taps, data.model, data.example, fitted.perturbation
    )
    with clock("geometry"):
        subspaces = {
            name.layer: decoder
            for name, decoder in fitted.decoders.items()
            if isinstance(decoder, MinimumAngleSubspaceClassifier)
            and (name.variance, name.subspace_labels) == (request.shares[0], "corrupted")
        }
        shapes = geometry(subspaces, best.layers[:1]) if subspaces else None
    read_out: ReadOut | str | None = str(traced.target)
    later = None
    if puts_off(request, data):
        decoders = {key: fitted.decoders[key]}
        trial = fitted.trial or str(traced.target)
        later = predictions_later(
            data.network, task, data.sources["train"], key, decoders, evaluation, trial
        )
        read_out = None
    elif fitted.trial is not None:
        assert evaluation.decoded is not None
        read_out = fitted.trial.finish(evaluation.decoded, evaluation.on_holdout)
    return Findings(
        task=replace(task, file=RowFile()),
        counts=fitted.counts,
        selection=choice.selection,
        best=best,
        geometry=shapes,
        read_out=read_out,
        odds=_in_order(chosen, evaluation.predictions, data.processes.size),
        noise=None if chosen is None else chosen.noise,
        memory=None if chosen is None else chosen.memory,
        survival=None if chosen is None else chosen.survival,
        readers=() if chosen is None else chosen.reader_descriptions,
        members={} if chosen is None else chosen.members,
        later=later,
    )


def _in_order(
    chosen: Chosen | None, predictions: Sequence[Predictions], processes: int
) -> Tensor | None:
    """Return out-of-fold log-odds in the order of the label issues; None if too large."""
    if chosen is None or processes > 1 or 4 * chosen.values.numel() > _KEPT_ODDS:
        return None
    indices = [part.index for part in predictions if part.index is not None]
    if len(indices) < len(predictions):
        return None
    return chosen.values[torch.from_numpy(np.argsort(np.concatenate(indices), kind="stable"))]


def control_records(
    request: Request, data: Data, traced: Traced, findings: Findings, notes: Notes
) -> list[dict[str, Any]]:
    """Return the table's rows of an untrained twin; none where there can be no twin."""
    layers = findings.best.layers
    traced.bar.expect(traced.plan.twin(layers))
    roles = [role for role in data.sources if role == "holdout" or role in request.evaluate]
    try:
        twin = untrained(data.network, request.seed)
    except ModelError as error:
        notes.add(f"no untrained twin stands beside this: {error}")
        return []
    task = findings.task
    if request.auto and request.controls != "full":
        seeing = replace(task, places=traced.read)
        return control_at_layers(layers, findings.members, twin, seeing, data.sources, roles, notes)
    # The twin's input is read as the network's is.
    return full_control(twin, task, traced.read, data.sources, roles, notes)


def result_parts(
    request: Request,
    data: Data,
    traced: Traced,
    findings: Findings,
    evaluation: Evaluation,
    notes: Notes,
    clock: Clock,
) -> dict[str, Any]:
    """Return the parts of a `Decoding`; overlaps in the data go to its verdict or its notes."""
    roles = [role for role in ("train", "holdout", "test") if role in evaluation.fingerprints]
    against, beside = overlaps({role: evaluation.fingerprints[role] for role in roles})
    for line in beside:
        notes.add(line)
    perturbation = findings.best.perturbation
    task = findings.task
    settings = {
        "layers": [place.tap.name for place in task.places],
        "probes": list(task.probes),
        "variance": list(request.shares),
        "pool": list(traced.seen.pools),
        "perturb": None if perturbation is None else perturbation.name,
        "views": request.views,
        "controls": request.controls,
        "auto": request.auto,
        "device": str(data.device),
        "batch_size": request.batch_size,
        "memory": request.memory,
        "processes": data.processes.size,
    }
    return run_of(
        findings,
        evaluation,
        model=data.model,
        layers=[
            {"layer": p.tap.name, "width": p.width, "path": task.paths.get(p.tap.name)}
            for p in task.places
        ],
        n_classes=traced.seen.n_classes,
        class_names=request.names,
        settings=settings,
        seeds={"decode": request.seed},
        timing=clock.seconds,
        notes=notes.messages,
        against=against,
    )
