"""`best.predict` takes what the model takes; what it cannot read it refuses in one line."""

import json
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import models
import underscript as us
from small_decodes import GIVEN, MODEL, TEST_X, TEST_Y, X, Y
from underscript.errors import DataError


class Two(nn.Module):
    """A network of two inputs; their places are not the order of their names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(12, 6), nn.Linear(12, 6)
        self.readout = nn.Linear(12, 4)

    def forward(self, right: Tensor, left: Tensor) -> Tensor:
        hidden = torch.cat([self.first(right), self.second(left)], 1)
        return self.readout(hidden.relu())


class Words(nn.Module):
    """Words with a mask, as a text classifier takes them; the body is the mean of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.body = nn.Embedding(50, 16), nn.Linear(16, 16)
        self.readout = nn.Linear(16, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight = attention_mask[..., None].float()
        mean = (self.embed(input_ids) * weight).sum(1) / weight.sum(1)
        return self.readout(self.body(mean).relu())


def decoded(model: nn.Module, train: Any, **options: Any) -> us.Decoding:
    options = {"controls": False, "progress": False, "variance": 0.5} | options
    return us.decode(model, train, **options)


@cache
def of_rows() -> us.Decoding:
    return decoded(MODEL, (X, GIVEN))


@cache
def of_two(named: bool) -> us.Decoding:
    inputs = {"left": 3 * X.flip(1), "right": X} if named else (X, 3 * X.flip(1))
    # All layers are read, with the input, whose columns are in the order of places or names.
    return decoded(Two(), (inputs, GIVEN), probes=("masc",), auto=False, layers="input")


def texts(n: int = 200) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(3)
    y = torch.randint(0, 4, (n,), generator=generator)
    ids = 1 + 12 * y[:, None] + torch.randint(0, 12, (n, 9), generator=generator)
    mask = (torch.arange(9) < torch.randint(4, 10, (n, 1), generator=generator)).long()
    return {"input_ids": ids * mask, "attention_mask": mask}, y


@cache
def of_words() -> us.Decoding:
    encoded, y = texts()
    return decoded(Words(), (encoded, us.corrupt_labels(y, 0.3, seed=1)))


class Bare(Dataset):
    def __len__(self) -> int:
        return len(TEST_X)

    def __getitem__(self, i: int) -> Tensor:
        return TEST_X[i]


@pytest.mark.parametrize(
    "x",
    [
        TEST_X,
        TEST_X.numpy(),
        TEST_X.numpy().astype(np.float64),
        TEST_X.tolist(),
        [TEST_X],
        (TEST_X,),
        list(TEST_X),
        list(TEST_X.numpy()),
        (TEST_X, TEST_Y),
        [TEST_X.numpy(), TEST_Y.numpy()],
        {"x": TEST_X},
        {"input": TEST_X.numpy()},
        pd.DataFrame(TEST_X.numpy()),
        (pd.DataFrame(TEST_X.numpy()), pd.Series(TEST_Y.numpy())),
        (TEST_X, ["a", "b"] * 50),
        TensorDataset(TEST_X),
        TensorDataset(TEST_X, TEST_Y),
        DataLoader(TensorDataset(TEST_X, TEST_Y), 7),
        Bare(),
        DataLoader(Bare(), 7),
    ],
)
def test_one_input_in_every_form(x):
    best = of_rows().best
    expected = best.decision_function(TEST_X)
    np.testing.assert_allclose(best.decision_function(x), expected, atol=1e-4)
    np.testing.assert_array_equal(best.predict(x), expected.argmax(1))
    probabilities = best.predict_proba(x)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(1), expected.argmax(1))


def test_two_samples_in_a_list_are_no_pair_of_inputs_and_labels():
    best = of_rows().best
    expected = best.predict(TEST_X[:2])
    for two in (list(TEST_X[:2]), list(TEST_X[:2].numpy()), TEST_X[:2].tolist()):
        np.testing.assert_array_equal(best.predict(two), expected)


ONE = r"expected samples of shape \(12,\), .*; found 12 of shape \(\)\. .* one sample: x\[None\]"


@pytest.mark.parametrize(
    "x",
    [TEST_X[0], TEST_X[0].numpy(), TEST_X[0].tolist(), {"x": TEST_X[0]}, (TEST_X[0], TEST_Y[0])],
)
def test_one_sample_says_that_it_is_no_batch(x):
    with pytest.raises(DataError, match=ONE):
        of_rows().best.predict(x)
    assert of_rows().best.predict(TEST_X[0][None]).shape == (1,)


def test_one_image_says_so_too_but_flat_images_are_a_batch():
    images, y = models.data("images", 60)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 8), nn.ReLU(), nn.Linear(8, 4))
    best = decoded(flat, (images, y), auto=False).best
    expected = best.predict(images)
    # Without the dimension of channels each row still is one sample.
    np.testing.assert_array_equal(best.predict(images[:, 0]), expected)
    np.testing.assert_array_equal(best.predict(images.flatten(1)), expected)
    with pytest.raises(DataError, match=r"one sample: x\.reshape\(1, 1, 6, 6\)"):
        best.predict(images[0, 0])
    np.testing.assert_array_equal(best.predict(images[0]), expected[:1])


def test_a_saved_run_knows_the_shapes_and_one_of_an_earlier_version_does_not(tmp_path):
    of_rows().save(tmp_path / "run")
    with pytest.raises(DataError, match=ONE):
        us.load(tmp_path / "run", MODEL).best.predict(TEST_X[0])
    path = tmp_path / "run" / "decoder" / "config.json"
    config = json.loads(path.read_text())
    assert config["shapes"] == {"0": [12]}
    del config["shapes"]
    path.write_text(json.dumps(config))
    best = us.load(tmp_path / "run", MODEL).best
    np.testing.assert_array_equal(best.predict(TEST_X), of_rows().best.predict(TEST_X))


@pytest.mark.parametrize("named", [True, False])
def test_several_inputs_by_place_and_by_name_are_the_same(named):
    best = of_two(named).best
    left, right = 3 * TEST_X.flip(1), TEST_X
    places = range(len(TEST_X))
    forms: list[Any] = [
        (right, left),
        [right, left],
        (right.numpy(), left.numpy()),
        ((right, left), TEST_Y),
        {"left": left, "right": right},
        {"right": right, "left": left, "labels": TEST_Y},
        DataLoader([((right[i], left[i]), 0) for i in places], 8),
        DataLoader([{"left": left[i], "right": right[i]} for i in places], 8),
    ]
    expected = best.decision_function(forms[0])
    # The input is read as it was fitted: the columns of both, in one order.
    columns = [left, right] if named else [right, left]
    by_hand = best.estimator.decision_function(torch.cat(columns, 1).numpy())
    np.testing.assert_allclose(expected, by_hand, atol=1e-5)
    for form in forms:
        np.testing.assert_allclose(best.decision_function(form), expected, atol=1e-5)


@pytest.mark.parametrize("x", [TEST_X, (TEST_X, TEST_Y), TensorDataset(TEST_X, TEST_X)])
def test_a_missing_input_is_named(x):
    with pytest.raises(DataError, match=r"expected 0, 1, .*; 1 is missing\. Give a tuple of all"):
        of_two(False).best.predict(x)
    with pytest.raises(DataError, match=r"expected left, right, .* is missing\. Give a dict"):
        of_two(True).best.predict(x)


@pytest.mark.parametrize("views", [0, 2])
def test_words_in_every_form(views):
    best = of_words().best
    encoded, _ = texts(40)
    expected = best.decision_function(encoded, views=views)
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    for form in (
        {name: value.numpy() for name, value in encoded.items()},
        {name: value.tolist() for name, value in encoded.items()},
        (ids, mask),
        [{"input_ids": ids[i], "attention_mask": mask[i]} for i in range(40)],
    ):
        np.testing.assert_allclose(best.decision_function(form, views=views), expected, atol=1e-4)
    np.testing.assert_allclose(
        best.predict_proba(encoded, views=views), softmax(expected), atol=1e-5
    )


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_a_tokenizers_output_is_one_batch():
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    encoded, _ = texts(40)
    best = of_words().best
    expected = best.predict(encoded)
    batch = transformers.BatchEncoding(encoded)
    np.testing.assert_array_equal(best.predict(batch), expected)
    lists = transformers.BatchEncoding({name: value.tolist() for name, value in encoded.items()})
    np.testing.assert_array_equal(best.predict(lists), expected)
    with torch.no_grad():
        np.testing.assert_array_equal(best.module(**batch).argmax(1).numpy(), expected)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1]}, r"input_ids: .*found 3 of shape"),
        ({"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1], [1]]}, "padded to one length"),
        ("a film", "found text, 'a film'; give a tokenizer's output"),
        (["a film", "another"], "found text, 'a film'; give a tokenizer's output"),
        (texts(3)[0]["input_ids"], "attention_mask is missing. Give a dict"),
    ],
)
def test_words_that_are_no_batch_are_one_line(x, message):
    with pytest.raises(DataError, match=message) as caught:
        of_words().best.predict(x)
    assert "\n" not in str(caught.value)


def test_the_module_takes_tensors_and_says_what_else_to_do():
    best = of_rows().best
    with torch.no_grad():
        np.testing.assert_allclose(best.module(TEST_X), best.decision_function(TEST_X), atol=1e-4)
        two = of_two(False).best
        both = TEST_X, 3 * TEST_X.flip(1)
        by_name = two.module(right=both[0], left=both[1])
        np.testing.assert_allclose(two.module(*both), by_name)
        np.testing.assert_allclose(by_name, two.decision_function(both), atol=1e-4)
    with pytest.raises(DataError, match=ONE):
        best.module(TEST_X[0])
    with pytest.raises(DataError, match=r"found ndarray; torch\.from_numpy"):
        best.module(TEST_X.numpy())
    with pytest.raises(DataError, match=r"found dict; give what is in it by names: module\(\*\*"):
        best.module({"x": TEST_X})
    with pytest.raises(DataError, match="attention_mask is missing"):
        of_words().best.module(texts(3)[0]["input_ids"])


def test_features_alone_are_a_table_or_an_array():
    table = pd.DataFrame(X.numpy(), columns=[f"f{i}" for i in range(X.shape[1])])
    by_table = us.decode(None, table, labels=GIVEN, progress=False, controls=False, variance=0.5)
    best = by_table.best
    expected = best.predict(TEST_X)
    assert np.mean(expected == TEST_Y.numpy()) > 0.9
    np.testing.assert_array_equal(best.predict(pd.DataFrame(TEST_X.numpy())), expected)
    np.testing.assert_array_equal(best.predict(TEST_X.tolist()), expected)
    with pytest.raises(DataError, match=r"found a Series; give one row as table\.iloc"):
        best.predict(table.iloc[0])
    with pytest.raises(DataError, match=r"x\[None\]"):
        best.predict(TEST_X[0])
    assert best.predict(table.iloc[[0]]).shape == (1,)
    assert len(Y) == len(by_table.label_issues())
