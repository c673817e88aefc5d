"""The samples that a report shows: the worst, of any kind, kept in a folder and read back."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import models
import underscript as us
from underscript.data.batches import Batch
from underscript.errors import DataError
from underscript.results.examples import SHOWN, Worst, load_examples, save_examples


def predictions(quality, given, predicted, index=None):
    """Of `Predictions` what is looked at here."""
    return SimpleNamespace(
        index=index, given=given, predicted=predicted, quality=np.asarray(quality)
    )


def batches(inputs, size):
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        index = np.arange(start, start + len(part))
        yield Batch((part,), {}, None, index, len(part)), index


def gather(inputs, quality, given, predicted, size, **settings):
    worst = Worst(**settings)
    for batch, index in batches(inputs, size):
        part = predictions(quality[index], given[index], predicted[index], index)
        worst.add(batch, part)
    return worst


def drawn(n_classes):
    rng = np.random.default_rng(3)
    n = 3_000
    given = rng.integers(0, n_classes, n)
    other = (given + rng.integers(1, n_classes, n)) % n_classes
    predicted = np.where(rng.random(n) < 0.4, other, given)
    # One class is easy to propose, as a one among digits: the worst of all are its.
    quality = np.where(predicted == 1, 0.1, 1.0) * rng.random(n)
    return torch.rand(n, 1, 4, 4), quality, given, predicted


@pytest.fixture
def many():
    return drawn(7)


# Of 7 classes each of 42 pairs has a share, of 30 only each given class.
@pytest.mark.parametrize(("n_classes", "by_pair", "each"), [(7, True, 1), (30, False, 2)])
@pytest.mark.parametrize("size", [1, 7, 512, 3_000])
def test_the_worst_of_each_kind_are_kept_whatever_the_batches(n_classes, by_pair, each, size):
    inputs, quality, given, predicted = drawn(n_classes)
    worst = gather(inputs, quality, given, predicted, size, n_classes=n_classes)
    kept = [example.index for example in worst.examples()]
    wrong = np.flatnonzero(given != predicted)
    ranked = wrong[np.argsort(quality[wrong])]
    kind = given * n_classes + predicted if by_pair else given
    wanted = {i for k in np.unique(kind) for i in ranked[kind[ranked] == k][:each]}
    for i in ranked:
        if len(wanted) == SHOWN:
            break
        wanted.add(i)
    assert set(kept) == wanted
    assert kept == sorted(kept, key=lambda i: quality[i])


def test_processes_together_keep_what_one_would(many):
    inputs, quality, given, predicted = many
    alone = gather(inputs, quality, given, predicted, 512, n_classes=7)
    first, second = Worst(n_classes=7), Worst(n_classes=7)
    for number, (batch, index) in enumerate(batches(inputs, 100)):
        part = predictions(quality[index], given[index], predicted[index], index)
        (first if number % 2 else second).add(batch, part)
    first.merge(second)
    assert [e.index for e in first.examples()] == [e.index for e in alone.examples()]


def one(sample, show=None):
    """What is kept of one sample, given as the model takes it."""
    worst = Worst(show)
    batch = Batch((sample[None],), {}, None, None, 1)
    worst.add(batch, predictions([0.1], np.array([0]), np.array([1])))
    return worst.examples()[0]


def test_pictures_are_found_by_their_shape_and_made_small():
    assert one(torch.rand(1, 28, 28)).picture.shape == (28, 28)
    assert one(torch.rand(3, 32, 20)).picture.shape == (32, 20, 3)
    assert one(torch.rand(300, 200, 3)).picture.shape == (96, 64, 3)
    assert one(torch.rand(8, 8)).picture.shape == (8, 8)
    row = one(torch.arange(30.0))
    assert row.picture is None
    assert row.numbers[:3] == (0, 1, 2)
    assert row.width == 30
    assert one(torch.rand(16, 3, 8, 8)).text == "16 × 3 × 8 × 8 numbers"


def test_bytes_stay_as_they_are_and_normalised_pictures_look_as_before():
    picture = torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8)
    np.testing.assert_array_equal(one(picture).picture, picture.movedim(0, 2).numpy())
    picture[:, 0, 0], picture[:, 0, 1] = 0, 255
    scale, shift = torch.tensor([4.0, 5.0, 6.0]), torch.tensor([0.5, 0.1, 0.2])
    seen = (picture / 255 - shift[:, None, None]) * scale[:, None, None]
    np.testing.assert_array_equal(one(seen).picture, picture.movedim(0, 2).numpy())


def test_show_says_what_is_shown():
    said = one(torch.tensor([3, 5]), lambda tokens: f"<b>{tokens.tolist()}</b>")
    assert said.text == "<b>[3, 5]</b>"
    assert one(torch.rand(4), lambda _: Image.new("RGB", (5, 6))).picture.shape == (6, 5, 3)
    assert one(torch.rand(4), lambda _: [1, 2.5]).numbers == (1, 2.5)
    assert len(one(torch.rand(4), lambda _: "x" * 10_000).text) == 400
    with pytest.raises(DataError, match="show: raised ZeroDivisionError for sample 0"):
        one(torch.rand(4), lambda _: 1 / 0)


def test_a_sample_of_several_inputs_is_handed_over_by_name():
    worst = Worst(lambda sample: " ".join(sorted(sample)))
    batch = Batch((), {"ids": torch.ones(1, 3), "mask": torch.ones(1, 3)}, None, None, 1)
    worst.add(batch, predictions([0.1], np.array([0]), np.array([1])))
    assert worst.examples()[0].text == "ids mask"


def test_there_and_back(tmp_path: Path):
    kept = [
        one(torch.rand(3, 8, 8)),
        one(torch.rand(1, 8, 8)),
        one(torch.rand(5)),
        one(torch.rand(2), lambda _: "a \ud800 text"),
    ]
    save_examples(kept, tmp_path / "examples")
    read = load_examples(tmp_path / "examples")
    assert len(read) == 4
    for before, after in zip(kept, read, strict=True):
        assert (before.picture is None) == (after.picture is None)
        if before.picture is not None:
            np.testing.assert_array_equal(before.picture, after.picture)
        assert before.numbers == after.numbers
    assert read[3].text == "a ? text"


def test_a_run_shows_flagged_samples_only_and_with_their_own_inputs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 12, generator=generator)
    y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    given = us.corrupt_labels(y.numpy(), 0.3, n_classes=4, seed=0)
    found = us.decode(
        models.build("mlp", seed=3), (x, given), layers="relu*", controls=False, progress=False
    )
    issues = found.label_issues()
    assert 0 < len(found.examples) <= SHOWN
    for example in found.examples:
        row = issues.loc[example.index]
        assert row["is_label_issue"]
        assert (example.given, example.predicted) == (row["given_label"], row["predicted_label"])
        assert example.quality == row["label_quality"]
        np.testing.assert_allclose(example.numbers, x[example.index].numpy(), rtol=1e-6)
