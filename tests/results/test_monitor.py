"""A monitor as a user has it: a training loop, its folder, a kill, and what it refuses."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import models
import underscript as us
from left_as_found import assert_left_as_found
from underscript.errors import ArgumentError, DataError, LabelError, OutputError
from underscript.results.monitor import folder as folder_module
from underscript.results.monitor.layers import LayerReader, effective_rank, principal_angles
from underscript.results.monitor.probe import ProbeRows

N = 200


def data(seed=0, n=N):
    """Return inputs in four clusters and labels, a quarter of them wrong."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, models.CLASSES, n)
    x = rng.normal(size=(n, models.WIDTH)) + 3 * np.eye(models.CLASSES, models.WIDTH)[true]
    y = np.where(rng.random(n) < 0.25, rng.integers(0, models.CLASSES, n), true)
    return x.astype(np.float32), y


def trained_for(monitor, epochs, start=0, model=None):
    """Train some epochs, with weights that depend only on the epoch that starts."""
    x, y = (torch.from_numpy(part) for part in data())
    torch.manual_seed(start)
    model = model or models.mlp()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for epoch in range(start, start + epochs):
        torch.manual_seed(epoch)
        for at in torch.randperm(N).split(50):
            logits = model(x[at])
            loss = nn.functional.cross_entropy(logits, y[at])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            monitor.update(logits, y[at], at)
        monitor.end_epoch(model)
    return model


def test_history_has_a_row_for_each_layer_and_the_network():
    monitor = us.Monitor(data(), n_probe=150, every=2, holdout=data(1, 100))
    trained_for(monitor, 5)
    history = monitor.history
    assert list(history["epoch"].unique()) == [2, 4]
    layers = ["input", "relu1", "relu2", "(network)"]
    assert list(history.loc[history["epoch"] == 4, "layer"]) == layers
    assert (history["memory"] == history["plain"] - history["perturbed"]).all()
    second = history[history["epoch"] == 4].set_index("layer")
    assert second.loc["input", "angle"] == pytest.approx(0, abs=0.1)
    assert second.loc["relu1", "angle"] > 0.1
    assert 0 <= second.loc["(network)", "holdout"] <= 1
    assert monitor.recommended.epoch in (2, 4)
    assert len(monitor.samples) == N


def test_its_own_agreement_is_the_networks():
    monitor = us.Monitor(data(), n_probe=N)
    model = trained_for(monitor, 2)
    x, y = data()
    with torch.no_grad():
        right = model(torch.from_numpy(x)).argmax(1).numpy() == y
    row = monitor.history.query("layer == '(network)' and epoch == 2")
    assert row["plain"].item() == pytest.approx(right.mean())


def test_effective_rank_and_angles_of_known_spaces():
    rows = torch.cat([torch.eye(5), -torch.eye(5)]) @ torch.randn(5, 5).svd()[0]
    assert effective_rank(rows) == pytest.approx(5, rel=1e-5)
    assert effective_rank(torch.ones(4, 3)) == 1
    one, other = torch.eye(3)[:, :2], torch.eye(3)[:, 1:]
    assert principal_angles(one, other).tolist() == pytest.approx([0, 90])


@pytest.mark.parametrize("name", ["mlp", "dropout"])
def test_the_network_is_left_as_found(name):
    monitor = us.Monitor(data(), n_probe=60)
    model = models.mlp() if name == "mlp" else models.build("dropout")
    assert_left_as_found(model, lambda: monitor.end_epoch(model))


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    straight = us.Monitor(data(), n_probe=100)
    model = trained_for(straight, 2)
    trained_for(straight, 2, 2, model)
    broken = us.Monitor(data(), n_probe=100, folder=tmp_path / "m")
    model = trained_for(broken, 2)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).clone()

    # Killed after the tensors and the history of epoch 3, before its JSON.
    class Killed(BaseException):
        pass

    real = folder_module.write_text

    def dies(target, text):
        if target.name == "monitor.json":
            raise Killed
        real(target, text)

    monkeypatch.setattr(folder_module, "write_text", dies)
    with pytest.raises(Killed):
        trained_for(broken, 1, 2, model)
    monkeypatch.undo()
    torch.nn.utils.vector_to_parameters(before, model.parameters())
    resumed = us.Monitor.resume(tmp_path / "m", data())
    assert resumed.history["epoch"].max() == 2
    trained_for(resumed, 2, 2, model)
    pd.testing.assert_frame_equal(resumed.history, straight.history, check_dtype=False)
    pd.testing.assert_frame_equal(resumed.samples, straight.samples)
    assert resumed.recommended == straight.recommended
    files = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert files == ["history.csv", "monitor.json", "state-000004.safetensors"]
    summary = json.loads((tmp_path / "m" / "monitor.json").read_text())
    assert summary["recommended"]["epoch"] == straight.recommended.epoch
    written = pd.read_csv(tmp_path / "m" / "history.csv")
    estimated = ["accuracy", "accuracy_low", "accuracy_high"]
    pd.testing.assert_frame_equal(written, straight.history.drop(columns=estimated))


def test_what_cannot_be_resumed_is_refused_in_one_line(tmp_path):
    folder = tmp_path / "m"
    trained_for(us.Monitor(data(), n_probe=50, folder=folder, layers="relu*"), 1)
    x, y = data()
    moved = x.copy()
    moved[:, 0] += 1
    refused = [
        (lambda: us.Monitor(data(), folder=folder), OutputError, "Monitor.resume"),
        (lambda: us.Monitor.resume(folder, (moved, y)), DataError, "probe: expected the same"),
        (lambda: us.Monitor.resume(folder, (x, 3 - y)), DataError, "probe: expected the same"),
        (lambda: us.Monitor.resume(folder, data(), holdout=data(1)), DataError, "holdout"),
        (lambda: us.Monitor.resume(folder, data(), seed=1), DataError, "seed: expected 0"),
        (lambda: us.Monitor.resume(folder, data(), layers="fc*"), DataError, "layers: expected"),
        (lambda: us.Monitor.resume(folder, data(), layer="fc*"), ArgumentError, "unknown setting"),
        (lambda: us.Monitor.resume(tmp_path, data()), OutputError, "has no monitor.json"),
    ]
    for job, error, match in refused:
        with pytest.raises(error, match=match) as caught:
            job()
        assert "\n" not in str(caught.value)
    for damage in ("history.csv", "state-000001.safetensors"):
        copied = tmp_path / damage
        shutil.copytree(folder, copied)
        (copied / damage).write_bytes(b"no\n")
        with pytest.raises(DataError, match="damaged"):
            us.Monitor.resume(copied, data())


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"n_probe": 0}, "n_probe: expected"),
        ({"every": True}, "every: expected"),
        ({"views": 1.5}, "views: expected"),
        ({"perturb": "much"}, "perturb: expected"),
    ],
)
def test_settings_that_cannot_be_are_refused(how, match):
    with pytest.raises(DataError, match=match):
        us.Monitor(data(), **how)


class Augmented(torch.utils.data.Dataset):
    """Other inputs whenever they are read."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return torch.rand(models.WIDTH), i % 3


def test_a_probe_that_changes_or_has_no_labels_is_refused():
    with pytest.raises(DataError, match="without random augmentation"):
        us.Monitor(Augmented())
    with pytest.raises(LabelError, match="labels"):
        us.Monitor(torch.rand(N, 3))
    with pytest.raises(LabelError, match="at least 2 classes"):
        us.Monitor((torch.rand(N, 3), torch.zeros(N, dtype=torch.int64)))


def test_steps_grow():
    monitor = us.Monitor(data(), n_probe=50)
    model = models.mlp()
    monitor.end_epoch(model, step=100)
    monitor.end_epoch(model, step=350)
    assert list(monitor.history["step"].unique()) == [100, 350]
    with pytest.raises(DataError, match="more than 350"):
        monitor.end_epoch(model, step=350)


def test_a_network_of_nan_is_told_and_training_goes_on():
    monitor = us.Monitor(data(), n_probe=50)
    model = models.mlp()
    nn.init.constant_(model.fc1.weight, torch.nan)
    with pytest.warns(us.UnderscriptWarning, match="NaN"):
        monitor.end_epoch(model)
    assert monitor.history.empty
    assert monitor.alarm is None
    assert monitor.recommended is None


def test_label_issues_have_the_columns_of_a_decode(tmp_path):
    monitor = us.Monitor(data(), n_probe=50, keep_logits=True)
    with pytest.raises(DataError, match="at least one epoch"):
        monitor.label_issues()
    trained_for(monitor, 4)
    issues = monitor.label_issues(sort=True)
    assert issues["label_quality"].is_monotonic_increasing
    assert set(issues.columns) <= {
        *("is_label_issue", "label_quality", "given_label", "predicted_label"),
        *("margin", "confidence"),
    }
    flagged = issues[issues["is_label_issue"]]
    assert len(flagged)
    assert (flagged["given_label"] != flagged["predicted_label"]).all()
    in_order = monitor.label_issues()
    assert list(in_order.index) == list(range(N))
    monitor.to_aum_csv(tmp_path / "aum.csv")
    aum = pd.read_csv(tmp_path / "aum.csv")
    assert list(aum.columns) == ["sample_id", "aum"]
    np.testing.assert_allclose(aum.set_index("sample_id")["aum"].sort_index(), in_order["margin"])


@pytest.mark.parametrize("where", [None, "m"])
def test_cartography_reads_every_epoch(tmp_path, where):
    folder = None if where is None else tmp_path / where
    monitor = us.Monitor(data(), n_probe=50, keep_logits=True, folder=folder)
    trained_for(monitor, 2)
    if folder is not None:
        monitor = us.Monitor.resume(folder, data())
    monitor.to_cartography_jsonl(tmp_path / "dynamics")
    _, y = data()
    margins = np.zeros(N)
    for epoch in range(2):
        lines = (tmp_path / "dynamics" / f"dynamics_epoch_{epoch}.jsonl").read_text().splitlines()
        assert len(lines) == N
        for line in map(json.loads, lines):
            assert line["gold"] == y[line["guid"]]
            values = line[f"logits_epoch_{epoch}"]
            own = values.pop(line["gold"])
            margins[line["guid"]] += (own - max(values)) / 2
    np.testing.assert_allclose(monitor.samples["aum"], margins)
    with pytest.raises(DataError, match="keep_logits"):
        us.Monitor(data(), n_probe=50).to_cartography_jsonl(tmp_path)


def test_the_numbers_for_a_logger_are_those_of_the_last_reading():
    monitor = us.Monitor(data(), n_probe=100, holdout=data(1))
    assert monitor.scalars() == {}
    trained_for(monitor, 2)
    found = monitor.scalars()
    last = monitor.history[monitor.history["epoch"] == 2].set_index("layer")
    for name in ("plain", "perturbed", "memory", "accuracy", "holdout"):
        assert found[f"network_{name}"] == last.loc["(network)", name]
    assert found["noise_rate"] == monitor.history["noise_rate"].dropna().min()
    assert found["decoded_accuracy"] == last["accuracy"].drop("(network)").max()
    assert found["alarm"] == 0.0
    assert found["recommended_step"] == monitor.recommended.step
    assert all(isinstance(value, float) for value in found.values())


def test_layers_of_classes_far_apart_are_read_right():
    # With means of one half and the covariance of all, scores changed their sign here.
    rng = torch.Generator().manual_seed(1)
    labels = torch.arange(400) % 10
    centres = torch.relu(3 * torch.randn(10, 64, generator=rng))
    rows = centres[labels] * torch.exp(0.5 * torch.randn(400, 1, generator=rng))
    rows += 0.01 * torch.randn(400, 64, generator=rng)
    changed = rows + 0.01 * torch.randn(400, 64, generator=rng)
    probed = ProbeRows({"far": [rows, changed]}, [torch.zeros(400, 10)] * 2, True)
    found = LayerReader().read(probed, labels)
    assert found.layers["far"].plain > 0.95
    assert found.layers["far"].perturbed > 0.95


def test_as_many_labels_are_flagged_as_the_noise_rate_says():
    monitor = us.Monitor(data(), n_probe=200)
    trained_for(monitor, 3)
    rate = monitor.scalars()["noise_rate"]
    assert rate > 0.05
    issues = monitor.label_issues()
    flags = issues["is_label_issue"]
    assert flags.sum() == round(rate * N)
    assert issues.loc[flags, "margin"].max() <= issues.loc[~flags, "margin"].min()
