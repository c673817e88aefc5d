"""What must not matter: the same data in another form give the same numbers, but for rounding."""

from functools import cache

import numpy as np
import pytest
import torch
from situation_data import FLAG, GIVEN, PREDICTED, blobs, features, memorise, mlp, situation
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import underscript as us

pytestmark = [
    pytest.mark.filterwarnings("ignore::underscript.errors.UnderscriptWarning"),
    pytest.mark.slow,
]

# Of samples whose probabilities lie at a border rounding decides.
BORDER = 0.005


def decoded(net, *data, **settings):
    settings.setdefault("controls", False)
    return us.decode(net, *data, progress=False, **settings)


@cache
def plain():
    net, data = situation()
    return decoded(net, (data.x, data.given))


@cache
def of_features():
    data = blobs()
    return decoded(None, (data.x, data.given))


def assert_alike(found, expected, place=None, classes=None):
    """Compare what is said of each sample.

    `place` says where the expected samples stand among the found ones, and `classes` which class
    each of theirs is here.
    """
    ours, theirs = found.label_issues(), expected.label_issues()
    if place is not None:
        ours = ours.loc[place]
    wanted = theirs[PREDICTED].to_numpy()
    if classes is not None:
        wanted = np.asarray(classes)[wanted]
    assert (ours[FLAG].to_numpy() != theirs[FLAG].to_numpy()).mean() <= BORDER
    assert (ours[PREDICTED].to_numpy() != wanted).mean() <= BORDER
    quality = np.abs(ours["label_quality"].to_numpy() - theirs["label_quality"].to_numpy())
    assert np.quantile(quality, 0.95) < 0.02
    for name in ("rate", "accuracy"):
        a, b = (each.summary["noise"][name] for each in (found, expected))
        assert a == pytest.approx(b, abs=0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_samples(seed):
    net, data = situation()
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(seed))
    found = decoded(net, (data.x[order], data.given[order]))
    assert_alike(found, plain(), np.argsort(order.numpy()))
    found = decoded(None, (data.x[order], data.given[order]))
    assert_alike(found, of_features(), np.argsort(order.numpy()))


@pytest.mark.parametrize("size", [1, 33, 5000])
def test_the_batch_size(size):
    net, data = situation()
    assert_alike(decoded(net, (data.x, data.given), batch_size=size), plain())
    pairs = TensorDataset(data.x, data.given)
    assert_alike(decoded(net, DataLoader(pairs, size)), plain())


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers(workers):
    net, data = situation()
    loader = DataLoader(TensorDataset(data.x, data.given), 100, num_workers=workers, shuffle=True)
    assert_alike(decoded(net, loader), plain())


@pytest.mark.parametrize("order", [(1, 0, 3, 2), (3, 2, 1, 0)])
def test_a_permutation_of_class_ids(order):
    net, data = situation()
    other = mlp()
    other.load_state_dict(net.state_dict())
    back = torch.tensor(order).argsort()
    with torch.no_grad():
        other.out.weight.copy_(net.out.weight[back])
        other.out.bias.copy_(net.out.bias[back])
    place = torch.tensor(order)
    found = decoded(other.eval(), (data.x, place[data.given]))
    assert_alike(found, plain(), classes=order)
    found = decoded(None, (data.x, place[data.given]))
    assert_alike(found, of_features(), classes=order)


@pytest.mark.parametrize("ids", [(0, 1, 2, 9), (3, 4, 5, 6), (0, 10, 20, 30)])
def test_ids_with_gaps(ids):
    data = blobs()
    found = decoded(None, (data.x, torch.tensor(ids)[data.given]))
    assert_alike(found, of_features(), classes=ids)


def test_names_of_classes():
    net, data = situation()
    names = ["=1+1", "ß", "2", "a" * 500]
    assert_alike(decoded(net, (data.x, data.given), class_names=names), plain())
    words = np.array(["d", "c", "b", "a"])
    found = decoded(None, (data.x, words[data.given.numpy()]))
    assert_alike(found, of_features(), classes=(3, 2, 1, 0))


@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0.0), (1e5, 0.0), (1.0, 100.0), (3.0, -7.0)])
def test_scale_and_offset_of_features(scale, offset):
    data = blobs()
    found = decoded(None, (data.x * scale + offset, data.given))
    assert_alike(found, of_features())


def test_units_of_columns():
    data = blobs()
    units = torch.logspace(-3, 3, data.x.shape[1])
    assert_alike(decoded(None, (data.x * units + units, data.given)), of_features())


class Halves(nn.Module):
    """With two inputs."""

    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, left, right):
        return self.body(torch.cat([left, right], 1))


def test_the_order_of_a_dicts_keys():
    data = blobs()
    parts = {"left": data.x[:, :10], "right": data.x[:, 10:], "labels": data.given}
    net = memorise(
        Halves(),
        None,
        data.given,
        call=lambda net, i: net(parts["left"][i], parts["right"][i]),
    )
    first, second = (
        decoded(net, {name: parts[name] for name in names}, controls=True)
        for names in (("left", "right", "labels"), ("labels", "right", "left"))
    )
    assert_alike(second, first)
    assert first.table["accuracy"].to_numpy() == pytest.approx(second.table["accuracy"], abs=0.01)


def test_the_data_set_twice():
    data = blobs(n=900)
    once = decoded(None, (data.x, data.given))
    twice = decoded(None, (torch.cat([data.x, data.x]), torch.cat([data.given, data.given])))
    n = len(data.x)
    for copy in (np.arange(n), np.arange(n, 2 * n)):
        assert_alike(twice, once, copy)


@pytest.mark.parametrize("seed", range(3))
def test_classes_of_unequal_sizes_in_any_order(seed):
    x, given, _ = features(12, 4, 0.1, [300, 100, 60, 20], seed)
    first = decoded(None, (x, given))
    order = np.random.default_rng(seed).permutation(len(x))
    found = decoded(None, (x[order], given[order]))
    assert_alike(found, first, np.argsort(order))
    assert (found.label_issues()[GIVEN].to_numpy() == given[order]).all()
