"""A decoder with its network as a list of torch's operators: it runs without the network's code.

torch.export has a file format of its own. Reading it runs code that the file holds: pickles,
guards, symbolic expressions. Here a file names operators of torch that only compute, and nothing
else in it is run.
"""

import json
import operator
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, fx

from ..data.batches import Batch
from ..errors import DataError, ModelError, OutputError
from ..utils.files import write_tensors
from .module import DecodedModule
from .tracing import (
    FIXED_BATCH,
    alone_on_cpu,
    by_name,
    check_same_values,
    input_names,
    of_size,
    tensors_of,
    traced,
)

__all__ = ["RecordedDecoder", "record"]

GRAPH_FILE, TENSOR_FILE = "network.json", "network.safetensors"
_FORMAT = 1
# Namespaces of operators that only compute.
_NAMESPACES = ("aten", "prims")
# Functions of numbers, such as the sizes of a batch.
_NUMBERS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "and_": operator.and_,
    "eq": operator.eq,
    "floordiv": operator.floordiv,
    "ge": operator.ge,
    "getitem": operator.getitem,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
    "mod": operator.mod,
    "mul": operator.mul,
    "ne": operator.ne,
    "neg": operator.neg,
    "not_": operator.not_,
    "or_": operator.or_,
    "pow": operator.pow,
    "sub": operator.sub,
    "truediv": operator.truediv,
}
_SIZES = ("sym_float", "sym_int", "sym_ite", "sym_max", "sym_min", "sym_not")
# Blocks that switch a mode of torch which plays no part in evaluation without gradients.
_MODES = ("wrap_with_set_grad_enabled",)
_KINDS = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}


class RecordedDecoder:
    """A recorded decoder; it predicts on the CPU.

    Parameters
    ----------
    graph : mapping
        `inputs`: for each tensor its `name`, `dtype`, and `shape`, where a size is a number, or the
        least and the largest allowed; `steps`: operators with their arguments, in order; `output`.
    tensors : mapping of str to Tensor
        Weights and constants by name.

    Raises
    ------
    ModelError
        If it has a step that is not allowed.
    """

    def __init__(self, graph: Mapping[str, Any], tensors: Mapping[str, Tensor]):
        self.graph, self.tensors = graph, dict(tensors)
        self._functions = [_function(step["run"]) for step in graph["steps"]]
        # Values are dropped after their last use: layers of large networks take much memory.
        self._last: list[list[str]] = [[] for _ in graph["steps"]]
        seen = _names_in(graph["output"])
        for place in reversed(range(len(graph["steps"]))):
            step = graph["steps"][place]
            used = _names_in([step["args"], step["kwargs"]]) | {step["name"]}
            self._last[place] = sorted(used - seen - self.tensors.keys())
            seen |= used

    def decide(self, batch: Batch) -> Tensor:
        """Return decision values (n, K) of a batch.

        Raises
        ------
        DataError
            If the inputs do not have the names, types or shapes that the network was decoded with.
        """
        if batch.size == 1:
            # torch.export takes a size of one for a fixed one.
            return self.decide(of_size(batch, 2))[:1]
        values: dict[str, Any] = {**self.tensors, **self._inputs(batch)}
        with torch.inference_mode():
            try:
                found = self._run(values)
            except RuntimeError as error:
                reason = (str(error).strip().splitlines() or [""])[0]
                shapes = ", ".join(str(tuple(v.shape)) for v in tensors_of(batch))
                raise DataError(f"inputs: the network does not take {shapes}: {reason}") from error
        return found.clone()

    def _run(self, values: dict[str, Any]) -> Tensor:
        for step, function, last in zip(
            self.graph["steps"], self._functions, self._last, strict=True
        ):
            args = _restored(step["args"], values)
            values[step["name"]] = function(*args, **_restored(step["kwargs"], values))
            for name in last:
                del values[name]
        found: Tensor = _restored(self.graph["output"], values)
        return found

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        places = self.graph["inputs"]
        given = by_name(batch, [place["name"] for place in places], "inputs")
        found = {}
        for place in places:
            value = given[place["name"]]
            dtype = getattr(torch, place["dtype"])
            if dtype.is_floating_point != value.is_floating_point():
                raise DataError(
                    f"inputs: expected {place['name']!r} as {place['dtype']}; found "
                    f"{str(value.dtype).removeprefix('torch.')}"
                )
            _check_shape(value, place)
            found[place["id"]] = value.detach().to("cpu", dtype)
        return found

    def write(self, folder: Path) -> None:
        """Write it as two files into a folder."""
        text = json.dumps({"format": _FORMAT, **self.graph}, allow_nan=False)
        (folder / GRAPH_FILE).write_text(text + "\n", encoding="utf-8")
        write_tensors(folder / TENSOR_FILE, self.tensors)

    @classmethod
    def read(cls, folder: Path) -> "RecordedDecoder | None":
        """Read what `write` wrote; None if there is none.

        Raises
        ------
        OutputError
            If it is of another format, or has a step that is not allowed.
        OSError, ValueError, KeyError, TypeError, SafetensorError
            If it is damaged.
        """
        path = folder / GRAPH_FILE
        if not path.is_file():
            return None
        graph = json.loads(path.read_text(encoding="utf-8"))
        if graph["format"] != _FORMAT:
            raise OutputError(
                f"{path}: expected format {_FORMAT}; found {graph['format']}. Load the run with "
                "its network: us.load(folder, model=…)"
            )
        try:
            return cls(graph, safetensors.torch.load_file(folder / TENSOR_FILE))
        except ModelError as error:
            raise OutputError(f"{path}: {error}") from error


def record(module: DecodedModule, example: Batch) -> RecordedDecoder:
    """Record a decoder with its network, if the recording gives the same values.

    Parameters
    ----------
    module : DecodedModule
        It is copied to the CPU first.
    example : Batch
        Inputs: a few are traced, all are compared.

    Returns
    -------
    RecordedDecoder

    Raises
    ------
    ModelError
        If the network cannot be traced, uses an operator that is not torch's own, or the values
        differ; the message says which.
    """
    with alone_on_cpu(module, example) as (alone, batch):
        program = _program(alone, batch)
        recording = _Recorder(program, input_names(alone.network, batch)).recording()
        check_same_values(alone, recording.decide, batch, "the recorded network")
    return recording


def _program(module: DecodedModule, batch: Batch) -> Any:
    """Return the traced program, for texts of any length if the network has such a one."""
    words = any(not v.is_floating_point() and v.ndim > 1 for v in tensors_of(batch))
    if words:
        with suppress(ModelError):
            return traced(module, batch, any_length=True)
    return traced(module, batch)


class _Recorder:
    """Turn an exported program into plain steps."""

    def __init__(self, program: Any, names: list[str]):
        self.program, self.names = program, names
        self.steps: list[dict[str, Any]] = []
        self.inputs: list[dict[str, Any]] = []
        self.tensors: dict[str, Tensor] = {}

    def recording(self) -> RecordedDecoder:
        """Return the steps, the inputs and the tensors that they use."""
        signature = self.program.graph_signature
        held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        constants = signature.inputs_to_lifted_tensor_constants
        known: dict[Any, Any] = {}
        free = iter(self.names)
        for node in self.program.graph.nodes:
            if node.op != "placeholder":
                continue
            if node.name in held or node.name in constants:
                if node.users:
                    self.tensors[node.name] = self._tensor(held, constants, node.name)
            else:
                self.inputs.append(self._input(node, next(free)))
            known[node] = {"value": node.name}
        (output,) = self._emit(self.program.graph_module, known)
        graph = {
            "torch": torch.__version__,
            "inputs": self.inputs,
            "steps": self.steps,
            "output": output,
        }
        return RecordedDecoder(graph, self.tensors)

    def _tensor(self, held: Mapping[str, str], constants: Mapping[str, str], name: str) -> Tensor:
        target = held.get(name) or constants[name]
        state, others = self.program.state_dict, self.program.constants
        value = state[target] if target in state else others[target]
        if not isinstance(value, Tensor) or value.is_complex() or value.layout != torch.strided:
            raise ModelError(f"{target} is no plain tensor of real numbers")
        return value.detach().clone()

    def _input(self, node: fx.Node, name: str) -> dict[str, Any]:
        value = node.meta["val"]
        shape: list[Any] = []
        for size in value.shape:
            symbol = getattr(getattr(size, "node", None), "expr", None)
            if symbol is None or symbol.is_number:
                shape.append(int(size))
                continue
            if not symbol.is_symbol:
                raise ModelError(f"the sizes of its input {name!r} depend on each other")
            limits = self.program.range_constraints.get(symbol)
            largest = None if limits is None or limits.upper > 2**31 else int(limits.upper)
            shape.append([1 if limits is None else int(limits.lower), largest])
        if shape and not isinstance(shape[0], list) and len(self.inputs) == 0:
            raise ModelError(FIXED_BATCH)
        return {
            "id": node.name,
            "name": name,
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": shape,
        }

    def _emit(self, module: fx.GraphModule, known: dict[Any, Any]) -> tuple[Any, ...]:
        """Append the steps of a graph whose inputs are known; return what it returns."""
        for node in module.graph.nodes:
            if node.op == "output":
                return tuple(self._plain(value, known) for value in node.args[0])
            if node.op == "placeholder" or node.op == "get_attr":
                continue
            name = getattr(node.target, "_name", None) or getattr(node.target, "__name__", "")
            if name in _MODES:
                inner = getattr(module, node.args[1].target)
                places = [n for n in inner.graph.nodes if n.op == "placeholder"]
                given = [self._plain(value, known) for value in node.args[2:]]
                known[node] = self._emit(inner, dict(zip(places, given, strict=True)))
            elif node.target is operator.getitem and isinstance(known.get(node.args[0]), tuple):
                known[node] = known[node.args[0]][node.args[1]]
            else:
                # The same name may stand in an inner graph as well.
                own = f"v{len(self.steps)}"
                self._check_unchanged(node, known)
                self.steps.append(
                    {
                        "name": own,
                        "run": _name_of(node.target),
                        "args": [self._plain(value, known) for value in node.args],
                        "kwargs": {k: self._plain(v, known) for k, v in node.kwargs.items()},
                    }
                )
                known[node] = {"value": own}
        raise ModelError("its traced graph returns nothing")

    def _check_unchanged(self, node: fx.Node, known: Mapping[Any, Any]) -> None:
        """Raise ModelError for a step that changes a weight: predictions would drift."""
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable:
            return
        for value, argument in zip(node.args, schema.arguments, strict=False):
            if not argument.is_write or not isinstance(value, fx.Node):
                continue
            if known.get(value, {}).get("value") in self.tensors:
                raise ModelError(f"its forward pass changes its own buffers ({value.name})")

    def _plain(self, value: Any, known: Mapping[Any, Any]) -> Any:
        """Return an argument as JSON."""
        if isinstance(value, fx.Node):
            if value not in known:
                raise ModelError(f"its forward pass uses {value.op} {value.target}")
            return known[value]
        if isinstance(value, list | tuple):
            return [self._plain(part, known) for part in value]
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return {"float": repr(value)}
        if isinstance(value, torch.device):
            return {"device": "cpu"}
        for kind, types in _KINDS.items():
            if isinstance(value, types):
                return {kind: str(value).removeprefix("torch.")}
        raise ModelError(f"its forward pass has an argument of type {type(value).__name__}")


def _check_shape(value: Tensor, place: Mapping[str, Any]) -> None:
    shape = place["shape"]
    fits = value.ndim == len(shape)
    for size, allowed in zip(value.shape, shape, strict=False):
        if isinstance(allowed, list):
            fits = fits and allowed[0] <= size and (allowed[1] is None or size <= allowed[1])
        else:
            fits = fits and size == allowed
    if not fits:
        sizes = ["n", *(_size_text(size) for size in shape[1:])]
        found = ", ".join(map(str, value.shape))
        raise DataError(
            f"inputs: expected {place['name']!r} of shape ({', '.join(sizes)}); found ({found})"
        )


def _size_text(size: Any) -> str:
    if not isinstance(size, list):
        return str(size)
    return f"≥ {size[0]}" if size[1] is None else f"{size[0]}…{size[1]}"


def _name_of(target: Any) -> str:
    """Return an operator's name; raise ModelError if it may not be recorded."""
    if isinstance(target, torch._ops.OpOverload):
        name = str(target)
    else:
        own = str(getattr(target, "__name__", target))
        name = f"{'operator' if getattr(operator, own, None) is target else 'torch'}.{own}"
    _function(name)
    return name


def _function(name: str) -> Callable[..., Any]:
    """Return the function that a step names.

    Raises
    ------
    ModelError
        If it is not allowed: not torch's own, or one that takes the name of a file.
    """
    space, _, rest = name.partition(".")
    if space == "operator" and rest in _NUMBERS:
        return _NUMBERS[rest]
    if space == "torch" and rest in _SIZES:
        number: Callable[..., Any] = getattr(torch, rest)
        return number
    packet, _, overload = rest.partition(".")
    if space in _NAMESPACES and packet.isidentifier() and overload.isidentifier():
        found: Any = getattr(getattr(getattr(torch.ops, space), packet, None), overload, None)
        if isinstance(found, torch._ops.OpOverload) and not any(
            "file" in argument.name for argument in found._schema.arguments
        ):
            operation: Callable[..., Any] = found
            return operation
    raise ModelError(f"the operator {name!r} is not one of torch's own that only compute")


def _names_in(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(_names_in, value))
    if isinstance(value, dict):
        if set(value) == {"value"}:
            return {value["value"]}
        return set().union(*map(_names_in, value.values()))
    return set()


def _restored(value: Any, values: Mapping[str, Any]) -> Any:
    """Return an argument as torch takes it."""
    if isinstance(value, list):
        return [_restored(part, values) for part in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((kind, text),) = value.items()
        if kind == "value":
            return values[text]
        if kind == "float":
            return float(text)
        if kind == "device":
            return torch.device("cpu")
        if kind in _KINDS and isinstance(getattr(torch, str(text), None), _KINDS[kind]):
            return getattr(torch, text)
    return {key: _restored(part, values) for key, part in value.items()}
