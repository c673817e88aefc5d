"""Write ONNX files and check them against a module; read them without running foreign code."""

import copy
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..activations.hooks import undisturbed
from ..activations.runner import placed
from ..data.batches import Batch, per_sample
from ..errors import DataError, ModelError, OutputError
from ..utils.extras import optional_package
from ..utils.files import whole_file
from .module import DecodedModule

__all__ = ["CHECKED", "OnnxClassifier", "export_onnx"]

# Samples of the example on which the file and the module are compared.
CHECKED = 64
# Largest difference from torch's values, relative to their spread; rounding errors are far smaller.
_TOLERANCE = 1e-3
OUTPUT = "decision_values"
# Domains of standard operators, which onnxruntime has itself; others load foreign code.
_DOMAINS = frozenset({"", "ai.onnx"})


def export_onnx(
    module: DecodedModule, example: Batch, path: Path, metadata: Mapping[str, str]
) -> None:
    """Write a module as one ONNX file for any batch size, if its values match torch's.

    Parameters
    ----------
    module : DecodedModule
        It is copied to the CPU first.
    example : Batch
        Inputs: three samples are traced, all are compared.
    path : Path
        Written whole or not at all.
    metadata : mapping of str to str
        Written into the file.

    Raises
    ------
    ModelError
        If the network cannot be exported, a package is missing, or the values differ.
    OutputError
        If the file cannot be written.
    """
    onnx, _ = _packages("export")
    _import("onnxscript", "export")
    with undisturbed(module):
        alone = copy.deepcopy(module).to("cpu").eval()
        batch = placed(alone.network, example, torch.device("cpu"))
        proto = _traced(alone, batch)
        for key, text in metadata.items():
            proto.metadata_props.add(key=key, value=text)
        with whole_file(path) as work:
            try:
                onnx.save_model(proto, work)
            except ValueError as error:
                raise ModelError(
                    f"{path}: one ONNX file holds at most 2 GiB ({str(error).splitlines()[0]})"
                ) from error
            _compare(alone, OnnxClassifier(work), batch, path)


def _traced(module: DecodedModule, batch: Batch) -> Any:
    """Return the ONNX model of a module in evaluation mode."""
    traced = _of_size(batch, 3)
    free = torch.export.Dim("batch")
    tensors = [v for v in (*traced.args, *traced.kwargs.values()) if isinstance(v, Tensor)]
    shapes = tuple({0: free} if per_sample(v, traced.size) else {} for v in tensors)
    name = type(module.network).__name__
    with _quiet():
        try:
            with torch.no_grad():
                program = torch.export.export(
                    _Tensors(module, traced), tuple(tensors), dynamic_shapes=(shapes,), strict=False
                )
        except Exception as error:
            text = str(error)
            reason = (text.strip().splitlines() or [type(error).__name__])[0]
            if "specialized" in text:
                reason = (
                    "its forward pass makes a fixed number of the batch size, as len(x) does; "
                    "take x.shape[0]"
                )
            raise ModelError(f"{name} cannot be exported: {reason}") from error
        try:
            made: Any = torch.onnx.export(
                program,
                input_names=_input_names(module.network, traced),
                output_names=[OUTPUT],
                verbose=False,
                dynamo=True,
            )
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{name} cannot be written as ONNX: {reason}") from error
    return made.model_proto


class _Tensors(nn.Module):
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


def _of_size(batch: Batch, size: int) -> Batch:
    """Return the first samples of a batch, repeated if there are too few."""
    if batch.size >= size:
        return batch.take(np.arange(batch.size) < size)

    def longer(value: Any) -> Any:
        return torch.cat([value] * size)[:size] if per_sample(value, batch.size) else value

    kwargs = {name: longer(value) for name, value in batch.kwargs.items()}
    return Batch(tuple(map(longer, batch.args)), kwargs, None, None, size)


def _input_names(network: nn.Module, batch: Batch) -> list[str]:
    """Return the tensors' names in the network's forward pass."""
    parameters = inspect.signature(network.forward).parameters.values()
    places = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    places += [f"input{number}" for number in range(len(places), len(batch.args))]
    named = [*zip(places, batch.args, strict=False), *batch.kwargs.items()]
    return [name for name, value in named if isinstance(value, Tensor)]


def _compare(module: nn.Module, file: "OnnxClassifier", batch: Batch, path: Path) -> None:
    """Raise ModelError unless file and module give the same values, for one sample and for many."""
    for part in (batch, _of_size(batch, 1)):
        with torch.no_grad():
            expected = module(*part.args, **part.kwargs).double()
        try:
            actual = file.decide(part).double()
        except DataError as error:
            raise ModelError(f"{path}: {error}; nothing was written") from error
        finite = torch.isfinite(expected)
        scale = float(expected[finite].std(correction=0)) if finite.any() else 0.0
        allowed = _TOLERANCE * (scale or 1.0)
        same = torch.equal(finite, torch.isfinite(actual)) and expected.shape == actual.shape
        apart = float((expected - actual)[finite].abs().max()) if same and finite.any() else 0.0
        if not same or apart > allowed:
            raise ModelError(
                f"{path}: onnxruntime answers otherwise than torch for an example of "
                f"{part.size} samples (values up to {apart:.2g} apart; their spread is "
                f"{scale:.2g}); nothing was written"
            )


class OnnxClassifier:
    """A decoder in an ONNX file, run by onnxruntime on the CPU.

    Parameters
    ----------
    path : Path
        The file; it is checked at once, and loaded for the first prediction.

    Raises
    ------
    ModelError
        If a package is missing.
    OutputError
        If it is no ONNX file, or asks for other files or foreign operators.
    """

    def __init__(self, path: Path):
        onnx, self._runtime = _packages("read")
        self.path = path
        try:
            model = onnx.load_model(path, load_external_data=False)
        except Exception as error:
            raise OutputError(f"{path}: expected an ONNX file; found none that is whole") from error
        _check_trusted(model, path)
        self._bytes = model.SerializeToString()
        self._session: Any = None

    def decide(self, batch: Batch) -> Tensor:
        """Return decision values (n, K) of a batch, float32 or float64.

        Raises
        ------
        DataError
            If the inputs do not match the file's.
        OutputError
            If onnxruntime cannot load it.
        """
        if self._session is None:
            self._session = self._load()
        inputs = self._session.get_inputs()
        given = [value for value in batch.args if isinstance(value, Tensor)]
        feed: dict[str, Any] = {}
        for place in inputs:
            value = batch.kwargs.get(place.name)
            if value is None and given:
                value = given.pop(0)
            if not isinstance(value, Tensor):
                raise DataError(f"{self.path}: expected an input {place.name!r}; found none")
            feed[place.name] = _as_typed(value, place.type)
        try:
            values = self._session.run(None, feed)[0]
        except Exception as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.path}: onnxruntime cannot run the inputs: {reason}") from error
        return torch.from_numpy(np.asarray(values))

    def _load(self) -> Any:
        options = self._runtime.SessionOptions()
        options.log_severity_level = 3
        if torch.get_num_threads() == 1:
            options.intra_op_num_threads = 1
        try:
            return self._runtime.InferenceSession(
                self._bytes, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            reason = " ".join(str(error).split())
            raise OutputError(f"{self.path}: onnxruntime cannot load it: {reason}") from error


def _as_typed(value: Tensor, kind: str) -> Any:
    array = value.detach().cpu().numpy()
    types = {
        "tensor(float)": np.float32,
        "tensor(double)": np.float64,
        "tensor(float16)": np.float16,
    }
    return array.astype(types[kind]) if kind in types and array.dtype.kind == "f" else array


def _check_trusted(model: Any, path: Path) -> None:
    """Raise OutputError if a model reads other files, or runs a non-standard operator."""
    local = {(function.domain, function.name) for function in model.functions}
    for graph in [model.graph, *model.functions]:
        for node, tensor in _parts(graph):
            if tensor is not None and (tensor.data_location or tensor.external_data):
                raise OutputError(
                    f"{path}: the file keeps numbers of {tensor.name!r} in another file; expected "
                    "one ONNX file that is whole in itself"
                )
            if node is None or node.domain in _DOMAINS or (node.domain, node.op_type) in local:
                continue
            raise OutputError(
                f"{path}: the file asks for the operator {node.op_type!r} of {node.domain!r}; "
                "only operators of the ONNX standard are run"
            )


def _parts(graph: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every node and every tensor of a graph and of the graphs within its nodes."""
    for tensor in getattr(graph, "initializer", ()):
        yield None, tensor
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield None, sparse.values
        yield None, sparse.indices
    for node in graph.node:
        yield node, None
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors):
                yield None, tensor
            for inner in (attribute.g, *attribute.graphs):
                yield from _parts(inner)


def _packages(what: str) -> tuple[Any, Any]:
    return _import("onnx", what), _import("onnxruntime", what)


def _import(name: str, what: str) -> Any:
    return optional_package(name, "onnx", f"to {what} ONNX files", ModelError)


@contextmanager
def _quiet() -> Iterator[None]:
    """Run the block without the messages that torch and onnxscript print during export."""
    loggers: Sequence[logging.Logger] = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    ]
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
