"""Readers are candidates that do not remember labels; where none do, they read rows as they are."""

import numpy as np
import pytest
import torch

from underscript.selection.greedy import Scores
from underscript.selection.memorisation import Memory, Reference
from underscript.selection.readers import Reader, remembered_by, select_readers

K = 5
N, M = 6000, 1500


def planted(seed=0, wrong=0.3):
    """Draw three candidates: of a first layer, one that knows and forgets, one that remembers.

    The second knows less of perturbed rows and remembers nothing. The third knows most of new
    inputs and predicts a third of all training labels from memory, half of these perturbed too.
    """
    rng = np.random.default_rng(seed)

    def labels(n):
        true = rng.integers(0, K, n)
        given = np.where(rng.random(n) < wrong, (true + rng.integers(1, K, n)) % K, true)
        return true, given

    def predictions(true, knows):
        return np.where(rng.random(len(true)) < knows, true, rng.integers(0, K, len(true)))

    def scores(predicted, spread=0.3):
        values = 2.0 * np.eye(K)[predicted] + spread * rng.normal(size=(len(predicted), K))
        return torch.from_numpy(values).float()

    true, given = labels(N)
    held_true, held = labels(M)
    remembered = rng.random(N) < 0.33
    survives = remembered & (rng.random(N) < 0.5)
    plain, moved, on_held, on_held_moved = [], [], [], []
    for knows, less, remembers in ((0.5, 0.5, False), (0.8, 0.6, False), (0.85, 0.8, True)):
        here, there = predictions(true, knows), predictions(true, less)
        if remembers:
            here, there = np.where(remembered, given, here), np.where(survives, given, there)
        plain.append(scores(here))
        moved.append(scores(there))
        on_held.append(scores(predictions(held_true, knows)))
        on_held_moved.append(scores(predictions(held_true, less)))
    made = Scores(
        plain, moved, torch.from_numpy(given), on_held, torch.from_numpy(held), on_held_moved
    )
    return made, torch.from_numpy(true)


def memory(scores, true, weight, survival=0.5):
    nothing = torch.zeros(3, dtype=torch.float64)
    right = (scores.labels == true).double()
    reference = Reference(scores.labels, scores.moved[0].argmax(1), right, K)
    return Memory(nothing, nothing, None, survival, survival, weight, weight, reference=reference)


@pytest.mark.parametrize("seed", range(3))
def test_with_a_holdout_what_remembers_nothing_reads_rows_as_they_are(seed):
    scores, true = planted(seed)
    readers = select_readers(scores, memory(scores, true, 1.0), [0, 1, 2])
    assert readers[0] == Reader(1, False)
    # Another candidate agrees more often with labels of the hold-out.
    agreement = [float((each.argmax(1) == scores.held).float().mean()) for each in scores.holdout]
    assert np.argmax(agreement) == 2


@pytest.mark.parametrize("seed", range(3))
def test_alone_what_remembers_is_not_read_as_it_is(seed):
    scores, true = planted(seed)
    readers = select_readers(scores, memory(scores, true, 0.0), [0, 1, 2])
    assert Reader(2, False) not in readers


@pytest.mark.parametrize(
    ("reader", "share"),
    [(Reader(1, False), 0.0), (Reader(2, False), 0.33), (Reader(2, True), 0.17)],
)
def test_the_share_that_is_remembered_is_the_planted_one(reader, share):
    scores, true = planted()
    exact = remembered_by([reader], scores, memory(scores, true, 1.0))
    assert exact == pytest.approx(share, abs=0.05)
    # Without a hold-out it may be less, and what knows more than others is taken to remember.
    alone = remembered_by([reader], scores, memory(scores, true, 0.0))
    assert share - 0.05 <= alone <= share + 0.3
    half = remembered_by([reader], scores, memory(scores, true, 0.5))
    assert half == pytest.approx((alone + exact) / 2)


def test_no_readers_remember_nothing():
    scores, true = planted()
    assert remembered_by([], scores, memory(scores, true, 0.5)) == 0


def test_without_a_perturbed_holdout_only_rows_as_they_are_are_read():
    scores, true = planted()
    scores = Scores(scores.plain, scores.moved, scores.labels, scores.holdout, scores.held)
    readers = select_readers(scores, memory(scores, true, 1.0), [0, 1, 2])
    assert not any(reader.moved for reader in readers)
