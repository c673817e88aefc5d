"""What was read once is had again, in any order; the network does not run for it."""

import numpy as np
import pytest
import torch
from torch import nn

import underscript as us
from underscript.activations.hooks import Tap
from underscript.data.batches import Batch
from underscript.data.fingerprints import fingerprints_of
from underscript.selection.kept_rows import KeptRows
from underscript.selection.log_odds_lookup import SampleLookup
from underscript.selection.replay import Replay

N = 200
INPUTS = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
ROWS = {"fc1": INPUTS @ torch.ones(3, 5), "fc2": INPUTS * 2}
LOGITS = INPUTS @ torch.arange(6.0).view(3, 2)
TAPS = [Tap("fc2", "fc2", "output"), Tap("fc1", "fc1", "output")]


def batch(places, inputs=INPUTS):
    return Batch((inputs[places],), {}, None, np.asarray(places) + 100, len(places))


def kept(memory, size=30, logits=LOGITS):
    rows_kept = KeptRows(1, memory)
    for start in range(0, N, size):
        at = np.arange(N)[start : start + size]
        rows = {name: each[at] for name, each in ROWS.items()}
        rows_kept.add(
            [rows],
            torch.zeros(len(at), dtype=torch.int64),
            fingerprints_of(batch(at)),
            at + 100,
            logits[at],
        )
    return rows_kept


@pytest.mark.parametrize("memory", [1 << 30, 1, 3000])
@pytest.mark.parametrize("size", [7, 30, 500])
def test_rows_come_back_in_any_order(memory, size):
    rows_kept = kept(memory, size)
    again = Replay(
        rows_kept, SampleLookup(rows_kept.fingerprints, rows_kept.index), torch.device("cpu")
    )
    order = np.random.default_rng(0).permutation(N)
    for places in (np.arange(N), order, order[:1], np.arange(50, 90), np.array([3, 3, 4])):
        # Inputs that have changed since are known by their index.
        for inputs in (INPUTS, INPUTS + 1):
            seen = again(batch(places, inputs), TAPS)
            assert list(seen.layers) == ["fc2", "fc1"]
            for name, rows in seen.layers.items():
                assert torch.equal(rows, ROWS[name][places])
            assert torch.equal(seen.logits, LOGITS[places])


def test_what_was_not_read_is_not_known():
    rows_kept = kept(1 << 30)
    again = Replay(rows_kept, SampleLookup(rows_kept.fingerprints, None), torch.device("cpu"))
    some = INPUTS.clone()
    some[3] += 1
    assert again(batch([1, 2, 3], some), TAPS) is None
    assert again(batch([1, 2, 4], some), TAPS) is not None


def test_rows_in_double_precision_are_read_again():
    assert kept(1 << 30).replays
    assert not kept(1 << 30, logits=LOGITS.double()).replays


@pytest.mark.parametrize("views", [1, 3])
def test_the_network_runs_once_for_each_view_of_each_sample(views):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    x = torch.randn(600, 6)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    count = 0

    def seen(_module, args, _output):
        nonlocal count
        count += len(args[0])

    net.register_forward_hook(seen)
    parts = {"holdout": (x[300:450], y[300:450]), "test": (x[450:], y[450:])}
    us.decode(
        net,
        (x[:300], y[:300]),
        perturb=lambda seen: seen + 0.1,
        controls=False,
        progress=False,
        views=views,
        variance=0.5,
        **parts,
    )
    # The hold-out is perturbed once. Before, an example is tried: as it is, and in two views.
    example, tried = 8, 300 * (1 + 2)
    assert count <= 300 * (1 + views) + 2 * 150 + 150 + example + tried


def test_kept_rows_are_passed_over_a_dozen_times_at_most(monkeypatch):
    """All stages together, whatever the number of candidates (docs/engine.md)."""
    passes: dict[str, int] = {}
    blocks = KeptRows.blocks

    def counted(self, layer, fold, views, size=2048):
        passes[layer] = passes.get(layer, 0) + (fold == 0)
        return blocks(self, layer, fold, views, size)

    monkeypatch.setattr(KeptRows, "blocks", counted)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    x = torch.randn(600, 6)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    us.decode(net, (x, y), variance=0.5, progress=False, controls=False)
    assert set(passes) == {"input", "1"}
    assert 4 <= max(passes.values()) <= 12
