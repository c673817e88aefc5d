"""Copies of a network: as it is, and the control that every claim needs, never trained."""

import copy
import hashlib

import torch
from torch import nn

from .errors import ModelError


def copied(model: nn.Module) -> nn.Module:
    """Return a copy that can be changed.

    Raises
    ------
    ModelError
        If the model cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        name = type(model).__name__
        raise ModelError(f"the model ({name}) cannot be copied: {reason}") from error


def weights_of(network: nn.Module) -> bytes:
    """Return a digest of a network's parameters and buffers: equal ones have equal digests."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in network.state_dict().items():
        found.update(name.encode())
        if isinstance(tensor, torch.Tensor):
            numbers = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
            found.update(numbers.numpy().tobytes())
    return found.digest()


def random_twin(network: nn.Module, seed: int) -> nn.Module:
    """Return a copy with freshly initialised weights; call it inside `undisturbed`.

    Modules initialise themselves (`reset_parameters`); a parameter of a module that cannot is
    redrawn from a normal distribution with the mean and spread that it has.
    """
    twin = copy.deepcopy(network)
    # A stream of its own: a network that was made with the same seed must not be its own twin.
    torch.manual_seed(seed + 0x7717)
    with torch.no_grad():
        for module in twin.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(
                module, "_reset_parameters", None
            )
            if callable(reset):
                reset()
            else:
                for parameter in module.parameters(recurse=False):
                    spread, mean = torch.std_mean(parameter.float(), correction=0)
                    parameter.copy_(torch.randn_like(parameter.float()) * spread + mean)
    return twin
