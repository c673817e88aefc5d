"""Run a user's own perturbation safely, and check what it returns."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.batches import Batch, is_mapping
from ...data.fingerprints import sample_numbers
from ...data.samples import named_inputs
from ...errors import DataError
from ...utils.hashing import below

__all__ = ["changed_by", "seeded"]

_WHERE = "perturb: your function"


def changed_by(change: Callable[[Any], Any], batch: Batch, seed: int, view: int) -> Batch:
    """Return a batch, changed by a user's function.

    The function takes what the network takes: a tensor, a tuple of several, or a dict. The random
    states that it may draw from depend on the seed, the view and the batch, and are restored.

    Raises
    ------
    DataError
        If it raises, returns other shapes, types or names than it took, or no finite numbers.
    """
    # A copy: functions that work in place must not change the data.
    args = tuple(_copy(value) for value in batch.args)
    kwargs = {name: _copy(value) for name, value in batch.kwargs.items()}
    given: Any = kwargs if kwargs else args[0] if len(args) == 1 else args
    where = _WHERE + ("" if batch.index is None or not batch.size else _beginning(batch))
    drawn = int(below(sample_numbers(batch, seed, view).sum(), 2**32))
    with seeded(drawn), torch.no_grad():
        try:
            changed = change(given)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise DataError(f"{where} raised {type(error).__name__}: {reason}") from error
    if kwargs:
        if not is_mapping(changed) or set(changed) != set(kwargs):
            raise DataError(
                f"{where}: expected a dict of {', '.join(kwargs)}, as it was given; "
                f"found {_described(changed)}"
            )
        made = replace(batch, kwargs={name: changed[name] for name in kwargs})
    elif len(args) == 1:
        made = replace(batch, args=(changed,))
    else:
        if not isinstance(changed, tuple | list) or len(changed) != len(args):
            raise DataError(
                f"{where}: expected a tuple of {len(args)}, as it was given; "
                f"found {_described(changed)}"
            )
        made = replace(batch, args=tuple(changed))
    _check(batch, made, where)
    return made


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run the block with its own random states; the previous ones are always restored."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's own
    torch_cpu = torch.get_rng_state()
    torch_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(torch_cpu)
        if torch_cuda:
            torch.cuda.set_rng_state_all(torch_cuda)


def _check(before: Batch, after: Batch, where: str) -> None:
    """Raise DataError unless a changed batch has the form of the original."""
    values = {**{str(place): value for place, value in enumerate(after.args)}, **after.kwargs}
    several = len(before.args) + len(before.kwargs) > 1
    for name, old in named_inputs(before).items():
        new, what = values[name], f"{where}, input {name!r}" if several else where
        if not isinstance(new, Tensor):
            raise DataError(f"{what}: expected a tensor; found {_described(new)}")
        if new.shape != old.shape or new.dtype != old.dtype:
            raise DataError(
                f"{what}: expected {_described(old)}, as it was given; found {_described(new)}. "
                "Keep the number and order of the samples, and the shape and type of each"
            )
        if not new.is_floating_point() or not bool(torch.isfinite(old).all()):
            continue
        finite = torch.isfinite(new)
        if not bool(finite.all()):
            at = int((~finite.flatten(1).all(1) if finite.ndim > 1 else ~finite).int().argmax())
            sample = at if before.index is None else int(before.index[at])
            raise DataError(
                f"{what}: expected finite numbers; found NaN or infinite ones in the sample at "
                f"index {sample}"
            )


def _beginning(batch: Batch) -> str:
    assert batch.index is not None
    return f", in the batch that begins with the sample at index {int(batch.index[0])}"


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"a tensor of {kind}, shape {tuple(value.shape)}"
    if is_mapping(value):
        return f"a dict of {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
