"""Trace a decoder's module with torch.export, and compare what was made of it with the module."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..activations.hooks import undisturbed
from ..activations.runner import placed
from ..activations.together import network_of
from ..data.batches import Batch, per_sample
from ..data.input_form import parameters_of
from ..errors import DataError, ModelError
from .module import DecodedModule

__all__ = [
    "CHECKED",
    "FIXED_BATCH",
    "TRACED",
    "alone_on_cpu",
    "by_name",
    "check_same_values",
    "input_names",
    "of_size",
    "quiet",
    "tensors_of",
    "traced",
]

# Samples of the example on which a file and the module are compared.
CHECKED = 64
# Samples of the traced batch: more than one, which torch.export would take for a fixed size.
TRACED = 3
# Largest difference from torch's values, relative to their spread; rounding errors are far smaller.
_TOLERANCE = 1e-3


class _ByPosition(nn.Module):
    """A module that takes its tensors by position and everything else from a batch.

    torch.export does not support dynamic sizes of keyword arguments.
    """

    def __init__(self, module: nn.Module, batch: Batch):
        super().__init__()
        self.module, self.batch = module, batch

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return what the module returns."""
        rest = iter(tensors)
        args = [next(rest) if isinstance(v, Tensor) else v for v in self.batch.args]
        kwargs = {
            name: next(rest) if isinstance(v, Tensor) else v
            for name, v in self.batch.kwargs.items()
        }
        values: Tensor = self.module(*args, **kwargs)
        return values


def traced(module: DecodedModule, batch: Batch, *, any_length: bool = False) -> Any:
    """Return a module in evaluation mode as a program of torch.export, for any batch size.

    Parameters
    ----------
    module : DecodedModule
        On the CPU, as the batch is.
    batch : Batch
        Inputs; three samples are traced.
    any_length : bool
        Leave other sizes than the batch's free too, such as the number of words, where the
        network's forward pass does not fix them.

    Returns
    -------
    torch.export.ExportedProgram
        It takes the batch's tensors by position.

    Raises
    ------
    ModelError
        If the network cannot be traced.
    """
    example = of_size(batch, TRACED)
    tensors = tensors_of(example)
    free: Any = torch.export.Dim("batch")
    auto = getattr(torch.export.Dim, "AUTO", None) if any_length else None

    def sizes(value: Tensor) -> dict[int, Any]:
        if not per_sample(value, example.size):
            return {}
        if auto is None:
            return {0: free}
        return {place: auto for place in range(value.ndim) if value.shape[place] > 1}

    shapes = tuple(map(sizes, tensors))
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(
                _ByPosition(module, example),
                tuple(tensors),
                dynamic_shapes=(shapes,),
                strict=False,
            )
    except Exception as error:
        text = str(error)
        reason = (text.strip().splitlines() or [type(error).__name__])[0]
        if "specialized" in text:
            reason = FIXED_BATCH
        raise ModelError(
            f"{type(network_of(module.network)).__name__} cannot be exported: {reason}"
        ) from error


FIXED_BATCH = (
    "its forward pass makes a fixed number of the batch size, as len(x) does; take x.shape[0]"
)


@contextmanager
def alone_on_cpu(module: DecodedModule, example: Batch) -> Iterator[tuple[DecodedModule, Batch]]:
    """Give a copy of a module on the CPU, in evaluation mode, and inputs as its network takes them.

    Parameters
    ----------
    module : DecodedModule
        It is left as it is.
    example : Batch
        Inputs.
    """
    with undisturbed(module):
        alone = copy.deepcopy(module).to("cpu").eval()
        yield alone, placed(alone.network, example, torch.device("cpu"))


def by_name(batch: Batch, names: Sequence[str], what: str) -> dict[str, Tensor]:
    """Return a batch's tensors under the names that something takes them by.

    Tensors by position take the names that are not given, in their order.

    Parameters
    ----------
    batch : Batch
        Inputs.
    names : sequence of str
        As `input_names` gives them.
    what : str
        What takes them, for messages.

    Raises
    ------
    DataError
        If there is none for a name.
    """
    given = [value for value in batch.args if isinstance(value, Tensor)]
    found = {}
    for name in names:
        value = batch.kwargs.get(name)
        if value is None and given:
            value = given.pop(0)
        if not isinstance(value, Tensor):
            raise DataError(f"{what}: expected an input {name!r}; found none")
        found[name] = value
    return found


def tensors_of(batch: Batch) -> list[Tensor]:
    """Return a batch's tensors, those by position first."""
    return [v for v in (*batch.args, *batch.kwargs.values()) if isinstance(v, Tensor)]


def of_size(batch: Batch, size: int) -> Batch:
    """Return the first samples of a batch, repeated if there are too few."""
    if batch.size >= size:
        return batch.take(np.arange(batch.size) < size)

    def longer(value: Any) -> Any:
        return torch.cat([value] * size)[:size] if per_sample(value, batch.size) else value

    kwargs = {name: longer(value) for name, value in batch.kwargs.items()}
    return Batch(tuple(map(longer, batch.args)), kwargs, None, None, size)


def input_names(network: nn.Module, batch: Batch) -> list[str]:
    """Return the tensors' names in the network's forward pass."""
    places = parameters_of(network_of(network))
    places += [f"input{number}" for number in range(len(places), len(batch.args))]
    named = [*zip(places, batch.args, strict=False), *batch.kwargs.items()]
    return [name for name, value in named if isinstance(value, Tensor)]


def check_same_values(
    module: DecodedModule, decide: Callable[[Batch], Tensor], batch: Batch, what: str
) -> None:
    """Check that something gives a module's decision values, for one sample and for many.

    Parameters
    ----------
    module : DecodedModule
        On the CPU.
    decide : callable
        Takes a batch and returns decision values (n, K).
    batch : Batch
        Inputs.
    what : str
        What is checked, for messages.

    Raises
    ------
    ModelError
        If the values differ by more than rounding.
    """
    for part in (batch, of_size(batch, 1)):
        with torch.no_grad():
            expected = module(*part.args, **part.kwargs).double()
        try:
            actual = decide(part).double()
        except DataError as error:
            raise ModelError(f"{what}: {error}; nothing was written") from error
        finite = torch.isfinite(expected)
        scale = float(expected[finite].std(correction=0)) if finite.any() else 0.0
        allowed = _TOLERANCE * (scale or 1.0)
        same = torch.equal(finite, torch.isfinite(actual)) and expected.shape == actual.shape
        apart = float((expected - actual)[finite].abs().max()) if same and finite.any() else 0.0
        if not same or apart > allowed:
            raise ModelError(
                f"{what} gives other values than torch for an example of {part.size} samples "
                f"(up to {apart:.2g} apart; their spread is {scale:.2g}); nothing was written"
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Run the block without the messages that torch and onnxscript print during export."""
    names = ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
