"""What a monitor writes into a network's read-out: what changes, what it gains, what it refuses."""

import copy
import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import models
import underscript as us
from left_as_found import assert_left_as_found
from underscript.errors import DataError, ModelError
from underscript.results.monitor.layers import RIDGE

N, NOISE = 300, 0.4


def clusters(seed, n=N):
    """Return inputs in four clusters, and their true classes."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, models.CLASSES, n)
    x = rng.normal(size=(n, models.WIDTH)) + 2.5 * np.eye(models.CLASSES, models.WIDTH)[true]
    return x.astype(np.float32), true


def noisy():
    """Return training inputs and labels, many of them wrong."""
    x, true = clusters(0)
    return x, us.corrupt_labels(true, NOISE, seed=1)


@pytest.fixture(scope="module")
def memorised():
    """A network that has memorised some of the noisy labels."""
    x, y = map(torch.from_numpy, noisy())
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(models.WIDTH, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)
    )
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model


def predicted(model, x):
    with torch.no_grad():
        return model(torch.as_tensor(x)).argmax(1)


@pytest.fixture(scope="module")
def digits():
    """Noisy training data, clean test data, and a network that has memorised the former."""
    x, true = load_digits(return_X_y=True)
    x, true = (x / 16).astype(np.float32), true.astype(np.int64)
    y = us.corrupt_labels(true[:600], NOISE, seed=1)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    inputs, labels = torch.from_numpy(x[:600]), torch.from_numpy(y)
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(40):
        for at in torch.randperm(600).split(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(inputs[at]), labels[at]).backward()
            optimiser.step()
    assert predicted(model, inputs).eq(labels).double().mean() > 0.9
    return (x[:600], y), (x[600:], true[600:]), model


@pytest.mark.parametrize("method", ["discriminant", "velpic"])
def test_a_memorised_network_predicts_new_digits_better(digits, method):
    train, (x, true), model = digits
    before = predicted(model, x).numpy()
    after = predicted(us.Monitor(train).transfer(model, method=method), x).numpy()
    assert (after == true).mean() > (before == true).mean() + 0.08
    assert (predicted(model, x).numpy() == before).all()


def test_nothing_but_the_read_out_changes(memorised):
    monitor = us.Monitor(noisy(), n_probe=100)
    model = copy.deepcopy(memorised)
    repaired = monitor.transfer(model)
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, memorised.state_dict()[name]), "a copy is changed"
        same = torch.equal(weights, repaired.state_dict()[name])
        assert same == (name not in ("4.weight", "4.bias"))
    assert monitor.transfer(model, in_place=True) is model
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, repaired.state_dict()[name])


@pytest.mark.parametrize("in_place", [False, True])
def test_mode_hooks_and_random_states_stay(in_place):
    monitor = us.Monitor(noisy(), n_probe=60)
    model = models.build("dropout")
    kept = copy.deepcopy(model.state_dict())

    def job():
        monitor.transfer(model, in_place=in_place)
        if in_place:
            changed = {k for k, v in model.state_dict().items() if not torch.equal(v, kept[k])}
            assert changed == {"readout.weight", "readout.bias"}
            model.load_state_dict(kept)

    assert_left_as_found(model, job)


def test_training_goes_on_after_it_and_the_folder_tells(memorised, tmp_path):
    x, y = map(torch.from_numpy, noisy())
    monitor = us.Monitor(noisy(), n_probe=100, folder=tmp_path / "m")
    model = copy.deepcopy(memorised)
    monitor.end_epoch(model)
    monitor.transfer(model, in_place=True)
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    nn.functional.cross_entropy(model(x), y).backward()
    optimiser.step()
    monitor.end_epoch(model)
    notes = json.loads((tmp_path / "m" / "monitor.json").read_text())["notes"]
    assert notes == ["transfer: a new read-out (discriminant) after epoch 1"]
    assert us.Monitor.resume(tmp_path / "m", noisy()).history["epoch"].max() == 2


def test_the_discriminant_is_that_of_the_textbook(memorised):
    # With equally likely classes and covariance within them W = C - D' P D, in float64.
    x, y = noisy()
    with torch.no_grad():
        rows = memorised[:4](torch.from_numpy(x)).double().numpy()
    repaired = us.Monitor((x, y), perturb="none").transfer(memorised)
    deviations = np.stack([rows[y == k].mean(0) for k in range(4)]) - rows.mean(0)
    total = np.cov(rows.T, bias=True)
    within = total - deviations.T @ np.diag(np.bincount(y) / len(y)) @ deviations
    within += RIDGE * np.trace(total) / len(total) * np.eye(len(total))
    weight = np.linalg.solve(within, deviations.T).T
    scores = (rows - rows.mean(0)) @ weight.T - 0.5 * (weight * deviations).sum(1)
    with torch.no_grad():
        ours = repaired(torch.from_numpy(x)).double().numpy()
    np.testing.assert_allclose(ours, scores, rtol=1e-3, atol=1e-3)


def test_velpic_is_the_probe_with_bias_zero(memorised):
    x, y = noisy()
    with torch.no_grad():
        rows = memorised[:4](torch.from_numpy(x)).numpy()
    repaired = us.Monitor((x, y), perturb="none").transfer(memorised, method="velpic")
    vectors = us.PrincipalVectorClassifier().fit(rows, y).vectors_
    np.testing.assert_allclose(repaired[4].weight.detach(), vectors, atol=1e-4)
    assert not repaired[4].bias.any()


def test_a_read_out_without_a_bias_takes_it_up_in_its_weights(memorised):
    plain = copy.deepcopy(memorised)
    plain[4] = nn.Linear(64, 4, bias=False)
    plain[4].weight = nn.Parameter(memorised[4].weight.detach().clone())
    with_bias, without = (us.Monitor(noisy()).transfer(each) for each in (memorised, plain))
    x, _ = clusters(7, 1000)
    assert (predicted(with_bias, x) == predicted(without, x)).double().mean() > 0.97


@pytest.mark.parametrize("method", ["discriminant", "velpic"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_class_that_the_probe_lacks_is_never_predicted(memorised, method, bias):
    x, y = noisy()
    model = copy.deepcopy(memorised)
    model[4] = nn.Linear(64, 4, bias=bias)
    monitor = us.Monitor((x[y != 2], y[y != 2]))
    with pytest.warns(us.UnderscriptWarning, match="class 2 has no samples"):
        repaired = monitor.transfer(model, method=method)
    assert not (predicted(repaired, x) == 2).any()


def tied():
    """Return a network whose last layer shares its weights with another."""
    first, last = (nn.Linear(models.CLASSES, models.CLASSES) for _ in range(2))
    last.weight = first.weight
    return nn.Sequential(nn.Linear(models.WIDTH, models.CLASSES), first, nn.ReLU(), last)


def convolution():
    """Return a network whose last layer is a convolution."""
    return nn.Sequential(nn.Unflatten(1, (models.WIDTH, 1)), nn.Conv1d(12, 4, 1), nn.Flatten())


@pytest.mark.parametrize(
    ("model", "settings", "error", "message"),
    [
        (nn.Sequential(nn.Linear(12, 4), nn.Softmax(1)), {}, ModelError, "logits are computed"),
        (convolution(), {}, ModelError, "Conv1d; expected nn.Linear"),
        (tied(), {}, ModelError, "shares its weights with"),
        (models.mlp(), {"method": "magic"}, DataError, "discriminant, velpic; found 'magic'"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(model, settings, error, message):
    x, y = noisy()
    monitor = us.Monitor((x, y), n_probe=50)
    with pytest.raises(error, match=message) as caught:
        monitor.transfer(model, **settings)
    assert str(caught.value).startswith("transfer: ")
    assert "\n" not in str(caught.value)


def test_a_network_that_gives_nan_is_refused(memorised):
    model = copy.deepcopy(memorised)
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"transfer: .* NaN"):
        us.Monitor(noisy(), n_probe=50).transfer(model)


def test_a_last_hidden_layer_wider_than_what_the_monitor_reads_is_written_whole():
    x, y = noisy()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(models.WIDTH, 700), nn.ReLU(), nn.Linear(700, 4))
    monitor = us.Monitor((x, y), n_probe=200)
    changed = monitor.transfer(model)
    assert changed[2].weight.shape == (4, 700)
    new, true = clusters(1)
    assert (predicted(changed, torch.from_numpy(new)).numpy() == true).mean() > 0.5
