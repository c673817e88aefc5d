"""The layers that SAP projects, and the directions of their inputs."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..activations.hooks import first_tensor
from ..activations.stream import stream
from ..data.source import Source
from ..errors import DataError
from ..linalg.products import all_finite
from ..linalg.second_moment import SecondMoment
from ..linalg.spectra import eigenvectors
from ..utils.labels import Labels
from ..utils.progress import Progress

__all__ = [
    "Gathering",
    "Projectable",
    "Spectrum",
    "axes_of",
    "directions",
    "project",
    "projectable",
    "relative_change",
    "spectra_of",
    "windows_of",
]

# Values per block of rows that is converted to float64 at once: 32 MB.
_BLOCK = 1 << 22
# Rows that are collected for one product.
_WAITING = 4096
Projectable = nn.Linear | nn.Conv1d | nn.Conv2d


@dataclass(frozen=True)
class Spectrum:
    """Directions of a layer's n inputs: vectors (width, m) and their shares (m,) of the squares."""

    shares: Tensor
    vectors: Tensor
    n: int

    def importances(self, alpha: float) -> Float[Tensor, " m"]:
        """Return how much of each direction is kept, 0 to 1."""
        scaled: Tensor = alpha * self.shares / ((alpha - 1) * self.shares + 1)
        return scaled


def spectrum_of(moment: SecondMoment, what: str) -> Spectrum | None:
    """Return all directions of rows and their shares; None if every row is zero."""
    if not moment.n:
        return None
    few = moment.few()
    if few is not None:
        _, values, right = torch.linalg.svd(few, full_matrices=False)
        squares, vectors = values.square(), right.T
    else:
        squares, vectors = eigenvectors(moment.whole(), what)
        squares = squares.clamp(min=0)
    total = float(squares.sum())
    return Spectrum(squares / total, vectors, moment.n) if total > 0 else None


class Gathering:
    """Accumulates second moments of layers' inputs while the block of `watch` runs.

    Parameters
    ----------
    layers : dict of str to Module
        The layers.
    share : float
        Rows kept per trusted sample from one call of a layer; infinite for all.
    seed : int
        Seed of the choice of rows.
    """

    def __init__(self, layers: dict[str, Projectable], share: float, seed: int):
        self.layers, self.share = layers, share
        self.moments: dict[str, SecondMoment] = {}
        # Samples in the batch that runs.
        self.size = 0
        self.not_finite: str | None = None
        self._generator = torch.Generator().manual_seed(seed)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch the layers while the block runs; the hooks are always removed."""
        handles = []
        try:
            for name, layer in self.layers.items():
                handles.append(self._hook(name, layer))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str, layer: Projectable) -> Any:
        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            value = first_tensor((args, kwargs))
            if value is not None:
                self._see(name, layer, value.detach())

        return layer.register_forward_pre_hook(before, with_kwargs=True)

    def check(self, role: str) -> None:
        """Raise DataError if an input was not finite."""
        if self.not_finite is not None:
            raise DataError(
                f"{role}: the input of layer {self.not_finite!r} is NaN or infinite for a trusted "
                "sample; check the inputs and the weights"
            )

    def _see(self, name: str, layer: Projectable, value: Tensor) -> None:
        if not all_finite(value):
            # `check` raises it: here it would look like an error of the model.
            self.not_finite = self.not_finite or name
            return
        places = windows_of(layer, value)
        width = layer.weight[0].numel()
        n = places.numel() // width
        wanted = min(n, math.ceil(self.share * self.size)) if self.share < math.inf else n
        chosen = torch.arange(n)
        if wanted < n:
            chosen = torch.randperm(n, generator=self._generator)[:wanted]
        # Some devices have no float64.
        device = torch.device("cpu") if places.device.type == "mps" else places.device
        if name not in self.moments:
            self.moments[name] = SecondMoment(width, max(width, _WAITING), device)
        for part in torch.split(chosen, max(1, _BLOCK // width)):
            at = torch.unravel_index(part.to(places.device), places.shape[: -axes_of(layer)])
            rows = places[at].flatten(1)
            rows = rows.to(device).double()
            self.moments[name].update(rows, torch.arange(len(rows), device=device))


def axes_of(layer: Projectable) -> int:
    """Return how many of the last axes of `windows_of` make one row."""
    return 1 if isinstance(layer, nn.Linear) else layer.weight.ndim - 1


def windows_of(layer: Projectable, value: Tensor) -> Tensor:
    """Return everything that a layer's weights are multiplied with, without copying it.

    For a linear layer (…, width); for a convolution (n, *positions, channels, *kernel).
    """
    if isinstance(layer, nn.Linear):
        return value
    n_axes = layer.weight.ndim - 2
    if value.ndim == n_axes + 1:
        value = value[None]
    kernel, step, spread = layer.kernel_size, layer.stride, layer.dilation
    if isinstance(layer.padding, str):
        whole = [
            d * (k - 1) if layer.padding == "same" else 0
            for d, k in zip(spread, kernel, strict=True)
        ]
        sides = [(pad // 2, pad - pad // 2) for pad in whole]
    else:
        sides = [(pad, pad) for pad in layer.padding]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    if any(map(any, sides)):
        value = functional.pad(value, [pad for side in reversed(sides) for pad in side], mode)
    sizes = [
        (length - d * (k - 1) - 1) // s + 1
        for length, d, k, s in zip(value.shape[2:], spread, kernel, step, strict=True)
    ]
    strides = value.stride()
    return value.as_strided(
        (len(value), *sizes, value.shape[1], *kernel),
        (
            strides[0],
            *(a * s for a, s in zip(strides[2:], step, strict=True)),
            strides[1],
            *(a * d for a, d in zip(strides[2:], spread, strict=True)),
        ),
    )


def projectable(network: nn.Module) -> tuple[dict[str, Projectable], dict[str, str]]:
    """Return the layers whose weights can be projected, and why the others cannot."""
    owners = Counter(
        id(parameter)
        for module in network.modules()
        for parameter in module.parameters(recurse=False)
    )
    layers: dict[str, Projectable] = {}
    left_alone = {}
    for name, module in network.named_modules():
        name = name or type(module).__name__
        if not isinstance(module, Projectable):
            if any(weight.ndim > 1 for weight in module.parameters(recurse=False)):
                left_alone[name] = (
                    f"{type(module).__name__} is no linear layer and no convolution in one or two "
                    "dimensions"
                )
        elif module._parameters.get("weight") is None or hasattr(module, "parametrizations"):
            left_alone[name] = "its weights are computed from others"
        elif owners[id(module.weight)] > 1:
            left_alone[name] = "it shares its weights with another layer"
        elif not isinstance(module, nn.Linear) and module.groups > 1:
            left_alone[name] = f"it convolves in {module.groups} groups"
        else:
            layers[name] = module
    return layers, left_alone


def spectra_of(
    network: nn.Module,
    source: Source,
    place: torch.device,
    trusted: Labels,
    layers: dict[str, Projectable],
    n_patches: int | None,
    seed: int,
    progress: Progress,
) -> dict[str, Spectrum]:
    """Run the trusted samples and return the directions of each layer's inputs."""
    share = math.inf if n_patches is None else n_patches / len(trusted)
    gathering = Gathering(layers, share, seed)

    def keep(index: Labels) -> NDArray[np.bool_]:
        kept = np.isin(index, trusted)
        gathering.size = int(kept.sum())
        return kept

    stage = "reading trusted samples"
    with gathering.watch():
        for _ in stream(
            network, source, [], place, stage=stage, keep=keep, progress=progress, whole=True
        ):
            gathering.check(source.role)
    spectra = {}
    for name in layers:
        moment = gathering.moments.pop(name, None)
        spectrum = None if moment is None else spectrum_of(moment, f"layer {name!r}")
        if spectrum is not None:
            spectra[name] = spectrum
    return spectra


def project(
    layers: dict[str, Projectable],
    before: dict[str, Tensor],
    spectra: dict[str, Spectrum],
    alpha: float,
) -> None:
    """Write projected weights into layers; an infinite alpha restores the previous ones."""
    with torch.no_grad():
        for name, layer in layers.items():
            weight, spectrum = before[name], spectra[name]
            if alpha < math.inf:
                rows = weight.flatten(1).to(spectrum.vectors)
                inner = (rows @ spectrum.vectors) * spectrum.importances(alpha)
                weight = (inner @ spectrum.vectors.T).view(weight.shape)
            layer.weight.copy_(weight)


def directions(spectrum: Spectrum, alpha: float) -> float:
    """Return how many directions are kept: the sum of their importances."""
    if alpha == math.inf:
        return float(len(spectrum.vectors))
    return float(spectrum.importances(alpha).sum())


def relative_change(weight: Tensor, before: Tensor) -> float:
    """Return the norm of the change of a weight over the norm before."""
    moved = torch.linalg.vector_norm((weight.detach() - before).float())
    return float(moved / torch.linalg.vector_norm(before.float()).clamp(min=1e-30))
