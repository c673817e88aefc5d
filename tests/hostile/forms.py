"""Cases of forms of data: for one input, for features alone, and for several inputs."""

from collections import UserDict
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from situation_data import memorise, mlp
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

import models
from hostile.judge import Case, Result, decoded
from hostile.networks import base, fresh
from hostile.shared import ANY, DATA, GIVEN, NAMES, NEVER, PAIRS, TRUE, WORKS, X, result, texts


class Two(nn.Module):
    """A network of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.body(torch.cat([left, right], 1))


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
        return memorise(
            fresh(models.TextNet), None, GIVEN, 40, call=lambda net, i: net(ids[i], mask[i])
        )

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
