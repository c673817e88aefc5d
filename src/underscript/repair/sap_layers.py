"""The layers that SAP projects, and the directions that their inputs take."""

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
from ..linalg.products import add_products, all_finite, mirrored
from ..linalg.spectra import eigenvectors
from ..utils.labels import Labels
from ..utils.progress import Progress

__all__ = [
    "Gathering",
    "Projectable",
    "SecondMoment",
    "Spectrum",
    "axes_of",
    "directions",
    "project",
    "projectable",
    "relative_change",
    "spectra_of",
    "windows_of",
]

# Values of a block of rows that becomes float64 at once: 32 MB.
_BLOCK = 1 << 22
# Rows that wait until they are worth one product.
_WAITING = 4096
Projectable = nn.Linear | nn.Conv1d | nn.Conv2d


@dataclass(frozen=True)
class Spectrum:
    """Directions of a layer's inputs: shares (m,) of the squares, vectors (width, m), and of n."""

    shares: Tensor
    vectors: Tensor
    n: int

    def importances(self, alpha: float) -> Float[Tensor, " m"]:
        """Return how much of each direction is kept, 0 to 1."""
        scaled: Tensor = alpha * self.shares / ((alpha - 1) * self.shares + 1)
        return scaled


class SecondMoment:
    """The second moment of rows about zero; fewer rows than they are wide are kept as they are."""

    def __init__(self, width: int):
        self.width, self.n = width, 0
        self._second: Tensor | None = None
        self._waiting: list[Tensor] = []
        self._filled = 0

    def update(self, rows: Float[Tensor, "n width"]) -> None:
        """Add rows (float64)."""
        self.n += len(rows)
        self._waiting.append(rows)
        self._filled += len(rows)
        if self._filled >= max(self.width, _WAITING):
            self._flush()

    def _flush(self) -> Tensor:
        rows = torch.cat(self._waiting)
        if self._second is None:
            self._second = rows.new_zeros(self.width, self.width)
        add_products(self._second, rows)
        self._waiting, self._filled = [rows[:0]], 0
        return self._second

    def spectrum(self, what: str) -> Spectrum | None:
        """Return all directions that have a share; None where every row is zero."""
        if not self.n:
            return None
        if self._second is None and self._filled < self.width:
            _, values, right = torch.linalg.svd(torch.cat(self._waiting), full_matrices=False)
            squares, vectors = values.square(), right.T
        else:
            squares, vectors = eigenvectors(mirrored(self._flush()), what)
            squares = squares.clamp(min=0)
        total = float(squares.sum())
        self._second, self._waiting = None, []
        return Spectrum(squares / total, vectors, self.n) if total > 0 else None


class Gathering:
    """Takes the inputs of layers while the block of `watch` runs, and keeps their second moments.

    Parameters
    ----------
    layers : dict of str to Module
        Which.
    share : float
        Rows a trusted sample that are kept of one call of a layer; infinite for all.
    seed : int
        Of which.
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
        """Watch the layers while the block runs; the hooks go whatever happens."""
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
            # Raised by `check`: here it would be taken for an error of the model.
            self.not_finite = self.not_finite or name
            return
        places = windows_of(layer, value)
        width = layer.weight[0].numel()
        n = places.numel() // width
        wanted = min(n, math.ceil(self.share * self.size)) if self.share < math.inf else n
        chosen = torch.arange(n)
        if wanted < n:
            chosen = torch.randperm(n, generator=self._generator)[:wanted]
        moment = self.moments.setdefault(name, SecondMoment(width))
        for part in torch.split(chosen, max(1, _BLOCK // width)):
            at = torch.unravel_index(part.to(places.device), places.shape[: -axes_of(layer)])
            rows = places[at].flatten(1)
            # Some devices have no float64.
            moment.update((rows.cpu() if rows.device.type == "mps" else rows).double())


def axes_of(layer: Projectable) -> int:
    """Return how many of the last axes of `windows_of` make one row."""
    return 1 if isinstance(layer, nn.Linear) else layer.weight.ndim - 1


def windows_of(layer: Projectable, value: Tensor) -> Tensor:
    """Return all that a layer's weights are multiplied with, without copying it.

    Of a linear layer (…, width); of a convolution (n, *positions, channels, *kernel).
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
        sides = [(each // 2, each - each // 2) for each in whole]
    else:
        sides = [(each, each) for each in layer.padding]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    if any(map(any, sides)):
        value = functional.pad(value, [each for side in reversed(sides) for each in side], mode)
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
            if any(each.ndim > 1 for each in module.parameters(recurse=False)):
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
    """Run the trusted samples and return what directions each layer's inputs take."""
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
    found = {}
    for name in layers:
        moment = gathering.moments.pop(name, None)
        spectrum = None if moment is None else moment.spectrum(f"layer {name!r}")
        if spectrum is not None:
            found[name] = spectrum
    return found


def project(
    layers: dict[str, Projectable],
    before: dict[str, Tensor],
    spectra: dict[str, Spectrum],
    alpha: float,
) -> None:
    """Write projected weights into layers; an infinite alpha puts back what was there before."""
    with torch.no_grad():
        for name, layer in layers.items():
            weight, spectrum = before[name], spectra[name]
            if alpha < math.inf:
                rows = weight.flatten(1).to(spectrum.vectors)
                inner = (rows @ spectrum.vectors) * spectrum.importances(alpha)
                weight = (inner @ spectrum.vectors.T).view(weight.shape)
            layer.weight.copy_(weight)


def directions(spectrum: Spectrum, alpha: float) -> float:
    """Return how many directions are kept, all importances added up."""
    if alpha == math.inf:
        return float(len(spectrum.vectors))
    return float(spectrum.importances(alpha).sum())


def relative_change(weight: Tensor, before: Tensor) -> float:
    """Return the norm of the change of a weight over the norm before."""
    moved = torch.linalg.vector_norm((weight.detach() - before).float())
    return float(moved / torch.linalg.vector_norm(before.float()).clamp(min=1e-30))
