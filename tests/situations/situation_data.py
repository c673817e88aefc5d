"""Small inputs for what goes wrong for users: noisy blobs, and a network that fits them."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Where the true class shows in a label issue.
FLAG, GIVEN, PREDICTED = "is_label_issue", "given_label", "predicted_label"


class Blobs(NamedTuple):
    """Training inputs with given and true labels, and test data."""

    x: Tensor
    given: Tensor
    true: Tensor
    test: Tensor
    test_true: Tensor


@cache
def blobs(
    n: int = 1200, d: int = 20, k: int = 4, noise: float = 0.3, seed: int = 0, n_test: int = 400
) -> Blobs:
    """Return Gaussian classes, `noise` of whose labels are wrong."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d)) * 1.3
    y = rng.integers(0, k, n + n_test)
    x = torch.from_numpy((centres[y] + rng.normal(size=(n + n_test, d))).astype(np.float32))
    g = y.copy()
    wrong = rng.random(n + n_test) < noise
    g[wrong] = (g[wrong] + rng.integers(1, k, wrong.sum())) % k
    true, given = torch.from_numpy(y), torch.from_numpy(g)
    return Blobs(x[:n], given[:n], true[:n], x[n:], true[n:])


def features(
    d: int, k: int, noise: float, sizes: Sequence[int], seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return rows, given and true labels of classes of given sizes; centres at unit spread."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d)).astype(np.float32)
    y = np.repeat(np.arange(k), sizes)
    x = centres[y] + rng.normal(size=(len(y), d)).astype(np.float32)
    g = y.copy()
    wrong = rng.random(len(y)) < noise
    g[wrong] = (g[wrong] + rng.integers(1, k, wrong.sum())) % k
    return x, g, y


def mlp(d: int = 20, k: int = 4, h: int = 64) -> nn.Sequential:
    """Return an untrained MLP with two hidden layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _mlp(d, k, h)


def _mlp(d: int, k: int, h: int) -> nn.Sequential:
    net = nn.Sequential()
    for i, (a, b) in enumerate([(d, h), (h, h)], 1):
        net.add_module(f"fc{i}", nn.Linear(a, b))
        net.add_module(f"relu{i}", nn.ReLU())
    net.add_module("out", nn.Linear(h, k))
    return net


def memorise(
    net: nn.Module,
    x: Any,
    given: Tensor,
    epochs: int = 60,
    rate: float = 3e-3,
    call: Callable[[nn.Module, Tensor], Any] | None = None,
) -> nn.Module:
    """Fit until the noisy labels are memorised; `call(net, index)` where it takes more than x."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _memorise(net, x, given, epochs, rate, call)


def _memorise(
    net: nn.Module,
    x: Any,
    given: Tensor,
    epochs: int,
    rate: float,
    call: Callable[[nn.Module, Tensor], Any] | None,
) -> nn.Module:
    net.train()
    step = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], rate)
    for _ in range(epochs):
        for i in torch.randperm(len(given)).split(128):
            out = net(x[i]) if call is None else call(net, i)
            out = getattr(out, "logits", out)
            loss = nn.functional.cross_entropy(out.float(), given[i])
            step.zero_grad()
            loss.backward()
            step.step()
    return net.eval()


@cache
def situation() -> tuple[nn.Module, Blobs]:
    """Return a network that has memorised the noisy labels of blobs, and these."""
    data = blobs()
    return memorise(mlp(), data.x, data.given), data


def share_right(decoding: Any, x: Any, true: Tensor) -> float:
    """Return the decoded accuracy on inputs of known classes."""
    return float((decoding.best.predict(x) == true.numpy()).mean())


def precision(issues: Any, true: NDArray[np.int64] | Tensor) -> float:
    """Return the share of flagged labels that are wrong."""
    flagged = issues[issues[FLAG]]
    truth = np.asarray(true)[flagged.index.to_numpy()]
    return float((flagged[GIVEN].to_numpy() != truth).mean())
