"""Every kind of data source over the same 80 samples, and what a decode of them is compared by."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
)

import models
import underscript as us

N = 80
X, Y = models.data("rows", N)
TRUE = Y.numpy()
GIVEN = us.corrupt_labels(Y, 0.4, seed=1)
MODEL = models.build("mlp", seed=3)


class Indexed(Dataset):
    """(x, y, index)."""

    def __init__(self, x: Tensor = X, y: Tensor = Y, first: int = 0):
        self.x, self.y, self.first = x, y, first

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, int]:
        return self.x[i], self.y[i], self.first + i


class Dicts(Indexed):
    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": self.x[i], "label": self.y[i], "idx": i}


class Streamed(IterableDataset):
    def __init__(self, length: int = N):
        self.length = length

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(X[: self.length], Y[: self.length], strict=True))


class Bulk(Dataset):
    """Takes a list of indices at once, as a BatchSampler gives them: torch's bulk loading."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        return X[index], Y[index]


class Chunks(Dataset):
    """Five ready batches."""

    def __len__(self) -> int:
        return N // 16

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if i >= len(self):
            raise IndexError(i)
        return X[16 * i : 16 * i + 16], Y[16 * i : 16 * i + 16]


def decode(train: Any, **options: Any) -> us.Decoding:
    options = {"controls": False, "progress": False} | options
    return us.decode(options.pop("model", MODEL), train, **options)


def numbers(found: us.Decoding) -> tuple[pd.DataFrame, pd.DataFrame]:
    return found.table, found.label_issues().reset_index(drop=True)


def assert_same(found: us.Decoding, expected: us.Decoding) -> None:
    """Assert the same table and label issues; qualities up to float32 rounding."""
    for mine, theirs in zip(numbers(found), numbers(expected), strict=True):
        pd.testing.assert_frame_equal(mine, theirs, check_dtype=False, rtol=1e-4, atol=1e-5)


def loader(data: Any = None, size: int = 16, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(X, Y) if data is None else data, batch_size=size, **options)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def with_label(value: Any, dtype: Any = np.int64) -> np.ndarray:
    """The given labels, one of them replaced."""
    labels = GIVEN.astype(dtype)
    labels[70] = value
    return labels


SOURCES: dict[str, Callable[[], Any]] = {
    "torch arrays": lambda: (X, Y),
    "numpy arrays": lambda: [X.numpy(), TRUE],
    "read-only float64": lambda: (np.require(X.numpy().astype(">f8"), requirements="W"), TRUE),
    "reversed memory": lambda: (X.numpy()[::-1].copy()[::-1], TRUE.astype(np.uint8)),
    "dataset": lambda: TensorDataset(X, Y),
    "list of samples": lambda: list(zip(X, Y.tolist(), strict=True)),
    "dataset with index": Indexed,
    "dataset of dicts": Dicts,
    "iterable dataset": Streamed,
    "loader": lambda: loader(),
    "loader, drop_last": lambda: loader(size=30, drop_last=True),
    "loader of an iterable": lambda: loader(Streamed()),
    "loader of dicts": lambda: loader(Dicts()),
    "loader of ready batches": lambda: DataLoader(Chunks(), batch_size=None),
    "shuffled": lambda: loader(shuffle=True),
    "shuffled, drop_last": lambda: loader(size=30, shuffle=True, drop_last=True),
    "shuffled with index": lambda: loader(Indexed(), shuffle=True),
    "custom sampler with index": lambda: loader(
        Indexed(), sampler=SubsetRandomSampler(range(N), generator=generator())
    ),
    "shuffling batch sampler": lambda: DataLoader(
        TensorDataset(X, Y), batch_sampler=BatchSampler(RandomSampler(range(N)), 30, True)
    ),
    "sequential batch sampler": lambda: DataLoader(
        TensorDataset(X, Y), batch_sampler=BatchSampler(SequentialSampler(range(N)), 30, False)
    ),
    "batch sampler with index": lambda: DataLoader(
        Indexed(), batch_sampler=BatchSampler(RandomSampler(range(N)), 7, drop_last=False)
    ),
}
