"""What the callbacks have in common, and what they say where their library is missing."""

import importlib
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import watched_training as watched
from underscript.adapters import Indexed
from underscript.adapters.common import any_process, labels_and_index
from underscript.errors import DataError, PackageError


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("lightning", "lightning.pytorch", "lightning"),
        ("pytorch_lightning", "pytorch_lightning", "lightning"),
        ("skorch", "skorch", "skorch"),
        ("transformers", "transformers.trainer_callback", "transformers"),
        ("transformers", "accelerate", "transformers"),
    ],
)
def test_a_missing_library_is_one_line_that_names_the_extra(monkeypatch, module, missing, extra):
    name = f"underscript.adapters.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(PackageError, match=rf"pip install 'underscript\[{extra}\]'") as caught:
        importlib.import_module(name)
    assert "\n" not in str(caught.value)


def test_indexed_samples_carry_their_number():
    pairs = Indexed(TensorDataset(torch.rand(5, 2), torch.arange(5)))
    assert len(pairs) == 5
    _, y, index = next(iter(DataLoader(pairs, 3, shuffle=True)))
    assert torch.equal(y, index)
    assert Indexed([{"x": 0.5, "labels": 1}])[0] == {"x": 0.5, "labels": 1, "index": 0}
    with pytest.raises(DataError, match=r"samples \(x, y\) or dicts; found tuple of 3"):
        Indexed(pairs)[0]
    with pytest.raises(DataError, match="with a length; found generator"):
        Indexed(i for i in range(3))


def test_labels_and_index_of_the_usual_batches():
    y, index = torch.tensor([1, 0]), torch.tensor([7, 3])
    for batch in (
        (torch.rand(2, 3), y, index),
        {"input_ids": torch.rand(2, 3), "labels": y, "index": index},
        {"image": torch.rand(2, 3), "target": y, "idx": index},
    ):
        found = labels_and_index(batch)
        assert found[0] is y
        assert found[1] is index
    for batch, match in (
        ((torch.rand(2, 3), y), "found tuple of 2"),
        ({"x": torch.rand(2, 3), "y": y}, "found a dict of x, y"),
        (torch.rand(2, 3), "found Tensor"),
    ):
        with pytest.raises(DataError, match=match):
            labels_and_index(batch)


def test_processes_that_train_together_stop_together(tmp_path):
    cpu = torch.device("cpu")
    assert any_process(True, cpu)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        assert any_process(True, cpu)
        assert not any_process(False, cpu)
    finally:
        torch.distributed.destroy_process_group()


def test_a_state_can_be_taken_over_and_is_a_copy(tmp_path):
    monitor, network = watched.monitor(), watched.Recording()
    index = np.arange(watched.N)
    logits = network(torch.from_numpy(watched.X))
    assert monitor.step is None
    monitor.update(logits, watched.Y, index)
    monitor.end_epoch(network, step=5)
    assert monitor.step == 5
    state = monitor.state_dict()
    monitor.save(tmp_path / "kept")
    before = monitor.samples
    for take in (
        lambda: monitor.load_state_dict(state),
        lambda: monitor.load(tmp_path / "kept"),
    ):
        monitor.update(-logits, watched.Y, index)
        monitor.end_epoch(network, step=7)
        assert not monitor.samples.equals(before)
        monitor.update(-logits, watched.Y, index)
        take()
        assert monitor.step == 5
        assert monitor.samples.equals(before)
        # What an epoch that has not ended has seen is forgotten.
        monitor.end_epoch(network, step=6)
        assert monitor.samples.equals(before)
        assert list(monitor.history["step"].unique()) == [5, 6]
    with pytest.raises(DataError, match="part of the monitor's state is missing"):
        monitor.load_state_dict({"summary": "{}"})
    with pytest.raises(DataError, match="probe: expected the same samples and labels as in the c"):
        watched.us.Monitor((watched.X + 1, watched.Y), n_probe=60).load_state_dict(state)
