"""An ensemble grows as long as noisy labels get likelier, and no longer."""

import numpy as np
import pytest
import torch

import underscript as us
from underscript.selection.greedy import STEPS, Criterion, Scores
from underscript.selection.likelihood import likelihoods

N, K = 600, 4
NONE: list[torch.Tensor] = []


def labels(n=N, seed=0):
    return torch.randint(0, K, (n,), generator=torch.Generator().manual_seed(seed))


def knowing(given, share, seed, sure=3.0):
    """Scores that point to the label of the samples in `share`, a slice, and nowhere else."""
    scores = 0.3 * torch.randn(len(given), K, generator=torch.Generator().manual_seed(seed))
    scores[torch.arange(len(given))[share], given[share]] += sure
    return scores


def plainly(scores, given, transitions=None):
    """Mean log-likelihoods, label by label."""
    transitions = np.eye(K) if transitions is None else np.asarray(transitions)
    scores = scores.double().numpy()
    scores = scores - scores.mean(1, keepdims=True)
    scores = scores / scores.std()
    means = np.zeros((5, 10))
    for row, t in enumerate((0.5, 1, 2, 4, 8)):
        for column in range(10):
            e = column / 10
            for row_scores, label in zip(scores, given.tolist(), strict=True):
                p = np.exp(t * row_scores) / np.exp(t * row_scores).sum()
                means[row, column] += np.log((1 - e) * (p @ transitions)[label] + e / K)
    return means / len(given)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_likelihoods_are_those_of_redrawn_labels(scale):
    given = labels(80)
    scores = scale * knowing(given, slice(0, 40), 1) + 7
    np.testing.assert_allclose(likelihoods(scores, given), plainly(scores, given), rtol=1e-3)


def test_likelihoods_are_those_of_labels_that_a_matrix_draws():
    given = labels(80)
    scores = knowing(given, slice(0, 40), 1)
    matrix = torch.rand(K, K, dtype=torch.float64) + torch.eye(K)
    matrix /= matrix.sum(1, keepdim=True)
    expected = plainly(scores, given, matrix)
    np.testing.assert_allclose(likelihoods(scores, given, matrix), expected, rtol=1e-3)
    same = torch.eye(K, dtype=torch.float64)
    torch.testing.assert_close(likelihoods(scores, given, same), likelihoods(scores, given))


def test_scores_that_say_nothing_have_the_likelihood_of_chance():
    means = likelihoods(torch.zeros(N, K), labels())
    np.testing.assert_allclose(means, np.log(1 / K), rtol=1e-5)


def training(candidates, given=None):
    given = labels() if given is None else given
    return Scores(candidates, candidates, given, NONE, None)


def test_two_that_complement_each_other_are_found_among_many():
    given = labels()
    useless = [torch.randn(N, K, generator=torch.Generator().manual_seed(s)) for s in range(9)]
    # The third is the best alone, but adds nothing to the first or second.
    first, second = knowing(given, slice(0, 300), 1), knowing(given, slice(300, N), 2)
    scores = training([*useless, first, second])
    members, value = Criterion.of(scores, 0.0, 0.0).ensemble(range(11))
    assert set(members[:2]) == {9, 10}
    both = float(likelihoods(first + second, given).max())
    alone = float(likelihoods(first, given).max())
    assert value >= both > alone


def test_only_those_among_are_chosen():
    given = labels()
    best, fair = knowing(given, slice(0, 600), 1), knowing(given, slice(0, 300), 2)
    scores = training([best, fair, fair.flip(1)])
    members, _ = Criterion.of(scores, 0.0, 0.0).ensemble([1, 2])
    assert set(members) <= {1, 2}
    assert members[0] == 1


def test_adding_stops_when_nothing_improves():
    given = labels()
    perfect = 9 * torch.nn.functional.one_hot(given, K).float()
    noise = torch.randn(N, K, generator=torch.Generator().manual_seed(1))
    members, value = Criterion.of(training([noise, perfect, noise.flip(0)]), 0.0, 0.0).ensemble(
        range(3)
    )
    assert members == [1]
    assert value == pytest.approx(float(likelihoods(perfect, given).max()))


def test_more_of_the_same_is_no_improvement():
    one = knowing(labels(), slice(0, 300), 1)
    members, _ = Criterion.of(training([one, one.clone()]), 0.0, 0.0).ensemble(range(2))
    assert len(members) <= 2  # rounding may look like one


@pytest.mark.parametrize("survival", [0.0, 0.3])
def test_the_value_never_falls_as_more_may_be_members(survival):
    given = labels()
    some = [knowing(given, slice(60 * s, 60 * s + 150), s, 1.5) for s in range(8)]
    other = [one + knowing(given, slice(0, N), 50 + s, 0.5) for s, one in enumerate(some)]
    scores = Scores(other, some, given, NONE, None)
    before: list[int] = []
    last = -np.inf
    for most in range(1, STEPS + 3):
        members, value = Criterion.of(scores, survival, 0.0).ensemble(range(8), most)
        assert members[: len(before)] == before
        assert len(members) <= most
        assert value >= last
        before, last = members, value
    assert len(before) > 2


def test_the_value_is_the_corrected_likelihood_of_the_members_sum():
    given, held = labels(), labels(200, 5)
    moved = [knowing(given, slice(90 * s, 90 * s + 200), s, 1.5) for s in range(5)]
    plain = [one + knowing(given, slice(0, N), 50 + s, 2.0) for s, one in enumerate(moved)]
    holdout = [knowing(held, slice(20 * s, 20 * s + 90), 70 + s) for s in range(5)]
    for survival in (0.0, 0.3):
        for trust in (0.0, 0.4, 1.0):
            scores = Scores(plain, moved, given, holdout, held)
            members, value = Criterion.of(scores, survival, trust).ensemble(range(5))
            sums = [sum(each[at] for at in members) for each in (plain, moved, holdout)]
            as_is, perturbed = (likelihoods(each, given) for each in sums[:2])
            expected = (1 - trust) * (perturbed - survival * as_is) / (1 - survival)
            expected = expected + trust * likelihoods(sums[2], held)
            assert value == pytest.approx(float(expected.max()), rel=1e-5)


def test_with_full_trust_only_the_holdout_counts():
    given, held = labels(), labels(200, 5)
    knows, guesses = knowing(given, slice(0, N), 1), knowing(given, slice(0, 0), 2)
    on_holdout = [knowing(held, slice(0, 0), 3), knowing(held, slice(0, 200), 4)]
    scores = Scores([knows, guesses], [knows, guesses], given, on_holdout, held)
    assert Criterion.of(scores, 0.2, 1.0).ensemble(range(2))[0][0] == 1
    assert Criterion.of(scores, 0.2, 0.0).ensemble(range(2))[0][0] == 0
    # Training labels may then be anything.
    other = Scores([knows, guesses], [knows, guesses], given.flip(0), on_holdout, held)
    assert Criterion.of(other, 0.2, 1.0).ensemble(range(2)) == Criterion.of(
        scores, 0.2, 1.0
    ).ensemble(range(2))


def test_a_candidate_that_only_remembers_is_not_chosen_once_memory_is_corrected():
    given = labels()
    # One knows a third of the labels on any input; one remembers all, and 60 % if perturbed.
    knows = knowing(given, slice(0, 330), 1)
    plain, moved = knowing(given, slice(0, N), 2), knowing(given, slice(0, 360), 2)
    scores = Scores([knows, plain], [knows, moved], given, NONE, None)
    assert Criterion.of(scores, 0.0, 0.0).ensemble(range(2))[0][0] == 1
    assert Criterion.of(scores, 0.5, 0.0).ensemble(range(2), 1)[0] == [0]


def test_many_samples_choose_as_some_of_them_do():
    given = labels(25_000)
    some = [knowing(given, torch.arange(s, 25_000, 7), s) for s in range(5)]
    members, value = Criterion.of(training(some, given), 0.0, 0.0).ensemble(range(5))
    every = float(likelihoods(sum(some[at] for at in members), given).max())
    assert value == pytest.approx(every, abs=0.02)


def test_labels_are_as_likely_as_the_grid_can_say_where_a_score_is_extreme():
    given = labels(50)
    scores = 1e4 * torch.nn.functional.one_hot((given + 1) % K, K).float()
    assert torch.isfinite(likelihoods(scores, given)).all()


# Labels that go wrong by class --------------------------------------------------------------


def sure_and_doubtful(seed, n=2000):
    """Draw a candidate that predicts one class, right for 90 %, and one that adds the next one."""
    true = labels(n, seed)
    draw = torch.Generator().manual_seed(seed + 100)
    guessed = torch.randint(0, K, (n,), generator=draw)
    predicted = torch.where(torch.rand(n, generator=draw) < 0.9, true, guessed)
    first, following = (
        torch.nn.functional.one_hot(each % K, K) for each in (predicted, predicted + 1)
    )
    rough = 0.2 * torch.randn(2, n, K, generator=draw)
    return true, [3 * first + rough[0], 3 * first + 3 * following + rough[1]]


@pytest.mark.parametrize("seed", range(3))
def test_of_labels_that_go_to_the_next_class_a_sure_candidate_is_better_than_a_doubtful_one(seed):
    true, candidates = sure_and_doubtful(seed)
    noisy = torch.from_numpy(us.corrupt_labels(true, 0.4, K, kind="pair", seed=seed))
    scores = training(candidates, noisy)
    # Labels are as uncertain as the doubtful one is.
    assert Criterion.of(scores, 0.0, 0.0).ensemble(range(2))[0][0] == 1
    matrix = Criterion.of(scores, 0.0, 0.0).likeliest_noise(range(2))
    assert Criterion.of(scores, 0.0, 0.0).drawn_by(matrix).ensemble(range(2))[0][0] == 0
    # The candidate's own errors count as label noise.
    draws = 0.6 * torch.eye(K) + 0.4 * torch.eye(K).roll(1, 1)
    expected = (0.9 * draws + 0.1 / K).double()
    torch.testing.assert_close(matrix, expected, rtol=0, atol=0.06)
    torch.testing.assert_close(matrix.sum(1), torch.ones(K, dtype=torch.float64))


@pytest.mark.parametrize("n", [600, 4000])
@pytest.mark.parametrize("seed", range(3))
def test_labels_that_are_redrawn_evenly_have_no_matrix(n, seed):
    true = labels(n, seed)
    noisy = torch.from_numpy(us.corrupt_labels(true, 0.4, K, seed=seed))
    for share in (slice(0, n), slice(0, n // 2)):
        scores = training([knowing(true, share, 1), knowing(true, slice(0, n // 3), 2)], noisy)
        assert Criterion.of(scores, 0.0, 0.0).likeliest_noise(range(2)) is None


def test_a_matrix_is_looked_for_in_what_counts():
    true, candidates = sure_and_doubtful(0)
    held, on_holdout = sure_and_doubtful(1)
    pair, even = (
        [torch.from_numpy(us.corrupt_labels(each, 0.4, K, kind=kind)) for each in (true, held)]
        for kind in ("pair", "symmetric")
    )
    for given, of_held in ((pair[0], even[1]), (even[0], pair[1])):
        scores = Scores(candidates, candidates, given, on_holdout, of_held)
        for trust, labels_that_count in ((0.0, given), (1.0, of_held)):
            matrix = Criterion.of(scores, 0.0, trust).likeliest_noise(range(2))
            goes_on = matrix is not None and float(matrix.roll(-1, 1).diagonal().min()) > 0.3
            assert goes_on == (labels_that_count is pair[0] or labels_that_count is pair[1])


# The hold-out's weight ----------------------------------------------------------------------


def guessing(given, share, seed):
    """Scores of a candidate that knows a share of labels, and is as sure of its guesses."""
    draw = torch.Generator().manual_seed(seed)
    guessed = torch.randint(0, K, (len(given),), generator=draw)
    predicted = torch.where(torch.rand(len(given), generator=draw) < share, given, guessed)
    rough = 0.3 * torch.randn(len(given), K, generator=draw)
    return 3 * torch.nn.functional.one_hot(predicted, K) + rough


@pytest.mark.parametrize("seed", range(0, 40, 10))
def test_a_holdout_counts_alone_where_perturbed_inputs_clearly_mislead(seed):
    given, held = labels(2000, seed), labels(800, seed + 1)
    # On perturbed training inputs the first is better, on new ones the second.
    moved = [guessing(given, 0.8, seed + 2), guessing(given, 0.5, seed + 3)]
    on_holdout = [guessing(held, 0.3, seed + 4), guessing(held, 0.6, seed + 5)]
    scores = Scores(moved, moved, given, on_holdout, held)
    assert Criterion.of(scores, 0.0, 0.1).weight_by_cross_fitting(range(2)) == 1.0
    assert Criterion.of(scores, 0.0, 0.1).ensemble(range(2))[0][0] == 0
    assert Criterion.of(scores, 0.0, 1.0).ensemble(range(2))[0][0] == 1
    # One candidate alone is chosen either way.
    assert Criterion.of(scores, 0.0, 0.1).weight_by_cross_fitting([0]) == 0.1


@pytest.mark.parametrize("seed", range(0, 40, 10))
def test_a_holdout_of_pure_noise_keeps_its_weight(seed):
    given, held = labels(2000, seed), labels(50, seed + 1)
    moved = [guessing(given, 0.8, seed + 2), guessing(given, 0.5, seed + 3)]
    on_holdout = [guessing(labels(50, seed + 4 + at), 0.8, seed + 6 + at) for at in range(2)]
    scores = Scores(moved, moved, given, on_holdout, held)
    for trust in (0.05, 0.3):
        assert Criterion.of(scores, 0.0, trust).weight_by_cross_fitting(range(2)) == trust


def test_without_a_holdout_or_without_anything_else_there_is_nothing_to_weigh():
    given, held = labels(), labels(200, 1)
    moved, on_holdout = guessing(given, 0.8, 2), guessing(held, 0.8, 3)
    alone = Scores([moved], [moved], given, NONE, None)
    both = Scores([moved], [moved], given, [on_holdout], held)
    assert Criterion.of(alone, 0.0, 0.3).weight_by_cross_fitting([0]) == 0
    for trust in (0.0, 1.0):
        assert Criterion.of(both, 0.0, trust).weight_by_cross_fitting([0]) == trust
