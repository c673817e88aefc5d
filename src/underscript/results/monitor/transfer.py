"""Writes what the last hidden layer knows at this moment into the network's read-out."""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ...activations.copies import copied
from ...activations.given_model import as_module
from ...activations.hooks import undisturbed
from ...activations.trace import survey
from ...errors import DataError, ModelError
from ...linalg.moments import statistics_for
from ...probes.classifier import few, fit_together, warn
from ...probes.discriminant import Linear, PooledMoments, discriminant_of
from ...probes.subspace import PrincipalVectorClassifier
from ...repair.read_out import NEVER, find_last_linear, rewrite
from .layers import RIDGE
from .probe import ProbeReader

__all__ = ["METHODS", "transferred"]

METHODS = ("discriminant", "velpic")
# Of the vector whose products with rows are nearest to 1; in units of the mean variance.
_SMALL_RIDGE = 1e-4


def transferred(model: nn.Module, reader: ProbeReader, method: str, in_place: bool) -> nn.Module:
    """Return a network with a new read-out, fitted to the probe as the network sees it now.

    Parameters
    ----------
    model : nn.Module
        The network.
    reader : ProbeReader
        The monitor's reader.
    method : {"discriminant", "velpic"}
        How to fit.
    in_place : bool
        Whether to change the network itself, not a copy.

    Raises
    ------
    DataError
        If the method is unknown.
    ModelError
        If the network's last layer cannot be rewritten, or it gives values that are not finite.
    """
    if method not in METHODS:
        raise DataError(f"transfer: expected a method of {', '.join(METHODS)}; found {method!r}")
    network = as_module(model)
    if not all(bool(torch.isfinite(weights).all()) for weights in network.parameters()):
        raise ModelError("transfer: the network has NaN or infinite weights; load a checkpoint")
    probe = reader.probe
    example = next(iter(probe.batches())).take(torch.arange(min(3, len(probe))).numpy())
    with undisturbed(network):
        seen = survey(network, example)
        last = find_last_linear(seen, network)
    if isinstance(last, str):
        raise ModelError(f"transfer: the read-out cannot be rewritten: {last}")
    name = last.tap.module
    rows = reader.of_layers([f"{name}:input"]).read(network)
    ((plain, *moved),) = rows.layers.values()
    parts = [plain, *(moved if rows.fits else [])]
    x = torch.cat(parts)
    if not bool(torch.isfinite(x).all()):
        raise ModelError(
            f"transfer: the network gives NaN or infinite values before its last layer {name!r}; "
            "check the scale of the inputs"
        )
    y = torch.from_numpy(probe.labels).to(x.device).repeat(len(parts))
    fit = _discriminant if method == "discriminant" else _principal_vectors
    linear, one = fit(x, y, seen.n_classes)
    changed = model if in_place else copied(network)
    layer = as_module(changed).get_submodule(name)
    assert isinstance(layer, nn.Linear)
    weight, bias = linear.coefficients, linear.intercepts
    own: Tensor | None = layer.bias
    if own is None:
        weight = weight + torch.outer(bias, one)
    rewrite(layer, weight, bias)
    return changed


def _discriminant(rows: Tensor, labels: Int[Tensor, " n"], n_classes: int) -> tuple[Linear, Tensor]:
    """Return the monitor's linear discriminant, fitted to all rows, and the vector `_one`."""
    linear, moments = discriminant_of(rows, labels, n_classes, RIDGE)
    present = torch.isfinite(linear.intercepts)
    if not bool(present.all()):
        absent = [str(k) for k in torch.nonzero(~present).flatten().tolist()]
        warn(f"class {few(absent)} has no samples in the probe: it is never predicted")
    offsets = torch.where(present, linear.intercepts, NEVER)
    return Linear(linear.coefficients.float(), offsets.float()), _one(moments)


def _principal_vectors(
    rows: Tensor, labels: Int[Tensor, " n"], n_classes: int
) -> tuple[Linear, Tensor]:
    """Return VeLPIC's vectors with bias zero, and the vector `_one`."""
    moments = PooledMoments(rows.mean(0))
    moments.update(rows)
    statistics = statistics_for(n_classes, rows.shape[1], len(rows), rows.device)
    statistics.update(rows, labels)
    velpic = PrincipalVectorClassifier()
    fit_together(statistics, [velpic])
    vectors = velpic.tensors()["principal"].to(rows)
    # A class without a direction is never predicted, also where all other products are negative.
    offsets = torch.where(vectors.square().sum(1) > 0, 0.0, NEVER)
    return Linear(vectors, offsets), _one(moments)


def _one(moments: PooledMoments) -> Tensor:
    """Return the vector whose products with rows are nearest to 1: it stands in for a bias."""
    return moments.covariance([_SMALL_RIDGE]).one()
