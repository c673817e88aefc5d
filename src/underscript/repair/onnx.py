"""Write a decoder with its network as an ONNX file, and check the file with onnxruntime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..activations.together import network_of
from ..data.batches import Batch
from ..errors import DataError, ModelError
from ..utils.extras import optional_package
from ..utils.files import whole_file
from .module import DecodedModule
from .tracing import (
    TRACED,
    alone_on_cpu,
    by_name,
    check_same_values,
    input_names,
    of_size,
    quiet,
    traced,
)

__all__ = ["OnnxFile", "export_onnx"]

OUTPUT = "decision_values"


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
    onnx = _import("onnx")
    _import("onnxruntime")
    _import("onnxscript")
    with alone_on_cpu(module, example) as (alone, batch):
        proto = _as_onnx(alone, batch)
        for key, text in metadata.items():
            proto.metadata_props.add(key=key, value=text)
        with whole_file(path) as work:
            try:
                onnx.save_model(proto, work)
            except ValueError as error:
                raise ModelError(
                    f"{path}: one ONNX file holds at most 2 GiB ({str(error).splitlines()[0]})"
                ) from error
            check_same_values(alone, OnnxFile(work).decide, batch, f"{path}: onnxruntime")


def _as_onnx(module: DecodedModule, batch: Batch) -> Any:
    """Return the ONNX model of a module in evaluation mode."""
    program = traced(module, batch)
    with quiet():
        try:
            made: Any = torch.onnx.export(
                program,
                input_names=input_names(module.network, of_size(batch, TRACED)),
                output_names=[OUTPUT],
                verbose=False,
                dynamo=True,
            )
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            name = type(network_of(module.network)).__name__
            raise ModelError(f"{name} cannot be written as ONNX: {reason}") from error
    return made.model_proto


class OnnxFile:
    """A decoder in an ONNX file that was just written, run by onnxruntime on the CPU.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    ModelError
        If onnxruntime cannot load it.
    """

    def __init__(self, path: Path):
        runtime = _import("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if torch.get_num_threads() == 1:
            options.intra_op_num_threads = 1
        self.path = path
        try:
            self._session = runtime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"{path}: onnxruntime cannot load it: {reason}") from error

    def decide(self, batch: Batch) -> Tensor:
        """Return decision values (n, K) of a batch, float32 or float64.

        Raises
        ------
        DataError
            If onnxruntime cannot run the inputs.
        """
        types = {place.name: place.type for place in self._session.get_inputs()}
        given = by_name(batch, list(types), str(self.path))
        feed = {name: _as_typed(value, types[name]) for name, value in given.items()}
        try:
            values = self._session.run(None, feed)[0]
        except Exception as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.path}: onnxruntime cannot run the inputs: {reason}") from error
        return torch.from_numpy(np.asarray(values))


def _as_typed(value: Tensor, kind: str) -> Any:
    array = value.detach().cpu().numpy()
    types = {
        "tensor(float)": np.float32,
        "tensor(double)": np.float64,
        "tensor(float16)": np.float16,
    }
    return array.astype(types[kind]) if kind in types and array.dtype.kind == "f" else array


def _import(name: str) -> Any:
    return optional_package(name, "onnx", "to export ONNX files", ModelError)
