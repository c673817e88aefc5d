"""Whether a model and the random states are as they were."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from sources import (
    Indexed,
)


class Disturbance(BaseException):
    """Nothing catches it by accident."""


class RaisingData(Indexed):
    def __init__(self, error: type[BaseException]):
        super().__init__()
        self.error = error

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, int]:
        if i == 50:
            raise self.error("in the data")
        return super().__getitem__(i)


class RaisingModel(nn.Module):
    """Raises in the middle of a forward pass once it sees a value above 100."""

    def __init__(self, error: type[BaseException]):
        super().__init__()
        self.body, self.error = models.build("dropout"), error

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body.body(x)
        if bool((x > 100).any()):
            raise self.error("in the model")
        return self.body.readout(hidden)


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return all that a user could find changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    hooks += tuple(f"{name}_with_kwargs" for name in hooks[:2])
    kept = model.state_dict(keep_vars=True)
    return {
        "modes": [m.training for m in model.modules()],
        "weights": {k: v.numpy().tobytes() for k, v in model.state_dict().items()},
        "places": {k: (v.data_ptr(), v.device) for k, v in kept.items()},
        "gradients": [(p.requires_grad, p.grad) for p in model.parameters()],
        "hooks": [[list(getattr(m, h, {})) for h in hooks] for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": np.random.get_state()[1].tobytes(),  # noqa: NPY002
        "numpy at": np.random.get_state()[2],  # noqa: NPY002
        "python": random.getstate(),
        "grad": torch.is_grad_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "dtype": torch.get_default_dtype(),
    }


def in_odd_state(model: nn.Module) -> nn.Module:
    """Put the model in training mode but for its first part, with a hook of the user's own."""
    model.train()
    next(model.children()).eval()
    next(model.parameters()).requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    torch.manual_seed(11)
    np.random.seed(12)  # noqa: NPY002
    random.seed(13)
    return model


def assert_left_as_found(model: nn.Module, job: Callable[[], Any], error: Any = None) -> None:
    in_odd_state(model)
    before = state_of(model)
    if error is None:
        job()
    else:
        with pytest.raises(error):
            job()
    after = state_of(model)
    changed = [key for key in before if before[key] != after[key]]
    assert not changed
