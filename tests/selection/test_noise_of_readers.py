"""The noise of an ensemble's labels: memory in what readers say must not hide it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from underscript.selection.calibration import Estimates, estimate
from underscript.selection.greedy import Scores
from underscript.selection.memorisation import Memory, Reference

N, K, RATE = 4_000, 5, 0.32


def case(boost: float, *, seed: int = 0, held: bool = False) -> tuple[Scores, Tensor]:
    """Scores of one candidate that mostly knows the classes, and what its layer remembers.

    `boost` is added to the given label's score on inputs as they are, and to no perturbed one.
    """
    rng = np.random.default_rng(seed)
    true = rng.integers(0, K, N)
    given = np.where(rng.random(N) < RATE * K / (K - 1), rng.integers(0, K, N), true)

    def known(n: int, classes: np.ndarray) -> np.ndarray:
        scores = rng.normal(size=(n, K))
        # Some samples are hard: nothing is known of them for sure.
        scores[np.arange(n), classes] += np.where(rng.random(n) < 0.15, 1.0, 6.0)
        return scores

    plain, moved = known(N, true), known(N, true)
    plain[np.arange(N), given] += boost
    new = rng.integers(0, K, 600)
    noisy = np.where(rng.random(600) < RATE * K / (K - 1), rng.integers(0, K, 600), new)
    return (
        Scores(
            [torch.from_numpy(plain).float()],
            [torch.from_numpy(moved).float()],
            torch.from_numpy(given),
            [torch.from_numpy(known(600, new)).float()] if held else [],
            torch.from_numpy(noisy) if held else None,
        ),
        torch.from_numpy(plain),
    )


def estimated(
    scores: Scores, readers: Tensor, true: Tensor | None = None, left: float = 0.0
) -> Estimates:
    """Estimate; with `true` labels, a reference that knows them shows what memory adds."""
    agreement, reference = torch.zeros(1, dtype=torch.float64), None
    if true is not None:
        reference = Reference(scores.labels, true, (scores.labels == true).double(), K)
    memory = Memory(agreement, agreement, None, 0.05, 0.02, 0.5, reference=reference, left=left)
    averaged = readers, scores.labels
    return estimate(scores, memory, [0], averaged, [0], remembered=0.0, seed=0)


@pytest.mark.parametrize("held", [False, True], ids=["alone", "hold-out"])
def test_readers_without_memory_give_the_rate(held):
    scores, readers = case(0.0, held=held)
    assert estimated(scores, readers).noise.rate == pytest.approx(RATE, abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_readers_that_remember_do_not_hide_the_noise(seed):
    scores, readers = case(3.5, seed=seed)
    # Alone, they show hardly any: they are sure where a label is right, and doubt elsewhere.
    hidden = estimated(Scores(scores.plain, scores.plain, scores.labels, [], None), readers)
    assert hidden.noise.rate < 0.6 * RATE
    found = estimated(scores, readers)
    assert found.noise.rate == pytest.approx(RATE, abs=0.03)
    assert found.noise.rate_low < RATE < found.noise.rate_high


@pytest.mark.parametrize("seed", range(3))
def test_memory_that_survives_is_taken_off_the_scores(seed):
    scores, _ = case(8.0, seed=seed)
    true = torch.from_numpy(np.random.default_rng(seed).integers(0, K, N))
    assert float((true != scores.labels).double().mean()) == pytest.approx(RATE, abs=0.03)
    given = torch.nn.functional.one_hot(scores.labels, K)
    perturbed = Scores(scores.plain, [scores.moved[0] + 2.0 * given], scores.labels, [], None)
    assert estimated(perturbed, perturbed.moved[0]).noise.rate < 0.8 * RATE
    found = estimated(perturbed, perturbed.moved[0], true, left=0.25).noise
    assert found.rate == pytest.approx(RATE, abs=0.03)
    assert found.rate_low < RATE < found.rate_high


@pytest.mark.parametrize("doubted", [0.1, 0.7])
def test_memory_that_no_layer_sees_widens_the_intervals_and_changes_no_estimate(doubted):
    scores, readers = case(0.0)
    agreement = torch.zeros(1, dtype=torch.float64)
    seen, unseen = (
        estimate(
            scores,
            Memory(agreement, agreement, None, 0.0, 0.0, 0.5, may_be_wrong=most, known=0.5),
            [0],
            (readers, scores.labels),
            [0],
            remembered=0.0,
            seed=0,
        ).noise
        for most in (0.0, doubted)
    )
    assert (unseen.rate, unseen.accuracy) == (seen.rate, seen.accuracy)
    # As many labels as may be wrong, but none of those that another layer knows.
    agrees = float((readers.argmax(1) == scores.labels).double().mean())
    further = min(doubted, agrees - 0.5)
    assert unseen.accuracy - unseen.accuracy_low == pytest.approx(
        np.hypot(seen.accuracy - seen.accuracy_low, further)
    )
    assert unseen.rate_high >= seen.rate + further


def test_a_hold_out_shows_it_where_nothing_is_perturbed():
    scores, readers = case(3.5, held=True)
    unmoved = Scores(scores.plain, scores.plain, scores.labels, scores.holdout, scores.held)
    assert estimated(unmoved, readers).noise.rate == pytest.approx(RATE, abs=0.06)


def unsure(n: int, rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """Scores that know half of the classes, never surely, and labels of which a share is wrong."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, K, n)
    scores = rng.normal(size=(n, K))
    scores[np.arange(n), true] += 1.2
    given = np.where(rng.random(n) < rate * K / (K - 1), rng.integers(0, K, n), true)
    return torch.from_numpy(scores).float(), torch.from_numpy(given)


@pytest.mark.parametrize(("rate", "cleaner"), [(RATE, False), (0.0, True)])
def test_only_a_hold_out_whose_labels_are_predicted_more_often_is_cleaner(rate, cleaner):
    scores, readers = case(0.0)
    new, held = unsure(300, RATE, 1) if not cleaner else (None, None)
    if cleaner:
        sure, _ = case(0.0, seed=1)
        new = sure.plain[0][:600]
        held = torch.from_numpy(np.random.default_rng(1).integers(0, K, N))[:600]
    both = Scores(scores.plain, scores.moved, scores.labels, [new], held)
    assert (estimated(both, readers).noise.holdout_rate is not None) == cleaner
