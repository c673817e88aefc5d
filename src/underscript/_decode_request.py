"""The arguments of `decode`, checked; and the data and the network that it is given."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import nn

from .activations.features import Features
from .activations.given_model import as_module
from .activations.hooks import model_input, undisturbed
from .activations.layers import LayerChoice
from .activations.perturbation import check_choice
from .activations.pooling import PoolChoice
from .activations.together import Together
from .data.batches import Batch
from .data.source import Source, text_labels
from .errors import DataError, LabelError
from .probes.subspace import PROBES
from .repair.earlier import Earlier
from .selection.known_fits import KnownFits
from .utils.class_names import as_names, texts_in
from .utils.device import as_device, device_of
from .utils.distributed import Processes
from .utils.memory_size import as_bytes

__all__ = ["Data", "Request", "read_data"]

# Number of training inputs that are kept for exporting the decoder.
EXAMPLE = 16


@dataclass(frozen=True)
class Request:
    """The arguments of `decode`, checked.

    They are as given, except: `shares` are the variance shares, `probes` None for the
    default, `names` the classes' names or None, and `memory` the bytes that may be taken. `known`
    are fits that decodes of other networks left.
    """

    model: nn.Module | None
    train: Any
    test: Any
    holdout: Any
    layers: LayerChoice
    probes: tuple[str, ...] | None
    shares: tuple[float, ...]
    labels: Any
    true_labels: Any
    controls: bool | Literal["full"]
    device: torch.device | str | None
    batch_size: int
    seed: int
    progress: bool
    evaluate: tuple[str, ...]
    subspace_labels: tuple[str, ...]
    memory: int
    group: Any
    auto: bool
    pool: PoolChoice
    names: tuple[str, ...] | None
    show: Callable[[Any], Any] | None
    perturb: str | Callable[[Any], Any]
    views: int
    checkpoints: Any
    known: KnownFits | None = None

    @classmethod
    def checked(
        cls,
        *,
        model: nn.Module | None,
        probes: Sequence[str] | None,
        variance: float | Sequence[float],
        batch_size: int,
        evaluate: Sequence[str] | None,
        subspace_labels: Sequence[str],
        memory: int | str,
        pool: PoolChoice,
        class_names: Sequence[str] | None,
        perturb: str | Callable[[Any], Any],
        views: int,
        **others: Any,
    ) -> Self:
        """Return the checked request.

        Raises
        ------
        DataError
            If an argument is not valid; the message names it.
        """
        shares = _check_settings(probes, variance, batch_size, evaluate, subspace_labels)
        if isinstance(views, bool) or not isinstance(views, int) or views < 1:
            raise DataError(
                f'views: expected a whole number of at least 1; found {views!r}. perturb="none" '
                "leaves inputs as they are"
            )
        check_choice(perturb)
        if model is None and others["checkpoints"] is not None:
            raise DataError("checkpoints: they are those of a model; expected one, found none")
        if model is None and pool is not None:
            raise DataError(f"pool: expected None without a model; found {pool!r}")
        names = as_names(class_names)
        if model is None and names is None:
            names = _text_classes(batch_size=batch_size, **others)
        if evaluate is None:
            only = others["test"] is None and others["holdout"] is None
            evaluate = ("train",) if only else ("test",)
        kinds = ("corrupted",) if others["true_labels"] is None else tuple(subspace_labels)
        return cls(
            model=None if model is None else as_module(model),
            probes=None if probes is None else tuple(probes),
            shares=shares,
            batch_size=batch_size,
            evaluate=tuple(evaluate),
            subspace_labels=kinds,
            memory=as_bytes(memory),
            pool=pool,
            names=names,
            perturb=perturb,
            views=views,
            **others,
        )

    @property
    def usable(self) -> int:
        """Bytes of the memory without that of fits that other networks left."""
        return self.memory - (0 if self.known is None else self.known.most)

    @property
    def perturbs(self) -> bool:
        """Whether inputs may be perturbed."""
        return self.auto and self.model is not None and self.perturb != "none"


def _text_classes(
    *,
    train: Any,
    holdout: Any,
    test: Any,
    labels: Any,
    true_labels: Any,
    batch_size: int,
    **_others: Any,
) -> tuple[str, ...] | None:
    """Return the different labels of all data, sorted, if they are text; else None.

    Without a read-out the order of the classes does not matter.

    Raises
    ------
    LabelError
        If there is only one.
    """
    texts = {text for given in (labels, true_labels) for text in texts_in(given) or ()}
    roles = {"holdout": holdout, "test": test} | ({"train": train} if labels is None else {})
    with undisturbed(nn.Identity()):
        for role, data in roles.items():
            if data is not None:
                texts |= text_labels(data, role, batch_size)
    if len(texts) == 1:
        raise LabelError(f"labels: expected at least two classes; found only {texts.pop()!r}")
    return tuple(sorted(texts)) or None


def _check_settings(
    probes: Sequence[str] | None,
    variance: float | Sequence[float],
    batch_size: int,
    evaluate: Sequence[str] | None,
    subspace_labels: Sequence[str],
) -> tuple[float, ...]:
    """Check these settings and return the variance shares."""
    if batch_size < 1:
        raise DataError(f"batch_size: expected at least 1; found {batch_size}")
    known = {"train", "test", "candidates"}
    if isinstance(evaluate, str) or not set(evaluate or ()) <= known:
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


@dataclass(frozen=True)
class Data:
    """The network and the data that it is decoded with.

    Attributes
    ----------
    model : torch.nn.Module
        The user's network, or a stand-in if there is none.
    own : torch.nn.Module
        The same, or a copy of it, on the device.
    network : torch.nn.Module
        What is run: `own`, with earlier checkpoints if there are any.
    together : torch.nn.Module
        `model`, with the same checkpoints.
    earlier : Earlier or None
        The checkpoints, if any were given.
    device : torch.device
        Where it runs.
    alone : bool
        Whether there are only features, and no network.
    whole : Source
        All training data.
    sources : dict of str to Source
        This process's share of each part of the data, by role.
    example : Batch
        The first training inputs.
    processes : Processes
        The processes that share the work.
    """

    model: nn.Module
    own: nn.Module
    network: nn.Module
    together: nn.Module
    earlier: Earlier | None
    device: torch.device
    alone: bool
    whole: Source
    sources: dict[str, Source]
    example: Batch
    processes: Processes

    @property
    def steps(self) -> tuple[int, ...] | None:
        """The steps of the checkpoints that are run; None if there are none."""
        return self.network.steps if isinstance(self.network, Together) else None


def read_data(request: Request) -> Data:
    """Open all data and bring the network to its device.

    Raises
    ------
    DataError, LabelError, ModelError
        If something cannot be used.
    """
    names, size = request.names, request.batch_size
    whole = Source(request.train, "train", request.labels, request.true_labels, size, names)
    sources = {"train": whole}
    for role, data in (("holdout", request.holdout), ("test", request.test)):
        if data is not None:
            sources[role] = Source(data, role, batch_size=size, class_names=names)
    model = request.model
    if model is None:
        with undisturbed(nn.Identity()):
            known = max(data.count_classes() for data in sources.values())
        model = Features(max(known, len(names or ())))
    there = device_of(model)
    device = there if request.device is None else as_device(request.device)
    network = model if device == there else copy.deepcopy(model).to(device)
    with undisturbed(network):
        example = whole.first(EXAMPLE)
    if example.index is None:
        raise LabelError(
            "train: nothing says which sample is which: the loader has an order of its own, and "
            "its batches carry no index. Yield (x, y, index), or pass its data set"
        )
    if not model_input(example, "train").numel():
        raise DataError("train: expected inputs of at least one column; found none")
    processes = Processes(request.group, device if device.type == "cuda" else "cpu")
    shares = {role: data.share(processes.rank, processes.size) for role, data in sources.items()}
    return Data(
        model=model,
        own=network,
        network=network,
        together=model,
        earlier=None,
        device=device,
        alone=request.model is None,
        whole=whole,
        sources=shares,
        example=example,
        processes=processes,
    )
