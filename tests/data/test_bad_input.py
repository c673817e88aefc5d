"""Bad labels and bad data: one clear line each, and no wrong number."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    TensorDataset,
)

import models
import underscript as us
from sources import (
    GIVEN,
    MODEL,
    SOURCES,
    TRUE,
    N,
    Streamed,
    X,
    Y,
    decode,
    loader,
    with_label,
)
from underscript.errors import DataError, LabelError, UnderscriptError

# Bad labels ---------------------------------------------------------------------------------


BAD_LABELS = {
    "out of range": (with_label(4), "label 4 at index 70.*4 classes"),
    "negative": (with_label(-1), "-1"),
    "floating": (GIVEN.astype(float), "float64"),
    "floating with NaN": (with_label(np.nan, float), "missing|float64"),
    "(n, 1)": (GIVEN[:, None], r"\(80, 1\)|\(16, 1\)"),
    "one-hot": (np.eye(4, dtype=int)[GIVEN], r"\(80, 4\)|\(16, 4\)"),
    "one class only": (np.full(N, 2), "at least 2 classes"),
    "strings": (np.array(["cat", "dog"] * (N // 2)), "integer"),
    "booleans": (GIVEN > 1, "bool"),
}


WAYS = ["pair", "loader", "labels=", "true_labels=", "test", "holdout"]
# One class is fine where nothing is fitted, and torch tensors hold no strings.
FINE = [("one class only", way) for way in WAYS[3:]] + [("strings", "loader")]


@pytest.mark.parametrize(
    ("kind", "way"), [(kind, way) for kind in BAD_LABELS for way in WAYS if (kind, way) not in FINE]
)
def test_bad_labels_are_one_clear_line(kind, way):
    labels, message = BAD_LABELS[kind]
    options: dict[str, Any] = {}
    train: Any = (X, Y)
    if way == "pair":
        train = (X, labels)
    elif way == "loader":
        train = loader(TensorDataset(X, torch.from_numpy(labels)))
    elif way.endswith("="):
        options[way[:-1]] = labels
    else:
        options[way] = (X, labels)
    with pytest.raises(LabelError, match=message) as caught:
        decode(train, **options)
    assert "\n" not in str(caught.value)
    where = {"pair": "train", "loader": "train", "labels=": "train"}.get(way, way.rstrip("="))
    assert where in str(caught.value)


@pytest.mark.parametrize(
    "kind",
    [
        "torch arrays",
        "dataset",
        "loader",
        "iterable dataset",
        "loader, drop_last",
        "shuffled with index",
    ],
)
@pytest.mark.parametrize("length", [0, N - 1, N + 1, 2 * N])
@pytest.mark.parametrize("what", ["labels", "true_labels"])
def test_separate_labels_of_another_length_are_an_error(kind, length, what):
    labels = np.resize(GIVEN, length)
    with pytest.raises(LabelError, match=str(length)) as caught:
        decode(SOURCES[kind](), **{what: labels})
    assert "\n" not in str(caught.value)


def test_a_pair_of_different_lengths_is_an_error():
    with pytest.raises(LabelError, match=r"79 labels and 80 inputs"):
        decode((X, Y[:-1]))


def test_bad_labels_in_a_late_batch_are_named_by_their_index():
    with pytest.raises(LabelError, match="-1 at index 70"):
        decode(TensorDataset(X, torch.from_numpy(with_label(-1))), batch_size=16)


def test_data_without_labels_is_an_error():
    with pytest.raises(LabelError, match="train"):
        decode(X)
    with pytest.raises(LabelError, match="test"):
        decode((X, Y), test=X)


def test_a_class_that_the_data_lack_is_warned_about_once_and_never_predicted():
    few = torch.where(Y == 0, 1, Y)
    with pytest.warns(us.UnderscriptWarning) as caught:
        found = us.decode(MODEL, (X, few), test=(X, Y), probes=("masc", "velpic"), progress=False)
    about = [str(w.message) for w in caught if "class 0" in str(w.message)]
    assert len(about) == 1
    assert about[0] in found.summary["warnings"]
    assert (found.best.predict(X) != 0).all()
    assert (found.label_issues()["predicted_label"] != 0).all()


def test_a_lacking_class_is_not_predicted_for_dead_rows_either():
    # Every angle of an all-zero row is 90°: the tie goes to a class that the data hold.
    model = models.build("mlp", seed=3)
    with torch.no_grad():
        model.fc2.bias.fill_(-1.0)
    few = torch.where(Y == 0, 1, Y)
    with pytest.warns(us.UnderscriptWarning):
        found = decode((X, few), model=model, layers="relu2")
    with torch.no_grad():
        dead = (model[:4](X) == 0).all(1).numpy()
    assert 0 < dead.sum() < N, "the test needs some dead rows"
    issues = found.label_issues()
    assert (found.best.predict(X) != 0).all()
    # Of what was fitted without each sample's label as well.
    assert (issues["predicted_label"] != 0).all()


# Bad data -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("role", ["train", "test", "holdout"])
def test_values_that_are_not_finite_name_the_layer_and_the_sample(value, role):
    x = X.clone()
    x[70, 3] = value
    sources: dict[str, Any] = {"train": (X, Y), role: (x, Y)}
    with pytest.raises(DataError, match=rf"{role}, batch 2.*'input'.*index 70") as caught:
        decode(sources.pop("train"), batch_size=32, **sources)
    assert "\n" not in str(caught.value)


def test_a_hidden_layer_that_overflows_is_named():
    model = models.build("mlp", seed=3)
    with torch.no_grad():
        model.fc2.weight.fill_(torch.inf)
    with pytest.raises(DataError, match="'relu2'"):
        decode((X, Y), model=model)


def test_a_half_precision_layer_that_overflows_is_named():
    model = models.build("mlp", seed=3).half()
    with torch.no_grad():
        model.fc1.weight.mul_(200)
    with pytest.raises(DataError, match="'relu1'"):
        decode((X.half() * 200, Y), model=model)


def test_squares_that_overflow_name_the_layer():
    model = models.build("mlp", seed=3).double()
    with pytest.raises(DataError, match=r"'(input|relu1)'"):
        decode((X.double() * 1e200, Y), model=model)


EMPTY: dict[str, Callable[[], Any]] = {
    "arrays": lambda: (X[:0], Y[:0]),
    "numpy arrays": lambda: (X[:0].numpy(), TRUE[:0]),
    "dataset": lambda: TensorDataset(X[:0], Y[:0]),
    "list": list,
    "iterable": lambda: Streamed(0),
    "loader": lambda: loader(TensorDataset(X[:0], Y[:0])),
    "iterable loader that drops all": lambda: loader(Streamed(), size=100, drop_last=True),
}


@pytest.mark.parametrize("kind", EMPTY)
@pytest.mark.parametrize("role", ["train", "test", "holdout"])
def test_a_data_set_of_length_zero_is_an_error(kind, role):
    sources: dict[str, Any] = {"train": (X, Y), role: EMPTY[kind]()}
    with pytest.raises(DataError, match=f"{role}: expected at least one sample") as caught:
        decode(sources.pop("train"), **sources)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        42,
        "train.csv",
        {"x": "cat", "y": Y[:0]},
        ([[0.5, 1.0], [2.0]], [0, 1]),  # rows of several lengths
        (X, Y, Y, Y),
        TensorDataset(X, Y, Y, Y),
        [("cat", 1), ("dog", 0)],
        [{"label": 1}, {"label": 0}],
    ],
    ids=["number", "path", "dict", "lists", "four arrays", "four parts", "strings", "no input"],
)
def test_what_is_no_data_is_one_clear_line(wrong):
    with pytest.raises(UnderscriptError) as caught:
        decode(wrong)
    assert "\n" not in str(caught.value)
    assert "train" in str(caught.value)


def test_too_few_samples_for_a_held_out_tenth_ask_for_a_holdout():
    with pytest.raises(DataError, match="holdout"):
        decode((X[:2], torch.tensor([0, 1])), auto=False)


def test_a_data_set_that_raises_is_named_in_one_line():
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, index):
            raise FileNotFoundError(f"image {index} is gone\nand more")

    with pytest.raises(DataError, match="train: the data raised FileNotFoundError in batch 0") as e:
        us.decode(models.build("mlp"), Broken(), progress=False)
    assert "\n" not in str(e.value)


class TwoHeads(torch.nn.Module):
    """A colour and a shape: two outputs, of which no one is the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.shape = torch.nn.Linear(12, 4), torch.nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"colour": self.colour(x), "shape": self.shape(x)}


@pytest.mark.parametrize(
    ("model", "inputs", "said"),
    [
        (TwoHeads(), models.data("rows", 40), "may be its logits"),
        (models.SegmentationNet(), models.data("images", 40), "Only single-label classifiers"),
    ],
    ids=["several outputs", "segmentation"],
)
def test_models_with_more_than_one_answer_are_refused(model, inputs, said):
    with pytest.raises(UnderscriptError, match=said) as caught:
        us.decode(model, inputs, progress=False)
    assert "\n" not in str(caught.value)
