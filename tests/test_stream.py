"""Any data source gives the same result; bad data give one line; the model is left as found."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
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
from underscript._stream import Source
from underscript.errors import DataError, LabelError, ModelError, UnderscriptError

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


IN_ORDER = decode((X, Y), test=(X, Y))
WITH_LABELS = decode((X, Y), labels=GIVEN, true_labels=Y)


def loader(data: Any = None, size: int = 16, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(X, Y) if data is None else data, batch_size=size, **options)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


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


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_gives_the_same_result(kind):
    assert_same(decode(SOURCES[kind](), test=SOURCES[kind]()), IN_ORDER)


def test_workers_read_the_same():
    assert_same(decode(loader(num_workers=2, shuffle=True), test=(X, Y)), IN_ORDER)


SEPARATE = [kind for kind in SOURCES if "shuffl" not in kind or "index" in kind]


@pytest.mark.parametrize("kind", [k for k in SEPARATE if k != "loader of ready batches"])
def test_separate_labels_go_to_their_samples(kind):
    assert_same(decode(SOURCES[kind](), labels=GIVEN, true_labels=TRUE), WITH_LABELS)


def test_separate_labels_stand_in_for_labels_that_the_data_lack():
    assert_same(decode(X, labels=GIVEN, true_labels=TRUE), WITH_LABELS)
    assert_same(decode(list(X), labels=GIVEN, true_labels=TRUE), WITH_LABELS)


@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, N + 5))
def test_the_batch_size_changes_nothing(size):
    assert_same(decode((X, Y), test=(X, Y), batch_size=size), IN_ORDER)
    assert_same(decode(loader(size=size), test=loader(size=size)), IN_ORDER)


UNKNOWN_ORDER: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: loader(shuffle=True),
    "shuffled, drop_last": lambda: loader(shuffle=True, drop_last=True),
    "with replacement": lambda: loader(sampler=RandomSampler(range(N), replacement=True)),
    "subset": lambda: loader(sampler=SubsetRandomSampler(range(N))),
    "batch sampler": lambda: DataLoader(
        TensorDataset(X, Y), batch_sampler=BatchSampler(RandomSampler(range(N)), 7, False)
    ),
    # A sampler of whole batches in the sampler's place: batch_size is None, the order is random.
    "bulk loading": lambda: DataLoader(
        Bulk(), sampler=BatchSampler(RandomSampler(range(N)), 16, False), batch_size=None
    ),
}


@pytest.mark.parametrize("what", ["labels", "true_labels"])
@pytest.mark.parametrize("kind", UNKNOWN_ORDER)
def test_separate_labels_of_a_loader_with_an_order_of_its_own_need_the_index(kind, what):
    # The alternative is silent: every label goes to a wrong sample.
    options = {what: GIVEN, "holdout": (X, Y)}
    with pytest.raises(LabelError, match="index") as caught:
        decode(UNKNOWN_ORDER[kind](), **options)
    assert "\n" not in str(caught.value)


def test_ready_batches_in_random_order_have_no_known_index():
    # Positions in this pass are not places in the data set: a held-out tenth would be another
    # tenth in each pass, and label issues would point at wrong samples.
    shuffled = DataLoader(Chunks(), batch_size=None, shuffle=True)
    with pytest.raises(LabelError, match="index"):
        decode(shuffled)


@pytest.mark.parametrize("first", [1, 10**6, -1])
@pytest.mark.parametrize("what", ["labels", "true_labels"])
def test_an_index_outside_the_separate_labels_is_an_error(first, what):
    with pytest.raises(LabelError, match="index") as caught:
        decode(loader(Indexed(first=first), shuffle=True), **{what: GIVEN})
    assert "\n" not in str(caught.value)


def test_any_index_will_do_without_separate_labels():
    found = decode(loader(Indexed(first=10**6), shuffle=True), holdout=(X, Y))
    issues = found.label_issues()
    assert issues.index.tolist() == list(range(10**6, 10**6 + N))
    assert issues["given_label"].tolist() == TRUE.tolist()


# Bad labels ---------------------------------------------------------------------------------


def with_label(value: Any, dtype: Any = np.int64) -> np.ndarray:
    labels = GIVEN.astype(dtype)
    labels[70] = value
    return labels


BAD_LABELS = {
    "out of range": (with_label(4), "label 4 at index 70.*4 classes"),
    "negative": (with_label(-1), "-1"),
    "floating": (GIVEN.astype(float), "float64"),
    "floating with NaN": (with_label(np.nan, float), "float64"),
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


@pytest.mark.parametrize("kind", ["torch arrays", "dataset", "loader", "iterable dataset",
                                  "loader, drop_last", "shuffled with index"])  # fmt: skip
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
    assert (issues["predicted_label"] != 0).all()
    assert issues["predicted_label"].tolist() == found.best.predict(X).tolist()


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
        {"x": X, "y": Y},
        (X.tolist(), Y.tolist()),  # lists are no arrays
        (X, Y, Y, Y),
        TensorDataset(X, Y, Y, Y),
        [("cat", 1), ("dog", 0)],
        [{"label": 1}, {"label": 0}],
    ],
    ids=["number", "path", "dict", "lists", "four arrays", "four parts", "strings",
         "no input"],
)  # fmt: skip
def test_what_is_no_data_is_one_clear_line(wrong):
    with pytest.raises(UnderscriptError) as caught:
        decode(wrong)
    assert "\n" not in str(caught.value)
    assert "train" in str(caught.value)


def test_predicting_needs_no_labels():
    inputs = [X, X.numpy(), (X, Y), TensorDataset(X), TensorDataset(X, Y), loader(), list(X)]
    expected = IN_ORDER.best.predict(X)
    for x in inputs:
        assert IN_ORDER.best.predict(x).tolist() == expected.tolist()


def test_too_few_samples_for_a_held_out_tenth_ask_for_a_holdout():
    with pytest.raises(DataError, match="holdout"):
        decode((X[:2], torch.tensor([0, 1])))


# Precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_of_low_precision_activations_are_as_good_as_float64(dtype):
    # 6,000 rows near 8: a float16 sum of squares would overflow, a bfloat16 sum would stall.
    n = 6000
    x, y = models.data("rows", n)
    x = (x + 8).to(dtype)
    model = models.build("mlp", seed=3).to(dtype)
    found = us.decode(
        model, (x, y), holdout=(x, y), layers="fc1", controls=False, progress=False, batch_size=500
    )
    with torch.no_grad():
        # The same batches, as the last digit of a product may depend on the batch.
        rows = torch.cat([model.fc1(part) for part in x.split(500)]).double()
    for k, values in enumerate(found.best.estimator.eigenvalues_):
        exact = torch.linalg.eigvalsh(rows[y == k].T @ rows[y == k]).flip(0)[: len(values)]
        np.testing.assert_allclose(values, exact, rtol=1e-6, atol=1e-9 * float(exact[0]))


def test_inputs_take_the_models_own_precision():
    model = models.build("mlp", seed=3)
    for dtype in (torch.bfloat16, torch.float64):
        low = models.build("mlp", seed=3).to(dtype)
        found = decode((X, Y), model=low)
        assert found.best.predict(X).shape == (N,)
    assert_same(decode((X.double(), Y), model=model), decode((X, Y), model=model))


# Left as found ------------------------------------------------------------------------------


class Disturbance(BaseException):
    """Nothing catches it by accident."""


class RaisingData(Indexed):
    def __init__(self, error: type[BaseException]):
        super().__init__()
        self.error = error

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, int]:
        if i == 50:
            raise self.error("in the data")
        return super().__getitem__(i)


class RaisingModel(nn.Module):
    """Raises in the middle of a forward pass once it sees a value above 100."""

    def __init__(self, error: type[BaseException]):
        super().__init__()
        self.body, self.error = models.build("dropout"), error

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body.body(x)
        if bool((x > 100).any()):
            raise self.error("in the model")
        return self.body.readout(hidden)


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return all that a user could find changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    hooks += tuple(f"{name}_with_kwargs" for name in hooks[:2])
    kept = model.state_dict(keep_vars=True)
    return {
        "modes": [m.training for m in model.modules()],
        "weights": {k: v.numpy().tobytes() for k, v in model.state_dict().items()},
        "places": {k: (v.data_ptr(), v.device) for k, v in kept.items()},
        "gradients": [(p.requires_grad, p.grad) for p in model.parameters()],
        "hooks": [[list(getattr(m, h, {})) for h in hooks] for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": np.random.get_state()[1].tobytes(),  # noqa: NPY002
        "numpy at": np.random.get_state()[2],  # noqa: NPY002
        "python": random.getstate(),
        "grad": torch.is_grad_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "dtype": torch.get_default_dtype(),
    }


def in_odd_state(model: nn.Module) -> nn.Module:
    """Put the model in training mode but for its first part, with a hook of the user's own."""
    model.train()
    next(model.children()).eval()
    next(model.parameters()).requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    torch.manual_seed(11)
    np.random.seed(12)  # noqa: NPY002
    random.seed(13)
    return model


def assert_left_as_found(model: nn.Module, job: Callable[[], Any], error: Any = None) -> None:
    in_odd_state(model)
    before = state_of(model)
    if error is None:
        job()
    else:
        with pytest.raises(error):
            job()
    after = state_of(model)
    changed = [key for key in before if before[key] != after[key]]
    assert not changed


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_is_left_as_found(name):
    model, data = models.build(name, seed=3), models.data_for(name, 80)
    assert_left_as_found(
        model,
        lambda: us.decode(model, data, test=data, probes=("masc", "velpic"), progress=False),
    )


@pytest.mark.parametrize("kind", ["loader", "shuffled", "dataset", "custom sampler with index"])
def test_the_random_states_are_left_as_found_by_loaders_too(kind):
    # Starting a DataLoader draws a seed from torch's global generator, even in order.
    model = models.build("dropout", seed=3)
    assert_left_as_found(model, lambda: decode(SOURCES[kind](), model=model))
    assert_left_as_found(model, lambda: us.list_layers(model, SOURCES[kind]()))
    found = decode((X, Y), model=model)
    assert_left_as_found(model, lambda: found.best.predict(SOURCES[kind]()))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Disturbance])
@pytest.mark.parametrize("controls", [False, True])
def test_the_model_is_left_as_found_when_a_batch_raises(error, controls):
    model = models.build("dropout", seed=3)
    data = RaisingData(error)
    job = lambda: decode(data, model=model, batch_size=16, controls=controls)  # noqa: E731
    assert_left_as_found(model, job, (error, DataError))
    # In the test data, after the decoders were fitted.
    job = lambda: decode((X, Y), test=data, model=model, batch_size=16, controls=controls)  # noqa: E731
    assert_left_as_found(model, job, (error, DataError))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Disturbance])
def test_the_model_is_left_as_found_when_it_raises(error):
    model = RaisingModel(error)
    bad = X.clone()
    bad[70] = 101
    expected = ModelError if issubclass(error, Exception) else error
    assert_left_as_found(model, lambda: decode((bad, Y), model=model, batch_size=16), expected)
    first = bad.flip(0)
    assert_left_as_found(model, lambda: decode((first, Y), model=model), expected)
    assert_left_as_found(model, lambda: us.list_layers(model, bad[69:71]), expected)
    found = decode((X, Y), model=model)
    assert_left_as_found(model, lambda: found.best.predict(bad), expected)


@pytest.mark.parametrize(
    ("data", "error"),
    [((X, with_label(4)), LabelError), ((torch.where(X > 4, torch.nan, X), Y), DataError)],
    ids=["label out of range", "NaN"],
)
def test_the_model_is_left_as_found_when_the_data_are_bad(data, error):
    model = models.build("dropout", seed=3)
    assert_left_as_found(model, lambda: decode(data, model=model, batch_size=16), error)


def test_batch_norm_statistics_do_not_move_when_the_model_is_in_training_mode():
    quiet, training = models.build("dropout", seed=3), models.build("dropout", seed=3).train()
    assert_same(decode((X, Y), model=training), decode((X, Y), model=quiet))


def test_a_loaders_source_reads_the_same_again():
    source = Source(loader(shuffle=True), "train")
    passes = [np.concatenate([b.labels for b in source.batches()]) for _ in range(3)]
    for labels in passes:
        assert labels.tolist() == TRUE.tolist()


def test_a_data_set_that_can_be_read_only_once_is_an_error():
    class Once(IterableDataset):
        def __init__(self):
            self.rest = iter(zip(X, Y, strict=True))

        def __iter__(self):
            return self.rest

    with pytest.raises(DataError, match="train"):
        decode(Once())


def test_a_data_set_that_raises_is_named_in_one_line():
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, index):
            raise FileNotFoundError(f"image {index} is gone\nand more")

    with pytest.raises(DataError, match="train: the data raised FileNotFoundError in batch 0") as e:
        us.decode(models.build("mlp"), Broken(), progress=False)
    assert "\n" not in str(e.value)
