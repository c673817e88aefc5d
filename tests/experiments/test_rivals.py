"""The table of rivals on a small memorised network, and the parts that it is made of."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import underscript as us
from benchmarks.rivals import (
    layers_of,
    mixture_weights,
    perturbed_read_out,
    rivals,
    rows_of,
    shifted,
)
from left_as_found import assert_left_as_found
from underscript import RidgeDiscriminant


@pytest.fixture(scope="module")
def case():
    """Return a network that fits noisy labels of blobs in images, and its data."""
    rng = np.random.default_rng(0)
    true = rng.integers(4, size=900)
    x = rng.normal(size=(900, 1, 12, 12)).astype(np.float32)
    for k in range(4):
        at = 4 + 4 * (k // 2)
        x[true == k, :, at - 1 : at + 1] += 1.5 * (1 + k % 2)
    given = us.corrupt_labels(true, 0.4, seed=1)
    inputs = torch.from_numpy(x)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 144, 64),
            nn.ReLU(),
            nn.Linear(64, 4),
        )
        optimiser = torch.optim.Adam(network.parameters(), 0.003)
        for _ in range(60):
            optimiser.zero_grad()
            functional.cross_entropy(network(inputs[:400]), torch.tensor(given[:400])).backward()
            optimiser.step()
    return (
        network.eval(),
        (inputs[:400], given[:400]),
        (inputs[400:600], given[400:600]),
        (
            inputs[600:],
            true[600:],
        ),
    )


def test_the_table_has_every_rival(case):
    network, train, held, test = copy.deepcopy(case)
    found = {}

    def job():
        found["table"] = rivals(network, train, held, test, n_trusted=100)

    assert_left_as_found(network, job)
    table = found["table"].set_index("way")
    assert list(table.index) == [
        "the network itself",
        "SAP",
        "SAP, alpha by test labels (oracle)",
        "RoG, all layers",
        "read-out fitted to perturbed rows",
    ]
    assert table["accuracy"].between(0.25, 1).all()
    assert (table["seconds"] > 0).all()
    with torch.no_grad():
        own = (network.eval()(test[0]).argmax(1).numpy() == test[1]).mean()
    assert table["accuracy"]["the network itself"] == pytest.approx(own)
    # An oracle chooses among the same alphas.
    assert (
        table["accuracy"]["SAP, alpha by test labels (oracle)"] >= table["accuracy"]["SAP"] >= own
    )
    assert table["accuracy"]["RoG, all layers"] > own


def test_without_a_hold_out_only_the_oracle_chooses(case):
    network, train, _, test = case
    table = rivals(network, train, None, test, n_trusted=100).set_index("way")
    assert "SAP" not in table.index
    assert table["chosen"]["read-out fitted to perturbed rows"].startswith("ridge 0.1, ")


def test_feature_maps_become_means_of_their_quarters(case):
    network, train, _, _ = case
    places = layers_of(network, train)
    rows = rows_of(network, train[0][:30], places, None)
    assert [each.shape[1] for each in rows.values()] == [32, 64]
    with torch.no_grad():
        maps = network[:3](train[0][:30]).numpy()
    quarters = [maps[:, :, i : i + 6, j : j + 6].mean((2, 3)) for i in (0, 6) for j in (0, 6)]
    expected = np.stack(quarters, 2).reshape(30, 32)
    np.testing.assert_allclose(rows[places[0].tap.name], expected, atol=1e-5)


def test_images_are_shifted_and_flipped_and_reflected_at_the_border():
    images = torch.arange(2 * 2 * 6 * 7).float().reshape(2, 2, 6, 7).repeat(40, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    moved = shifted(images, generator, 2)
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (2, 2), (2, 2)], mode="reflect")
    seen = set()
    for i, each in enumerate(moved.numpy()):
        ways = [
            (down, right, flip)
            for down in range(5)
            for right in range(5)
            for flip in (1, -1)
            if np.array_equal(padded[i, :, down : down + 6, right : right + 7][..., ::flip], each)
        ]
        assert ways
        seen.add(ways[0])
    assert len(seen) > 30


def test_the_perturbed_read_out_is_a_discriminant_of_all_rows_at_once():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=200)
    plain, one, two = (
        (rng.normal(size=(200, 5)) + labels[:, None] * [1, 0, 2, 0, 0]).astype(np.float32)
        for _ in range(3)
    )
    tensors = map(torch.from_numpy, (one, two))
    found = perturbed_read_out(
        torch.from_numpy(plain), tensors, torch.from_numpy(labels), (0.1, 1.0)
    )
    stacked = np.concatenate([plain, one, two])
    for ridge, linear in found.items():
        expected = RidgeDiscriminant(ridge=ridge).fit(stacked, np.tile(labels, 3))
        scores = linear(torch.from_numpy(plain)).numpy()
        np.testing.assert_allclose(scores, expected.decision_function(plain), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="expected rows of shape"):
        perturbed_read_out(torch.zeros(4, 2), [torch.zeros(3, 2)], torch.zeros(4, dtype=torch.long))


def test_mixture_weights_find_the_layer_that_says_the_labels():
    rng = np.random.default_rng(0)
    good, bad = rng.uniform(0.5, 0.9, 500), rng.uniform(0.01, 0.3, 500)
    weights = mixture_weights(np.stack([bad, good, bad]))
    assert weights.sum() == pytest.approx(1)
    assert weights[1] > 0.95
