"""Make the untrained control: a network of the same architecture with fresh weights.

Modules are initialised anew by `reset_parameters`, also those whose weights are computed from
others; modules without it are constructed again from their class. A twin that could still hold a
trained number is refused.
"""

import inspect
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from ..errors import ModelError
from .copies import copied

__all__ = ["untrained"]

# A separate random stream: a network made with the same seed must not equal its twin.
_STREAM = 0x7717


def untrained(network: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a network with freshly initialised weights; call it inside `undisturbed`.

    Raises
    ------
    ModelError
        If the network cannot be copied, or a module can neither initialise itself nor be
        constructed again.
    """
    twin = copied(network)
    torch.manual_seed(seed + _STREAM)
    if (made := _by_config(network)) is not None:
        return made
    fresh: set[int] = set()
    with torch.no_grad():
        for name, module in twin.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                raise ModelError(
                    f"{name or 'the model'} is TorchScript, which cannot be made again"
                )
            if "parametrizations" in name.split("."):
                continue  # handled with the module whose weights it computes
            try:
                _renew(module, fresh)
            except Exception as error:
                what = f"{name or 'the model'} ({type(module).__name__})"
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise ModelError(f"{what} cannot be initialised anew: {reason}") from error
    _check(network, twin, fresh)
    return twin


def _by_config(network: nn.Module) -> nn.Module | None:
    """Return a new model of transformers, made from its configuration, or None."""
    config = getattr(network, "config", None)
    if config is None or not callable(getattr(network, "_init_weights", None)):
        return None
    try:
        made: nn.Module = type(network)(config)
    except Exception:  # with a custom head, for instance
        return None
    trained, ours = network.state_dict(), made.state_dict()
    if {k: v.shape for k, v in trained.items()} != {k: v.shape for k, v in ours.items()}:
        return None
    tensor = next(iter(trained.values()), torch.empty(0))
    return made.to(device=tensor.device, dtype=tensor.dtype if tensor.is_floating_point() else None)


def _renew(module: nn.Module, fresh: set[int]) -> None:
    """Draw a module's own parameters and buffers anew, and record which tensors are fresh."""
    before = {name: tensor.clone() for name, tensor in _own(module)}
    if parametrize.is_parametrized(module):
        _renew_parametrized(module)
    elif _pruned(module) or _old_norms(module):
        _renew_hooked(module)
    elif before and (reset := _reset_of(module)) is not None:
        reset()
        if any(_as_it_was(before[name], tensor) for name, tensor in _own(module)):
            _take_over(module, _made_again(module))
    elif before:
        _take_over(module, _made_again(module))
    fresh |= {id(tensor) for _, tensor in _own(module)}
    if parametrize.is_parametrized(module):
        held: Any = module.parametrizations
        fresh |= {id(tensor) for tensor in held.parameters()}


def _as_it_was(before: Tensor, after: Tensor) -> bool:
    """Return whether a tensor is unchanged and holds more than the usual first values, 0 and 1."""
    if not before.is_floating_point() or not torch.equal(before, after):
        return False
    return bool(((before != 0) & (before != 1)).any())


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _reset_of(module: nn.Module) -> Any:
    for name in ("reset_parameters", "_reset_parameters"):
        if callable(reset := getattr(module, name, None)):
            return reset
    return None


def _plain(module: nn.Module) -> nn.Module:
    """Return a freshly initialised module, without the hooks that compute its weights.

    A copy would share the class that a parametrization makes, and change it for the user's network.
    """
    kind: Any = type(module)
    computed = [*_pruned(module), *(name for _, name in _old_norms(module))]
    if parametrize.is_parametrized(module):
        held: Any = module.parametrizations
        kind, computed = kind.__bases__[0], list(held)
    plain: nn.Module = kind.__new__(kind)
    vars(plain).update(vars(module))
    for name in ("_forward_hooks", "_forward_pre_hooks", "_modules", "_buffers"):
        vars(plain)[name] = OrderedDict()
    own = {
        name: value
        for name, value in module.named_parameters(recurse=False)
        if not any(name.startswith(f"{weight}_") for weight in computed)
    }
    own |= {name: getattr(module, name) for name in computed}
    vars(plain)["_parameters"] = OrderedDict(
        (name, nn.Parameter(value.detach().clone())) for name, value in own.items()
    )
    for name in computed:
        vars(plain).pop(name, None)
    reset = _reset_of(plain)
    if reset is None:
        raise ModelError("it has no reset_parameters")
    reset()
    return plain


def _renew_parametrized(module: nn.Module) -> None:
    made = _plain(module)
    held: Any = module.parametrizations
    for name in list(held):
        # A norm's memory of past weights, such as singular vectors, is trained too.
        for part in held[name]:
            for key, buffer in part.named_buffers():
                if key.endswith(("_u", "_v")):
                    buffer.copy_(nn.functional.normalize(torch.randn_like(buffer), dim=0))
        setattr(module, name, getattr(made, name).detach())
    for name, value in made.named_parameters(recurse=False):
        if name not in held:
            getattr(module, name).copy_(value)


def _pruned(module: nn.Module) -> list[str]:
    return [
        hook._tensor_name
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, prune.BasePruningMethod)
    ]


def _old_norms(module: nn.Module) -> list[tuple[str, str]]:
    """Return the kinds and parameter names of norms that hooks compute."""
    hooks: list[Any] = list(module._forward_pre_hooks.values())
    kinds = [type(hook).__name__ for hook in hooks]
    return [
        (kind, hook.name)
        for kind, hook in zip(kinds, hooks, strict=True)
        if kind in ("WeightNorm", "SpectralNorm")
    ]


def _renew_hooked(module: nn.Module) -> None:
    made = _plain(module)
    pruned = set(_pruned(module))
    norms = {name: kind for kind, name in _old_norms(module)}
    for name, value in made.named_parameters(recurse=False):
        if name in pruned:
            getattr(module, f"{name}_orig").copy_(value)
            # The mask is learned too: keep as many weights, but others.
            mask = getattr(module, f"{name}_mask")
            mask.copy_(mask.flatten()[torch.randperm(mask.numel())].view_as(mask))
            setattr(module, name, value.detach() * mask)
        elif norms.get(name) == "WeightNorm":
            length, direction = getattr(module, f"{name}_g"), getattr(module, f"{name}_v")
            direction.copy_(value)
            axes = [axis for axis in range(value.ndim) if length.shape[axis] == 1]
            length.copy_(value.norm(dim=axes, keepdim=True) if axes else value)
        elif norms.get(name) == "SpectralNorm":
            getattr(module, f"{name}_orig").copy_(value)
            for side in "uv":
                vector = getattr(module, f"{name}_{side}")
                vector.copy_(nn.functional.normalize(torch.randn_like(vector), dim=0))
        else:
            getattr(module, name).copy_(value)


def _made_again(module: nn.Module) -> nn.Module:
    """Return a new module of the same class, made from the arguments that the old one stores.

    Raises
    ------
    ModelError
        If an argument is not stored.
    """
    kind = type(module)
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = vars(module).get(name, parameter.default)
        if value is parameter.empty:
            raise ModelError(
                f"it has no reset_parameters, and keeps no {name!r} to be made again with"
            )
        given[name] = value
    return kind(**given)


def _take_over(module: nn.Module, made: nn.Module) -> None:
    """Copy another module's own parameters and buffers."""
    theirs = dict(_own(made))
    for name, tensor in _own(module):
        other = theirs.get(name)
        if other is None or other.shape != tensor.shape:
            raise ModelError(f"made again it has another {name!r}")
        tensor.copy_(other)


def _check(network: nn.Module, twin: nn.Module, fresh: set[int]) -> None:
    """Check that nothing trained is left.

    Raises
    ------
    ModelError
        If a trained tensor is left; the message names the first.
    """
    trained = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    ours = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    for name, tensor in ours.items():
        if id(tensor) in fresh or not tensor.is_floating_point() or name not in trained:
            continue
        if tensor.numel() and torch.equal(tensor, trained[name].to(tensor.device)):
            raise ModelError(f"{name} would have its trained numbers")
