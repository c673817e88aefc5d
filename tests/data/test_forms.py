"""Data in memory, in the forms that users have: they are read alike, or refused in one line."""

from collections import UserDict
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch import Tensor

from sources import GIVEN, X
from underscript.data.source import Source, text_labels
from underscript.errors import DataError, LabelError

WORDS = np.array(["ant", "bee", "cat", "dog"])[GIVEN]
NAMES = ("ant", "bee", "cat", "dog")


def read(data: Any, **options: Any) -> tuple[list[Tensor], np.ndarray | None]:
    """Return all inputs, and the labels if there are any."""
    batches = list(Source(data, "train", batch_size=30, **options).batches())
    values = [
        [*batch.args, *(batch.kwargs[key] for key in sorted(batch.kwargs))] for batch in batches
    ]
    labels = [batch.labels for batch in batches]
    known = None if labels[0] is None else np.concatenate(labels)
    return [torch.cat(column) for column in zip(*values, strict=True)], known


@pytest.mark.parametrize(
    "data",
    [
        (X.tolist(), GIVEN.tolist()),
        ({"x": X}, GIVEN),
        (UserDict(x=X.numpy()), torch.from_numpy(GIVEN)),
        ({"x": X, "label": GIVEN * 0}, pd.Series(GIVEN)),
        ((X,), GIVEN),
        ([X.numpy()], GIVEN.tolist()),
        (pd.DataFrame(X.numpy()), pd.Series(GIVEN)),
        {"x": X, "labels": GIVEN},
    ],
)
def test_inputs_with_labels(data):
    (inputs,), labels = read(data)
    torch.testing.assert_close(inputs, X)
    np.testing.assert_array_equal(labels, GIVEN)


@pytest.mark.parametrize("bare", [X.tolist(), pd.DataFrame(X.numpy()), {"x": X.tolist()}])
def test_inputs_alone(bare):
    (inputs,), labels = read(bare)
    torch.testing.assert_close(inputs.float(), X)
    assert labels is None


def test_several_inputs_are_a_tuple_or_a_mapping():
    for data in (((X, 2 * X), GIVEN), ({"left": X, "right": 2 * X}, GIVEN)):
        (left, right), labels = read(data)
        torch.testing.assert_close(left, X)
        torch.testing.assert_close(right, 2 * X)
        np.testing.assert_array_equal(labels, GIVEN)
        source = Source(data, "train")
        places = np.array([7, 3, 70])
        (batch,) = source.reordered(places, 5)
        np.testing.assert_array_equal(batch.labels, GIVEN[places])
        halves = [next(source.share(rank, 2).batches()).labels for rank in range(2)]
        np.testing.assert_array_equal(np.concatenate(halves), GIVEN)


def test_a_list_of_two_samples_is_no_pair_of_inputs_and_labels():
    samples = [((X[0], X[1]), 1), ((X[2], X[3]), 0)]
    (left, right), labels = read(samples)
    torch.testing.assert_close(left, X[[0, 2]])
    torch.testing.assert_close(right, X[[1, 3]])
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (scipy.sparse.csr_matrix(X.numpy()), r"found a sparse csr_matrix; give \.toarray\(\)"),
        ((scipy.sparse.csr_matrix(X.numpy()), GIVEN), r"found a sparse csr_matrix"),
        ("train.csv", "found text, 'train.csv'"),
        (["a film", "another"], "found text, 'a film'; give a tokenizer's output"),
        (pd.Series([1.0, 2.0]), r"found a Series; give one row as table\.iloc"),
        ([[1.0, 2.0], [3.0]], "expected rows of numbers of one length"),
        (((X, X[:9]), GIVEN), "as many rows in each input.*found 80, 9, 80"),
        (((X, X), GIVEN[:9]), "as many labels; found 80, 80, 9"),
        (({"a": X}, GIVEN[:9]), "labels of 9"),
        ([("a film", 1), ("another", 0)], "found text, 'a film'; give a tokenizer's"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_says_what_to_give(data, message):
    with pytest.raises(DataError, match=rf"^train.*{message}") as caught:
        read(data)
    assert "\n" not in str(caught.value)


def test_labels_that_are_replaced_may_be_of_any_kind():
    source = Source((X, WORDS), "train", labels=GIVEN)
    np.testing.assert_array_equal(next(source.batches()).labels, GIVEN)
    with pytest.raises(LabelError, match="found dtype bool; convert them with"):
        read((X, GIVEN > 1))


@pytest.mark.parametrize(
    "data",
    [
        (X, WORDS),
        (X, WORDS.tolist()),
        (X.tolist(), WORDS.tolist()),
        (X, pd.Series(WORDS)),
        (X, pd.Categorical(WORDS)),
        list(zip(X, WORDS.tolist(), strict=True)),
        [{"x": x, "label": word} for x, word in zip(X, WORDS.tolist(), strict=True)],
        {"x": X, "label": WORDS.tolist()},
        ({"x": X}, WORDS.tolist()),
        ((X,), WORDS),
    ],
)
def test_labels_that_are_text_are_found_and_read_in_every_form(data):
    assert text_labels(data, "train", 30) == set(NAMES)
    _, labels = read(data, class_names=NAMES)
    np.testing.assert_array_equal(labels, GIVEN)
    with pytest.raises(LabelError, match=r"found text such as .*give class_names=\[…\].*--classes"):
        read(data)


def test_labels_that_are_numbers_are_no_text():
    for data in ((X, GIVEN), list(zip(X, GIVEN.tolist(), strict=True)), X, {"x": X, "y": GIVEN}):
        assert text_labels(data, "train", 30) == set()
