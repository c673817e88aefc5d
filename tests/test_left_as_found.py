"""The user's model, data and random states are as they were, whatever happens."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    IterableDataset,
)

import models
import underscript as us
from sources import (
    SOURCES,
    TRUE,
    Indexed,
    X,
    Y,
    assert_same,
    decode,
    loader,
    with_label,
)
from underscript.data.source import Source
from underscript.errors import DataError, LabelError, ModelError


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


# Token numbers without a mask, and a network that was never trained, are not perturbed.
@pytest.mark.filterwarnings("ignore:not perturbed", "ignore:nothing tells memory")
@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_is_left_as_found(name):
    model, data = models.build(name, seed=3), models.data_for(name, 80)
    assert_left_as_found(
        model,
        lambda: us.decode(model, data, test=data, probes=("masc", "velpic"), progress=False),
    )


@pytest.mark.parametrize("kind", ["loader", "shuffled", "dataset", "custom sampler with index"])
def test_the_random_states_are_left_as_found_by_loaders_too(kind):
    # Starting a DataLoader draws a seed from torch's global generator, even in order.
    model = models.build("dropout", seed=3)
    assert_left_as_found(model, lambda: decode(SOURCES[kind](), model=model))
    assert_left_as_found(model, lambda: us.list_layers(model, SOURCES[kind]()))
    found = decode((X, Y), model=model)
    assert_left_as_found(model, lambda: found.best.predict(SOURCES[kind]()))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Disturbance])
@pytest.mark.parametrize("controls", [False, True])
def test_the_model_is_left_as_found_when_a_batch_raises(error, controls):
    model = models.build("dropout", seed=3)
    data = RaisingData(error)
    job = lambda: decode(data, model=model, batch_size=16, controls=controls)  # noqa: E731
    assert_left_as_found(model, job, (error, DataError))
    # In the test data, after the decoders were fitted.
    job = lambda: decode((X, Y), test=data, model=model, batch_size=16, controls=controls)  # noqa: E731
    assert_left_as_found(model, job, (error, DataError))


# It was never trained: with noise it answers as by chance, and that is told.
@pytest.mark.filterwarnings("ignore:not perturbed", "ignore:nothing tells memory")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Disturbance])
def test_the_model_is_left_as_found_when_it_raises(error):
    model = RaisingModel(error)
    bad = X.clone()
    bad[70] = 101
    expected = ModelError if issubclass(error, Exception) else error
    assert_left_as_found(model, lambda: decode((bad, Y), model=model, batch_size=16), expected)
    first = bad.flip(0)
    assert_left_as_found(model, lambda: decode((first, Y), model=model), expected)
    assert_left_as_found(model, lambda: us.list_layers(model, bad[69:71]), expected)
    found = decode((X, Y), model=model)
    assert_left_as_found(model, lambda: found.best.predict(bad), expected)


@pytest.mark.parametrize(
    ("data", "error"),
    [((X, with_label(4)), LabelError), ((torch.where(X > 4, torch.nan, X), Y), DataError)],
    ids=["label out of range", "NaN"],
)
def test_the_model_is_left_as_found_when_the_data_are_bad(data, error):
    model = models.build("dropout", seed=3)
    assert_left_as_found(model, lambda: decode(data, model=model, batch_size=16), error)


def test_batch_norm_statistics_do_not_move_when_the_model_is_in_training_mode():
    quiet, training = models.build("dropout", seed=3), models.build("dropout", seed=3).train()
    assert_same(decode((X, Y), model=training), decode((X, Y), model=quiet))


def test_a_loaders_source_reads_the_same_again():
    source = Source(loader(shuffle=True), "train")
    passes = [np.concatenate([b.labels for b in source.batches()]) for _ in range(3)]
    for labels in passes:
        assert labels.tolist() == TRUE.tolist()


def test_a_data_set_that_can_be_read_only_once_is_an_error():
    class Once(IterableDataset):
        def __init__(self):
            self.rest = iter(zip(X, Y, strict=True))

        def __iter__(self):
            return self.rest

    with pytest.raises(DataError, match="train"):
        decode(Once())
