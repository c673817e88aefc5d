"""When a monitor raises the alarm, and which epoch it keeps, on readings with known answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import underscript as us
from underscript.results.monitor.judgement import Judgement, Reading, alarm, recommended, stop

N, K, NOISE = 2000, 10, 0.4


def reading(epoch, accuracy, memory, survival=0.0, rate_low=0.3, seed=0, confusing=1 / 9, **others):
    """Return a reading of a network of known accuracy that remembers a known share of labels.

    A share `survival` of the memory is still there on perturbed inputs. Labels are wrong for 40 %,
    and so is the network where it does not know: a share `confusing` goes to the next class, the
    rest to any other.
    """
    rng = np.random.default_rng((seed, epoch))
    fixed = np.random.default_rng(seed)
    true = fixed.integers(0, K, N)
    wrong = fixed.random(N) < NOISE

    def another(rng):
        any_other = (true + rng.integers(2, K, N)) % K
        return np.where(rng.random(N) < confusing, (true + 1) % K, any_other)

    given = np.where(wrong, another(fixed), true)
    knows = np.where(rng.random(N) < accuracy, true, another(rng))
    remembered = rng.random(N) < memory
    survives = remembered & (rng.random(N) < survival)
    others = {"known": accuracy, **others}
    return Reading(
        epoch,
        10 * epoch,
        given,
        np.where(remembered, given, knows),
        np.where(survives, given, knows)[:, None],
        true,
        np.where(wrong, 0.002, 0.998).astype(np.float32),
        rate=NOISE,
        rate_low=rate_low,
        rate_high=0.5,
        per_rate=1 / (K - 1),
        hopeless=False,
        **others,
    )


@pytest.mark.parametrize("confusing", [1 / 9, 0.7])
@pytest.mark.parametrize("survival", [0.0, 0.3, 0.6])
def test_memory_is_taken_off_the_agreement(survival, confusing):
    # Also where people and the network confuse the same classes.
    found = reading(1, 0.7, 0.5, survival, confusing=confusing)
    judged = Judgement([found])
    assert judged.survival == pytest.approx(survival, abs=0.1)
    without = reading(1, 0.7, 0.0, confusing=confusing)
    assert judged.worth(found).mean() == pytest.approx(without.agrees_moved.mean(), abs=0.06)


def test_one_share_serves_all_epochs_that_of_the_most_memory():
    readings = [reading(1, 0.8, 0.02, 0.9), reading(2, 0.7, 0.9, 0.3)]
    assert Judgement(readings).survival == pytest.approx(0.3, abs=0.05)
    assert Judgement(readings).reference is readings[0]


def test_rates_without_memory_are_those_of_a_plain_loop():
    found = reading(1, 0.6, 0.4, 0.5)
    judged = Judgement([found])
    right = found.right.astype(float)
    rates = np.zeros(N)
    for at in range(N):
        of_class = found.given == found.vote[at]
        hits = (found.moved[of_class] == found.given[at]).mean(1)
        rates[at] = (right[of_class] * hits).sum() / right[of_class].sum()
    expected = ((1 - right) @ rates) / (1 - right).sum()
    assert judged._without_memory(found) == pytest.approx(expected, rel=1e-9)


def test_one_noise_rate_serves_all_epochs_the_median():
    readings = [
        replace(reading(epoch, 0.8, 0.0), rate=rate, rate_low=rate - 0.01, rate_high=rate + 0.01)
        for epoch, rate in enumerate([0.12, 0.41, 0.4, 0.15, 0.39], 1)
    ]
    judged = Judgement(readings)
    assert judged.noise.rate == 0.39
    # A decoder of known accuracy agrees with right labels, and with some wrong ones by chance.
    agreement = (1 - 0.39) * 0.8 + 0.39 / (K - 1) * (1 - 0.8)
    found, low, high = judged.accuracy(agreement)
    assert found == pytest.approx(0.8)
    assert low < 0.8 < high
    hopeless = replace(readings[1], hopeless=True, rate=0.0)
    assert Judgement([hopeless, readings[1]]).noise.rate == 0.41


@pytest.mark.parametrize("survival", [0.0, 0.4])
def test_the_epoch_before_accuracy_falls_is_kept(survival):
    accuracy = [0.4, 0.7, 0.9, 0.8, 0.7, 0.6]
    memory = [0.0, 0.0, 0.05, 0.3, 0.6, 0.9]
    readings = [
        reading(epoch, *each, survival)
        for epoch, each in enumerate(zip(accuracy, memory, strict=True), 1)
    ]
    kept = recommended(readings)
    assert kept.epoch == 3
    assert kept.step == 30
    assert "epoch 3" in kept.why
    assert alarm(readings).epoch in (3, 4)
    assert f"epoch {alarm(readings).epoch}" in alarm(readings).evidence


def test_of_epochs_that_are_alike_the_earliest_is_kept():
    same = [reading(epoch, 0.8, 0.0) for epoch in (1, 2, 3)]
    for each in same[1:]:
        np.copyto(each.moved, same[0].moved)
    assert recommended(same).epoch == 1


def test_without_memory_there_is_no_alarm():
    for seed in range(20):
        assert alarm([reading(e, 0.5 + e / 50, 0.0, seed=seed) for e in range(1, 20)]) is None


def test_without_labels_that_are_surely_wrong_there_is_no_alarm():
    assert alarm([reading(e, 0.8, 0.9, rate_low=0.01) for e in (1, 2, 3)]) is None
    assert alarm([reading(e, 0.8, 0.9) for e in (1, 2, 3)]).epoch == 1


def test_one_reading_is_no_evidence():
    assert alarm([reading(1, 0.8, 0.9)]) is None
    assert alarm([reading(1, 0.8, 0.9), reading(2, 0.8, 0.0)]) is None


def test_a_holdout_decides_where_there_is_one():
    agrees = np.zeros(500, np.float32)
    readings = []
    for epoch, share in enumerate([0.3, 0.5, 0.4], 1):
        held = agrees.copy()
        held[: int(share * 500)] = 1
        readings.append(reading(epoch, 1 - epoch / 10, 0.0, holdout=held))
    kept = recommended(readings)
    assert kept.epoch == 2
    assert kept.agreement == pytest.approx(0.5)
    assert "hold-out" in kept.why
    assert recommended([]) is None


def test_training_may_stop_once_two_epochs_in_a_row_are_worse():
    accuracy = [0.4, 0.7, 0.9, 0.7, 0.6, 0.6]
    memory = [0.0, 0.0, 0.05, 0.3, 0.6, 0.9]
    readings = [
        reading(epoch, *each) for epoch, each in enumerate(zip(accuracy, memory, strict=True), 1)
    ]
    stopped = [stop(readings[:seen]) for seen in range(len(readings) + 1)]
    assert stopped[:5] == [None] * 5
    assert stopped[5].epoch == 5
    assert "than epoch 3" in stopped[5].why
    # It goes on as long as it becomes better, and as long as nothing is remembered.
    assert stop([reading(e, 0.4 + e / 20, e / 20) for e in range(1, 9)]) is None
    assert stop([reading(e, 0.9 - e / 20, 0.0) for e in range(1, 9)]) is None


def watched(degree, epochs, seed=0):
    """Train an MLP on digits for some epochs; return its monitor and test accuracies."""
    x, true = load_digits(return_X_y=True)
    x = torch.from_numpy((x / 8 - 1).astype(np.float32))
    y = torch.from_numpy(us.corrupt_labels(true, degree, seed=seed))
    monitor = us.Monitor((x[:1200], y[:1200]))
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    accuracies = []
    for _ in range(epochs):
        for at in torch.randperm(1200).split(50):
            logits = model(x[at])
            optimiser.zero_grad()
            nn.functional.cross_entropy(logits, y[at]).backward()
            optimiser.step()
            monitor.update(logits, y[at], at)
        monitor.end_epoch(model)
        with torch.no_grad():
            right = model(x[1200:]).argmax(1) == torch.from_numpy(true[1200:])
        accuracies.append(float(right.double().mean()))
    wrong = (y[:1200] != torch.from_numpy(true[:1200])).numpy()
    return monitor, accuracies, wrong


@pytest.mark.slow
def test_a_network_that_memorises_is_noticed_and_an_early_epoch_is_kept():
    monitor, accuracies, wrong = watched(0.4, 25)
    assert accuracies[-1] < max(accuracies) - 0.05
    assert monitor.alarm is not None
    kept = accuracies[monitor.recommended.epoch - 1]
    assert kept > max(accuracies) - 0.05
    assert kept > accuracies[-1]
    issues = monitor.label_issues()
    assert wrong[issues["is_label_issue"]].mean() > 0.8
    early = issues["label_quality"].to_numpy()
    assert (early[wrong].mean() + 0.5) < early[~wrong].mean()


@pytest.mark.slow
def test_a_network_with_clean_labels_raises_no_alarm():
    monitor, _, _ = watched(0.0, 15)
    assert monitor.alarm is None
    assert not monitor.label_issues()["is_label_issue"].any()
