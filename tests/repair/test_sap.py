"""SAP against its formula in plain numpy; and what it says, refuses, and leaves as it was."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import models
import underscript as us
from left_as_found import assert_left_as_found, in_odd_state
from sources import Indexed
from underscript.errors import DataError, LabelError, ModelError
from underscript.repair.sap import ALPHAS, sap

N = 120
QUIET: dict[str, Any] = {"progress": False}

# torch says so of kernels of an even length.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


class TinyCNN(nn.Module):
    """Each kind of padding, stride and dilation, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, (2, 3), padding="same", dilation=(1, 2), bias=False)
        self.line = nn.Conv1d(5, 6, 2, stride=2, padding=1)
        self.head = nn.Linear(6 * 7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm(self.first(x)))
        x = functional.relu(self.second(x)).flatten(2)
        return self.head(functional.relu(self.line(x)).flatten(1))


def cnn(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TinyCNN().double()
        network.norm.running_mean.normal_()
        network.norm.running_var.uniform_(0.5, 2)
    return network.eval()


def images(n: int = N, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    # 6 × 8 pixels: after the stride 3 × 4, and 12 of them side by side.
    return rng.normal(size=(n, 2, 6, 8)), np.arange(n) % 3


def patches(x, kernel, stride, dilation, low, high, mode="constant"):
    """Return what a kernel sees at every position, one column each, by loops."""
    sides = [(0, 0), (0, 0), *zip(low, high, strict=True)]
    x = np.pad(x, sides, mode=mode)
    columns = []
    spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    starts = [range(0, x.shape[2 + a] - spans[a], stride[a]) for a in range(len(kernel))]
    for sample in x:
        for at in np.ndindex(*[len(each) for each in starts]):
            cut = tuple(
                slice(starts[a][at[a]], starts[a][at[a]] + spans[a] + 1, dilation[a])
                for a in range(len(kernel))
            )
            columns.append(sample[(slice(None), *cut)].ravel())
    return np.array(columns).T


def projected(weight, columns, alpha):
    """Return what the paper says of weights and the activations, one column each."""
    flat = weight.detach().numpy().reshape(len(weight), -1)
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    shares = values**2 / np.sum(values**2)
    scaled = alpha * shares / ((alpha - 1) * shares + 1)
    return (flat @ left @ np.diag(scaled) @ left.T).reshape(weight.shape)


def trusted_by_hand(network, x, y, n):
    with torch.no_grad():
        logits = network(torch.from_numpy(x)).double()
    losses = functional.cross_entropy(logits, torch.from_numpy(y), reduction="none").numpy()
    table = pd.DataFrame({"y": y, "loss": losses})
    table["rank"] = table.groupby("y")["loss"].rank()
    return np.sort(table.sort_values(["rank", "loss"]).index[:n].to_numpy())


@pytest.mark.parametrize("alpha", [0.3, 1, 50.0, 1e4])
def test_a_convolutional_network_is_projected_as_the_paper_says(alpha):
    network, (x, y) = cnn(), images()
    repaired, report = sap(network, (x, y), alpha=alpha, n_trusted=40, n_patches=None, **QUIET)
    index = trusted_by_hand(network, x, y, 40)
    np.testing.assert_array_equal(report.trusted, index)
    seen: dict[str, np.ndarray] = {}
    with torch.no_grad():
        value = torch.from_numpy(x[index])
        seen["first"] = patches(value.numpy(), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1), "reflect")
        value = functional.relu(network.norm(network.first(value)))
        seen["second"] = patches(value.numpy(), (2, 3), (1, 1), (1, 2), (0, 2), (1, 2))
        value = functional.relu(network.second(value)).flatten(2)
        seen["line"] = patches(value.numpy(), (2,), (2,), (1,), (1,), (1,))
        seen["head"] = functional.relu(network.line(value)).flatten(1).numpy().T
    new, old = repaired.state_dict(), network.state_dict()
    for name, columns in seen.items():
        expected = projected(getattr(network, name).weight, columns, alpha)
        np.testing.assert_allclose(new[f"{name}.weight"].numpy(), expected, atol=1e-12)
    untouched = [key for key in new if not key.endswith("weight") or "norm" in key]
    assert all(torch.equal(new[key], old[key]) for key in untouched)
    table = report.layers.set_index("layer")
    assert table["width"].to_dict() == {name: len(columns) for name, columns in seen.items()}
    assert table["rows"].to_dict() == {name: each.shape[1] for name, each in seen.items()}
    # 40 samples are fewer than the head is wide: the other way to the same directions.
    assert table["rows"]["head"] < table["width"]["head"]
    assert (report.alpha, report.criterion, report.left_alone) == (alpha, "given", {})


@pytest.mark.parametrize("alpha", [1.0, 300.0])
def test_an_mlp_is_projected_as_the_paper_says(alpha):
    network = models.build("mlp", seed=2)
    x, y = (each.numpy() for each in models.data("rows", N, seed=3))
    repaired, report = sap(network, (x, y), alpha=alpha, n_trusted=50, batch_size=17, **QUIET)
    value = torch.from_numpy(x[report.trusted])
    for part, new in zip(network, repaired, strict=True):
        if isinstance(part, nn.Linear):
            expected = projected(part.weight, value.double().numpy().T, alpha)
            np.testing.assert_allclose(new.weight.detach().numpy(), expected, atol=1e-6)
            assert torch.equal(new.bias, part.bias)
        value = part(value).detach()


def test_tokens_are_read_one_by_one_and_the_rest_is_told():
    network = models.build("transformer")
    x, y = models.data_for("transformer", N)
    _, report = sap(network, (x, y), alpha=100.0, n_trusted=30, **QUIET)
    table = report.layers.set_index("layer")
    assert table["rows"]["encoder.layers.0.linear1"] == 30 * x.shape[1]
    assert table["rows"]["head"] == 30
    assert {"embed", "encoder.layers.0.self_attn"} <= set(report.left_alone)
    assert "not called" in report.left_alone["encoder.layers.0.self_attn.out_proj"]


def test_a_large_alpha_gives_the_network_back_and_no_alpha_lets_weights_grow():
    network, (x, y) = cnn(), images()
    changes = []
    for alpha in (1e-2, 1.0, 1e2, 1e4, 1e13):
        repaired, report = sap(network, (x, y), alpha=alpha, n_trusted=100, **QUIET)
        for name in ("first", "second", "line", "head"):
            new, old = (
                torch.linalg.matrix_norm(getattr(each, name).weight.flatten(1), 2)
                for each in (repaired, network)
            )
            assert new <= old * (1 + 1e-12)
        assert (report.layers["directions"] <= report.layers["width"] + 1e-9).all()
        changes.append(report.layers["change"].to_numpy())
    assert (np.diff(changes, axis=0) < 0).all()
    torch.testing.assert_close(repaired.first.weight, network.first.weight, rtol=0, atol=1e-8)
    # Further in some units are zero for every sample: weights on them go, and nobody sees it.
    assert not torch.allclose(repaired.second.weight, network.second.weight)
    trusted = torch.from_numpy(x[report.trusted])
    with torch.no_grad():
        torch.testing.assert_close(repaired(trusted), network(trusted), rtol=0, atol=1e-7)


def test_a_share_of_the_patches_says_nearly_what_all_say():
    network, (x, y) = cnn(), images()
    weights, rows = [], []
    for n_patches, seed in ((None, 0), (600, 0), (600, 0), (600, 1)):
        repaired, report = sap(
            network, (x, y), alpha=20.0, n_trusted=100, n_patches=n_patches, seed=seed, **QUIET
        )
        weights.append(repaired.first.weight.detach())
        rows.append(report.layers.set_index("layer")["rows"].to_dict())
    assert rows[0]["first"] == 1200
    assert rows[1]["first"] == 600
    assert rows[1]["head"] == 100
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[1], weights[3])
    torch.testing.assert_close(weights[0], weights[1], rtol=0.2, atol=0.02)


def memorised() -> tuple[nn.Module, Any, Any, Any]:
    """Return a network that fits 40 % redrawn labels, with its data, a noisy hold-out and a test.

    Most of its inputs are noise, which only memory has a use for.
    """
    rng = np.random.default_rng(0)
    true = rng.integers(4, size=1600)
    x = rng.normal(size=(1600, 40)).astype(np.float32)
    x[:, :4] += 6 * np.eye(4, dtype=np.float32)[true]
    given = us.corrupt_labels(true, 0.4, seed=1)
    train, held = (x[:400], given[:400]), (x[400:1000], given[400:1000])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(40, 256), nn.ReLU(), nn.Linear(256, 4))
        optimiser = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(200):
            optimiser.zero_grad()
            loss = functional.cross_entropy(
                *(network(torch.from_numpy(train[0])), torch.from_numpy(train[1]))
            )
            loss.backward()
            optimiser.step()
    assert accuracy(network, train) > 0.99
    return network, train, held, (x[1000:], true[1000:])


def accuracy(network: nn.Module, data: Any) -> float:
    with torch.no_grad():
        predictions = network(torch.as_tensor(data[0])).argmax(1).numpy()
    return float((predictions == np.asarray(data[1])).mean())


def test_the_hold_out_chooses_and_a_memorised_network_is_not_harmed():
    network, train, held, test = memorised()
    repaired, report = sap(network, train, held, n_trusted=200, **QUIET)
    tried = report.tried
    assert tried["alpha"].tolist() == [np.inf, *sorted(ALPHAS, reverse=True)]
    assert tried["agreement"][0] == pytest.approx(accuracy(network, held))
    assert tried["chosen"].sum() == 1
    assert tried["agreement"].idxmax() == tried["chosen"].idxmax()
    assert tried["alpha"][tried["chosen"].idxmax()] == report.alpha
    assert tried["agreement"].max() == pytest.approx(accuracy(repaired, held))
    assert accuracy(repaired, test) > accuracy(network, test) + 0.02
    # The same alpha by hand is the same network.
    again, given = sap(network, train, held, alpha=report.alpha, n_trusted=200, **QUIET)
    assert all(map(torch.equal, again.state_dict().values(), repaired.state_dict().values()))
    assert given.tried["agreement"].tolist() == [tried["agreement"].max()]


def test_where_nothing_is_better_the_network_stays():
    network = models.build("mlp", seed=2)
    x = 5 * torch.randn(N, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = network(x).argmax(1)
    repaired, report = sap(network, (x, own), (x, own), alpha=[0.1, 1], n_trusted=50, **QUIET)
    assert report.alpha == np.inf
    assert report.layers["change"].eq(0).all()
    assert all(map(torch.equal, repaired.state_dict().values(), network.state_dict().values()))


def test_every_kind_of_data_gives_the_same():
    network = models.build("mlp", seed=2)
    x, y = models.data("rows", N, seed=3)
    expected, report = sap(network, (x, y), alpha=10.0, n_trusted=30, **QUIET)
    wrong = (y + 1) % 4
    shuffled = DataLoader(TensorDataset(x, y), 32, shuffle=True)
    for train, labels in (((x.numpy(), y.numpy()), None), (shuffled, None), ((x, wrong), y)):
        found, other = sap(network, train, alpha=10.0, n_trusted=30, labels=labels, **QUIET)
        np.testing.assert_array_equal(other.trusted, report.trusted)
        for new, old in zip(
            found.state_dict().values(), expected.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-6)


def test_losses_below_rounding_still_have_an_order():
    network = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(2))
    margins = np.linspace(30, 300, 20, dtype=np.float32)
    x = np.stack([margins, 0 * margins], 1)
    _, report = sap(network, (x, np.zeros(20, int)), alpha=1.0, n_trusted=3, **QUIET)
    assert report.trusted.tolist() == [17, 18, 19]


@pytest.mark.parametrize("name", models.MODELS)
def test_every_network_is_left_as_found(name):
    network = in_odd_state(models.build(name))
    x, y = models.data_for(name)
    held = models.data_for(name, seed=1)

    def job() -> None:
        repaired, _ = sap(network, (x, y), held, alpha=[1, 100], n_trusted=20, **QUIET)
        hooks = [len(each._forward_pre_hooks) for each in repaired.modules()]
        assert hooks == [len(each._forward_pre_hooks) for each in network.modules()]
        assert [m.training for m in repaired.modules()] == [m.training for m in network.modules()]

    assert_left_as_found(network, job)


def test_a_network_that_cannot_be_used_is_left_as_found_too():
    network = in_odd_state(models.build("mlp"))
    x, y = models.data_for("mlp")
    bad = x.clone()
    bad[7] = torch.nan
    assert_left_as_found(
        network, lambda: sap(network, (bad, y), alpha=1.0, n_trusted=20, **QUIET), DataError
    )


class OneLayerOverflows(nn.Module):
    """Its logits are finite whatever its hidden layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(12, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nan_to_num(self.out(self.hidden(x) * torch.inf))


def test_what_cannot_be_projected_is_left_alone():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grouped = nn.Conv1d(4, 4, 1, groups=2)
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(12, 12))
            self.one, self.other = nn.Linear(12, 12), nn.Linear(12, 12)
            self.other.weight = self.one.weight
            self.spare = nn.Linear(12, 3)
            self.twice = nn.Linear(12, 12)
            self.again = self.twice
            self.head = nn.Linear(12, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.grouped(x.view(-1, 4, 3)).flatten(1)
            x = self.other(self.one(self.normed(x)))
            return self.head(self.again(self.twice(x)))

    network = Odd()
    x, y = models.data("rows", N)
    repaired, report = sap(network, (x, y), alpha=1.0, n_trusted=30, **QUIET)
    assert set(report.layers["layer"]) == {"twice", "head"}
    assert report.layers["rows"].tolist() == [60, 30]
    told = report.left_alone
    assert "2 groups" in told["grouped"]
    assert "computed from others" in told["normed"]
    assert "shares its weights" in told["one"]
    assert "shares its weights" in told["other"]
    assert "not called" in told["spare"]
    kept = [key for key in network.state_dict() if key.split(".")[0] in told]
    assert len(kept) > 5
    for key in kept:
        assert torch.equal(repaired.state_dict()[key], network.state_dict()[key])


X, Y = models.data("rows", N)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"alpha": None}, DataError, "hold-out with noisy labels to choose alpha with, or an"),
        ({"alpha": [1, 2]}, DataError, "a hold-out to choose among 2 alphas"),
        ({"alpha": 0}, DataError, "alpha: expected positive numbers; found 0"),
        ({"alpha": -1.0}, DataError, "alpha: expected positive"),
        ({"alpha": np.nan}, DataError, "alpha: expected positive"),
        ({"alpha": np.inf}, DataError, "alpha: expected positive"),
        ({"alpha": "much"}, DataError, "alpha: expected positive"),
        ({"alpha": []}, DataError, "found none"),
        ({"n_trusted": 0}, DataError, "n_trusted: expected an integer of at least 1"),
        ({"n_trusted": 2.5}, DataError, "n_trusted: expected an integer"),
        ({"n_trusted": N + 1}, DataError, "at most the 120 training samples; found 121"),
        ({"n_patches": 0}, DataError, "n_patches: expected an integer"),
        ({"batch_size": 0}, DataError, "batch_size: expected an integer"),
        ({"holdout": (X, torch.ones_like(Y))}, LabelError, "at least two classes"),
        ({"holdout": (X, torch.full_like(Y, 9))}, LabelError, "label 9 at index 0"),
        ({"holdout": X}, LabelError, "holdout: expected labels"),
        ({"train": X}, LabelError, "train: expected labels"),
        ({"train": (X, torch.full_like(Y, 9))}, LabelError, "label 9 at index 0"),
        ({"labels": Y[:5]}, LabelError, "5 entries"),
        ({"train": (X * torch.inf, Y)}, DataError, "NaN or infinite"),
        ({"model": OneLayerOverflows()}, DataError, "the input of layer 'out' is NaN or infinite"),
        (
            {
                "model": nn.Sequential(nn.Embedding(3, 4), nn.Flatten()),
                "train": (Y[:, None] % 3, Y),
            },
            ModelError,
            "expected a linear layer or a convolution",
        ),
        ({"device": "no-such-device"}, DataError, "device"),
    ],
)
def test_bad_input_is_told(change, error, words):
    given: dict[str, Any] = {
        "model": models.build("mlp"),
        "train": (X, Y),
        "alpha": 1.0,
        "n_trusted": 20,
        **QUIET,
    }
    with pytest.raises(error, match=words):
        sap(**{**given, **change})


def test_too_few_samples_of_unknown_number_and_unknown_places_are_told():
    network = models.build("mlp")

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(zip(X, Y, strict=True))

    with pytest.raises(DataError, match="at most the 120 training samples"):
        sap(network, Stream(), alpha=1.0, n_trusted=121, **QUIET)
    random = [*range(N), 0]
    with pytest.raises(LabelError, match="trusted samples"):
        sap(network, DataLoader(TensorDataset(X, Y), 20, sampler=random), alpha=1.0, **QUIET)
    found, _ = sap(network, Indexed(), alpha=1.0, n_trusted=20, **QUIET)
    assert found is not network
