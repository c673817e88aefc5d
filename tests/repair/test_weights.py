"""Weights from checkpoints that hold more than weights, Lightning's above all; no code is run."""

import argparse
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import models
from underscript.errors import ModelError
from underscript.repair.weights import load_weights


class Module(nn.Module):
    """What a LightningModule is as far as its state dict goes: the network, a loss, a metric."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(models.CLASSES))


def checkpoint(module: nn.Module, **hyper_parameters: Any) -> dict[str, Any]:
    """Return what Lightning 2 writes: these keys, and values of these types."""
    optimiser = torch.optim.Adam(module.parameters(), 1e-3)
    sum(parameter.sum() for parameter in module.parameters()).backward()
    optimiser.step()
    return {
        "epoch": 4,
        "global_step": 120,
        "pytorch-lightning_version": "2.5.1",
        "state_dict": module.state_dict(),
        "loops": {
            "fit_loop": {
                "state_dict": {},
                "epoch_loop.state_dict": {"_batches_that_stepped": 120},
                "epoch_progress": {"total": {"ready": 5, "completed": 4}, "current": {"ready": 5}},
            },
            "validate_loop": {"state_dict": {}},
        },
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val_loss', 'mode': 'min'}": {
                "monitor": "val_loss",
                "best_model_score": torch.tensor(0.31),
                "best_model_path": "lightning_logs/version_0/checkpoints/epoch=4-step=120.ckpt",
                "best_k_models": {},
                "kth_value": torch.tensor(0.31),
            }
        },
        "optimizer_states": [optimiser.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3, "classes": models.CLASSES, **hyper_parameters},
    }


@pytest.fixture
def saved(tmp_path):
    def save(thing: Any, name: str = "last.ckpt") -> str:
        path = tmp_path / name
        torch.save(thing, path)
        return str(path)

    return save


def assert_same_answers(found: nn.Module, expected: nn.Module) -> None:
    x, _ = models.data("rows")
    with torch.no_grad():
        assert torch.equal(found.eval()(x), expected.eval()(x))


@pytest.mark.parametrize("name", ["model", "net", "backbone", "_orig_mod"])
def test_the_network_is_found_in_a_lightning_checkpoint(saved, name, caplog):
    module = Module(**{name: models.mlp()})
    file = saved(checkpoint(module))
    model = models.build("mlp", seed=7)
    load_weights(model, file)
    assert_same_answers(model, getattr(module, name))
    assert f"the part {name} of {file} was taken; left: loss.weight" in caplog.text


def test_a_part_within_a_part_is_found(saved):
    module = Module(model=nn.ModuleDict({"module": models.mlp()}))
    model = models.build("mlp", seed=7)
    load_weights(model, saved(checkpoint(module)))
    assert_same_answers(model, module.model["module"])


def test_the_lightning_module_itself_takes_its_checkpoint_whole(saved, caplog):
    module, other = Module(model=models.mlp()), Module(model=models.mlp())
    load_weights(other, saved(checkpoint(module)))
    assert_same_answers(other.model, module.model)
    assert not caplog.text


def test_several_networks_in_one_checkpoint_are_told_apart(saved):
    module = Module(model=models.mlp(), teacher=models.mlp())
    file = saved(checkpoint(module))
    model = models.build("mlp")
    with pytest.raises(ModelError, match=rf"several parts.*{file}:model, {file}:teacher") as caught:
        load_weights(model, file)
    assert "\n" not in str(caught.value)
    load_weights(model, f"{file}:teacher")
    assert_same_answers(model, module.teacher)
    with pytest.raises(ModelError, match="no part 'student'; its parts are model, teacher, loss"):
        load_weights(model, f"{file}:student")


def test_weights_of_another_network_do_not_fit_and_change_nothing(saved):
    model = models.build("mlp")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for other, says in (
        (models.ResidualNet(), "missing: fc1.weight"),
        (models.mlp(width=9), r"fc1.weight is \(16, 9\), the model's \(16, 12\)"),
    ):
        with pytest.raises(ModelError, match=says) as caught:
            load_weights(model, saved(checkpoint(Module(model=other))))
        assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (argparse.Namespace(lr=1e-3), "argparse.Namespace"),
        (Path("data"), "pathlib"),
    ],
)
def test_a_checkpoint_that_needs_code_is_refused_and_says_what_to_do(saved, value, named):
    file = saved(checkpoint(Module(model=models.mlp()), config=value))
    with pytest.raises(ModelError) as caught:
        load_weights(models.build("mlp"), file)
    message = str(caught.value)
    assert named in message
    assert "nothing in it was run" in message
    assert "\n" not in message
    # What it says to do works.
    (code,) = re.findall('python -c "(.*)"', message)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(file).parent)
    load_weights(models.build("mlp"), str(Path(file).parent / "weights.pt"))


class Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("how", ["zip", "pickle", "whole model"])
def test_code_in_a_file_is_not_run(tmp_path, how):
    evil, file = str(tmp_path / "pwned"), tmp_path / "last.ckpt"
    if how == "pickle":
        file.write_bytes(pickle.dumps({"state_dict": Evil(evil)}))
    elif how == "zip":
        torch.save(checkpoint(Module(model=models.mlp()), evil=Evil(evil)), file)
    else:
        torch.save(models.mlp(), file)
    with pytest.raises(ModelError, match="nothing in it was run"):
        load_weights(models.build("mlp"), str(file))
    assert not Path(evil).exists()


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        ({"epoch": 3, "optimizer": {"lr": 1.0}}, "holds a dict of epoch, optimizer, not a state"),
        ([torch.zeros(2)], "holds list, not a state dict"),
        (torch.zeros(2), "holds Tensor, not a state dict"),
    ],
)
def test_what_holds_no_weights_says_what_it_holds(saved, thing, says):
    with pytest.raises(ModelError, match=says):
        load_weights(models.build("mlp"), saved(thing))


def test_a_cut_file_is_damaged(tmp_path):
    file = tmp_path / "cut.ckpt"
    torch.save(checkpoint(Module(model=models.mlp())), file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ModelError, match="damaged"):
        load_weights(models.build("mlp"), str(file))
    safetensors.torch.save_file(models.mlp().state_dict(), tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:99])
    with pytest.raises(ModelError, match="damaged"):
        load_weights(models.build("mlp"), str(tmp_path / "cut.safetensors"))
