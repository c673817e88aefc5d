"""The input in folds: what is said of a sample must not depend on that sample's own label."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import underscript as us
from underscript import refine
from underscript._candidates import FOLDS
from underscript._crossfit import CrossFitted

N, K, ROUNDS = 500, 10, 2


@pytest.fixture(scope="module")
def digits():
    x, true = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(true))[:N]
    return (x[order] / 8 - 1).astype(np.float32), true[order]


def read(x, labels, monkeypatch):
    """Return folds, and what rounds 0, 1 and 2 say of each sample; in batches of 64."""
    found = []
    folds = []

    def recorded(self, rounds):
        folds.append(torch.cat([part for *_, part in self.work.views(self.work.train, "test")]))
        for _ in range(ROUNDS + 1):
            found.append(torch.cat(self.answers))
            self = self.again()
        return self

    monkeypatch.setattr(CrossFitted, "refined", recorded)
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, K))
    data = TensorDataset(torch.from_numpy(x), torch.from_numpy(labels))
    us.decode(network, DataLoader(data, batch_size=64), controls=False, progress=False)
    return folds[0].numpy(), [answers.numpy() for answers in found]


@pytest.fixture
def noisy(digits):
    return us.corrupt_labels(digits[1], 0.6, K, seed=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::underscript.UnderscriptWarning")
def test_what_is_said_of_a_sample_does_not_depend_on_its_label(digits, noisy, monkeypatch):
    x, _ = digits
    folds, before = read(x, noisy, monkeypatch)
    assert set(folds) == set(range(FOLDS))
    mine = folds == 3
    other = noisy.copy()
    other[mine] = (other[mine] + np.random.default_rng(1).integers(1, K, mine.sum())) % K
    again, after = read(x, other, monkeypatch)
    np.testing.assert_array_equal(folds, again)
    for one, two in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[mine], two[mine])
    assert any((one[~mine] != two[~mine]).any() for one, two in zip(before, after, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::underscript.UnderscriptWarning")
def test_fitting_again_to_decoded_labels_makes_the_input_better(digits, noisy, monkeypatch):
    x, true = digits
    _, said = read(x, noisy, monkeypatch)
    right = [(answers == true).mean() for answers in said]
    assert right[1] > right[0] + 0.01
    # Agreement with labels that were not seen tells it: (1 − e) a + s (1 − a) of them.
    e = (noisy != true).mean()
    for answers, accuracy in zip(said, right, strict=True):
        expected = (1 - e) * accuracy + e / (K - 1) * (1 - accuracy)
        assert (answers == noisy).mean() == pytest.approx(expected, abs=3 * (0.25 / N) ** 0.5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::underscript.UnderscriptWarning")
def test_labels_that_say_nothing_are_predicted_by_chance(digits, monkeypatch):
    """What has seen them predicts most of them."""
    x, _ = digits
    labels = np.random.default_rng(5).integers(0, K, N)
    monkeypatch.setattr(refine.Noise, "hopeless", False)
    _, said = read(x, labels, monkeypatch)
    for answers in said:
        assert (answers == labels).mean() == pytest.approx(1 / K, abs=3 * (0.09 / N) ** 0.5)
