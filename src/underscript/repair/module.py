"""A decoder as an `nn.Module`: the network up to its layers, and plain tensors that read them.

Everything fitted is a buffer, so it moves with ``.to(device)``, and `torch.export` and ONNX
support every step.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..activations.copies import copied
from ..activations.hooks import Reached, Tap, capture
from ..activations.together import network_of
from ..data.batches import Batch, is_mapping
from ..data.input_form import InputForm, parameters_of
from ..errors import DataError
from ..probes.classifier import SubspaceClassifier
from ..probes.discriminant import RidgeDiscriminant
from ..probes.ensemble import CombinedDiscriminant
from ..probes.random_features import FourierFeatures
from ..probes.subspace import MinimumAngleSubspaceClassifier

__all__ = ["DecodedModule"]

# Lengths of rows between these can be squared.
_SHORT, _LONG = 1e-15, 1e15


class DecodedModule(nn.Module):
    """A classifier that predicts from a network's layers instead of its read-out.

    It holds a copy of the network, in evaluation mode, and runs it only up to the last layer read.

    Parameters
    ----------
    network : torch.nn.Module
        The network; it is copied.
    taps : sequence of Tap
        The layers.
    estimator : CombinedDiscriminant or SubspaceClassifier
        The fitted decoder; its numbers are copied.
    inputs : InputForm, optional
        What the network was given when it was decoded, to check its inputs by.

    Raises
    ------
    ModelError
        If the network cannot be copied.
    """

    def __init__(
        self,
        network: nn.Module,
        taps: Sequence[Tap],
        estimator: SubspaceClassifier | CombinedDiscriminant,
        inputs: InputForm | None = None,
    ):
        super().__init__()
        self.inputs = inputs
        self.network = copied(network)
        self.taps = tuple(taps)
        # A token mask is recognised by its name, even if it is passed by position.
        self.names = parameters_of(network_of(network))
        self.head = _head_of(estimator, self.taps[0].name)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Float[Tensor, "n classes"]:
        """Return decision values (n, K) for the network's own arguments.

        For the decoder that `decode` chooses by default, their softmax is the probability of each
        class; for MASC they are cos²θ. A class without training samples has −inf.
        """
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if not given or not given[0].ndim:
            raise DataError(f"expected a tensor of inputs, shape (n, …); found {_found(args)}")
        batch = Batch(args, kwargs, None, None, given[0].shape[0])
        if self.inputs is None:
            named = {**dict(zip(self.names, args, strict=False)), **kwargs}
            batch = Batch(args[len(self.names) :], named, None, None, batch.size)
        elif torch.compiler.is_compiling():
            batch = self.inputs.renamed(batch, self.names)
        else:
            batch = self.inputs.check(batch, self.names)
        # A traced pass must run to its end; unused computations are cut from the graph.
        stop = not torch.compiler.is_compiling()
        with capture(self.network, self.taps, stop=stop) as tapped:
            tapped.see_input(batch, "batch")
            if any(tap.side != "model" for tap in self.taps):
                with suppress(Reached):
                    self.network(*args, **kwargs)
            rows = tapped.rows(batch, "batch")
        values: Tensor = self.head(rows)
        return values


def _found(args: tuple[Any, ...]) -> str:
    """Say what there is in place of a tensor, and what to do."""
    if not args:
        return "none"
    kind = type(args[0]).__name__
    if is_mapping(args[0]):
        return f"{kind}; give what is in it by names: module(**inputs)"
    if isinstance(args[0], np.ndarray):
        return f"{kind}; torch.from_numpy makes a tensor of it"
    return kind


def _head_of(estimator: SubspaceClassifier | CombinedDiscriminant, layer: str) -> nn.Module:
    if isinstance(estimator, CombinedDiscriminant):
        return DiscriminantHead(estimator)
    if isinstance(estimator, MinimumAngleSubspaceClassifier):
        return SubspaceHead(layer, estimator.tensors())
    return VectorHead(layer, estimator.tensors())


class DiscriminantHead(nn.Module):
    """A sum of discriminants; those of one view of a layer are added up into one matrix."""

    def __init__(self, estimator: CombinedDiscriminant):
        super().__init__()
        self.views = nn.ModuleList()
        groups: dict[Any, list[RidgeDiscriminant]] = {}
        for member in estimator.members:
            groups.setdefault(member.view, []).append(member.estimator)
        for view, members in groups.items():
            self.views.append(_View(view[0], members))

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return decision values (n, K)."""
        # Not sum(): it starts from a number.
        values = [view(rows) for view in self.views]
        return torch.stack(values).sum(0) if len(values) > 1 else values[0]


class _View(nn.Module):
    """One layer's rows, or random features of them, times one matrix."""

    weight: Tensor
    bias: Tensor
    directions: Tensor
    phases: Tensor
    units: Tensor | None

    def __init__(self, layer: str, members: Sequence[RidgeDiscriminant]):
        super().__init__()
        self.layer = layer
        tensors = [member.tensors() for member in members]
        for name, key in (("weight", "coefficients"), ("bias", "intercepts")):
            parts = [fitted[key].double() * fitted["temperature"].double() for fitted in tensors]
            self.register_buffer(name, torch.stack(parts).sum(0).float())
        self.curved = "directions" in tensors[0]
        if self.curved:
            self.register_buffer("directions", tensors[0]["directions"].clone())
            self.register_buffer("phases", tensors[0]["phases"].clone())
            units = tensors[0].get("units")
            self.register_buffer("units", None if units is None else units.clone())

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        x = rows[self.layer]
        if self.curved:
            x = FourierFeatures(self.directions, self.phases, self.units)(x)
        return torch.addmm(self.bias.to(x), x, self.weight.T.to(x))


class SubspaceHead(nn.Module):
    """Squared cosines of the angles to class subspaces (MASC)."""

    vectors: Tensor
    sign: Tensor
    features: Tensor
    everything: Tensor
    lowest: Tensor

    def __init__(self, layer: str, tensors: Mapping[str, Tensor]):
        super().__init__()
        self.layer = layer
        parts = torch.split(tensors["vectors"], tensors["columns"].tolist(), 1)
        most = max(part.shape[1] for part in parts)
        # Columns of zeros give all classes equally many.
        padded = [nn.functional.pad(part, (0, most - part.shape[1])) for part in parts]
        self.register_buffer("vectors", torch.cat(padded, 1).contiguous())
        self.register_buffer("sign", torch.where(tensors["complement"], -1.0, 1.0))
        self.register_buffer("features", tensors["features"].float())
        self.register_buffer("everything", tensors["features"].all(1))
        nothing = torch.where(tensors["ranks"] == 0, -torch.inf, 0.0)
        self.register_buffer("lowest", nothing)

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return cos²θ (n, K); −inf for a class without a direction."""
        x = rows[self.layer]
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        largest = x.abs().amax(1, keepdim=True)
        # Rows too long or too short to be squared are divided by their largest value first.
        usual = ((length > _SHORT) & (length < _LONG)) | (largest == 0)
        x = x / torch.where(usual, torch.ones_like(largest), largest)
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        present = (length > 0).to(x)
        unit = x / torch.where(length > 0, length, torch.ones_like(length))
        products = unit @ self.vectors.to(unit)
        squares = products.square().reshape(-1, len(self.sign), products.shape[1] // len(self.sign))
        energy = squares.sum(2)
        within = torch.where(self.everything, present, unit.square() @ self.features.T.to(unit))
        squared_cosines = torch.where(self.sign < 0, within - energy, energy)
        return squared_cosines.clamp(0, 1) + self.lowest.to(unit)


class VectorHead(nn.Module):
    """Products with the principal vectors of classes (VeLPIC)."""

    principal: Tensor
    lowest: Tensor

    def __init__(self, layer: str, tensors: Mapping[str, Tensor]):
        super().__init__()
        self.layer = layer
        self.register_buffer("principal", tensors["principal"].float().clone())
        self.register_buffer("lowest", torch.where(tensors["present"], 0.0, -torch.inf))

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return v_kᵀx (n, K); −inf for a class without a direction."""
        x = rows[self.layer]
        return x @ self.principal.T.to(x) + self.lowest.to(x)
