"""A decode or a monitor on a GPU is the one on the processor, wherever the data are."""

import numpy as np
import pytest
import torch
from torch import nn

import underscript as us

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 36, 32),
        nn.ReLU(),
        nn.Linear(32, 4),
    )


# The network is not trained, so shifts change what it says.
@pytest.mark.filterwarnings("ignore:not perturbed")
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_a_gpu_decodes_as_the_processor_does(where):
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 1200)
    patterns = rng.normal(size=(4, 1, 12, 12))
    images = torch.from_numpy(patterns[true] + rng.normal(size=(1200, 1, 12, 12))).float()
    given = torch.from_numpy(np.where(rng.random(1200) < 0.3, rng.integers(0, 4, 1200), true))
    found = {}
    for device in ("cpu", "cuda"):
        # The input is among what is read: where the data are is no matter.
        data = images.to(where if device == "cuda" else "cpu"), given
        parts = [
            (data[0][some], data[1][some])
            for some in (slice(0, 600), slice(600, 900), slice(900, None))
        ]
        decoding = us.decode(network(), *parts, device=device, progress=False, variance=0.5)
        found[device] = decoding.best.predict(images), decoding.label_issues()["label_quality"]
    same = np.asarray(found["cpu"][0]) == np.asarray(found["cuda"][0])
    assert same.mean() > 0.98
    assert np.abs(found["cpu"][1] - found["cuda"][1]).mean() < 0.02


def test_a_gpu_is_watched_as_the_processor_is():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 600)
    patterns = rng.normal(size=(4, 1, 12, 12))
    images = torch.from_numpy(patterns[true] + rng.normal(size=(600, 1, 12, 12))).float()
    given = torch.from_numpy(np.where(rng.random(600) < 0.3, rng.integers(0, 4, 600), true))
    found = {}
    for device in ("cpu", "cuda"):
        monitor, model = us.Monitor((images, given), n_probe=300), network().to(device).eval()
        with torch.no_grad():
            logits = model(images.to(device))
        monitor.update(logits, given.to(device), torch.arange(600, device=device))
        monitor.end_epoch(model)
        found[device] = monitor.samples, monitor.history
    np.testing.assert_allclose(found["cpu"][0]["aum"], found["cuda"][0]["aum"], atol=1e-3)
    columns = ["plain", "perturbed"]
    np.testing.assert_allclose(found["cpu"][1][columns], found["cuda"][1][columns], atol=0.02)
