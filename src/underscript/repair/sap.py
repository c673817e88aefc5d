"""SAP, a published baseline: repair a network without retraining and without clean labels.

Scaled Activation Projection takes the samples that the network fits best, finds the directions of
each layer's inputs on them, and shrinks the layer's weights along all others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..activations.copies import copied
from ..activations.hooks import undisturbed
from ..activations.stream import stream
from ..data.source import Source, known_index
from ..errors import DataError, LabelError, ModelError
from ..utils.device import as_device, device_of
from ..utils.labels import Labels, check_different, check_range
from ..utils.progress import RUNS, Progress, Stage
from .sap_layers import directions, project, projectable, relative_change, spectra_of

__all__ = ["ALPHAS", "SapReport", "sap"]

ALPHAS = (1e1, 3e1, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6)
"""Values to try for alpha: the authors try 1e3 to 1e6; small networks need less."""


@dataclass(frozen=True)
class SapReport:
    """What `sap` did.

    Attributes
    ----------
    alpha : float
        What the weights were scaled with; infinite if the network was left as it is.
    criterion : str
        How alpha was chosen.
    tried : pandas.DataFrame
        `alpha` (infinite: the network as it is), `agreement` (the share of the hold-out's labels
        that is predicted; NaN without one) and `chosen`.
    trusted : ndarray of int64, shape (n_trusted,)
        Indices of the trusted samples, ascending.
    layers : pandas.DataFrame
        For each projected layer `layer`, `module`, `width` (of its input, or of a convolution's
        patches), `rows` (how many were seen), `directions` (the sum of importances: how many
        directions are left, at most the width) and `change` (of the weights, relative to
        their norm).
    left_alone : dict of str to str
        Layers with weights that were not projected, and why not.
    """

    alpha: float
    criterion: str
    tried: pd.DataFrame
    trusted: Labels
    layers: pd.DataFrame
    left_alone: dict[str, str]


def sap(
    model: nn.Module,
    train: Any,
    holdout: Any = None,
    *,
    alpha: float | Sequence[float] | None = None,
    n_trusted: int = 1000,
    n_patches: int | None = 50_000,
    labels: Any = None,
    device: torch.device | str | None = None,
    batch_size: int = 512,
    seed: int = 0,
    progress: bool = True,
) -> tuple[nn.Module, SapReport]:
    r"""Return a copy of a network with its weights projected on what trusted samples use (SAP).

    The trusted samples are the training samples whose given labels have the lowest cross-entropy,
    equally many of each class. For each linear layer and convolution, including the last, let the
    columns of X be its inputs on these samples (for a convolution, the patches of its kernel),
    :math:`X = U S V^T` their singular value decomposition, uncentred, and
    :math:`r_i = \sigma_i^2 / \sum_j \sigma_j^2`. The weights W, one row an output, become

    .. math:: W U \Lambda U^T, \quad \lambda_i = \frac{\alpha r_i}{(\alpha - 1) r_i + 1} .

    Large alphas change little: only directions that no trusted sample uses are lost. Biases,
    normalisation layers and their running statistics stay as they are, and all layers' inputs are
    those in the original network.

    Parameters
    ----------
    model : torch.nn.Module
        It stays as it is.
    train : Dataset, DataLoader or pair of arrays
        Its training data, with the given labels; read twice.
    holdout : Dataset, DataLoader or pair of arrays, optional
        Data with noisy labels that the network was not trained on, to choose alpha with.
    alpha : float or sequence of float, optional
        Positive: what to scale with. Among several, and the network as it is, the hold-out chooses
        what predicts most of its labels; ties go to the mildest. By default `ALPHAS`.
    n_trusted : int
        How many samples are trusted.
    n_patches : int, optional
        Most inputs of a layer that are used, drawn at random: each trusted sample gives a
        convolution one per position. None uses all.
    labels : array-like of int, shape (n,), optional
        Labels of the training data by index, instead of those that they carry.
    device : torch.device or str, optional
        Where to compute; by default where the model is.
    batch_size : int
        Samples per batch, for data that do not come in batches.
    seed : int
        Seed of the choice of patches.
    progress : bool
        Show progress on a terminal.

    Returns
    -------
    torch.nn.Module
        The copy, on the model's device and each module in its mode.
    SapReport
        What was done.

    Raises
    ------
    DataError, LabelError, ModelError
        If the data or the model cannot be used, or nothing can choose alpha; the message says
        what to do.

    Notes
    -----
    This differs from the authors' published code, and that from the paper's abstract:

    - Their code chooses alpha by accuracy on those held-out samples whose labels are known to be
      right, where noise is synthetic. No label is known to be right here: the hold-out's noisy
      labels choose. There is no choice without a hold-out, as the trusted samples would always
      prefer the network as it is; then an alpha has to be given.
    - The abstract trusts samples of low loss, and so does this; their code ranks by the curvature
      of the loss. As in their code each class, by given labels, has equally many trusted samples,
      where it has enough.
    - Eigenvectors of the second moment in float64 replace singular vectors, except in layers that
      are wider than they have inputs. The two agree up to rounding.
    - The authors' code runs networks that it knows layer by layer. Here any network works: layers
      that share weights, compute them from others or convolve in groups are left alone, and the
      report lists them.
    - There is one round of projection: their code can repeat it, but their examples do not.

    References
    ----------
    S. Kodge, D. Ravikumar, G. Saha, K. Roy, "SAP: Corrective Machine Unlearning with Scaled
    Activation Projection for Label Noise Robustness", AAAI 2025, arXiv 2403.08618.
    """
    for name, value in (("n_trusted", n_trusted), ("batch_size", batch_size)):
        _check_count(name, value)
    if n_patches is not None:
        _check_count("n_patches", n_patches)
    alphas, choosing = _as_alphas(alpha, holdout)
    source = Source(train, "train", labels=labels, batch_size=batch_size)
    if source.length is not None:
        _check_enough(n_trusted, source.length)
    held = None if holdout is None else Source(holdout, "holdout", batch_size=batch_size)
    place = as_device(device) if device is not None else device_of(model)
    network = copied(model).to(place)
    of_held = [] if held is None else [Stage("choosing alpha", {RUNS: held.share_length})]
    of_train = [
        Stage(name, {RUNS: source.share_length})
        for name in ("finding losses", "reading trusted samples")
    ]
    stages = [*of_held, *of_train, *of_held * len(alphas)]
    with undisturbed(network), Progress(stages, shown=progress) as bar:
        # First, because it checks whether the hold-out can choose.
        own = None if held is None else _agreement(network, held, place, bar)
        trusted = _trusted(network, source, place, n_trusted, bar)
        layers, left_alone = projectable(network)
        spectra = spectra_of(network, source, place, trusted, layers, n_patches, seed, bar)
        for name in [name for name in layers if name not in spectra]:
            del layers[name]
            left_alone[name] = "it is not called in a forward pass, or its inputs are all zero"
        if not layers:
            reasons = "; ".join(f"{name}: {why}" for name, why in left_alone.items())
            raise ModelError(
                f"{type(model).__name__}: expected a linear layer or a convolution to project; "
                f"found none{f' ({reasons})' if reasons else ''}"
            )
        before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
        agreements = []
        # From the mildest on, so that ties go to the mildest.
        for candidate in alphas:
            project(layers, before, spectra, candidate)
            agreements.append(math.nan if held is None else _agreement(network, held, place, bar))
        chosen = 0
        if choosing:
            assert own is not None
            alphas, agreements = [math.inf, *alphas], [own, *agreements]
            chosen = max(range(len(alphas)), key=lambda at: agreements[at])
        project(layers, before, spectra, alphas[chosen])
    criterion = "given"
    if choosing:
        criterion = "agreement with the hold-out's labels, the network as it is among the choices"
    tried = pd.DataFrame({"alpha": alphas, "agreement": agreements})
    tried["chosen"] = np.arange(len(alphas)) == chosen
    table = pd.DataFrame(
        [
            {
                "layer": name,
                "module": type(layer).__name__,
                "width": spectra[name].vectors.shape[0],
                "rows": spectra[name].n,
                "directions": directions(spectra[name], alphas[chosen]),
                "change": relative_change(layer.weight, before[name]),
            }
            for name, layer in layers.items()
        ]
    )
    report = SapReport(alphas[chosen], criterion, tried, trusted, table, left_alone)
    return network.to(device_of(model)), report


def _trusted(
    network: nn.Module, source: Source, place: torch.device, n_trusted: int, progress: Progress
) -> Labels:
    """Return the indices of the samples of lowest loss, equally many of each given class."""
    parts: list[tuple[Labels, Labels, NDArray[np.float64]]] = []
    for rows in stream(network, source, [], place, stage="finding losses", progress=progress):
        index = known_index(rows.batch, source.role, "trusted samples")
        given = _given(rows.batch.labels, rows.logits.shape[1], index, source.role)
        parts.append((index, given, _losses(rows.logits, given)))
    index, given, losses = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    check_different([index], source.role)
    _check_enough(n_trusted, len(index))
    ranks = np.empty(len(index), dtype=np.int64)
    for k in np.unique(given):
        own = np.flatnonzero(given == k)
        ranks[own[np.lexsort((index[own], losses[own]))]] = np.arange(len(own))
    return np.sort(index[np.lexsort((index, losses, ranks))[:n_trusted]])


def _losses(logits: Tensor, given: Labels) -> NDArray[np.float64]:
    """Return each sample's cross-entropy (n,), exact even close to zero."""
    scores = logits.double().cpu() if logits.device.type != "cpu" else logits.double()
    own = torch.from_numpy(given)[:, None]
    # log(1 + Σ exp(z_j − z_y)): log-softmax would round all well-memorised samples to zero.
    others = (scores - scores.gather(1, own)).scatter(1, own, -math.inf)
    losses: NDArray[np.float64] = functional.softplus(others.logsumexp(1)).numpy()
    return losses


def _agreement(network: nn.Module, held: Source, place: torch.device, progress: Progress) -> float:
    """Return the share of a hold-out's labels that a network predicts."""
    seen: set[int] = set()
    right = n = 0
    for rows in stream(network, held, [], place, stage="choosing alpha", progress=progress):
        given = _given(rows.batch.labels, rows.logits.shape[1], rows.batch.index, held.role)
        right += int((rows.logits.argmax(1).cpu().numpy() == given).sum())
        n += len(given)
        seen.update(np.unique(given).tolist())
    if len(seen) < 2:
        raise LabelError(
            f"{held.role}: expected labels of at least two classes, to choose alpha with; all {n} "
            f"are {seen.pop()}"
        )
    return right / n


def _given(labels: Labels | None, n_classes: int, index: Labels | None, role: str) -> Labels:
    if labels is None:
        raise LabelError(f"{role}: expected labels; the data carry none: give (x, y)")
    return check_range(labels, n_classes, index, role)


def _as_alphas(alpha: Any, holdout: Any) -> tuple[list[float], bool]:
    """Return the alphas to try, mildest first, and whether the hold-out chooses."""
    if alpha is None and holdout is None:
        raise DataError(
            "sap: expected a hold-out with noisy labels to choose alpha with, or an alpha; found "
            "neither. The training data cannot choose: they prefer the network as it is"
        )
    single = isinstance(alpha, Real)
    values = list(ALPHAS if alpha is None else [alpha] if single else alpha)
    for value in values:
        if not isinstance(value, Real) or not 0 < float(value) < math.inf:
            raise DataError(f"alpha: expected positive numbers; found {value!r}")
    if not values:
        raise DataError("alpha: expected a positive number, or several; found none")
    if not single and holdout is None:
        raise DataError(
            f"sap: expected a hold-out to choose among {len(values)} alphas; found none. Give one "
            "alpha, or a hold-out"
        )
    return sorted({float(value) for value in values}, reverse=True), not single


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or int(value) < 1:
        raise DataError(f"{name}: expected an integer of at least 1; found {value!r}")


def _check_enough(n_trusted: int, n: int) -> None:
    if n_trusted > n:
        raise DataError(
            f"n_trusted: expected at most the {n:,} training samples; found {n_trusted:,}"
        )
