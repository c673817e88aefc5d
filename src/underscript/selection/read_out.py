"""Fits a network's last linear layer again, to the predictions of the whole ensemble.

It is a multinomial logistic regression from the layer's rows, as they are and perturbed, to the
probability of each class given the ensemble's scores and the given label. Memory in the layer does
not help it: those probabilities come from out-of-fold scores, mostly of earlier layers.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..probes.discriminant import Linear
from ..utils.distributed import Processes

__all__ = ["fit_read_out"]

# The prior variance of a weight, for columns on one scale.
_VARIANCE = 0.25
# Most steps of L-BFGS, and the gain in nats a sample below which it stops.
_STEPS, _GAIN = 60, 1e-5
# Samples are left out beyond this many numbers, or this many products in a step.
_NUMBERS, _PRODUCTS = 1 << 25, 1 << 31


def _precise(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def fit_read_out(
    blocks: Iterator[tuple[Tensor, Tensor]],
    size: Sequence[int],
    processes: Processes,
    device: torch.device,
) -> Linear:
    """Return weights (K, width) and biases (K,) of a logistic regression.

    Parameters
    ----------
    blocks : iterator of pairs of Tensor
        Rows, float32 (n, width), and probabilities of each class, float32 (n, K): this process's.
    size : sequence of int
        All rows of this process, their width, and K.
    processes : Processes
        The processes that share the rows.
    device : torch.device
        Where to compute.
    """
    n, width, n_classes = size
    every = max(
        1, -(-n * width * n_classes * processes.size // _PRODUCTS), -(-n * width // _NUMBERS)
    )
    x = torch.empty(-(-n // every), width, device=device)
    y = torch.empty(len(x), n_classes, device=device)
    sums = torch.zeros(2, width, dtype=_precise(device), device=device)
    start = filled = 0
    for some, of_classes in blocks:
        at = torch.arange(len(some))[-start % every :: every]
        end = filled + len(at)
        x[filled:end] = some[at.to(some.device)].to(device)
        y[filled:end] = of_classes[at].to(device)
        block = x[filled:end].to(sums)
        sums += torch.stack([block.sum(0), block.square_().sum(0)])
        start, filled = start + len(some), end
    x, y = x[:filled], y[:filled]
    sums = torch.cat([sums.flatten(), torch.tensor([float(len(x))]).to(sums)])
    sums = processes.total(sums)
    number = float(sums[-1]) or 1.0
    mean, square = sums[:width] / number, sums[width:-1] / number
    spread = (square - mean.square()).clamp(min=0).sqrt()
    spread = torch.where(spread > 0, spread, 1.0)
    x.sub_(mean.float()).div_(spread.float())

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return nats a sample, the prior among them, and their slope."""
        weights = torch.from_numpy(flat).to(spread).view(n_classes, width + 1)
        single = weights.float()
        log_probabilities = torch.log_softmax(torch.addmm(single[:, -1], x, single[:, :-1].T), 1)
        nats = -(y * log_probabilities).sum(dtype=torch.float64) / number
        # The slope by logits; each sample's probabilities add up to 1. Numbers of a class are side
        # by side and rows are multiplied from the left: else products take 2 and 10 times as long.
        slope = log_probabilities.exp_().sub_(y).div_(number)
        slope = torch.cat([slope.T @ x, slope.sum(0)[:, None]], 1)
        both = processes.total(torch.cat([slope.to(spread).flatten(), nats.to(spread)[None]]))
        slope = both[:-1].view_as(weights)
        slope[:, :-1] += weights[:, :-1] / (_VARIANCE * number)
        prior = weights[:, :-1].square().sum() / (2 * _VARIANCE * number)
        return float(both[-1] + prior), slope.flatten().cpu().numpy()

    # Imported here, as it takes a while and nothing else needs it.
    from scipy.optimize import minimize

    done = minimize(
        loss,
        np.zeros((width + 1) * n_classes),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _STEPS, "ftol": _GAIN, "gtol": 0.0},
    )
    solution = torch.from_numpy(done.x).to(spread).view(n_classes, width + 1)
    of_rows = solution[:, :-1] / spread
    biases = solution[:, -1] - of_rows @ mean
    return Linear(of_rows.float(), biases.float())
