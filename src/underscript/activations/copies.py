"""Copies of a network, and a digest of its weights."""

import copy
import hashlib

import torch
from torch import nn

from ..errors import ModelError


def copied(model: nn.Module) -> nn.Module:
    """Return a copy that can be changed.

    Tensors that a module computed and keeps, such as a pruned weight or a loss, are copied without
    their autograd history.

    Raises
    ------
    ModelError
        If the model cannot be copied.
    """
    known = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(model, known)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        name = type(model).__name__
        raise ModelError(f"the model ({name}) cannot be copied: {reason}") from error


def weights_of(network: nn.Module) -> bytes:
    """Return a digest of a network's parameters and buffers; equal weights have equal digests."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        if isinstance(tensor, torch.Tensor):
            numbers = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(numbers.numpy().tobytes())
    return digest.digest()
