"""Gaussian noise, for numbers of unknown kind."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.batches import Batch
from ...data.fingerprints import number_of
from ...data.samples import named_inputs, with_inputs
from ...errors import DataError
from ...utils.hashing import mixed_tensor, stream_of

__all__ = ["Noise", "check_shape", "gaussian", "spreads"]

# Share of each column's standard deviation. With half of it, most memorisation of digits and MNIST
# survives.
_SHARE = 1.0


class Noise:
    """Adds noise of one standard deviation of each column.

    It removes little of what is memorised, and may change the meaning of inputs: it serves to
    estimate memorisation, and no decoder is fitted to it.

    Parameters
    ----------
    spread : dict of str to Tensor
        Standard deviations of the columns, by input; see `spreads`.
    """

    name, fits = "noise", False

    def __init__(self, spread: Mapping[str, Tensor]):
        self.spread = dict(spread)

    def __call__(self, batch: Batch, numbers: Int[Tensor, "n"], strength: float) -> Batch:
        """Return the batch with noise on its numbers."""
        changed = {}
        for name, value in named_inputs(batch).items():
            if name not in self.spread:
                continue
            spread = self.spread[name]
            check_shape(name, value, spread)
            streams = stream_of(numbers.to(value.device), number_of(name))
            exact = torch.promote_types(value.dtype, torch.float32)
            noise = gaussian(streams, spread.numel()).reshape(value.shape).to(exact)
            scale = (_SHARE * strength * spread).to(noise)
            changed[name] = (value.to(exact) + scale * noise).to(value.dtype)
        return with_inputs(batch, changed)


def check_shape(name: str, value: Tensor, sample: Tensor) -> None:
    """Raise DataError unless samples of an input have the shape of one from before."""
    if value.shape[1:] != sample.shape:
        raise DataError(
            f"perturb, input {name!r}: expected samples of shape {tuple(sample.shape)}, as "
            f"at first; found {tuple(value.shape[1:])}. Pad them to one shape, or give a "
            "function of your own (perturb)"
        )


def spreads(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the standard deviation of each column of some inputs, float64."""
    return {
        name: value.double().std(0, correction=0).nan_to_num(0.0, 0.0, 0.0)
        for name, value in values.items()
    }


def gaussian(numbers: Int[Tensor, "n"], width: int) -> Float[Tensor, "n width"]:
    """Return standard normal rows, float32, from mixed numbers (Box and Muller 1958)."""
    half = -(-width // 2)
    pairs = numbers[:, None] + torch.arange(half, device=numbers.device)
    drawn = mixed_tensor(mixed_tensor(pairs))
    # Half of the bits give the radius, the others the angle.
    far = ((drawn >> 32) & 0xFFFFFFFF).double().add_(0.5).mul_(2.0**-32)
    turn = (drawn & 0xFFFFFFFF).double().mul_(2.0**-32 * 2 * math.pi)
    radius = far.log_().mul_(-2).sqrt_()
    return torch.cat([radius * turn.cos(), radius * turn.sin()], 1)[:, :width].float()
