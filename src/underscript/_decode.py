"""From one trained network and its noisy training data to a layer-by-layer picture.

`decode` reads top to bottom: find the layers, run the network once over the training data while
every layer's class statistics add up, decompose them, choose a decoder with noisy labels only,
and count how often each decoder is right.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ._budget import give_back
from ._capture import model_input, plain_torch, undisturbed
from ._class_names import as_names, check_number, names_in
from ._classifier import SubspaceClassifier
from ._contradictions import overlaps
from ._control import twin_at, whole_twin
from ._device import as_device, device_of
from ._features import Features
from ._given_model import as_module
from ._memory_size import MEMORY, as_bytes
from ._notes import Clock, Notes
from ._passes import Task, count, fit
from ._pooling import PoolChoice
from ._progress import Progress
from ._row_file import RowFile
from ._sizes import sizes_of, tried_on, within
from ._stages import Plan, may_fit, trial_runs
from ._stream import Source, is_pair
from ._survey import survey, with_input
from ._team import Team
from ._twin import weights_of
from ._untrained import untrained
from .combined import CombinedDiscriminant
from .decoder import Decoder
from .decoding import Asked, Decoding, describe
from .errors import DataError, LabelError, ModelError
from .examples import Worst
from .geometry import geometry
from .issues import Answers
from .layers import LayerChoice, resolve
from .noise import expected_calibration_error
from .perturbation import choose_perturbation
from .repair import Choosing, ReadOut, Target, find_read_out
from .selection import Key, held_out_tenth, select
from .selection.chosen import Chosen, choose
from .selection.decoder import RowsKeeper
from .subspace import PROBES, MinimumAngleSubspaceClassifier

# So many training inputs are remembered, to export the decoder with.
EXAMPLE = 16
# Bytes that log-odds of all training samples may take.
_KEPT_ODDS = 1 << 28


@plain_torch()
def decode(
    model: nn.Module | None,
    train: Any,
    test: Any = None,
    holdout: Any = None,
    layers: LayerChoice = None,
    probes: Sequence[str] | None = None,
    variance: float | Sequence[float] = 0.99,
    labels: Any = None,
    true_labels: Any = None,
    controls: bool | Literal["full"] = True,
    device: torch.device | str | None = None,
    *,
    batch_size: int = 512,
    seed: int = 0,
    progress: bool = True,
    evaluate: Sequence[str] | None = None,
    subspace_labels: Sequence[str] = ("corrupted", "true"),
    memory: int | str = MEMORY,
    group: Any = None,
    auto: bool = True,
    pool: PoolChoice = None,
    class_names: Sequence[str] | None = None,
    show: Callable[[Any], Any] | None = None,
    perturb: str | Callable[[Any], Any] = "auto",
    views: int = 3,
) -> Decoding:
    """Decode what a trained network's layers know beneath what it memorised.

    Parameters
    ----------
    model : torch.nn.Module
        A trained classifier that returns logits, a tuple, a dict or an object with ``.logits``.
        It is left as it was: mode, device, weights, hooks; so are the random states. None where
        there is no network: then `train` holds features, which are decoded as they are.
    train : Dataset, DataLoader or pair of arrays
        The data it was trained on, with the labels it was trained on. Batches are ``(x, y)``,
        ``(x, y, index)`` or dicts.
    test, holdout : Dataset, DataLoader or pair of arrays, optional
        Test data, which choose nothing; and data with noisy labels that the network was not
        trained on, which choose the decoder. Without `holdout` the training data choose it, less
        surely.
    layers : str, iterable of str, callable, optional
        Names, globs or a predicate ``(name, module) -> bool``; see `list_layers` for the names and
        the defaults.
    probes : sequence of {"masc", "velpic"}, optional
        The decoders of the table beside the one that chooses itself. By default MASC, at layers
        where that costs next to nothing; without `auto` at all layers.
    variance : float or sequence of float
        Variance shares of MASC, in (0, 1].
    labels : array-like of int, shape (n,), optional
        Training labels by index, in place of those that `train` carries.
    true_labels : array-like of int, shape (n,), optional
        The labels before corruption, by index, where known. They choose nothing.
    controls : bool or "full"
        Also decode the input (unless `layers` leaves it out) and a randomly initialised twin: at
        the layers that the chosen decoder reads, by the same ensembles, fitted once to some 5,000
        samples. With ``"full"``, or without `auto`, the twin at all layers, by all that the network
        is decoded by.
    device : torch.device or str, optional
        Where to compute; by default where the model is. Elsewhere a copy of it is used.
    batch_size : int
        Rows a batch, for data that do not come in batches; the result does not depend on it.
    seed : int
        Of the random twin and the held-out tenth.
    progress : bool
        Show one bar on a terminal or in a notebook, below a line that says what is done and about
        how long it takes.
    evaluate : sequence of {"train", "test", "candidates"}, optional
        Where every decoder of the table is tried, beside the hold-out; by default on test data, or
        on training data if there are neither these nor a hold-out. Without ``"train"`` only the
        chosen one answers for the training data, which is faster; with ``auto=False`` it does so
        when the result is first asked about them (`Decoding.label_issues`, ``summary``, a report),
        which must have the same weights then. With ``"candidates"`` all that
        could have been chosen is tried on test data too (`Decoding.candidates`), to see what the
        choice cost.
    subspace_labels : sequence of {"corrupted", "true"}
        The labels that subspaces are fitted with: the given ones, and besides, where `true_labels`
        are known, those. Without ``"true"`` the true labels are only compared with.
    memory : int or str
        Bytes, or text such as ``"4GB"``, that may be taken in each process beside the network and
        the data. What must be in memory comes first; rows that are needed again go to a temporary
        file where they do not fit, and fewer samples choose.
    group : torch.distributed.ProcessGroup, optional
        Processes that share the work; all of them make the same call and get the same result.
    auto : bool
        Let the best decoder be an ensemble of discriminants that chooses layers, features and
        ridges itself, by noisy labels (probe ``auto`` of the table). Otherwise it is the best of
        `probes` on the hold-out; without one, on a tenth of the training data that is kept from
        the decoders, a poor substitute.
    pool : str or sequence of str, optional
        How feature maps, shape (channels, height, width), and layers of tokens, shape (tokens,
        width), become one row a sample; each way is a layer of its own, named ``layer@2x2``,
        ``layer@mean``. A grid such as ``"2x2"`` is that of a map's means. ``"mean"`` is the mean
        of a map's whole area or of all tokens, ``"first"`` and ``"last"`` one of these, without
        padding as the batches' ``attention_mask`` says; ``"flatten"`` keeps all values side by
        side. By default maps are read as 4x4 (2x2 or 1x1: at most 2,048 numbers), an image that is
        the input as the finest grid of at most 2,048 numbers, tokens that a mask is known of as
        their mean, and all else whole.
    class_names : sequence of str, optional
        Names of all classes in the order of the model's read-out: shown with label issues, and
        what labels that are text stand for.
    show : callable, optional
        What the report shows of a training sample: from the sample, as the model takes it and
        without the batch's dimension, to a picture (height × width, or with 3 channels), a text
        or a row of numbers. By default pictures are recognised by their shape.
    perturb : {"auto", "none"} or callable
        How inputs are changed so that they still mean the same, to tell knowledge from memory:
        ``"auto"`` shifts images (and flips them, where the network answers flipped ones alike),
        drops words of texts, and adds noise to other numbers. A function takes what the model
        takes, and returns as much of the same shape.
    views : int
        Perturbed views of each training input, at least 1; each costs a run of the network.

    Returns
    -------
    Decoding

    Raises
    ------
    DataError, LabelError, LayerError, ModelError
        If the input cannot be used, or the memory cannot be kept to; the message says what, where
        and what to do.
    OutputError
        If rows cannot be kept in a temporary file; that there is no room is said at the start.
    TeamError
        If another process of the group fails.
    """
    clock = Clock()
    shares = _check_settings(probes, variance, batch_size, evaluate, subspace_labels)
    if isinstance(views, bool) or not isinstance(views, int) or views < 1:
        raise DataError(
            f'views: expected a whole number of at least 1; found {views!r}. perturb="none" leaves '
            "inputs as they are"
        )
    if not callable(perturb) and perturb not in ("auto", "none"):
        raise DataError(f"perturb: expected auto, none or a function; found {perturb!r}")
    names = as_names(class_names)
    if model is None and names is None:
        # There is no read-out whose order would matter.
        names = names_in(labels, *(data[1] for data in (train, test, holdout) if is_pair(data)))
    source = Source(train, "train", labels, true_labels, batch_size, names)
    sources = {"train": source}
    if evaluate is None:
        evaluate = ("train",) if test is None and holdout is None else ("test",)
    for role, data in (("holdout", holdout), ("test", test)):
        if data is not None:
            sources[role] = Source(data, role, batch_size=batch_size, class_names=names)

    budget = as_bytes(memory)
    alone = model is None
    if model is not None:
        model = as_module(model)
    else:
        if pool is not None:
            raise DataError(f"pool: expected None without a model; found {pool!r}")
        with undisturbed(nn.Identity()):
            known = max(data.count_classes() for data in sources.values())
        model = Features(max(known, len(names or ())))
        # Whole numbers too: what a network would take for names are quantities here.
        layers = "input" if layers is None else layers
    place = as_device(device) if device is not None else device_of(model)
    network = model if place == device_of(model) else copy.deepcopy(model).to(place)
    with undisturbed(network):
        example = source.first(EXAMPLE)
    if example.index is None:
        raise LabelError(
            "train: nothing says which sample is which: the loader has an order of its own, and "
            "its batches carry no index. Yield (x, y, index), or pass its data set"
        )
    if not model_input(example, "train").numel():
        raise DataError("train: expected inputs of at least one column; found none")
    seen = survey(network, example.take(np.arange(example.size) < 3), place, pool)
    check_number(names, seen.n_classes)
    places = resolve(seen, network, layers)
    asked = [place.tap.name for place in places]
    if controls and layers is not None:
        places = with_input(places, seen.all_places)
    # The input is a layer among others even where it is not decoded.
    read = with_input(places, seen.all_places) if auto else []
    team = Team(group, place if place.type == "cuda" else "cpu")
    whole = source
    sources = {role: data.share(team.rank, team.size) for role, data in sources.items()}
    kinds = tuple(subspace_labels)
    if true_labels is None:
        kinds = ("corrupted",)
    task = Task(
        places, tuple(probes or ("masc",)), shares, kinds, seen.n_classes, place, seed,
        team=team, cheap=probes is None and auto, samples=whole.length, keeps=not auto,
    )  # fmt: skip
    target = find_read_out(seen, network, places)
    if isinstance(target, Target):
        vectors = Key(target.layer, "velpic", None, "corrupted")
        task = replace(task, extra=vectors)
    tested = tried_on(example, budget)
    sizes = sizes_of(
        task, sources, network, example, seen, tested * (perturb != "none" and not alone)
    )
    sizes = replace(
        sizes, widths=tuple(each.width for each in read), twin=sizes.twin * bool(controls),
        read_out=next((p.width for p in places if isinstance(target, Target)
                       and p.tap.name == target.layer), 0) if auto else 0,
    )  # fmt: skip
    expected = views if auto and perturb != "none" else 0
    task = within(task, replace(sizes, views=expected), budget)
    choosing: Choosing | None = None
    chosen: Chosen | None = None
    perturbation = None
    notes = Notes()
    records: list[dict[str, Any]] = []
    answers: list[Answers] = []
    noise = wrong_label_share = calibration_error = candidates = None
    worst = Worst(show, seen.n_classes)
    perturbs = auto and not alone and perturb != "none"
    plan = Plan(
        task, read, sources, evaluate,
        trial=trial_runs(example, min(tested, whole.length or tested)) if perturbs else 0.0,
        views=views if perturbs else 0, fits=perturbs and may_fit(example),
        read_out=isinstance(target, Target), controls=controls,
    )  # fmt: skip
    bar = Progress(plan.stages(), plan.line, shown=progress and team.rank == 0, device=place)
    task = replace(task, progress=bar)

    with bar, ExitStack() as running:
        running.enter_context(undisturbed(network))
        keeper = None
        if auto:
            with clock("perturb"):
                # Every process looks at the same samples.
                if not alone:
                    perturbation = choose_perturbation(
                        perturb, network, whole.first(tested), place, seed, notes, bar
                    )
                number = 0 if perturbation is None else views
                fits_views = perturbation is not None and perturbation.fits
                task = within(task, replace(sizes, views=number, fits_views=fits_views), budget)
                bar.expect(replace(plan, task=task, views=number, fits=fits_views).stages())
                seeing = replace(task, places=read)
                keeper = RowsKeeper(seeing, perturbation, views)
        with clock("fit"):
            hold_out = holdout is None and not auto
            again = not auto and (hold_out or "train" in evaluate)
            fitted = fit(
                network, task, sources["train"], notes, "", hold_out, keeper, again
            )  # fmt: skip
            trained, selecting, kept = fitted.decoders, fitted.selecting, fitted.kept
            prints = {"train": fitted.own.prints}
            of_class = fitted.labels
        if isinstance(target, Target):
            choosing = Choosing(target, trained[vectors])
            if "velpic" not in task.probes:
                trained.pop(vectors)
                selecting.pop(vectors, None)
        if auto:
            with clock("choose"):
                assert keeper is not None
                chosen = choose(
                    network, seeing, keeper.kept, sources.get("holdout"), perturbation, notes, asked
                )
                trained |= chosen.keyed([place.tap.name for place in places])
                choice, noise = chosen.selection, chosen.noise
                if choosing is not None:
                    chosen.prepare(choosing)
        else:
            with clock("select"):
                if holdout is not None:
                    counts = count(
                        network, task, sources["holdout"], trained, "choosing", choosing=choosing
                    )
                    records += counts.records("trained", task, trained, "holdout")
                    prints["holdout"] = counts.prints
                    choice = select(counts.scores, "holdout")
                else:
                    keep = partial(held_out_tenth, seed=seed)
                    counts = count(
                        network, task, sources["train"], selecting, "choosing", keep=keep, seen=kept
                    )
                    choice = select(counts.scores, "held-out tenth")
        # All processes of a team would have to ask together.
        waits = not auto and "train" not in evaluate and team.size == 1
        if waits:
            own = fitted.own
            records += own.records("trained", task, trained, "train")
            if own.wrong is not None:
                wrong_label_share = own.wrong / own.n
        with clock("evaluate"):
            for role in ("holdout", "train", "test") if auto else ("train", "test"):
                if role not in sources or (waits and role == "train"):
                    continue
                watch = choice.key if role == "train" else None
                full = role == "holdout" or role in evaluate
                tried = trained if full else {choice.key: trained[choice.key]}
                if not full and watch is None:
                    continue
                sure = choice.key if auto and role == "test" else None
                counts = count(
                    network, task, sources[role], tried, f"decoding {role}",
                    watch=watch, calibration=sure, noise=noise,
                    unseen=None if chosen is None else chosen.unseen,
                    worst=None if watch is None else worst,
                    choosing=None if role == "test" else choosing,
                    seen=chosen.replay(role) if chosen else kept if role == "train" else None,
                )  # fmt: skip
                worst = counts.worst or worst
                if counts.chances:
                    confidence, right = map(torch.cat, zip(*counts.chances, strict=True))
                    calibration_error = expected_calibration_error(confidence, right)
                records += counts.records("trained", task, trained, role)
                answers += counts.watched
                if role != "train":
                    prints[role] = counts.prints
                if counts.wrong is not None:
                    wrong_label_share = counts.wrong / counts.n
        if auto:
            assert chosen is not None
            with clock("oracle"):
                candidates = chosen.candidates(
                    sources.get("test") if "candidates" in evaluate else None
                )
        # The network is as it was again, until its twin is made.
        running.close()
        if alone:
            records = [record for record in records if record["probe"] != "model"]
        taps = [place.tap for place in places]
        best = Decoder.of(choice.key, trained[choice.key], taps, model, example, perturbation)
        with clock("geometry"):
            subspaces = {
                key.layer: decoder
                for key, decoder in trained.items()
                if isinstance(decoder, MinimumAngleSubspaceClassifier)
                and (key.variance, key.subspace_labels) == (shares[0], "corrupted")
            }
            shapes = geometry(subspaces, best.layers[:1]) if subspaces else None
        read_out: ReadOut | str | None = str(target)
        later = None
        if waits:
            later = partial(
                _asked, network, weights_of(network), task, sources["train"], choice.key,
                trained[choice.key], worst, choosing or str(target),
            )  # fmt: skip
            read_out = None
        elif choosing is not None:
            read_out = choosing.finish(team)
        odds = _in_order(chosen, answers, team)
        about = None if chosen is None else (chosen.memory, chosen.survival, chosen.readers_said)
        members = {} if chosen is None else chosen.members
        # What the twin is decoded with takes the place of all this.
        chosen = keeper = None
        task = replace(task, file=RowFile())
        del trained, selecting, kept, fitted
        give_back()
        if controls and not alone:
            with clock("random twin"), undisturbed(network):
                bar.expect(plan.twin(best.layers))
                roles = [role for role in sources if role == "holdout" or role in evaluate]
                twin = None
                try:
                    twin = untrained(network, seed)
                except ModelError as error:
                    notes.add(f"no untrained twin stands beside this: {error}")
                if twin is not None and auto and controls != "full":
                    seeing = replace(task, places=read)
                    records += twin_at(best.layers, members, twin, seeing, sources, roles, notes)
                elif twin is not None:
                    # The input is read as it is for the network itself.
                    records += whole_twin(twin, task, read, sources, roles, notes)
    ordered = [role for role in ("train", "holdout", "test") if role in prints]
    against, beside = overlaps({role: np.concatenate(prints[role]) for role in ordered})
    for line in beside:
        notes.add(line)
    notes.emit()
    settings = {
        "layers": [place.tap.name for place in places],
        "probes": list(task.probes),
        "variance": list(shares),
        "pool": list(seen.pools),
        "perturb": None if perturbation is None else perturbation.name,
        "views": views,
        "controls": controls,
        "auto": auto,
        "device": str(place),
        "batch_size": batch_size,
        "memory": budget,
        "processes": team.size,
    }
    return describe(
        model=model,
        records=records,
        choice=choice,
        best=best,
        answers=None if waits else Answers.together(answers),
        candidates=candidates,
        shapes=shapes,
        examples=worst.examples(),
        read_out=read_out,
        layers=[
            {"layer": p.tap.name, "width": p.width, "path": task.paths.get(p.tap.name)}
            for p in places
        ],
        n_classes=seen.n_classes,
        class_names=names,
        wrong_label_share=wrong_label_share,
        noise=noise,
        calibration_error=calibration_error,
        memory=None if about is None else about[0],
        survival=None if about is None else about[1],
        readers=() if about is None else about[2],
        odds=odds,
        settings=settings,
        seeds={"decode": seed},
        timing=clock.seconds,
        notes=notes.messages,
        of_class=of_class,
        against=against,
        later=later,
    )


def _asked(
    network: nn.Module,
    weights: bytes,
    task: Task,
    source: Source,
    key: Key,
    decoder: SubspaceClassifier | CombinedDiscriminant,
    worst: Worst,
    choosing: Choosing | str,
) -> Asked:
    """Ask the chosen decoder about the training data, once somebody wants to know.

    Raises
    ------
    ModelError
        If the network has other weights than when it was decoded.
    """
    if weights_of(network) != weights:
        raise ModelError(
            "the training data have not been decoded yet, and the network has other weights now: "
            "decode it again, or ask for them at once (evaluate=('train',))"
        )
    tried = None if isinstance(choosing, str) else choosing
    with undisturbed(network):
        counts = count(
            network, task, source, {key: decoder}, "decoding train",
            watch=key, worst=worst, choosing=tried,
        )  # fmt: skip
    records = counts.records("trained", task, {key: decoder}, source.role)
    return Asked(
        [record for record in records if record["probe"] != "model"],
        Answers.together(counts.watched),
        (counts.worst or worst).examples(),
        choosing if isinstance(choosing, str) else choosing.finish(task.team),
    )


def _in_order(chosen: Chosen | None, answers: Sequence[Answers], team: Team) -> Tensor | None:
    """Return out-of-fold log-odds in the order of the label issues, where they can be kept."""
    if chosen is None or team.size > 1 or 4 * chosen.values.numel() > _KEPT_ODDS:
        return None
    indices = [part.index for part in answers if part.index is not None]
    if len(indices) < len(answers):
        return None
    return chosen.values[torch.from_numpy(np.argsort(np.concatenate(indices), kind="stable"))]


def _check_settings(
    probes: Sequence[str] | None,
    variance: float | Sequence[float],
    batch_size: int,
    evaluate: Sequence[str] | None,
    subspace_labels: Sequence[str],
) -> tuple[float, ...]:
    if batch_size < 1:
        raise DataError(f"batch_size: expected at least 1; found {batch_size}")
    tried = {"train", "test", "candidates"}
    if isinstance(evaluate, str) or not set(evaluate or ()) <= tried:
        raise DataError(f"evaluate: expected some of train, test, candidates; found {evaluate!r}")
    if isinstance(subspace_labels, str) or {*subspace_labels, "true"} != {"corrupted", "true"}:
        raise DataError(
            f"subspace_labels: expected corrupted, or corrupted and true; found {subspace_labels!r}"
        )
    unknown = [probe for probe in probes or () if probe not in PROBES]
    if isinstance(probes, str) or unknown or (probes is not None and not len(probes)):
        raise DataError(f"probes: expected some of {', '.join(PROBES)}; found {probes!r}")
    try:
        shares = tuple(np.atleast_1d(np.asarray(variance, dtype=float)).tolist())
    except (TypeError, ValueError):
        shares = ()
    if not shares or not all(0 < share <= 1 for share in shares):
        raise DataError(f"variance: expected shares in (0, 1]; found {variance!r}")
    return shares
