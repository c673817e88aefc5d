"""Images are run a few at a time, pixel by pixel, where that changes nothing."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import models
from underscript.activations.hooks import Tap, capture, undisturbed
from underscript.activations.runner import Runner
from underscript.activations.stream import stream
from underscript.data.batches import Batch
from underscript.data.source import Source

CPU = torch.device("cpu")
X = torch.randn(150, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TAP = Tap("conv@2x2", "conv", "output", width=20, pool="2x2")


class Net(nn.Module):
    """Notes how its inputs come, and may take offence at it."""

    def __init__(self, offence=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.readout = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5 * 64, 4)
        self.offence, self.seen = offence, []

    def forward(self, x):
        pixels = not x.is_contiguous()
        self.seen.append((len(x), pixels))
        x = self.conv(x)
        if self.offence == "answers otherwise" and pixels:
            x = x + 1
        if self.offence == "works in place":
            x = x.relu_()
        flat = x.view(len(x), -1) if self.offence == "view" else x.flatten(1)
        return self.readout(flat)


def by_hand(net):
    with torch.no_grad():
        maps = net.conv(X)
        if net.offence == "works in place":
            maps = maps.relu()
        pooled = torch.nn.functional.adaptive_avg_pool2d(net.conv(X), 2).flatten(1)
        return pooled, net.readout(maps.flatten(1))


def run(net, data):
    with undisturbed(net):
        found = list(stream(net, Source(data, "train"), [TAP], CPU, stage="test"))
    return (
        torch.cat([rows.layers[TAP.name] for rows in found]),
        torch.cat([rows.logits for rows in found]),
    )


@pytest.mark.parametrize(
    ("offence", "pixels"),
    [(None, True), ("works in place", True), ("view", False), ("answers otherwise", False)],
)
def test_rows_are_those_of_the_network_by_hand(offence, pixels):
    net = Net(offence)
    rows, logits = run(net, (X, np.zeros(150, dtype=int)))
    expected, predictions = by_hand(net)
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, predictions, rtol=1e-5, atol=1e-5)
    # Two tries, and then all of them.
    assert net.seen[2:5] == [(64, pixels), (64, pixels), (22, pixels)]
    assert net.seen[0] == (4, False)


def test_batches_of_a_loader_stay_whole():
    net = Net()
    loader = DataLoader(TensorDataset(X, torch.zeros(150, dtype=torch.long)), batch_size=100)
    rows, logits = run(net, loader)
    torch.testing.assert_close((rows, logits), by_hand(net), rtol=1e-5, atol=1e-5)
    assert net.seen[2:] == [(100, True), (50, True)]


def test_what_is_no_image_comes_as_it_is():
    net = models.mlp()
    x = torch.randn(200, 12)
    sizes = []
    handle = net.register_forward_hook(lambda _module, args, _output: sizes.append(len(args[0])))
    with capture(net, []) as tapped:
        _, logits = Runner(net, tapped, CPU, divisible=True)(Batch((x,), {}, None, None, 200), "x")
    handle.remove()
    assert sizes == [200]
    assert torch.equal(logits, net(x).detach())
