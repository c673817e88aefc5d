"""Texts run sorted by length and without their padding, where that changes nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from underscript.activations.hooks import Tap, capture, undisturbed
from underscript.activations.runner import Runner
from underscript.activations.stream import stream
from underscript.data.batches import Batch
from underscript.data.source import Source

CPU = torch.device("cpu")
N, WIDTH = 200, 24
GENERATOR = torch.Generator().manual_seed(0)
LENGTHS = torch.randint(2, 12, (N,), generator=GENERATOR)
MASK = (torch.arange(WIDTH) < LENGTHS[:, None]).long()
IDS = torch.randint(1, 50, (N, WIDTH), generator=GENERATOR) * MASK


class Net(nn.Module):
    """A mean over words, or something that padding changes; notes what it is given."""

    def __init__(self, way="masked"):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix = nn.Embedding(50, 8), nn.Linear(8, 8)
        self.readout, self.way, self.seen = nn.Linear(8, 3), way, []

    def forward(self, input_ids, attention_mask):
        self.seen.append(tuple(input_ids.shape))
        if self.way == "one length" and input_ids.shape[1] != WIDTH:
            raise ValueError("expected 24 places")
        words = torch.relu(self.mix(self.embed(input_ids)))
        if self.way == "last place":
            return self.readout(words[:, -1])
        kept = attention_mask if self.way != "all places" else torch.ones_like(attention_mask)
        kept = kept[..., None].to(words)
        return self.readout((words * kept).sum(1) / kept.sum(1))


TAP = Tap("mix@mean", "mix", "output", width=8, pool="mean")


def run(net, **how):
    data = {"input_ids": IDS, "attention_mask": MASK, "labels": torch.zeros(N).long()}
    source = Source(data, "train", batch_size=100)
    with undisturbed(net):
        parts = list(stream(net, source, [TAP], CPU, stage="test", **how))
    return (
        torch.cat([rows.layers[TAP.name] for rows in parts]),
        torch.cat([rows.logits for rows in parts]),
    )


def by_hand(net):
    with torch.no_grad():
        words = torch.relu(net.mix(net.embed(IDS)))
        mixed = net.mix(net.embed(IDS))
        kept = MASK[..., None].float()
        return (mixed * kept).sum(1) / kept.sum(1), words


def test_padding_is_cut_and_the_order_of_texts_is_kept():
    net = Net()
    rows, logits = run(net)
    expected, words = by_hand(net)
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-6)
    kept = MASK[..., None].float()
    with torch.no_grad():
        torch.testing.assert_close(
            logits, net.readout((words * kept).sum(1) / kept.sum(1)), rtol=1e-5, atol=1e-6
        )
    # Two tries of four texts; of all others no place behind the longest of a run.
    runs = [shape for shape in net.seen if shape[0] > 4]
    assert sum(size for size, _ in runs) == N
    assert max(width for _, width in runs) < 12
    assert sum(size * width for size, width in runs) < 0.6 * N * WIDTH


@pytest.mark.parametrize("way", ["all places", "last place", "one length"])
def test_a_network_that_padding_matters_to_is_run_as_it_is(way):
    net = Net(way)
    rows, logits = run(net)
    torch.testing.assert_close(rows, by_hand(net)[0], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(logits, net(IDS, MASK), rtol=1e-5, atol=1e-6)
    assert {shape for shape in net.seen if shape[0] > 4} == {(100, WIDTH), (N, WIDTH)}


@pytest.mark.parametrize("way", ["all places", "last place"])
def test_texts_without_padding_show_nothing(way):
    # Only one text of the first batch has padding, so that a cut to the longest of several is none.
    net = Net(way)
    ids, mask = IDS.clone(), MASK.clone()
    ids[1:100], mask[1:100] = ids[1:100].clamp(min=1), 1
    data = {"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(N).long()}
    with undisturbed(net):
        source = Source(data, "train", batch_size=100)
        parts = list(stream(net, source, [TAP], CPU, stage="test"))
    logits = torch.cat([rows.logits for rows in parts])
    with torch.no_grad():
        torch.testing.assert_close(logits, net(ids, mask), rtol=1e-5, atol=1e-6)


def test_batches_of_ones_own_and_hooks_that_count_run_as_they_come():
    net = Net()
    run(net, whole=True)
    assert net.seen == [(100, WIDTH)] * 2
    net = Net()
    batch = Batch((), {"input_ids": IDS, "attention_mask": MASK}, None, np.arange(N), N)
    with undisturbed(net), capture(net, [TAP]) as tapped:
        Runner(net, tapped, CPU, divisible=False)(batch, "x")
    assert net.seen == [(N, WIDTH)]


def test_a_tensor_of_another_width_stays_whole():
    class More(Net):
        def forward(self, input_ids, attention_mask, extra):
            assert extra.shape[1] == 5
            return super().forward(input_ids, attention_mask) + extra.sum(1, keepdim=True)

    net, extra = More(), torch.randn(N, 5, generator=GENERATOR)
    given = {"input_ids": IDS, "attention_mask": MASK, "extra": extra}
    with undisturbed(net), capture(net, [TAP]) as tapped:
        _, logits = Runner(net, tapped, CPU, divisible=True)(
            Batch((), given, None, np.arange(N), N), "x"
        )
    assert net.seen[2][1] < 12
    with torch.no_grad():
        torch.testing.assert_close(logits, net(IDS, MASK, extra), rtol=1e-5, atol=1e-6)
