"""From one trained network and its noisy training data to a layer-by-layer picture.

`decode` reads top to bottom: check the arguments, find the layers, run the network once over the
training data to sum every layer's class statistics, choose a decoder with noisy labels only, and
count how often each decoder is right.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import nn

from ._decode_layers import trace_layers
from ._decode_request import Request, read_data
from ._decode_stages import (
    collect_findings,
    control_records,
    evaluate_all,
    fit_and_choose,
    result_parts,
)
from .activations.hooks import plain_torch, undisturbed
from .activations.layers import LayerChoice
from .activations.pooling import PoolChoice
from .decoding import Decoding
from .selection.budget import give_back
from .utils.hints import DECODE_ARGUMENTS
from .utils.memory_size import MEMORY
from .utils.near_names import with_argument_hints
from .utils.notes import Clock, Notes


@with_argument_hints(DECODE_ARGUMENTS)
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
    checkpoints: Any = None,
) -> Decoding:
    """Decode what a trained network's layers know beneath what it memorised.

    Parameters
    ----------
    model : torch.nn.Module
        A trained classifier that returns logits, a tuple, a dict or an object with ``.logits``.
        It is left as it was: mode, device, weights, hooks; so are the random states. None if there
        is no network: then `train` holds features, which are decoded as they are.
    train : Dataset, DataLoader or pair of arrays
        The data it was trained on, with the labels it was trained on. Batches are ``(x, y)``,
        ``(x, y, index)`` or dicts.
    test, holdout : Dataset, DataLoader or pair of arrays, optional
        Test data, which play no part in the choice; and data with noisy labels that the network was
        not trained on, by which the decoder is chosen. Without `holdout` it is chosen by the
        training data, less reliably.
    layers : str, iterable of str, callable, optional
        Names, globs or a predicate ``(name, module) -> bool``; see `list_layers` for the names and
        the defaults.
    probes : sequence of {"masc", "velpic"}, optional
        The decoders of the table besides the ensemble. By default MASC, at layers where it costs
        next to nothing; without `auto` at all layers.
    variance : float or sequence of float
        Variance shares of MASC, in (0, 1].
    labels : array-like of int, shape (n,), optional
        Training labels by index, in place of those that `train` carries.
    true_labels : array-like of int, shape (n,), optional
        The labels before corruption, by index, where known. They play no part in the choice.
    controls : bool or "full"
        Also decode the input (unless `layers` leaves it out) and a randomly initialised twin. The
        twin is decoded at the layers that the chosen decoder reads, by the same ensembles, fitted
        once to some 5,000 samples; with ``"full"``, or without `auto`, at all layers by all the
        network's decoders.
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
        Where every decoder of the table is evaluated, besides the hold-out; by default on test
        data, or on training data if there is neither test data nor a hold-out. Without ``"train"``
        only the chosen decoder predicts the training data, which is faster; with ``auto=False`` it
        does so when they are first needed (`Decoding.label_issues`, `Decoding.transfer`, a report,
        `Decoding.save`), and the network must have the same weights then. With ``"candidates"`` all
        candidates are evaluated on test data too (`Decoding.candidates`), to see what the choice
        cost.
    subspace_labels : sequence of {"corrupted", "true"}
        The labels that subspaces are fitted to: the given ones, and the `true_labels` where these
        are known. Without ``"true"`` the true labels are only compared with.
    memory : int or str
        What each process may take besides the network and the data: bytes, or text such as
        ``"4GB"``. What must be in memory comes first. Rows that do not fit go to a temporary file,
        and the choice uses fewer samples.
    group : torch.distributed.ProcessGroup, optional
        Processes that share the work; all of them make the same call and get the same result.
    auto : bool
        Decode with an ensemble of discriminants whose layers, features and ridges are chosen by
        noisy labels (probe ``auto`` of the table). Otherwise choose the best of `probes` on the
        hold-out; without one, on a tenth of the training data that the decoders are not fitted to,
        a poor substitute.
    pool : str or sequence of str, optional
        How feature maps, shape (channels, height, width), and layers of tokens, shape (tokens,
        width), become one row a sample. Each way is a layer of its own, named ``layer@2x2``,
        ``layer@mean``. A grid such as ``"2x2"`` takes the means of a map's cells. ``"mean"`` takes
        the mean of the whole map or of all tokens, ``"first"`` and ``"last"`` one token; padding by
        the batches' ``attention_mask`` is skipped. ``"flatten"`` keeps all values. By default maps
        are read as 4x4 (or 2x2 or 1x1, for at most 2,048 numbers), an input image as the finest
        grid of at most 2,048 numbers, tokens with a known mask as their mean, and all else whole.
    class_names : sequence of str, optional
        Names of all classes in the order of the model's read-out: shown with label issues, and used
        to read labels that are text.
    show : callable, optional
        Turns a training sample into what the report shows. It takes the sample as the model does,
        without the batch's dimension, and returns a picture (height × width, or with 3 channels), a
        text or a row of numbers. By default pictures are recognised by their shape.
    perturb : {"auto", "overlays", "none"} or callable
        How inputs are changed without changing their meaning, to tell knowledge from memory.
        ``"auto"`` shifts images (and flips them, if the network treats flipped ones alike),
        drops words of texts, and adds noise to other numbers. If most of what the network
        memorised survives shifts, as where it was trained with them, and there is no hold-out,
        other images show through each in a second pass; ``"overlays"`` does so at once. A function
        takes what the model takes, and returns the same kinds and shapes.
    views : int
        Perturbed views of each training input, at least 1; each costs a run of the network. With
        one, less of the memory is noticed: that takes two independent views.
    checkpoints : path, str, sequence or mapping, optional
        Earlier checkpoints of the network, as `trace` takes them: their layers are further
        candidates for the decoder and for label issues, and have memorised less. A layer of one is
        named ``step=500/layer``. Each costs about as much as decoding the network alone. If they
        are too many for `memory`, some are taken, evenly by step, and a warning says which.

    Returns
    -------
    Decoding

    Raises
    ------
    ArgumentError
        If it has no argument of a name that is given; it is a TypeError too.
    DataError, LabelError, LayerError, ModelError
        If the input cannot be used, or `memory` is too little; the message says what is wrong,
        where, and what to do.
    OutputError
        If rows cannot be kept in a temporary file; lack of room is reported at the start.
    DistributedError
        If another process of the group fails.
    """
    request = Request.checked(
        model=model,
        train=train,
        test=test,
        holdout=holdout,
        layers=layers,
        probes=probes,
        variance=variance,
        labels=labels,
        true_labels=true_labels,
        controls=controls,
        device=device,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
        evaluate=evaluate,
        subspace_labels=subspace_labels,
        memory=memory,
        group=group,
        auto=auto,
        pool=pool,
        class_names=class_names,
        show=show,
        perturb=perturb,
        views=views,
        checkpoints=checkpoints,
    )
    return decoded(request)


@plain_torch()
def decoded(request: Request) -> Decoding:
    """Return what `decode` does for arguments that are checked."""
    clock, notes = Clock(), Notes()
    data = read_data(request)
    data, traced = trace_layers(request, data, notes)
    with traced.bar, ExitStack() as running:
        running.enter_context(undisturbed(data.network))
        fitted, choice = fit_and_choose(request, data, traced, notes, clock)
        evaluation = evaluate_all(request, data, fitted, choice, clock)
        # Restore the network before its twin is made.
        running.close()
        findings = collect_findings(request, data, traced, fitted, choice, evaluation, clock)
        # Decoding the twin needs this memory.
        del fitted, choice
        give_back()
        if request.controls and not data.alone:
            with clock("random twin"), undisturbed(data.network):
                evaluation.records += control_records(request, data, traced, findings, notes)
    parts = result_parts(request, data, traced, findings, evaluation, notes, clock)
    notes.emit()
    return Decoding(**parts)
