"""Classify modules by class and name: activations, blocks with attention, shortcuts."""

import re
from collections import Counter

import torch
from torch import nn

__all__ = [
    "PARAMETRIZED",
    "can_be_read",
    "channels_of_signals",
    "is_activation",
    "normalised_widths",
    "parts_of_blocks",
    "reads_sequences",
]

# Name of the child module that holds what a module's weights are computed from.
PARAMETRIZED = "parametrizations"

# Probabilities over classes or attention weights, not representations.
_NOT_ACTIVATIONS = (nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin, nn.MultiheadAttention)
_ACTIVATION_NAME = re.compile(r"relu|gelu|silu|swish|mish|tanh|sigmoid|elu|activation", re.I)

_ATTENTION_NAME = re.compile(r"attention|attn", re.I)
_SHORTCUT_NAME = re.compile(r"shortcut|downsample", re.I)
# A linear shortcut beside a residual block consists of these: it adds nothing to its input.
_LINEAR = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.AvgPool2d,
    nn.Identity,
)


def can_be_read(name: str, module: nn.Module) -> bool:
    """Return whether hooks can see a module's inputs and outputs: not inside TorchScript.

    Modules that compute another module's weights do not count as layers either.
    """
    return PARAMETRIZED not in name.split(".") and not isinstance(module, torch.jit.ScriptModule)


def parts_of_blocks(model: nn.Module) -> set[str]:
    """Return the names of modules inside blocks with attention, and of linear shortcuts."""
    modules = dict(model.named_modules())
    attention = {name for name, module in modules.items() if name and _is_attention(module)}
    blocks: Counter[str] = Counter()
    for name in attention:
        parent = name.rpartition(".")[0]
        if parent not in attention:
            blocks[parent] += 1
    # A block has one attention module, or two with cross-attention; with more it is a model.
    starts = tuple(f"{name}." for name, times in blocks.items() if name and times <= 2)
    return {
        name
        for name, module in modules.items()
        if name.startswith(starts) or _is_shortcut(name, module)
    }


def _is_attention(module: nn.Module) -> bool:
    return bool(_ATTENTION_NAME.search(type(module).__name__))


def _is_shortcut(name: str, module: nn.Module) -> bool:
    # A user's own class may call functions that are not linear.
    known = type(module) is nn.Sequential or _SHORTCUT_NAME.search(
        f"{name.rpartition('.')[2]} {type(module).__name__}"
    )
    return bool(known) and _is_linear(module)


def _is_linear(module: nn.Module) -> bool:
    leaves = [part for part in module.modules() if next(part.children(), None) is None]
    return all(isinstance(leaf, _LINEAR) for leaf in leaves)


def is_activation(module: nn.Module) -> bool:
    """Return whether a module is an activation function, such as a ReLU."""
    if isinstance(module, _NOT_ACTIVATIONS):
        return False
    if type(module).__module__ == "torch.nn.modules.activation":
        return True
    own = next(module.parameters(), None) is not None
    return not own and bool(_ACTIVATION_NAME.search(type(module).__name__))


def channels_of_signals(model: nn.Module) -> frozenset[int]:
    """Return the channel counts of a network's 1-D convolutions; none if it may have tokens too.

    Signals and tokens both have two axes: channels come first, a token's values come last.
    """
    modules = list(model.modules())
    tokens = (nn.Embedding, nn.RNNBase, nn.LayerNorm)
    if any(isinstance(module, tokens) or _is_attention(module) for module in modules):
        return frozenset()
    convolutions = [module for module in modules if isinstance(module, nn.Conv1d)]
    return frozenset(n for conv in convolutions for n in (conv.in_channels, conv.out_channels))


def normalised_widths(model: nn.Module) -> frozenset[int]:
    """Return the widths of a network's layer norms."""
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    return frozenset(module.normalized_shape[-1] for module in norms)


def reads_sequences(model: nn.Module) -> bool:
    """Return whether two axes of a network's input may be a sequence rather than an image."""
    modules = list(model.modules())
    if any(isinstance(module, nn.Conv2d) for module in modules):
        return False
    return any(isinstance(m, nn.Conv1d | nn.RNNBase) or _is_attention(m) for m in modules)
