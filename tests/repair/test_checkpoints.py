"""Which files are checkpoints, and of which step: names, Lightning, Trainer; no code is run."""

import json
import random
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

import models
from underscript.errors import DataError, ModelError
from underscript.repair.checkpoints import find_checkpoints, steps_in_names


def weights(seed: int) -> dict[str, torch.Tensor]:
    return models.build("mlp", seed=seed).state_dict()


def steps(given) -> list[int]:
    return [one.step for one in find_checkpoints(given)[0]]


@pytest.mark.parametrize(
    "name",
    [
        "step={}.ckpt",
        "epoch=3-step={}.ckpt",
        "epoch={}-val_loss=0.31.ckpt",
        "checkpoint-{}/model.safetensors",
        "resnet18_{:04d}.pt",
        "mlp2-{}-acc=0.93.pth",
        "run7/step_{:06d}/weights.bin",
        "global_step{}-v1.pt",
    ],
)
def test_a_step_is_read_back_from_every_way_to_write_it(name):
    rng = random.Random(name)
    written = rng.sample(range(100_000), 20)
    assert steps_in_names([Path(name.format(step)) for step in written]) == written


@pytest.mark.parametrize(
    "names",
    [("best.pt", "model_1.pt"), ("step=5.ckpt", "step=5-v1.ckpt"), ("a.pt", "b.pt")],
)
def test_names_that_do_not_tell_each_step_tell_none(names):
    assert steps_in_names([Path(name) for name in names]) is None


def test_a_pattern_is_ordered_by_step_and_not_by_letters(tmp_path):
    for step in (1000, 200, 30):
        torch.save(weights(step), tmp_path / f"m{step}.pt")
    found, notes = find_checkpoints(str(tmp_path / "*.pt"))
    assert [Path(one.source).name for one in found] == ["m30.pt", "m200.pt", "m1000.pt"]
    assert notes == []
    for one in found:
        network = models.build("mlp", seed=9)
        one.load_into(network)
        assert torch.equal(network.fc1.weight, weights(one.step)["fc1.weight"])


def test_lightnings_folder_is_read_without_the_copy_of_the_last(tmp_path):
    folder = tmp_path / "lightning_logs" / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    for epoch, step in ((0, 50), (1, 100), (9, 500)):
        state = {f"model.{name}": value for name, value in weights(step).items()}
        kept = {"epoch": epoch, "global_step": step, "state_dict": state}
        torch.save(kept, folder / f"epoch={epoch}-step={step}.ckpt")
    torch.save(kept, folder / "last.ckpt")
    for place in (tmp_path, folder):
        found, (note,) = find_checkpoints(place)
        assert [one.step for one in found] == [50, 100, 500]
        assert "last.ckpt is left out" in note
    network = models.build("mlp", seed=9)
    found[1].load_into(network, quiet=True)
    assert torch.equal(network.fc2.weight, weights(100)["fc2.weight"])


def test_trainers_folder_is_read_whole_or_in_shards(tmp_path):
    for step in (1000, 500):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        torch.save({}, folder / "optimizer.pt")
        torch.save({}, folder / "rng_state.pth")
        safetensors.torch.save_file(weights(step), folder / "model.safetensors")
    folder = tmp_path / "checkpoint-1500"
    folder.mkdir()
    places, parts = {}, list(weights(1500).items())
    for number, part in enumerate((parts[:3], parts[3:]), 1):
        name = f"model-0000{number}-of-00002.safetensors"
        safetensors.torch.save_file(dict(part), folder / name)
        places |= dict.fromkeys(dict(part), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    # The final model beside them is one of them.
    safetensors.torch.save_file(weights(1500), tmp_path / "model.safetensors")
    for given in (tmp_path, str(tmp_path / "checkpoint-*"), f"{tmp_path}/checkpoint-*/*.s*"):
        found, _ = find_checkpoints(given)
        assert [one.step for one in found] == [500, 1000, 1500]
        for one in found:
            network = models.build("mlp", seed=9)
            one.load_into(network)
            assert torch.equal(network.fc2.bias, weights(one.step)["fc2.bias"])


def test_a_step_in_the_file_counts_where_names_tell_none(tmp_path):
    for name, step in (("early", 7), ("late", 70)):
        torch.save({"global_step": step, "state_dict": weights(step)}, tmp_path / f"{name}.ckpt")
    assert steps(tmp_path) == [7, 70]
    for name, step in (("early", 7), ("late", 70)):
        safetensors.torch.save_file(
            weights(0), tmp_path / f"{name}.safetensors", {"global_step": str(step + 1)}
        )
    assert steps(f"{tmp_path}/*.safetensors") == [8, 71]


def test_without_any_step_the_order_counts_and_is_told(tmp_path):
    for name in "ba":
        torch.save(weights(0), tmp_path / f"{name}.pt")
    found, (note,) = find_checkpoints([tmp_path / "b.pt", tmp_path / "a.pt"])
    assert [(one.step, Path(one.source).stem) for one in found] == [(0, "b"), (1, "a")]
    assert re.search(r"0, 1, 2, … from .*b\.pt", note)


def test_a_mapping_in_no_order_is_sorted_and_told(tmp_path):
    torch.save(weights(1), tmp_path / "x.pt")
    found, (note,) = find_checkpoints({20: weights(2), 3: tmp_path / "x.pt"})
    assert [one.step for one in found] == [3, 20]
    assert "sorted by step: 3, 20" in note


def test_a_part_of_a_larger_checkpoint_can_be_named(tmp_path):
    for step in (1, 2):
        both = {f"{part}.{k}": v for part in "ab" for k, v in weights(step).items()}
        both["a.fc1.bias"] = both["a.fc1.bias"] + 1
        torch.save(both, tmp_path / f"{step}.pt")
    found, _ = find_checkpoints(f"{tmp_path}/*.pt:b")
    network = models.build("mlp", seed=9)
    found[1].load_into(network)
    assert torch.equal(network.fc1.bias, weights(2)["fc1.bias"])


def refused(given, error, said):
    with pytest.raises(error) as caught:
        find_checkpoints(given)
    message = str(caught.value)
    assert "\n" not in message
    for text in said:
        assert text in message
    assert message.startswith("checkpoints: ")


def test_what_cannot_be_a_series_of_checkpoints_is_refused_in_one_line(tmp_path):
    for name in ("step=5.pt", "step=5-v1.pt", "best.pt"):
        torch.save(weights(0), tmp_path / name)
    two = [tmp_path / "step=5.pt", tmp_path / "step=5-v1.pt"]
    refused(two, DataError, ["step=5.pt", "step=5-v1.pt", "both of step 5"])
    (tmp_path / "step=5-v1.pt").unlink()
    refused(tmp_path, DataError, ["best.pt", "leave it out"])
    refused(f"{tmp_path}/*.none", DataError, ["no file matches"])
    refused([], DataError, ["empty"])
    refused({}, DataError, ["empty"])
    refused(7, DataError, ["int"])
    refused(weights(0), DataError, ["one state dict"])
    refused({-1: weights(0)}, DataError, ["-1"])
    refused({"five": weights(0)}, DataError, ["'five'"])
    refused({1: {"a": 1}}, ModelError, ["no tensor"])
    refused({1: 3.0}, ModelError, ["float"])
    refused([tmp_path / "missing.pt"], ModelError, ["missing.pt is not a file"])
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", DataError, ["holds none"])
    refused([tmp_path / "empty"], ModelError, ["0 files of weights"])


def test_another_architecture_names_its_file(tmp_path):
    other = {"fc1.weight": torch.zeros(3, 3)}
    torch.save(other, tmp_path / "step=1.pt")
    (found,), _ = find_checkpoints(tmp_path)
    with pytest.raises(ModelError, match=r"^checkpoints: .*step=1\.pt does not fit Sequential"):
        found.load_into(models.build("mlp"))
