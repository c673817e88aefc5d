"""The user's model, data and random states are as they were, whatever happens."""

import numpy as np
import pytest
import torch
from torch.utils.data import (
    IterableDataset,
)

import models
import underscript as us
from left_as_found import Disturbance, RaisingData, RaisingModel, assert_left_as_found
from sources import (
    SOURCES,
    TRUE,
    X,
    Y,
    assert_same,
    decode,
    loader,
    with_label,
)
from underscript.data.source import Source
from underscript.errors import DataError, LabelError, ModelError


# Token numbers without a mask, and a network that was never trained, are not perturbed.
@pytest.mark.filterwarnings("ignore:not perturbed", "ignore:nothing tells memory")
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


# It was never trained: with noise it answers as by chance, and that is told.
@pytest.mark.filterwarnings("ignore:not perturbed", "ignore:nothing tells memory")
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
