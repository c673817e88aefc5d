"""What cases are generated from: networks, forms of data, labels, settings, and files."""

import copy
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from situation_data import blobs, memorise, mlp
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import underscript as us
from hostile.judge import REFUSED, RIGHT, TOLD, Case, Result, decoded

WORKS = (RIGHT, TOLD)
ANY = (RIGHT, TOLD, REFUSED)
NEVER = (REFUSED,)

DATA = blobs(n=600, n_test=300)
X, GIVEN, TRUE = DATA.x, DATA.given, DATA.true
PAIRS = TensorDataset(X, GIVEN)
NAMES = np.array(["ant", "bee", "cat", "dog"])


# Networks -----------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """A network that returns its logits in a form of its own."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.body, self.form = mlp(), form

    def forward(self, x: Tensor) -> Any:
        out = self.body(x)
        forms: dict[str, Callable[[], Any]] = {
            "tuple": lambda: (out, x),
            "list": lambda: [out],
            "dict": lambda: {"logits": out},
            "object": lambda: SimpleNamespace(logits=out),
            "named": lambda: UserDict(logits=out),
            "other dict": lambda: {"scores": out},
            "numbers first": lambda: (x.mean(1), out),
            "view": lambda: out.view(len(x), 2, 2).flatten(1),
            "detached": lambda: out.detach(),
            "log softmax": lambda: out.log_softmax(1),
            "softmax": lambda: out.softmax(1),
            "half": lambda: out.half(),
            "negated": lambda: -out,
            "scaled": lambda: out * 3 + 1,
            "in place": lambda: out.mul_(2.0),
        }
        return forms[self.form]()


class Bad(nn.Module):
    """A network that gives no logits."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.body, self.form = mlp(), form

    def forward(self, x: Tensor) -> Any:
        out = self.body(x)
        forms: dict[str, Callable[[], Any]] = {
            "one number": lambda: out[:, 0],
            "one column": lambda: out[:, :1],
            "nothing": lambda: None,
            "text": lambda: "cat",
            "NaN": lambda: out * float("nan"),
            "infinity": lambda: out / 0,
            "three axes": lambda: out[:, None],
            "mean": lambda: out.mean(),
            "too few": lambda: out[: len(x) // 2],
            "raises": lambda: 1 / 0,
        }
        return forms[self.form]()


class Masked(nn.Module):
    """A network of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.fc, self.out = nn.Embedding(64, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows = (self.table(input_ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return SimpleNamespace(logits=self.out(torch.relu(self.fc(rows))))


class Two(nn.Module):
    """A network of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.body(torch.cat([left, right], 1))


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
    **{
        f"logits in a {form}": partial(Wrapped, form)
        for form in (
            "tuple",
            "list",
            "dict",
            "object",
            "named",
            "other dict",
            "view",
            "detached",
            "log softmax",
            "softmax",
            "half",
            "negated",
            "scaled",
            "in place",
        )
    },
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


def result(d: us.Decoding, test: Any = DATA.test, true: Any = DATA.test_true) -> Result:
    """Return a decode to be judged by the blobs' own classes."""
    return Result(d, test, true, TRUE.numpy(), GIVEN.numpy())


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
    for form in (
        "one number",
        "one column",
        "nothing",
        "text",
        "NaN",
        "infinity",
        "three axes",
        "mean",
        "too few",
        "raises",
    ):
        yield Case(
            "networks",
            f"no logits: {form}",
            lambda form=form: result(decoded(Bad(form), (X, GIVEN))),
            NEVER,
        )
    yield Case(
        "networks",
        "numbers before the logits",
        lambda: result(decoded(Wrapped("numbers first").eval(), (X, GIVEN)), None),
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


@cache
def texts() -> tuple[Tensor, Tensor]:
    """Return word numbers and a mask; a text's words tell its true class."""
    rng = torch.Generator().manual_seed(0)
    ids = TRUE[:, None] * 15 + torch.randint(1, 15, (len(TRUE), 8), generator=rng)
    mask = torch.ones_like(ids)
    mask[::2, 5:] = 0
    return ids * mask, mask


# Data ---------------------------------------------------------------------------------------


class Stream(IterableDataset):
    """All samples, in an order."""

    def __init__(self, order: str = "fixed") -> None:
        self.order = order

    def __iter__(self) -> Iterator[Any]:
        places = list(range(len(X)))
        if self.order == "shuffled":
            places = torch.randperm(len(X)).tolist()
        for i in places:
            yield (X[i], GIVEN[i], i) if self.order == "index" else (X[i], GIVEN[i])


class Rows(Dataset):
    """Samples in a form of their own."""

    def __init__(self, form: Callable[[int], Any]) -> None:
        self.form = form

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, at: int) -> Any:
        return self.form(at)


def broken(at: int) -> Any:
    """Raise for one sample, as a broken file does."""
    if at == 77:
        raise OSError("cannot identify image file 'cat77.jpg'")
    return X[at], GIVEN[at]


def sized(at: int) -> Any:
    return X[at, : 20 - at % 2], GIVEN[at]


def noisy(at: int) -> Any:
    """Add to an input what an augmentation adds."""
    return X[at] + 0.05 * torch.randn(20), GIVEN[at]


ORDER = torch.randperm(len(X), generator=torch.Generator().manual_seed(5)).tolist()
FORMS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "tensors": (lambda: (X, GIVEN), WORKS),
    "arrays": (lambda: (X.numpy(), GIVEN.numpy()), WORKS),
    "a list of two": (lambda: [X, GIVEN], WORKS),
    "labels of uint8": (lambda: (X, GIVEN.to(torch.uint8)), WORKS),
    "labels of int16": (lambda: (X, GIVEN.short().numpy()), WORKS),
    "big-endian": (lambda: (X.numpy().astype(">f4"), GIVEN.numpy().astype(">i8")), WORKS),
    "columns first": (lambda: (np.asfortranarray(X.numpy()), GIVEN), WORKS),
    "float64 inputs": (lambda: (X.double(), GIVEN), WORKS),
    "half inputs": (lambda: (X.half(), GIVEN), WORKS),
    "requires grad": (lambda: (X.clone().requires_grad_(), GIVEN), WORKS),
    "made in inference mode": (lambda: (inference(X), GIVEN), WORKS),
    "a table": (lambda: (pd.DataFrame(X.numpy()), GIVEN.numpy()), WORKS),
    "a table of nullable numbers": (
        lambda: (pd.DataFrame(X.numpy()).convert_dtypes(), pd.Series(GIVEN.numpy())),
        WORKS,
    ),
    "a series of nullable labels": (
        lambda: (X.numpy(), pd.Series(GIVEN.numpy()).astype("Int64")),
        WORKS,
    ),
    "a dict of tensors": (lambda: {"x": X, "labels": GIVEN}, WORKS),
    "a dataset": (lambda: PAIRS, WORKS),
    "a list of samples": (lambda: [(X[i], int(GIVEN[i])) for i in range(len(X))], WORKS),
    "dicts": (lambda: Rows(lambda i: {"image": X[i], "label": GIVEN[i]}), WORKS),
    "dicts, labels first": (lambda: Rows(lambda i: {"label": GIVEN[i], "image": X[i]}), WORKS),
    "with an index": (lambda: Rows(lambda i: (X[i], GIVEN[i], i)), WORKS),
    "with a path": (lambda: Rows(lambda i: (X[i], GIVEN[i], f"{i}.jpg")), NEVER),
    "with a float index": (lambda: Rows(lambda i: (X[i], GIVEN[i], float(i))), NEVER),
    "four things": (lambda: Rows(lambda i: (X[i], GIVEN[i], i, i)), NEVER),
    "no labels": (lambda: X, NEVER),
    "only inputs": (lambda: Rows(lambda i: X[i]), NEVER),
    "labels of one column": (lambda: (X, GIVEN[:, None]), ANY),
    "one-hot labels": (lambda: (X, torch.eye(4)[GIVEN]), NEVER),
    "float labels": (lambda: (X, GIVEN.float()), NEVER),
    "labels too few": (lambda: (X, GIVEN[:-1]), NEVER),
    "a negative label": (lambda: (X, with_label(-1)), NEVER),
    "a label beyond the read-out": (lambda: (X, with_label(4)), NEVER),
    "a huge label": (lambda: (X, with_label(2**62)), NEVER),
    "a missing label": (lambda: (X, with_label(None)), NEVER),
    "a label that is not a number": (lambda: (X, with_label(float("nan"))), NEVER),
    "text labels without names": (lambda: (X, NAMES[GIVEN.numpy()]), NEVER),
    "all of one class": (lambda: (X, torch.zeros_like(GIVEN)), NEVER),
    "no samples": (lambda: (X[:0], GIVEN[:0]), NEVER),
    "one sample": (lambda: (X[:1], GIVEN[:1]), NEVER),
    "ragged rows": (lambda: Rows(sized), NEVER),
    "no columns": (lambda: (X[:, :0], GIVEN), NEVER),
    "other width": (lambda: (X[:, :7], GIVEN), NEVER),
    "text inputs": (lambda: (np.array(["a"] * len(X)), GIVEN), NEVER),
    "a NaN": (lambda: (with_value(float("nan")), GIVEN), NEVER),
    "an infinity": (lambda: (with_value(float("inf")), GIVEN), NEVER),
    "a broken file": (lambda: Rows(broken), NEVER),
    "a broken file in a worker": (lambda: DataLoader(Rows(broken), 64, num_workers=1), NEVER),
    "an augmentation": (lambda: Rows(noisy), WORKS),
    "a loader": (lambda: DataLoader(PAIRS, 64), WORKS),
    "a loader that shuffles": (lambda: DataLoader(PAIRS, 64, shuffle=True), WORKS),
    "a loader that drops": (lambda: DataLoader(PAIRS, 64, drop_last=True), WORKS),
    "a loader with workers": (lambda: DataLoader(PAIRS, 64, num_workers=2, shuffle=True), WORKS),
    "a batch of one": (lambda: DataLoader(PAIRS, 1), WORKS),
    "one batch": (lambda: DataLoader(PAIRS, 10_000), WORKS),
    "a random subset": (
        lambda: DataLoader(PAIRS, 64, sampler=SubsetRandomSampler(ORDER[:500])),
        WORKS,
    ),
    "drawn with weights": (
        lambda: DataLoader(PAIRS, 64, sampler=WeightedRandomSampler([1.0] * 600, 600)),
        WORKS,
    ),
    "a sampler that is a list": (lambda: DataLoader(PAIRS, 64, sampler=ORDER), WORKS),
    "places twice": (lambda: DataLoader(PAIRS, 64, sampler=[*ORDER, 0, 1]), NEVER),
    "batches of one's own": (
        lambda: DataLoader(PAIRS, batch_sampler=BatchSampler(ORDER, 50, False)),
        WORKS,
    ),
    "a subset": (lambda: Subset(PAIRS, range(600)), WORKS),
    "two data sets": (
        lambda: ConcatDataset([Subset(PAIRS, range(300)), Subset(PAIRS, range(300, 600))]),
        WORKS,
    ),
    "a stream": (Stream, WORKS),
    "a stream that shuffles": (partial(Stream, "shuffled"), NEVER),
    "a stream with an index": (partial(Stream, "index"), WORKS),
    "a stream in workers": (lambda: DataLoader(Stream(), 64, num_workers=2), NEVER),
    "a generator": (lambda: ((X[i], GIVEN[i]) for i in range(600)), NEVER),
    "a dict of samples": (lambda: {i: (X[i], GIVEN[i]) for i in range(10)}, NEVER),
    "a path": (lambda: "train.csv", NEVER),
    "nothing": (lambda: None, NEVER),
    "a number": (lambda: 5, NEVER),
    "an index twice": (lambda: Rows(lambda i: (X[i], GIVEN[i], i // 2)), NEVER),
    "a negative index": (lambda: Rows(lambda i: (X[i], GIVEN[i], i - 3)), NEVER),
}


def inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x * 1.0


def with_label(value: Any) -> Any:
    """Return the labels with one that is something else."""
    labels = GIVEN.numpy().astype(object)
    labels[5] = value
    whole = isinstance(value, int)
    return labels.astype(np.int64) if whole else labels


def with_value(value: float) -> Tensor:
    """Return the inputs with one number that is something else."""
    x = X.clone()
    x[7, 3] = value
    return x


def forms() -> Iterator[Case]:
    """Forms of data, with the network and as features alone."""
    alone = {"with a path", "no columns"}
    without = {
        "other width",
        "text labels without names",
        "a label beyond the read-out",
        "a huge label",
        "made in inference mode",
        "half inputs",
    }
    for name, (make, may) in FORMS.items():
        yield Case("data", name, lambda make=make: result(decoded(base(), make())), may)
        if may == WORKS or name in alone:
            if name in without or "worker" in name:
                continue
            yield Case("features", name, lambda make=make: result(decoded(None, make())), may)
    yield Case(
        "features",
        "text labels",
        lambda: Result(
            decoded(None, (X, NAMES[GIVEN.numpy()])),
            DATA.test,
            DATA.test_true,
            None,
            NAMES[GIVEN.numpy()],
        ),
    )
    for n in (2, 3, 4, 5, 8, 12, 20):
        yield Case(
            "data", f"{n} samples", lambda n=n: Result(decoded(base(), (X[:n], GIVEN[:n]))), ANY
        )
        yield Case(
            "features", f"{n} samples", lambda n=n: Result(decoded(None, (X[:n], GIVEN[:n]))), ANY
        )
    yield from several_inputs()


def several_inputs() -> Iterator[Case]:
    """Networks of two inputs and of texts, in any order of names."""

    @cache
    def two() -> nn.Module:
        return memorise(fresh(Two), None, GIVEN, 40, call=lambda net, i: net(X[i, :10], X[i, 10:]))

    parts = {"left": X[:, :10], "right": X[:, 10:]}
    for names in (["left", "right"], ["right", "left"]):
        rows = Rows(lambda i, names=names: {**{n: parts[n][i] for n in names}, "y": GIVEN[i]})
        yield Case(
            "inputs",
            f"named {' and '.join(names)}",
            lambda rows=rows: result(
                decoded(two(), rows, controls=True),
                {"left": DATA.test[:, :10], "right": DATA.test[:, 10:]},
            ),
        )
    yield Case(
        "inputs",
        "a tuple of two",
        lambda: result(decoded(two(), Rows(lambda i: ((X[i, :10], X[i, 10:]), GIVEN[i]))), None),
    )
    yield Case(
        "inputs",
        "one is missing",
        lambda: result(decoded(two(), Rows(lambda i: {"left": X[i, :10], "y": GIVEN[i]}))),
        NEVER,
    )

    @cache
    def words() -> nn.Module:
        ids, mask = texts()
        return memorise(fresh(Masked), None, GIVEN, 40, call=lambda net, i: net(ids[i], mask[i]))

    def batches(*names: str) -> Rows:
        ids, mask = texts()
        values = {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": GIVEN,
            "token_type_ids": torch.zeros_like(ids),
        }
        return Rows(lambda i: {name: values[name][i] for name in names})

    def read(*names: str) -> Result:
        d = decoded(words(), batches(*names), controls=True)
        ids, mask = texts()
        return Result(
            d, {"attention_mask": mask, "input_ids": ids}, TRUE, TRUE.numpy(), GIVEN.numpy()
        )

    yield Case("inputs", "texts", lambda: read("input_ids", "attention_mask", "labels"))
    yield Case("inputs", "texts, mask first", lambda: read("attention_mask", "labels", "input_ids"))
    yield Case(
        "inputs",
        "an input that the model does not take",
        lambda: read("token_type_ids", "input_ids", "attention_mask", "labels"),
        NEVER,
    )
    yield Case(
        "inputs",
        "predict without the mask",
        lambda: Result(
            decoded(words(), batches("input_ids", "attention_mask", "labels")), texts()[0], TRUE
        ),
        NEVER,
    )
    yield Case(
        "inputs",
        "a batch of a tokenizer",
        lambda: Result(
            decoded(
                words(),
                UserDict({"input_ids": texts()[0], "attention_mask": texts()[1], "labels": GIVEN}),
            ),
            UserDict({"input_ids": texts()[0], "attention_mask": texts()[1]}),
            TRUE,
            TRUE.numpy(),
            GIVEN.numpy(),
        ),
    )
