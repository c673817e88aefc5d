"""An ensemble grows for as long as noisy labels get likelier, and no longer."""

import numpy as np
import pytest
import torch

from underscript.selection.greedy import STEPS, Scores, likelihoods, select_ensemble

N, K = 600, 4
NONE: list[torch.Tensor] = []


def labels(n=N, seed=0):
    return torch.randint(0, K, (n,), generator=torch.Generator().manual_seed(seed))


def knowing(given, share, seed, sure=3.0):
    """Scores that point to the label of the samples in `share`, a slice, and nowhere else."""
    scores = 0.3 * torch.randn(len(given), K, generator=torch.Generator().manual_seed(seed))
    scores[torch.arange(len(given))[share], given[share]] += sure
    return scores


def plainly(scores, given):
    """Mean log-likelihoods, label by label."""
    scores = scores.double().numpy()
    scores = scores - scores.mean(1, keepdims=True)
    scores = scores / scores.std()
    found = np.zeros((5, 10))
    for row, t in enumerate((0.5, 1, 2, 4, 8)):
        for column in range(10):
            e = column / 10
            for mine, label in zip(scores, given.tolist(), strict=True):
                p = np.exp(t * mine) / np.exp(t * mine).sum()
                found[row, column] += np.log((1 - e) * p[label] + e / K)
    return found / len(given)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_likelihoods_are_those_of_redrawn_labels(scale):
    given = labels(80)
    scores = scale * knowing(given, slice(0, 40), 1) + 7
    np.testing.assert_allclose(likelihoods(scores, given), plainly(scores, given), rtol=1e-3)


def test_scores_that_say_nothing_have_the_likelihood_of_chance():
    found = likelihoods(torch.zeros(N, K), labels())
    np.testing.assert_allclose(found, np.log(1 / K), rtol=1e-5)


def training(candidates, given=None):
    given = labels() if given is None else given
    return Scores(candidates, candidates, given, NONE, None)


def test_two_that_complement_each_other_are_found_among_many():
    given = labels()
    useless = [torch.randn(N, K, generator=torch.Generator().manual_seed(s)) for s in range(9)]
    # The third is the best alone, but adds nothing to the first or second.
    first, second = knowing(given, slice(0, 300), 1), knowing(given, slice(300, N), 2)
    scores = training([*useless, first, second])
    members, value = select_ensemble(scores, 0.0, 0.0, range(11))
    assert set(members[:2]) == {9, 10}
    both = float(likelihoods(first + second, given).max())
    alone = float(likelihoods(first, given).max())
    assert value >= both > alone


def test_only_those_among_are_chosen():
    given = labels()
    best, fair = knowing(given, slice(0, 600), 1), knowing(given, slice(0, 300), 2)
    scores = training([best, fair, fair.flip(1)])
    members, _ = select_ensemble(scores, 0.0, 0.0, [1, 2])
    assert set(members) <= {1, 2}
    assert members[0] == 1


def test_adding_stops_when_nothing_improves():
    given = labels()
    perfect = 9 * torch.nn.functional.one_hot(given, K).float()
    noise = torch.randn(N, K, generator=torch.Generator().manual_seed(1))
    members, value = select_ensemble(training([noise, perfect, noise.flip(0)]), 0.0, 0.0, range(3))
    assert members == [1]
    assert value == pytest.approx(float(likelihoods(perfect, given).max()))


def test_more_of_the_same_is_no_improvement():
    one = knowing(labels(), slice(0, 300), 1)
    members, _ = select_ensemble(training([one, one.clone()]), 0.0, 0.0, range(2))
    assert len(members) <= 2  # rounding may look like one


@pytest.mark.parametrize("survival", [0.0, 0.3])
def test_the_value_never_falls_as_more_may_be_members(survival):
    given = labels()
    some = [knowing(given, slice(60 * s, 60 * s + 150), s, 1.5) for s in range(8)]
    other = [mine + knowing(given, slice(0, N), 50 + s, 0.5) for s, mine in enumerate(some)]
    scores = Scores(other, some, given, NONE, None)
    before: list[int] = []
    last = -np.inf
    for most in range(1, STEPS + 3):
        members, value = select_ensemble(scores, survival, 0.0, range(8), most)
        assert members[: len(before)] == before
        assert len(members) <= most
        assert value >= last
        before, last = members, value
    assert len(before) > 2


def test_the_value_is_the_corrected_likelihood_of_the_members_sum():
    given, held = labels(), labels(200, 5)
    moved = [knowing(given, slice(90 * s, 90 * s + 200), s, 1.5) for s in range(5)]
    plain = [mine + knowing(given, slice(0, N), 50 + s, 2.0) for s, mine in enumerate(moved)]
    holdout = [knowing(held, slice(20 * s, 20 * s + 90), 70 + s) for s in range(5)]
    for survival in (0.0, 0.3):
        for trust in (0.0, 0.4, 1.0):
            scores = Scores(plain, moved, given, holdout, held)
            members, value = select_ensemble(scores, survival, trust, range(5))
            sums = [sum(each[at] for at in members) for each in (plain, moved, holdout)]
            memory, mine = (likelihoods(each, given) for each in sums[:2])
            expected = (1 - trust) * (mine - survival * memory) / (1 - survival)
            expected = expected + trust * likelihoods(sums[2], held)
            assert value == pytest.approx(float(expected.max()), rel=1e-5)


def test_with_full_trust_only_the_holdout_counts():
    given, held = labels(), labels(200, 5)
    knows, guesses = knowing(given, slice(0, N), 1), knowing(given, slice(0, 0), 2)
    on_holdout = [knowing(held, slice(0, 0), 3), knowing(held, slice(0, 200), 4)]
    scores = Scores([knows, guesses], [knows, guesses], given, on_holdout, held)
    assert select_ensemble(scores, 0.2, 1.0, range(2))[0][0] == 1
    assert select_ensemble(scores, 0.2, 0.0, range(2))[0][0] == 0
    # Training labels may then be anything.
    other = Scores([knows, guesses], [knows, guesses], given.flip(0), on_holdout, held)
    assert select_ensemble(other, 0.2, 1.0, range(2)) == select_ensemble(scores, 0.2, 1.0, range(2))


def test_who_only_remembers_is_not_chosen_once_memory_is_corrected():
    given = labels()
    # One knows a third of the labels on any input; one remembers all, and 60 % if perturbed.
    knows = knowing(given, slice(0, 330), 1)
    plain, moved = knowing(given, slice(0, N), 2), knowing(given, slice(0, 360), 2)
    scores = Scores([knows, plain], [knows, moved], given, NONE, None)
    assert select_ensemble(scores, 0.0, 0.0, range(2))[0][0] == 1
    assert select_ensemble(scores, 0.5, 0.0, range(2), 1)[0] == [0]


def test_many_samples_choose_as_some_of_them_do():
    given = labels(25_000)
    some = [knowing(given, torch.arange(s, 25_000, 7), s) for s in range(5)]
    members, value = select_ensemble(training(some, given), 0.0, 0.0, range(5))
    every = float(likelihoods(sum(some[at] for at in members), given).max())
    assert value == pytest.approx(every, abs=0.02)


def test_labels_are_as_likely_as_the_grid_can_say_where_a_score_is_extreme():
    given = labels(50)
    scores = 1e4 * torch.nn.functional.one_hot((given + 1) % K, K).float()
    assert torch.isfinite(likelihoods(scores, given)).all()
