"""The form in which a network was given its inputs, for later inputs to have the same."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DataError
from .batches import Batch
from .samples import named_inputs

__all__ = ["InputForm", "parameters_of"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class InputForm:
    """What the network was given when it was decoded.

    Attributes
    ----------
    names : tuple of str
        Names of its inputs; places of those without a name.
    shapes : mapping of str to tuple of int
        Shape of one sample of each input, without the dimension of the batch; may be empty if not
        known.
    """

    names: tuple[str, ...]
    shapes: Mapping[str, Shape]

    @classmethod
    def of(cls, example: Batch) -> Self:
        """Return the names and shapes of some inputs."""
        values = named_inputs(example)
        return cls(tuple(values), {name: tuple(v.shape[1:]) for name, v in values.items()})

    def arranged(self, x: Any) -> Any:
        """Return inputs in a form that `Source` reads.

        A tuple or list of as many batches as the network has inputs is those inputs; a list of
        single samples is a batch.
        """
        if not isinstance(x, tuple | list) or not x or not all(map(_is_array, x)):
            return x
        dimensions = [len(self.shapes[name]) + 1 for name in self.names if name in self.shapes]
        found = [np.ndim(part) for part in x]
        if len(x) == len(self.names) and (found == dimensions or (len(x) > 1 and not dimensions)):
            return tuple(x), None
        one = len(self.names) == 1 and bool(dimensions)
        if one and isinstance(x, list) and set(found) == {dimensions[0] - 1}:
            parts = [torch.as_tensor(part) for part in x]
            if len({part.shape for part in parts}) == 1:
                return torch.stack(parts)
        return x

    def check(self, batch: Batch, parameters: Sequence[str]) -> Batch:
        """Return a batch with its inputs as `renamed` gives them, after checking them.

        Raises
        ------
        DataError
            If an input is missing: a model may run without it, but predict differently. Or if one
            has no dimension for the batch.
        """
        batch = self.renamed(batch, parameters)
        given = named_inputs(batch)
        missing = [name for name in self.names if name not in given]
        if missing and len(given) < len(self.names):
            placed = all(name.isdecimal() for name in given)
            names = ", ".join(missing[0 if self._by_place or not placed else len(given) :])
            how = (
                "a tuple of all" if self._by_place else "a dict of all, such as a tokenizer returns"
            )
            raise DataError(
                f"inputs: expected {', '.join(self.names)}, as when it was decoded; {names} is "
                f"missing. Give {how}"
            )
        for name, shape in self.shapes.items():
            if name in given:
                _check_batch(name, given[name], shape)
        return batch

    @property
    def _by_place(self) -> bool:
        return all(name.isdecimal() for name in self.names)

    def renamed(self, batch: Batch, parameters: Sequence[str]) -> Batch:
        """Return a batch with its inputs named or placed as when the network was decoded.

        Names matter: a mask is known by its name, and inputs are read in the order of their names.

        Parameters
        ----------
        batch : Batch
            It may be one of a pass traced for export.
        parameters : sequence of str
            The network's inputs, from `parameters_of`.
        """
        args, kwargs = batch.args, batch.kwargs
        if self._by_place:
            wanted = parameters[: len(self.names)]
            if not args and len(wanted) == len(self.names) and all(n in kwargs for n in wanted):
                args = tuple(kwargs[name] for name in wanted)
                kwargs = {name: value for name, value in kwargs.items() if name not in wanted}
        elif len(args) == 1 and len(self.names) == 1 and self.names[0] not in kwargs:
            args, kwargs = (), {**dict(zip(self.names, args, strict=True)), **kwargs}
        elif len(args) <= len(parameters):
            named = dict(zip(parameters, args, strict=False))
            if all(name in self.names and name not in kwargs for name in named):
                args, kwargs = (), {**named, **kwargs}
        return Batch(args, kwargs, batch.labels, batch.index, batch.size)


def parameters_of(network: nn.Module | None) -> list[str]:
    """Return the names of a network's inputs, in the order of their places."""
    if network is None:
        return []
    parameters = inspect.signature(network.forward).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def _check_batch(name: str, value: Tensor, shape: Shape) -> None:
    """Check that an input has a dimension for the batch: a single sample lacks it.

    Other shapes than before are left to the network, which may take inputs of several sizes.

    Raises
    ------
    DataError
        If it has not.
    """
    found = tuple(value.shape[1:])
    if len(found) >= len(shape) or math.prod(found) == math.prod(shape):
        return
    if len(found) == len(shape) - 1:
        how = "x[None]"
    elif value.numel() == math.prod(shape):
        how = f"x.reshape(1, {', '.join(map(str, shape))})"
    else:
        return
    what = "inputs" if name.isdecimal() else f"inputs: {name}"
    raise DataError(
        f"{what}: expected samples of shape {shape}, as when it was decoded; found {len(value)} of "
        f"shape {found}. Make a batch of one sample: {how}"
    )


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0
