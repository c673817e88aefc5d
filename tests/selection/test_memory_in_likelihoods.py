"""Each likelihood is corrected with the share of memory that survives in it."""

import numpy as np
import pytest
import torch
from planted import fits_of, scores_that_remember
from torch import Tensor

from underscript.selection import memorisation
from underscript.selection.likelihood import REDRAWN, TEMPERATURES, likelihoods, of_all_labels
from underscript.selection.measured_memory import measure_memory
from underscript.selection.memorisation import (
    Reference,
    survival_of_likelihoods,
    without_memory,
)

GRID = len(TEMPERATURES), len(REDRAWN)


def of_new(true: Tensor) -> Tensor:
    """Draw what the same layer says of new inputs, whose labels nobody memorised."""
    rng = np.random.default_rng(9)
    return torch.from_numpy(3.0 * np.eye(6)[true] + rng.normal(size=(len(true), 6)))


def oracle(given: Tensor, true: Tensor) -> Reference:
    """Return a reference that knows which labels are wrong."""
    return Reference(given, true, (given == true).double(), 6)


def test_likelihoods_of_all_labels_as_plainly_computed():
    scores, labels = torch.randn(50, 4), torch.randint(4, (50,))
    rows = scores.double().numpy()
    rows = rows - rows.mean(1, keepdims=True)
    rows /= np.sqrt((rows**2).mean())
    found = [*of_all_labels(scores)]
    grid = [(t, e) for t in TEMPERATURES for e in REDRAWN]
    for likely, (temperature, share) in zip(found, grid, strict=True):
        powers = np.exp(temperature * rows)
        chances = (1 - share) * powers / powers.sum(1, keepdims=True) + share / 4
        expected = np.log(np.maximum(chances, 1e-12))
        np.testing.assert_allclose(likely, expected, rtol=1e-4, atol=1e-5)
    means = [float(each.gather(1, labels[:, None]).mean()) for each in found]
    assert means == pytest.approx(likelihoods(scores, labels).flatten().tolist(), abs=1e-5)


@pytest.mark.parametrize("left", [0.1, 0.4])
def test_what_is_corrected_is_the_likelihood_of_new_inputs(left):
    plain, moved, given, true = scores_that_remember(left, 0)
    before, after, new = (likelihoods(each, given) for each in (plain, moved, of_new(true)))
    shares = survival_of_likelihoods(oracle(given, true), [plain], [moved], 0.5)
    assert shares.shape == GRID
    apart = (without_memory(before, after, shares, 0.0) - new).abs()
    assert float(apart.mean()) < 0.05
    # Predictions change by leaps. With what survives in these, memory looks like knowledge.
    wrong = given != true
    said = [float((each.argmax(1) == given)[wrong].double().mean()) for each in (plain, moved)]
    of_new_inputs = float((of_new(true).argmax(1) == given)[wrong].double().mean())
    leaps = (said[1] - of_new_inputs) / (said[0] - of_new_inputs)
    assert leaps < float(shares.min())
    by_leaps = (without_memory(before, after, leaps, 0.0) - new).abs()
    assert float(by_leaps.mean()) > 3 * float(apart.mean())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_memory_that_survives_whole_or_not_at_all_survives_alike_in_every_likelihood(share):
    plain, _, given, true = scores_that_remember(0.0, 0)
    survives = torch.rand(len(given), generator=torch.Generator().manual_seed(0)) < share
    # Temperatures count from the spread of all scores, so it must not change.
    plain, new = (
        each / (each - each.mean(1, keepdim=True)).std() for each in (plain, of_new(true))
    )
    moved = torch.where(survives[:, None], plain, new)
    shares = survival_of_likelihoods(oracle(given, true), [plain], [moved], 0.5)
    # They are upper limits.
    assert share - 0.02 < float(shares.min()) <= float(shares.max()) < share + 0.06


def test_of_several_candidates_the_one_that_keeps_most_counts():
    pairs = [scores_that_remember(left, 0)[:2] for left in (0.1, 0.4)]
    given, true = scores_that_remember(0.1, 0)[2:]
    each = [
        survival_of_likelihoods(oracle(given, true), [plain], [moved], 0.5)
        for plain, moved in pairs
    ]
    plain, moved = (list(rows) for rows in zip(*pairs, strict=True))
    both = survival_of_likelihoods(oracle(given, true), plain, moved, 0.5)
    torch.testing.assert_close(both, torch.maximum(*each))


def test_where_no_memory_is_seen_there_is_another_answer():
    *_, given, true = scores_that_remember(0.1, 0)
    new = of_new(true)
    shares = survival_of_likelihoods(oracle(given, true), [new], [new.flip(0)], 0.37)
    torch.testing.assert_close(shares, torch.full(GRID, 0.37, dtype=torch.float64))


def test_many_classes_are_measured_with_fewer_samples(monkeypatch):
    plain, moved, given, true = scores_that_remember(0.4, 0)
    every = survival_of_likelihoods(oracle(given, true), [plain], [moved], 0.5)
    monkeypatch.setattr(memorisation, "_NUMBERS", plain.numel() // 3)
    some = survival_of_likelihoods(oracle(given, true), [plain], [moved], 0.5)
    assert not torch.equal(some, every)
    torch.testing.assert_close(some, every, atol=0.1, rtol=0)
    assert oracle(given, true).some(3).labels.tolist() == given[::3].tolist()


def test_a_holdout_only_adds_to_what_survives():
    plain, moved, given, true = scores_that_remember(0.4, 0)
    # The first layer knows the same and remembers nothing.
    first = [of_new(true) for _ in range(2)]
    layers, known = ["fc0", "fc1"], [of_new(true).flip(0)] * 2
    rows = [first[0], plain], [first[1], moved]
    alone = measure_memory(fits_of(*rows, given, layers), perturbed=True)
    assert alone.of_likelihoods is not None
    assert torch.equal(alone.in_likelihoods, alone.of_likelihoods)
    fits = fits_of(*rows, given, layers, known, true.flip(0))
    held = measure_memory(fits, perturbed=True)
    expected = alone.of_likelihoods.clamp(min=held.likely)
    torch.testing.assert_close(held.in_likelihoods, expected)
    nothing = measure_memory(fits_of(*rows, given, layers), perturbed=False)
    assert nothing.in_likelihoods == nothing.survival == 0
