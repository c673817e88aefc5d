"""A decoder as a module and as an ONNX file: the same answers for any batch, nothing foreign."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import models
import underscript as us
from underscript.cli.command_line import main
from underscript.errors import DataError, ModelError
from underscript.repair.onnx import OnnxFile
from underscript.utils import extras

MASC: dict[str, Any] = {"auto": False, "probes": ("masc",), "variance": 0.8}
VELPIC: dict[str, Any] = {"auto": False, "probes": ("velpic",)}


def decoded(name: str, **options: Any) -> tuple[us.Decoding, Any, nn.Module]:
    model, (x, y) = models.build(name, seed=3), models.data_for(name, 80)
    return us.decode(model, (x, y), controls=False, progress=False, **options), x, model


@pytest.fixture(scope="module")
def found() -> tuple[us.Decoding, Any, nn.Module]:
    return decoded("mlp", layers=["relu1", "relu2"])


def predictions(path: Path, **inputs: Any) -> Any:
    """Run a file as anybody would, without underscript."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert {place.name for place in session.get_inputs()} == set(inputs)
    return session.run(["decision_values"], {k: v.numpy() for k, v in inputs.items()})[0]


def without(package: str) -> Any:
    """Return an import_module that does not find a package."""
    real = importlib.import_module

    def find(name: str) -> Any:
        if name == package:
            raise ImportError(name)
        return real(name)

    return find


# The module -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, MASC, VELPIC], ids=["auto", "masc", "velpic"])
def test_what_was_fitted_is_in_buffers_and_goes_where_the_module_goes(options):
    found, x, model = decoded("mlp", layers=["relu1", "relu2"], **options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    module = found.best.module
    fitted = [tensor for name, tensor in module.named_buffers() if name.startswith("head.")]
    assert fitted
    assert not module.training
    values = module(x)
    torch.testing.assert_close(module.double()(x.double()).float(), values, rtol=1e-3, atol=1e-4)
    assert all(tensor.dtype != torch.float32 for tensor in module.state_dict().values())
    # It is a copy: the user's network is as it was.
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert next(model.parameters()).dtype == torch.float32


def test_the_module_runs_no_further_than_it_reads(found):
    best, x, _ = found[0].best, found[1], found[2]
    calls: list[str] = []
    module = us.decode(
        found[2],
        (x, models.data_for("mlp", 80)[1]),
        layers="relu1",
        auto=False,
        controls=False,
        progress=False,
    ).best.module
    for name, part in module.network.named_children():
        part.register_forward_hook(lambda *_args, name=name: calls.append(name))
    module(x)
    # The hook that ends the pass stands on relu1 itself.
    assert calls in (["fc1"], ["fc1", "relu1"])
    assert best.module is best.module


def test_the_module_can_be_differentiated(found):
    x = found[1].clone().requires_grad_()
    found[0].best.module(x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)


def test_zero_and_extreme_rows_are_decoded_as_by_the_estimator():
    found, x, _ = decoded("mlp", layers="input", **MASC)
    rows = torch.cat([torch.zeros(1, x.shape[1]), x[:3] * 1e-30, x[:3] * 1e30, x[:3]])
    with torch.no_grad():
        values = found.best.module(rows).numpy()
    np.testing.assert_allclose(values, found.best.decision_function(rows), atol=1e-6)
    np.testing.assert_allclose(values[1:4], values[7:], atol=1e-5)


def test_a_class_without_samples_is_never_predicted_by_the_file(tmp_path):
    model, (x, y) = models.build("mlp", seed=3), models.data_for("mlp", 80)
    with pytest.warns(us.UnderscriptWarning):
        found = us.decode(
            model, (x[y > 0], y[y > 0]), layers="relu1", controls=False, progress=False, **VELPIC
        )
    found.best.export(tmp_path / "d.onnx")
    values = predictions(tmp_path / "d.onnx", input=x)
    assert np.isneginf(values[:, 0]).all()
    assert np.isfinite(values[:, 1:]).all()


# The file -------------------------------------------------------------------------------------

CASES = [
    ("mlp", {"layers": ["relu1", "relu2", "input"]}, "input"),
    pytest.param("residual", MASC, "x", marks=pytest.mark.slow),
    ("functional", VELPIC, "x"),
]


@pytest.mark.parametrize(
    ("name", "options", "input_name"), CASES, ids=["mlp", "residual", "functional"]
)
def test_onnxruntime_predicts_the_same_for_any_batch_size(tmp_path, name, options, input_name):
    found, x, model = decoded(name, **options)
    found.best.export(tmp_path / "d.onnx")
    expected = found.best.decision_function(x)
    for size in (1, 2, 80):
        values = predictions(tmp_path / "d.onnx", **{input_name: x[:size]})
        np.testing.assert_allclose(values, expected[:size], rtol=1e-4, atol=1e-4)
        assert (values.argmax(1) == expected[:size].argmax(1)).all()
    assert [path.name for path in tmp_path.iterdir()] == ["d.onnx"]
    assert not any(module._forward_hooks for module in model.modules())
    read = onnx.load(tmp_path / "d.onnx")
    said = {each.key: each.value for each in read.metadata_props}
    assert json.loads(said["layers"]) == list(found.best.layers)
    assert said["underscript"] == us.__version__


@pytest.mark.slow
def test_inputs_by_name_keep_their_names(tmp_path):
    x, y = models.data_for("transformer", 60)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[::2, 3:] = False
    data = [{"input_ids": x[i], "mask": mask[i], "labels": int(y[i])} for i in range(60)]
    found = us.decode(
        models.build("transformer"),
        data,
        layers="head:input",
        controls=False,
        progress=False,
        **MASC,
    )
    found.best.export(tmp_path / "d.onnx", data)
    values = predictions(tmp_path / "d.onnx", input_ids=x, mask=mask)
    np.testing.assert_allclose(values, found.best.decision_function(data), atol=1e-5)


def test_a_model_that_fixes_its_batch_is_told_what_to_write_instead(tmp_path):
    found, _, _ = decoded("attention", **VELPIC)
    with pytest.raises(ModelError, match=r"AttentionNet cannot be exported.*x\.shape\[0\]"):
        found.best.export(tmp_path / "d.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_answers_otherwise_is_not_left_behind(tmp_path, monkeypatch, found):
    monkeypatch.setattr(OnnxFile, "decide", lambda self, batch: torch.ones(batch.size, 4))
    with pytest.raises(ModelError, match="other values than torch"):
        found[0].best.export(tmp_path / "d.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said(tmp_path, found, monkeypatch):
    best = found[0].best
    with pytest.raises(DataError, match=r"ends in \.onnx"):
        best.export(tmp_path / "d.pt")
    monkeypatch.setattr(extras.importlib, "import_module", without("onnxscript"))
    with pytest.raises(ModelError, match=r"onnxscript is needed.*underscript\[onnx\]"):
        best.export(tmp_path / "d.onnx")


# The command ----------------------------------------------------------------------------------

USER = """
import torch
import models
def build():
    return models.build("mlp", seed=3)
def train():
    return models.data_for("mlp", 80)
"""


def test_the_command_writes_the_file(tmp_path, capsys, found):
    (tmp_path / "mine.py").write_text(USER)
    found[0].save(tmp_path / "run")
    out = tmp_path / "d.onnx"
    command = [
        "export",
        str(tmp_path / "run"),
        "--model",
        f"{tmp_path}/mine.py:build",
        "--example",
        f"{tmp_path}/mine.py:train",
        "--out",
        str(out),
    ]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["onnx"] == str(out)
    values = predictions(out, input=found[1])
    assert (values.argmax(1) == found[0].best.predict(found[1])).all()
    assert main([*command[:-1], str(tmp_path / "d.bin")]) == 2
    assert "ends in .onnx" in capsys.readouterr().err
