"""What a monitor keeps of each sample, against plain loops, whatever the order of the batches."""

import warnings
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
import torch

from underscript import UnderscriptWarning
from underscript.errors import DataError, LabelError
from underscript.results.monitor import pending, places, samples
from underscript.results.monitor.samples import SampleRecords

N, K, EPOCHS = 60, 4, 7


def drawn(seed=0):
    """Return logits (epochs, n, K) that change between epochs, labels, and odd indices."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(EPOCHS, N, K)).astype(np.float32)
    index = rng.permutation(10 * N)[:N].astype(np.int64) - 50
    index[0], index[1] = -(2**62), 2**62
    return logits, rng.integers(0, K, N), index


def recorded(logits, labels, index, size=16, seed=None, **how):
    """Return the records after all epochs, each in an order of its own."""
    records = SampleRecords(**how)
    for epoch, values in enumerate(logits):
        rng = np.random.default_rng((seed or 0, epoch))
        order = np.arange(N) if seed is None else rng.permutation(N)
        for start in range(0, N, size):
            at = order[start : start + size]
            records.update(torch.from_numpy(values[at]), labels[at], index[at])
        records.end_epoch(epoch + 1)
    return records


def test_everything_equals_a_plain_loop():
    logits, labels, index = drawn()
    margins, chances, predictions = defaultdict(list), defaultdict(list), defaultdict(list)
    for values in logits:
        for i in range(N):
            row = [float(value) for value in values[i]]
            others = [value for k, value in enumerate(row) if k != labels[i]]
            margins[i].append(row[labels[i]] - max(others))
            total = sum(np.exp(value) for value in row)
            chances[i].append([np.exp(value) / total for value in row])
            predictions[i].append(row.index(max(row)))
    table = recorded(logits, labels, index).table().set_index("index")
    assert list(table.index) == sorted(index)
    for i in range(N):
        row = table.loc[index[i]]
        right = [guess == labels[i] for guess in predictions[i]]
        own = [chance[labels[i]] for chance in chances[i]]
        forgotten = sum(a and not b for a, b in pairwise(right))
        assert row["aum"] == pytest.approx(sum(margins[i]) / EPOCHS, abs=1e-12)
        assert row["forgetting_events"] == forgotten
        assert row["learned_epoch"] == (1 + right.index(True) if any(right) else 0)
        assert row["correctness"] == pytest.approx(np.mean(right))
        assert row["confidence"] == pytest.approx(np.mean(own), abs=1e-6)
        assert row["variability"] == pytest.approx(np.std(own), abs=1e-6)
        assert row["given_label"] == labels[i]
        assert row["predicted_label"] == np.mean(chances[i], 0).argmax()


@pytest.mark.parametrize("size", [1, 7, N])
def test_order_and_size_of_batches_do_not_matter(size):
    one = recorded(*drawn()).table()
    other = recorded(*drawn(), size=size, seed=3).table()
    assert one.drop(columns=["confidence", "variability"]).equals(
        other.drop(columns=["confidence", "variability"])
    )
    # A softmax may round otherwise in a batch of another size.
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_the_last_of_several_times_in_an_epoch_counts():
    logits, labels, index = drawn()
    records = SampleRecords()
    records.update(logits[0], labels, index)
    records.update(logits[1], labels, index)
    records.end_epoch(1)
    assert records.table().equals(recorded(logits[1:2], labels, index).table())
    twice = SampleRecords()
    twice.update(np.concatenate(logits[:2]), np.tile(labels, 2), np.tile(index, 2))
    twice.end_epoch(1)
    np.testing.assert_allclose(twice.table(), records.table(), rtol=1e-6)


def test_epochs_that_a_sample_misses_do_not_count():
    logits, labels, index = drawn()
    records = SampleRecords()
    for epoch in range(4):
        some = slice(None) if epoch % 2 == 0 else slice(10)
        records.update(logits[epoch][some], labels[some], index[some])
        records.end_epoch(epoch + 1)
    table = records.table().set_index("index")
    only = recorded(logits[[0, 2]], labels, index).table().set_index("index")
    assert list(table.loc[index[:10], "epochs"]) == [4] * 10
    columns = ["epochs", "aum", "forgetting_events", "correctness"]
    assert table.loc[index[10:], columns].equals(only.loc[index[10:], columns])


def test_a_changed_label_starts_anew_and_is_told_once():
    logits, labels, index = drawn()
    records = recorded(logits[:3], labels, index)
    other = labels.copy()
    other[:5] = (other[:5] + 1) % K
    records.update(logits[3], other, index)
    with pytest.warns(UnderscriptWarning, match="labels of 5 samples"):
        records.end_epoch(4)
    records.update(logits[4], labels, index)
    records.end_epoch(5)
    table = records.table().set_index("index")
    assert list(table.loc[index[:5], "epochs"]) == [1] * 5
    assert list(table.loc[index[5:], "epochs"]) == [5] * (N - 5)


def test_logits_that_are_not_finite_are_left_out_and_told():
    logits, labels, index = drawn()
    broken = torch.from_numpy(logits[0].copy())
    broken[3, 1], broken[4, 0] = torch.nan, torch.inf
    records = SampleRecords()
    with pytest.warns(UnderscriptWarning, match=f"2 of {N} samples .* first at index {index[3]}"):
        records.update(broken, labels, index)
    records.end_epoch(1)
    assert set(index) - set(records.table()["index"]) == {index[3], index[4]}
    assert np.isfinite(records.table()["aum"]).all()


def test_soft_labels_count_by_their_largest_share():
    logits, labels, index = drawn()
    soft = 0.7 * np.eye(K)[labels] + 0.3 / K
    records = SampleRecords()
    with pytest.warns(UnderscriptWarning, match="soft"):
        records.update(logits[0], torch.from_numpy(soft), index)
    records.end_epoch(1)
    assert records.table().equals(recorded(logits[:1], labels, index, size=N).table())


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"logits": np.zeros(N)}, DataError, "at least 2 classes"),
        ({"logits": np.zeros((N, 1))}, DataError, "Of one logit make two"),
        ({"logits": np.zeros((N, 9, K))}, DataError, "Of sequences make rows"),
        ({"logits": [["a", "b"]]}, DataError, "numbers; found list"),
        ({"index": np.arange(N, dtype=np.uint64)}, DataError, "int64 or smaller"),
        ({"labels": np.zeros(N)}, LabelError, "expected integer classes"),
        ({"labels": np.ones((N, K))}, LabelError, "add up to 4"),
        ({"labels": np.ones((N, K), int)}, LabelError, "one label for each"),
        ({"logits": np.zeros((N, K + 1))}, DataError, "4 classes as before; found 5"),
        ({"index": np.zeros(N)}, DataError, "integer index"),
        ({"index": np.arange(3)}, DataError, "integer index"),
        ({"labels": np.full(N, K)}, LabelError, "knows 4 classes"),
        ({"labels": np.full(N, -1)}, LabelError, f"found -1 at index {-(2**62)}"),
        ({"labels": np.zeros(N - 1, int)}, LabelError, "one label for each"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, error, match):
    logits, labels, index = drawn()
    records = SampleRecords()
    records.update(logits[0], labels, index)
    batch = {"logits": logits[1], "labels": labels, "index": index, **change}
    with pytest.raises(error, match=match) as caught:
        records.update(**batch)
    assert "\n" not in str(caught.value)


def test_the_state_comes_back():
    logits, labels, index = drawn()
    half = recorded(logits[:4], labels, index)
    again = SampleRecords()
    again.load_state(half.state(), half.n_classes)
    for number in range(4, EPOCHS):
        for records in (half, again):
            records.update(logits[number], labels, index)
            records.end_epoch(number + 1)
    assert half.table().equals(again.table())
    state = half.state()
    del state["margins"]
    with pytest.raises(DataError, match="margins"):
        SampleRecords().load_state(state, K)


def test_without_room_for_probabilities_the_last_epoch_predicts(monkeypatch):
    logits, labels, index = drawn()
    monkeypatch.setattr(samples, "MOST_PROBABILITIES", 10)
    records = recorded(logits, labels, index)
    assert records.mean_chances() is None
    last = dict(zip(index, logits[-1].argmax(1), strict=True))
    table = records.table()
    assert list(table["predicted_label"]) == [last[i] for i in table["index"]]


def test_logits_are_kept_if_asked_for():
    logits, labels, index = drawn()
    records = SampleRecords(keep_logits=True)
    records.update(logits[0], labels, index)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = records.end_epoch(1)
    assert found is not None
    assert list(found[0]) == list(index)
    assert list(found[1]) == list(labels)
    assert (found[2] == logits[0]).all()


def test_samples_without_a_label_are_left_out_and_told():
    logits, labels, index = drawn()
    some = labels.copy()
    some[2:5] = -100
    records = SampleRecords()
    with pytest.warns(UnderscriptWarning, match=f"-100, the first at index {index[2]}"):
        records.update(logits[0], some, index)
    records.end_epoch(1)
    assert set(index) - set(records.table()["index"]) == set(index[2:5])


def test_a_batch_may_be_changed_after_it_was_given():
    logits, labels, index = (torch.from_numpy(part) for part in drawn())
    records, plain = SampleRecords(), recorded(*drawn())
    for number, values in enumerate(logits, 1):
        batch = values.clone(), labels.clone(), index.clone()
        records.update(*batch)
        for part in batch:
            part.zero_()
        records.end_epoch(number)
    assert records.table()["aum"].equals(plain.table()["aum"])


def test_batches_on_a_device_that_waits_are_looked_at_together(monkeypatch):
    """What a GPU would do: labels and NaN are looked at when the epoch ends."""
    logits, labels, index = drawn()
    plain = recorded(logits, labels, index)
    monkeypatch.setattr(pending, "_away", lambda _: True)
    assert recorded(logits, labels, index).table().equals(plain.table())
    records = SampleRecords()
    broken, wrong = logits[0].copy(), labels.copy()
    broken[3, 1], wrong[5], wrong[6] = np.nan, K, -100
    records.update(broken[:10], wrong[:10], index[:10])
    records.update(broken[10:], wrong[10:], index[10:])
    with (
        pytest.raises(LabelError, match=f"label {K} at index {index[5]}"),
        pytest.warns(UnderscriptWarning, match=f"NaN .* first at index {index[3]}"),
    ):
        records.end_epoch(1)
    # The rest is there when the epoch is ended once more.
    records.end_epoch(1)
    assert set(index) - set(records.table()["index"]) == {index[3], index[5], index[6]}


def test_many_batches_are_counted_as_few(monkeypatch):
    logits, labels, index = drawn()
    for name in ("_ROWS", "_VALUES"):
        with monkeypatch.context() as few:
            few.setattr(pending, name, 40)
            assert recorded(logits, labels, index, 7).table().equals(recorded(*drawn()).table())


def test_numbers_of_all_kinds_keep_their_rows():
    rng = np.random.default_rng(0)
    numbers = np.concatenate([rng.permutation(3000), [-1, 2**40, -(2**40), 2**24 - 1, 2**24]])
    kept, first = places.Places(), {}
    for at in np.array_split(rng.integers(0, len(numbers), 9000), 50):
        for number in numbers[at].tolist():
            first.setdefault(number, len(first))
        assert kept.rows_of(numbers[at]).tolist() == [first[i] for i in numbers[at].tolist()]
    assert kept.numbers.tolist() == list(first)
    again = places.Places(kept.numbers.copy())
    assert (again.find(numbers) == kept.find(numbers)).all()
    assert again.find(np.array([5000, -7])).tolist() == [-1, -1]
