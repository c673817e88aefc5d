"""What goes wrong while a network trains: a monitor tells it in one line, and can be used on."""

import copy
import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from test_monitor import N, data, trained_for
from torch import nn

import models
import underscript as us
from left_as_found import assert_left_as_found
from underscript.errors import DataError, LabelError, LayerError, ModelError, OutputError
from underscript.results.monitor import exports, probe
from underscript.results.monitor import folder as folder_module


def refused(error, match, job):
    """Check that a job raises an error of one line."""
    with pytest.raises(error, match=match) as caught:
        job()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_any_precision_is_watched(dtype):
    x, y = data()
    monitor = us.Monitor(data(), n_probe=N)
    network = models.mlp().to(dtype)
    with torch.no_grad():
        logits = network(torch.from_numpy(x).to(dtype))
    monitor.update(logits, y, np.arange(N))
    monitor.end_epoch(network)
    own = monitor.history.iloc[-1]
    assert own["plain"] == pytest.approx((logits.argmax(1).numpy() == y).mean())
    values = logits.float().numpy()
    rivals = np.where(np.eye(4, dtype=bool)[y], -np.inf, values).max(1)
    np.testing.assert_allclose(monitor.samples["aum"], values[np.arange(N), y] - rivals, atol=1e-6)


def test_settings_that_one_trains_with_do_not_matter():
    """Autocast, inference mode and a default of float64."""
    x, y = (torch.from_numpy(part) for part in data())
    network = models.mlp()
    plain, other = us.Monitor(data(), n_probe=60), us.Monitor(data(), n_probe=60)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(x)
        other.update(logits, y, torch.arange(N))
        other.end_epoch(network)
    plain.update(logits, y, torch.arange(N))
    plain.end_epoch(network)
    with torch.inference_mode():
        other.update(logits, y, torch.arange(N))
    try:
        torch.set_default_dtype(torch.float64)
        other.end_epoch(network)
    finally:
        torch.set_default_dtype(torch.float32)
    plain.update(logits, y, torch.arange(N))
    plain.end_epoch(network)
    pd.testing.assert_frame_equal(plain.history, other.history)
    pd.testing.assert_frame_equal(plain.samples, other.samples)


def test_a_watched_training_leaves_random_states_and_network(tmp_path):
    network = models.build("dropout")
    x, y = (torch.from_numpy(part) for part in data())
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=16, shuffle=True
    )
    logits = torch.randn(N, 4)

    def watched():
        monitor = us.Monitor(loader, n_probe=60, folder=tmp_path / "m")
        monitor.update(logits, y, torch.arange(N))
        monitor.end_epoch(network)
        monitor.label_issues()
        us.Monitor.resume(tmp_path / "m", loader)

    assert_left_as_found(network, watched)


class Fails(nn.Module):
    """Raises when it has been called a few times, as if memory ran out."""

    def __init__(self):
        super().__init__()
        self.body, self.calls = models.mlp(), None

    def forward(self, x):
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise RuntimeError("no memory\nand more lines")
        return self.body(x)


def test_an_epoch_whose_end_fails_can_be_ended_again(monkeypatch):
    straight, monitor = (us.Monitor(data(), n_probe=60) for _ in range(2))
    network = Fails()
    other = copy.deepcopy(network)
    for start in range(2):
        trained_for(straight, 1, start, network)
    trained_for(monitor, 1, 0, other)
    end_epoch = monitor.end_epoch

    def fails(model):
        model.calls = 1
        end_epoch(model)

    monkeypatch.setattr(monitor, "end_epoch", fails)
    refused(ModelError, "RuntimeError .*no memory", lambda: trained_for(monitor, 1, 1, other))
    assert monitor.history["epoch"].max() == 1
    assert not any(part._forward_hooks for part in other.modules())
    other.calls = None
    end_epoch(other)
    pd.testing.assert_frame_equal(monitor.history, straight.history)
    pd.testing.assert_frame_equal(monitor.samples, straight.samples)


def test_another_network_is_told_by_its_layers(tmp_path):
    monitor = us.Monitor(data(), n_probe=60, folder=tmp_path / "m")
    monitor.end_epoch(models.mlp())
    other = nn.Sequential(nn.Linear(models.WIDTH, 8), nn.ReLU(), nn.Linear(8, 4))
    wider = models.mlp()
    wider.fc1, wider.fc2 = nn.Linear(models.WIDTH, 20), nn.Linear(20, 10)
    expected = "expected the network of earlier epochs, with layers input, relu1, relu2; "
    refused(LayerError, f"{expected}found one with modules 0, 1, 2: ", lambda: end(monitor, other))
    refused(LayerError, f"{expected}.*20 values; expected 16", lambda: end(monitor, wider))
    # A new process does not have the first network.
    again = us.Monitor.resume(tmp_path / "m", data())
    refused(
        LayerError, f"{expected}'relu1' had 16 values, and now has 20", lambda: end(again, wider)
    )
    again = us.Monitor.resume(tmp_path / "m", data())
    refused(LayerError, f"{expected}found input, 1", lambda: end(again, other))
    again = us.Monitor.resume(tmp_path / "m", data())
    end(again, models.mlp())
    assert list(again.history["epoch"].unique()) == [1, 2]


def end(monitor, network):
    monitor.end_epoch(network)


@pytest.mark.parametrize(
    ("network", "error", "match"),
    [
        (models.mlp().to("meta"), ModelError, "on the device meta, which have no values"),
        (models.mlp(classes=1), ModelError, "one logit, return two"),
        (models.mlp(classes=3), LabelError, "label 3 at index .* knows 3 classes"),
        (models.mlp(width=5), ModelError, "cannot be multiplied"),
        (models.mlp().state_dict(), ModelError, r"network\.load_state_dict"),
    ],
)
def test_a_network_that_cannot_be_read_is_told(network, error, match):
    monitor = us.Monitor(data(), n_probe=60)
    refused(error, match, lambda: monitor.end_epoch(network))
    monitor.end_epoch(models.mlp())
    assert list(monitor.history["epoch"].unique()) == [1]


def test_epochs_without_batches_and_batches_without_an_end(tmp_path):
    monitor = us.Monitor(data(), n_probe=60, folder=tmp_path / "m")
    monitor.end_epoch(models.mlp())
    assert monitor.samples.empty
    refused(DataError, "call update, then end_epoch", monitor.label_issues)
    monitor = us.Monitor.resume(tmp_path / "m", data())
    _, y = data()
    empty = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0)
    monitor.update(*empty)
    monitor.update(np.eye(4)[y], y, np.arange(N))
    monitor.update(*empty)
    assert monitor.samples.empty
    monitor.end_epoch(models.mlp(), step=700)  # and no epoch 2 to 699
    assert len(monitor.samples) == N
    assert (monitor.samples["aum"] == 1).all()
    network = models.mlp()
    refused(DataError, "whole number; found 'a'", lambda: monitor.end_epoch(network, step="a"))
    assert monitor.recommended.step in (1, 700)


def test_indices_that_are_not_the_probes_are_told():
    monitor = us.Monitor(data(), n_probe=60)
    _, y = data()
    monitor.update(np.eye(4)[y], y, np.arange(N)[::-1].copy())
    with pytest.warns(us.UnderscriptWarning, match="Give update each sample's place in the data"):
        monitor.end_epoch(models.mlp())
    # Those of all samples are known, in whatever order they come.
    monitor = us.Monitor(data(), n_probe=60)
    order = np.random.default_rng(0).permutation(N)
    monitor.update(np.eye(4)[y[order]], y[order], order)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.end_epoch(models.mlp())


class Relabelled(torch.utils.data.Dataset):
    """Data whose labels the user can change."""

    def __init__(self):
        self.x, self.y = data()

    def __len__(self):
        return N

    def __getitem__(self, i):
        return self.x[i], self.y[i], i


def test_labels_of_the_probe_that_change_are_told(monkeypatch):
    few, many = Relabelled(), Relabelled()
    monitor = us.Monitor(few, n_probe=60)
    monkeypatch.setattr(probe, "_KEPT", 0)
    read_again = us.Monitor(many, n_probe=60)
    for each, samples in ((monitor, few), (read_again, many)):
        each.update(np.eye(4)[samples.y], samples.y, np.arange(N))
        each.end_epoch(models.mlp())
        samples.y = 3 - samples.y
    # What is kept stays; the labels that are trained on show that others changed.
    monitor.update(np.eye(4)[few.y], few.y, np.arange(N))
    with pytest.warns(us.UnderscriptWarning) as found:
        monitor.end_epoch(models.mlp())
    messages = [str(each.message) for each in found]
    assert any("counted anew" in each for each in messages)
    assert any("is about those at the start" in each for each in messages)
    refused(DataError, "not those of the first epoch", lambda: read_again.end_epoch(models.mlp()))


def test_mixed_labels_say_nothing_of_the_probe():
    monitor = us.Monitor(data(), n_probe=60)
    _, y = data()
    mixed = 0.6 * np.eye(4)[3 - y] + 0.4 * np.eye(4)[y]
    with pytest.warns(us.UnderscriptWarning, match="mixup"):
        monitor.update(np.eye(4)[y], mixed, np.arange(N))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.update(np.eye(4)[y], mixed, np.arange(N))
        monitor.end_epoch(models.mlp())


def test_a_full_disk_does_not_end_training(tmp_path, monkeypatch):
    straight = us.Monitor(data(), n_probe=60, keep_logits=True)
    model = trained_for(straight, 1)
    for start in (1, 2):
        trained_for(straight, 1, start, model)
    monitor = us.Monitor(data(), n_probe=60, folder=tmp_path / "m", keep_logits=True)
    model = trained_for(monitor, 1)

    def full(target, _):
        raise OutputError(f"cannot write {target}: No space left on device")

    for module in (folder_module, exports):
        monkeypatch.setattr(module, "write_tensors", full)
    with pytest.warns(us.UnderscriptWarning, match="No space left .* Training goes on"):
        trained_for(monitor, 1, 1, model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained_for(monitor, 1, 2, model)
    pd.testing.assert_frame_equal(monitor.samples, straight.samples)
    pd.testing.assert_frame_equal(monitor.history, straight.history)
    monitor.to_cartography_jsonl(tmp_path / "dynamics")
    assert len(list((tmp_path / "dynamics").iterdir())) == 3
    # What was written before is whole.
    monkeypatch.undo()
    assert us.Monitor.resume(tmp_path / "m", data()).history["epoch"].max() == 1
    # And once there is room, all of it is written.
    monitor.save(tmp_path / "m")
    again = us.Monitor.resume(tmp_path / "m", data())
    pd.testing.assert_frame_equal(again.samples, straight.samples)


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "m"):
        refused(OutputError, "cannot write in", lambda at=folder: us.Monitor(data(), folder=at))


def test_training_that_goes_back_to_a_checkpoint(tmp_path):
    straight = us.Monitor(data(), n_probe=60)
    trained_for(straight, 4)
    monitor = us.Monitor(data(), n_probe=60, folder=tmp_path / "m")
    model = trained_for(monitor, 2)
    kept = {name: part.clone() for name, part in model.state_dict().items()}
    trained_for(monitor, 3, 2, model)
    refused(DataError, r"Monitor\.resume", lambda: monitor.end_epoch(model, step=3))
    model.load_state_dict(kept)
    us.Monitor.resume(tmp_path / "m", data(), step=2)
    # Also if that process died at once.
    monitor = us.Monitor.resume(tmp_path / "m", data())
    assert monitor.history["epoch"].max() == 2
    assert (monitor.samples["epochs"] == 5).all()
    trained_for(monitor, 2, 2, model)
    again = us.Monitor.resume(tmp_path / "m", data(), step=4)
    for each in (monitor, again):
        pd.testing.assert_frame_equal(
            each.history.drop(columns="angle"), straight.history.drop(columns="angle")
        )
        # Class means of a later network are nothing to compare with.
        assert each.history.query("epoch == 3")["angle"].isna().all()
        assert each.recommended == straight.recommended
    facts = json.loads((tmp_path / "m" / "monitor.json").read_text())
    assert any("went back from epoch 5 to 2" in note for note in facts["notes"])


def test_steps_of_epochs_that_were_not_read_are_known(tmp_path):
    monitor = us.Monitor(data(), n_probe=60, every=2, folder=tmp_path / "m")
    for step in (10, 20, 30, 40, 50):
        monitor.end_epoch(models.mlp(), step=step)
    again = us.Monitor.resume(tmp_path / "m", data(), step=30)
    assert list(again.history["step"].unique()) == [20]
    again.end_epoch(models.mlp(), step=41)
    assert list(again.history["step"].unique()) == [20, 41]


def test_a_folder_may_move_and_versions_may_change(tmp_path):
    monitor = us.Monitor(data(), n_probe=60, folder=tmp_path / "m")
    trained_for(monitor, 2)
    shutil.move(tmp_path / "m", tmp_path / "moved")
    path = tmp_path / "moved" / "monitor.json"
    facts = json.loads(path.read_text())
    facts["versions"] = {"torch": "2.4.0", "python": "3.9"}
    path.write_text(json.dumps(facts))
    again = us.Monitor.resume(tmp_path / "moved", data())
    pd.testing.assert_frame_equal(again.history, monitor.history)
    pd.testing.assert_frame_equal(again.samples, monitor.samples)
    again.end_epoch(models.mlp())
    assert not (tmp_path / "m").exists()
    assert us.Monitor.resume(tmp_path / "moved", data()).history["epoch"].max() == 3


def test_a_damaged_file_is_told_and_gives_no_number(tmp_path):
    monitor = us.Monitor(data(), n_probe=60, folder=tmp_path / "m", keep_logits=True)
    trained_for(monitor, 2)

    def told(where):
        """Return the error; without one the numbers must be the right ones."""
        try:
            again = us.Monitor.resume(where / "m", data())
            again.to_cartography_jsonl(where / "dynamics")
        except (DataError, OutputError) as error:
            return str(error)
        pd.testing.assert_frame_equal(again.history, monitor.history)
        pd.testing.assert_frame_equal(again.samples, monitor.samples)
        return None

    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert len(names) == 5
    for name in names:
        whole = (tmp_path / "m" / name).read_bytes()
        lines = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")][-3:]
        for length in (0, 1, len(whole) // 3, len(whole) // 2, *lines, len(whole) - 1):
            (tmp_path / "m" / name).write_bytes(whole[:length])
            message = told(tmp_path)
            if message is None:
                assert whole[:length].strip() == whole.strip(), f"{name} cut to {length}"
            else:
                assert str(tmp_path / "m") in message
                assert "\n" not in message
        (tmp_path / "m" / name).write_bytes(whole)
    path = tmp_path / "m" / "history.csv"
    path.write_text(path.read_text().replace("relu1", "relu2"))
    refused(DataError, "damaged or was edited", lambda: us.Monitor.resume(tmp_path / "m", data()))
