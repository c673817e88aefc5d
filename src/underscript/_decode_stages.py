"""The stages of `decode`; each takes the results of the stages before it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ._decode_layers import Traced
from ._decode_request import Data, Request
from .activations.kept import Kept
from .activations.perturbation import Perturbation, choose_perturbation
from .activations.together import Together
from .activations.untrained import untrained
from .errors import ModelError
from .probes.subspace import MinimumAngleSubspaceClassifier
from .repair.read_out import ReadOut, ReadOutTrial, Target
from .results.contradictions import overlaps
from .results.controls import control_at_layers, full_control
from .results.decoder import Decoder
from .results.evaluation import Evaluation, evaluate, predictions_later
from .results.examples import Worst
from .results.geometry import geometry
from .results.issues import Predictions
from .results.summary import Findings, run_of
from .selection import Selection, held_out_tenth, select
from .selection.budget import give_back
from .selection.chosen_decoder import Chosen, MemorySurvivesError, choose
from .selection.decoded_read_out import decoded_read_out
from .selection.log_odds_lookup import LogOdds
from .selection.observers import Agreement, Fingerprints, observe
from .selection.reading import RowsKeeper
from .selection.sizes import within
from .selection.subspaces import fit_subspaces
from .selection.task import Decoders, Task
from .utils.notes import Clock, Notes
from .utils.row_file import RowFile

# Bytes that log-odds of all training samples may take.
_KEPT_ODDS = 1 << 28


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
                    data.own,
                    data.whole.first(traced.tried),
                    data.device,
                    request.seed,
                    notes,
                    traced.bar,
                )
            views = 0 if perturbation is None else request.views
            fits = perturbation is not None and perturbation.fits
            sizes = replace(traced.sizes, views=views, fits_views=fits)
            task = within(task, sizes, request.usable)
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
    request: Request,
    data: Data,
    traced: Traced,
    fitted: FittedLayers,
    notes: Notes,
    clock: Clock,
    settles: bool = True,
) -> Choice:
    """Choose an ensemble of candidates, or the best of the table's decoders.

    Raises
    ------
    MemorySurvivesError
        If most memory survives the perturbation, and there is no hold-out; unless it `settles`.
    """
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
                settles=settles,
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


def fit_and_choose(
    request: Request, data: Data, traced: Traced, notes: Notes, clock: Clock
) -> tuple[FittedLayers, Choice]:
    """Fit the layers and choose a decoder; once more with overlays if most memory survives shifts.

    If it survives overlays, too, it may well be knowledge, of which shifts take less.
    """
    fitted = fit_layers(request, data, traced, notes, clock)
    shifts = fitted.perturbation is not None and fitted.perturbation.shifts
    others = ("overlays", "auto") if request.perturb == "auto" and shifts else ()
    for perturb in others:
        try:
            choice = choose_decoder(request, data, traced, fitted, notes, clock, settles=False)
        except MemorySurvivesError:
            pass  # Its traceback holds the rows; so go on when it is gone.
        else:
            if request.perturb == "overlays":
                notes.add(
                    "most of what the network memorised survives shifts (and flips): it was "
                    "probably trained with them. So other images show through each, in a second "
                    'pass over the data (perturb="overlays" spares the first)'
                )
            return fitted, choice
        del fitted
        give_back()
        request = replace(request, perturb=perturb)
        fitted = fit_layers(request, data, traced, notes, clock)
    return fitted, choose_decoder(request, data, traced, fitted, notes, clock)


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
        key, fitted.decoders[key], taps, data.together, data.example, fitted.perturbation
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
) -> LogOdds | None:
    """Return out-of-fold log-odds in the order of the label issues; None if too large."""
    if chosen is None or processes > 1 or 4 * chosen.odds.of_classes.numel() > _KEPT_ODDS:
        return None
    indices = [part.index for part in predictions if part.index is not None]
    if len(indices) < len(predictions):
        return None
    return chosen.odds.at(torch.from_numpy(np.argsort(np.concatenate(indices), kind="stable")))


def control_records(
    request: Request, data: Data, traced: Traced, findings: Findings, notes: Notes
) -> list[dict[str, Any]]:
    """Return the table's rows of an untrained twin; none where there can be no twin."""
    layers = findings.best.layers
    traced.bar.expect(traced.plan.twin(layers))
    roles = [role for role in data.sources if role == "holdout" or role in request.evaluate]
    try:
        twin = _twin(data.network, request.seed)
    except ModelError as error:
        notes.add(f"no untrained twin stands beside this: {error}")
        return []
    task = findings.task
    if request.auto and request.controls != "full":
        seeing = replace(task, places=traced.read)
        return control_at_layers(layers, findings.members, twin, seeing, data.sources, roles, notes)
    # The twin's input is read as the network's is.
    return full_control(twin, task, traced.read, data.sources, roles, notes)


def _twin(network: nn.Module, seed: int) -> nn.Module:
    """Return the untrained twin; of checkpoints each has its own."""
    if isinstance(network, Together):
        return network.changed(lambda one, place: untrained(one, seed + place))
    return untrained(network, seed)


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
        checkpoints=None if data.earlier is None else data.earlier.summary(),
    )
