"""Any data source gives the same result; bad data give one line; the model is left as found."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
)

import models
import underscript as us
from sources import (
    GIVEN,
    SOURCES,
    TRUE,
    Bulk,
    Chunks,
    Indexed,
    N,
    X,
    Y,
    assert_same,
    decode,
    loader,
)
from underscript.errors import LabelError

IN_ORDER = decode((X, Y), test=(X, Y))
WITH_LABELS = decode((X, Y), labels=GIVEN, true_labels=Y)


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


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(size=st.integers(1, N + 5))
def test_the_batch_size_changes_nothing(size):
    assert_same(decode((X, Y), test=(X, Y), batch_size=size), IN_ORDER)
    assert_same(decode(loader(size=size), test=loader(size=size)), IN_ORDER)


OWN_ORDER: dict[str, Callable[[], Any]] = {
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
@pytest.mark.parametrize("kind", OWN_ORDER)
def test_separate_labels_go_to_the_places_that_a_sampler_gives(kind, what):
    # The alternative is silent: every label goes to a wrong sample.
    options = {what: GIVEN, "holdout": (X, Y)}
    assert_same(decode(OWN_ORDER[kind](), **options), decode((X, Y), **options))


def test_ready_batches_in_random_order_have_no_known_index():
    # Positions in this pass are not places in the data set: a held-out tenth would be another
    # tenth in each pass, and label issues would point at wrong samples.
    shuffled = DataLoader(Chunks(), batch_size=None, shuffle=True)
    with pytest.raises(LabelError, match="index"):
        decode(shuffled, auto=False)


@pytest.mark.parametrize("first", [1, 10**6, -1])
@pytest.mark.parametrize("what", ["labels", "true_labels"])
def test_an_index_outside_the_separate_labels_is_an_error(first, what):
    with pytest.raises(LabelError, match="index") as caught:
        decode(loader(Indexed(first=first), shuffle=True), **{what: GIVEN})
    assert "\n" not in str(caught.value)


def test_any_index_will_do_without_separate_labels():
    found = decode(loader(Indexed(first=10**6), shuffle=True), holdout=(X * 0.9, Y))
    issues = found.label_issues()
    assert issues.index.tolist() == list(range(10**6, 10**6 + N))
    assert issues["given_label"].tolist() == TRUE.tolist()


# Precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_of_low_precision_activations_are_as_good_as_float64(dtype):
    # 6,000 rows near 8: a float16 sum of squares would overflow, a bfloat16 sum would stall.
    n = 6000
    x, y = models.data("rows", n)
    x = (x + 8).to(dtype)
    model = models.build("mlp", seed=3).to(dtype)
    found = us.decode(
        model,
        (x, y),
        holdout=(x, y),
        layers="fc1",
        controls=False,
        progress=False,
        batch_size=500,
        auto=False,
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


def test_predicting_needs_no_labels():
    inputs = [X, X.numpy(), (X, Y), TensorDataset(X), TensorDataset(X, Y), loader(), list(X)]
    expected = IN_ORDER.best.predict(X)
    for x in inputs:
        assert IN_ORDER.best.predict(x).tolist() == expected.tolist()
