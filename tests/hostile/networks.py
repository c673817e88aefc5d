"""Cases of networks: of many makes, and what is none."""

import copy
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from situation_data import memorise, mlp
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader

from hostile.judge import Case, Result, decoded
from hostile.shared import ANY, DATA, GIVEN, NEVER, TRUE, X, result, texts

# What a network may return: its logits in some form, or no logits.
LOGITS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda out, x: (out, x),
    "list": lambda out, x: [out],
    "dict": lambda out, x: {"logits": out},
    "object": lambda out, x: SimpleNamespace(logits=out),
    "named": lambda out, x: UserDict(logits=out),
    "other dict": lambda out, x: {"scores": out},
    "view": lambda out, x: out.view(len(x), 2, 2).flatten(1),
    "detached": lambda out, x: out.detach(),
    "log softmax": lambda out, x: out.log_softmax(1),
    "softmax": lambda out, x: out.softmax(1),
    "half": lambda out, x: out.half(),
    "negated": lambda out, x: -out,
    "scaled": lambda out, x: out * 3 + 1,
    "in place": lambda out, x: out.mul_(2.0),
}
NO_LOGITS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "one number": lambda out, x: out[:, 0],
    "one column": lambda out, x: out[:, :1],
    "nothing": lambda out, x: None,
    "text": lambda out, x: "cat",
    "NaN": lambda out, x: out * float("nan"),
    "infinity": lambda out, x: out / 0,
    "three axes": lambda out, x: out[:, None],
    "mean": lambda out, x: out.mean(),
    "too few": lambda out, x: out[: len(x) // 2],
    "raises": lambda out, x: 1 / 0,
}
NUMBERS_FIRST = "numbers first"
RETURNS = LOGITS | NO_LOGITS | {NUMBERS_FIRST: lambda out, x: (x.mean(1), out)}


class Wrapped(nn.Module):
    """A network that returns something of `RETURNS`."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.body, self.form = mlp(), form

    def forward(self, x: Tensor) -> Any:
        return RETURNS[self.form](self.body(x), x)


class Lightning(nn.Module):
    """What a LightningModule looks like: hooks for training, and a network inside."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.criterion = mlp(), nn.CrossEntropyLoss()
        self.trainer, self.hparams = None, {"lr": 1e-3}
        self.save_hyperparameters = lambda: None

    def training_step(self, batch: Any, _number: int) -> Tensor:
        x, y = batch
        return self.criterion(self(x), y)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Functional(nn.Module):
    """Without modules for its activations; one layer is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.out = nn.Linear(20, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.out(torch.relu(self.again(torch.relu(self.again(h)))))


class Frozen(nn.Module):
    """With batch norm that stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU())
        self.out = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x))

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self.body[1].eval()
        return self


class Branches(nn.Module):
    """Whose layers run only for some inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.rare, self.out = nn.Linear(20, 64), nn.Linear(64, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.fc(x))
        if float(x[0, 0]) > 0:
            h = torch.relu(self.rare(h))
        return self.out(h)


class Keeps(nn.Module):
    """Which keeps what it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.aux_loss: Any = None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        self.aux_loss = out.square().mean()
        return out


def with_fc2(change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    net = mlp()
    net.fc2 = change(net.fc2)
    return net


def with_out(change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    net = mlp()
    net.out = change(net.out)
    return net


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{f"logits in a {form}": partial(Wrapped, form) for form in LOGITS},
    "a layer called twice": Functional,
    "frozen batch norm": Frozen,
    "Lightning": Lightning,
    "it keeps a loss": Keeps,
    "batch norm": lambda: nn.Sequential(
        nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4)
    ),
    "dropout": lambda: nn.Sequential(
        nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 4)
    ),
    "layer norm": lambda: nn.Sequential(
        nn.Linear(20, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 4)
    ),
    "no bias": lambda: nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 4, bias=False)),
    "lazy": lambda: nn.Sequential(nn.LazyLinear(64), nn.ReLU(), nn.LazyLinear(4)),
    "a convolution of signals": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 20)), nn.Conv1d(1, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    ),
    "images": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4, 5)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(320, 4),
    ),
    "weight norm": lambda: with_fc2(parametrizations.weight_norm),
    "weight norm at the end": lambda: with_out(parametrizations.weight_norm),
    "spectral norm": lambda: with_fc2(parametrizations.spectral_norm),
    "pruned": lambda: with_fc2(lambda fc: prune.random_unstructured(fc, "weight", 0.2)),
    "DataParallel": lambda: nn.DataParallel(mlp()),
    "a read-out of more classes": lambda: mlp(k=9),
    "in a container": lambda: nn.Sequential(OrderedDict(a=nn.Sequential(mlp()))),
}


def fresh(kind: Callable[[], nn.Module]) -> nn.Module:
    """Return a new network; random states stay as they are."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind()


@cache
def trained(name: str) -> nn.Module:
    """Return a network that has memorised the labels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: Any = NETWORKS[name]()
        net(X[:2])
    if name in ("logits in a detached", "logits in a half", "logits in a softmax"):
        # What gives no gradients is trained without its end.
        memorise(net.body, X, GIVEN, 40)
        trained_net: nn.Module = net.eval()
        return trained_net
    return memorise(net, X, GIVEN, 40, call=lambda net, i: logits_of(net(X[i])))


def logits_of(out: Any) -> Tensor:
    """Return the logits in an output."""
    if isinstance(out, Tensor):
        return out
    if isinstance(out, dict | UserDict):
        return next(iter(out.values()))
    found: Tensor = out.logits if hasattr(out, "logits") else out[0]
    return found


def base() -> nn.Module:
    """Return a plain MLP that has memorised the labels."""
    return trained("in a container")


def networks() -> Iterator[Case]:
    """Networks of many makes, each with and without controls."""
    for name in NETWORKS:
        for controls in (False, True):
            yield Case(
                "networks",
                name + (", with controls" if controls else ""),
                lambda name=name, controls=controls: result(
                    decoded(trained(name), (X, GIVEN), controls=controls)
                ),
            )
    yield Case(
        "networks",
        "layers that run at times",
        lambda: result(decoded(memorise(fresh(Branches), X, GIVEN, 40), (X, GIVEN))),
        ANY,
    )
    for form in NO_LOGITS:
        yield Case(
            "networks",
            f"no logits: {form}",
            lambda form=form: result(decoded(Wrapped(form), (X, GIVEN))),
            NEVER,
        )
    yield Case(
        "networks",
        "numbers before the logits",
        lambda: result(decoded(Wrapped(NUMBERS_FIRST).eval(), (X, GIVEN)), None),
        ANY,
    )
    yield Case(
        "networks",
        "compiled",
        lambda: result(decoded(torch.compile(copy.deepcopy(base()), backend="eager"), (X, GIVEN))),
    )
    yield Case("networks", "compiled in place", _compiled_in_place)
    yield Case("networks", "a compiled block", _compiled_block)
    yield Case(
        "networks",
        "TorchScript",
        lambda: result(decoded(torch.jit.trace(copy.deepcopy(base()), X[:4]), (X, GIVEN))),
        NEVER,
    )
    yield Case("networks", "a block of TorchScript", _script_block)
    yield Case("networks", "Hugging Face", _transformers)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        yield Case(
            "networks",
            f"weights in {dtype}",
            lambda dtype=dtype: result(
                decoded(copy.deepcopy(base()).to(dtype), (X.to(dtype), GIVEN)), DATA.test.to(dtype)
            ),
        )
    things: dict[str, Callable[[], Any]] = {
        "its class": lambda: nn.Linear,
        "its path": lambda: "net.pt",
        "a Path": lambda: Path("net.pt"),
        "a state dict": lambda: base().state_dict(),
        "a number": lambda: 3,
        "a list": lambda: [base()],
        "a function": lambda: base().forward,
        "an exported program": lambda: torch.export.export(copy.deepcopy(base()), (X[:4],)),
        "scikit-learn's": _scikit,
        "an array": lambda: X,
    }
    for name, make in things.items():
        yield Case(
            "networks",
            f"no network: {name}",
            lambda make=make: result(decoded(make(), (X, GIVEN))),
            NEVER,
        )


def _compiled_in_place() -> Result:
    net = copy.deepcopy(base())
    net.compile(backend="eager")
    net(X[:8])
    return result(decoded(net, (X, GIVEN)))


def _compiled_block() -> Result:
    net = copy.deepcopy(trained("Lightning"))
    inner: Any = net
    inner.model = torch.compile(inner.model, backend="eager")
    net(X[:8])
    d = decoded(net, (X, GIVEN))
    if len(d.summary["layers"]) < 2:
        return Result(problem="layers inside the compiled block were not seen")
    return result(d)


def _script_block() -> Result:
    net: Any = memorise(mlp(), X, GIVEN, 40)
    mixed = nn.Sequential(torch.jit.script(net[:2]), net[2:])
    return result(decoded(mixed, (X, GIVEN)))


def _transformers() -> Result:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=4,
        max_position_embeddings=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = BertForSequenceClassification(config)
    ids, mask = texts()
    memorise(net, None, GIVEN, 12, 2e-3, lambda net, i: net(ids[i], attention_mask=mask[i]))
    items = [
        {"input_ids": ids[i], "attention_mask": mask[i], "labels": GIVEN[i]}
        for i in range(len(GIVEN))
    ]
    d = decoded(net, DataLoader(items, 64), controls=True)
    return Result(d, labels=TRUE.numpy(), given=GIVEN.numpy())


def _scikit() -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((8,), max_iter=1, random_state=0).fit(X[:50].numpy(), GIVEN[:50].numpy())
