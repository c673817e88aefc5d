"""How noisy labels are, from scores and noisy labels alone: against draws whose truth is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

import underscript as us
from underscript.noise.calibration import calibrate, expected_calibration_error, label_share
from underscript.noise.estimate import (
    Noise,
    beyond_chance,
    chance_right,
    estimate_noise,
    largest_rate,
)
from underscript.noise.transitions import estimated_transitions
from underscript.utils.classes import pairs

K = 5


def drawn(n: int, temperature: float = 3.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores, and true classes that are as uncertain as `temperature` times them says."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, K, generator=generator)
    chances = torch.softmax(temperature * scores, 1)
    return scores, torch.multinomial(chances, 1, generator=generator)[:, 0]


@pytest.mark.parametrize("degree", [0.0, 0.3, 0.8])
def test_temperature_noise_and_accuracy_are_found(degree):
    scores, true = drawn(20_000, temperature=6.0)
    noisy = torch.from_numpy(us.corrupt_labels(true, degree, K, seed=1))
    found = calibrate(scores, noisy)
    noise = estimate_noise(scores, noisy, found)
    assert noise.rate == pytest.approx(float((noisy != true).double().mean()), abs=0.02)
    assert noise.accuracy == pytest.approx(
        float((scores.argmax(1) == true).double().mean()), abs=0.03
    )
    assert noise.rate_low <= noise.rate <= noise.rate_high
    assert noise.accuracy_low <= noise.accuracy <= noise.accuracy_high
    if degree < 0.5:  # With 80 % of labels drawn anew the likelihood in it is flat.
        assert found.temperature == pytest.approx(6, rel=0.3)
    assert noise.nothing_wrong == (degree == 0)
    assert not noise.hopeless


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = 0
    for seed in range(40):
        scores, true = drawn(1000, seed=seed)
        noisy = torch.from_numpy(us.corrupt_labels(true, 0.5, K, seed=seed))
        noise = estimate_noise(scores, noisy, calibrate(scores, noisy), seed)
        held += noise.rate_low <= 0.4 <= noise.rate_high
    assert held >= 34  # 38 are expected; 33 or fewer would be a chance of 1 in 400


@pytest.mark.parametrize(("n", "most"), [(30, 0.9), (3000, 0.43)])
def test_the_largest_rate_is_where_the_likelihood_has_dropped_by_what_chance_allows(n, most):
    scores, true = drawn(n, temperature=6.0)
    noisy = torch.from_numpy(us.corrupt_labels(true, 0.5, K, seed=1)).numpy()

    def best(rate: float) -> float:
        """Return the largest log-likelihood of a rate, over all temperatures."""
        share = rate * K / (K - 1)

        def loss(log_temperature: float) -> float:
            odds = np.exp(log_temperature) * scores.double().numpy()
            odds -= odds.max(1, keepdims=True)
            right = np.exp(odds[np.arange(n), noisy]) / np.exp(odds).sum(1)
            return -float(np.log((1 - share) * right + share / K).sum())

        return -float(minimize_scalar(loss, bounds=(-3, 4), method="bounded").fun)

    found = largest_rate(scores, torch.from_numpy(noisy))
    assert float((noisy != true.numpy()).mean()) < found < most
    highest = max(best(rate) for rate in np.linspace(0, 0.79, 80))
    assert highest - best(found - 0.02) < 1.92 < highest - best(found + 0.03)


def test_labels_that_say_nothing_are_hopeless():
    scores, true = drawn(5000)
    noise = estimate_noise(scores, true.flip(0), calibrate(scores, true.flip(0)))
    assert noise.hopeless
    assert noise.rate == pytest.approx(1 - 1 / K, abs=0.05)


def test_transitions_of_pair_noise_are_found():
    scores, true = drawn(30_000, temperature=6.0)
    noisy = torch.from_numpy(us.corrupt_labels(true, 0.3, K, kind="pair", seed=1))
    found = estimate_noise(scores, noisy, calibrate(scores, noisy))
    expected = 0.7 * np.eye(K) + 0.3 * np.roll(np.eye(K), 1, axis=1)
    np.testing.assert_allclose(found.transitions, expected, atol=0.06)
    np.testing.assert_allclose(found.transitions.sum(1), 1)
    assert (found.transitions_error < 0.02).all()


def by_class(kind: str) -> torch.Tensor:
    """Return how labels go wrong: 40 % redrawn, 30 % to the next class, or a matrix of its own."""
    if kind == "even":
        return 0.6 * torch.eye(K, dtype=torch.float64) + 0.4 / K
    if kind == "pair":
        return 0.7 * torch.eye(K, dtype=torch.float64) + 0.3 * torch.eye(K).roll(1, 1)
    drawn = torch.rand(K, K, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return 0.6 * torch.eye(K, dtype=torch.float64) + 0.4 * drawn / drawn.sum(1, keepdim=True)


def passed_on(true: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return torch.multinomial(matrix[true], 1, generator=torch.Generator().manual_seed(9))[:, 0]


@pytest.mark.parametrize("kind", ["even", "pair", "other"])
def test_how_likely_a_label_is_right_is_bayes_rule(kind):
    temperature, matrix = 6.0, by_class(kind)
    scores, true = drawn(20_000, temperature=temperature)
    labels = passed_on(true, matrix)
    chances = torch.softmax(temperature * scores.double(), 1).numpy()
    every, given = np.arange(len(labels)), labels.numpy()
    of_label = (chances @ matrix.numpy())[every, given]
    expected = chances[every, given] * matrix.numpy()[given, given] / of_label
    # Temperature and matrix are estimated.
    found = chance_right(scores, labels).numpy()
    assert np.abs(found - expected).mean() < 0.03
    # Of those that are said to be so likely right, so many are right.
    right = (labels == true).numpy()
    for low in np.arange(0, 1, 0.2):
        some = (found >= low) & (found <= low + 0.2)
        error = 4 * (0.25 / some.sum()) ** 0.5
        assert found[some].mean() == pytest.approx(right[some].mean(), abs=0.05 + error)


def test_how_likely_an_evenly_redrawn_label_is_right_follows_from_its_calibration():
    scores, true = drawn(3000, temperature=6.0)
    labels = passed_on(true, by_class("even"))
    found = calibrate(scores, labels)
    scaled = found.temperature * scores.double().numpy()
    of_label = (np.exp(scaled) / np.exp(scaled).sum(1, keepdims=True))[np.arange(3000), labels]
    kept, drawn_again = 1 - found.redrawn, found.redrawn / K
    expected = of_label * (kept + drawn_again) / (kept * of_label + drawn_again)
    np.testing.assert_allclose(chance_right(scores, labels), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["even", "pair", "other"])
def test_the_transitions_found_are_the_likeliest(kind):
    matrix = by_class(kind)
    scores, true = drawn(20_000, temperature=6.0)
    labels = passed_on(true, matrix)
    chances = torch.softmax(6.0 * scores.double(), 1)
    found, counts = estimated_transitions(chances, labels, 0.2)
    torch.testing.assert_close(found, matrix, rtol=0, atol=0.03)
    torch.testing.assert_close(counts / len(labels), chances.mean(0), rtol=0, atol=0.02)

    def likelihood(mine: torch.Tensor) -> float:
        return float((chances @ mine)[torch.arange(len(labels)), labels].log().mean())

    best, generator = likelihood(found), torch.Generator().manual_seed(0)
    # K pseudo-samples a row take a little from the likelihood where what is true is 0.
    assert best >= likelihood(matrix) - 5e-4
    for _ in range(20):
        other = found * (1 + 0.2 * torch.rand(K, K, dtype=torch.float64, generator=generator))
        assert likelihood(other / other.sum(1, keepdim=True)) < best
    # Few steps are on the way there.
    way = [likelihood(estimated_transitions(chances, labels, 0.2, n)[0]) for n in (1, 3, 9)]
    assert way == sorted(way)
    assert way[-1] <= best + 1e-9


def test_what_agrees_by_chance_is_about_one_standard_error_from_it():
    draw, found = np.random.default_rng(0), []
    for _ in range(300):
        # Both mostly say the first class: they agree more often than one in K times.
        one, other = (torch.from_numpy(draw.geometric(0.5, 400).clip(1, K) - 1) for _ in range(2))
        found.append(beyond_chance(float((one == other).double().mean()), one, other))
    assert np.mean(found) == pytest.approx(0, abs=0.2)
    assert np.std(found) == pytest.approx(1, abs=0.2)


def test_beyond_chance_is_counted_in_standard_errors():
    labels = torch.arange(400) % 4
    # A quarter agrees by chance; three quarters do.
    predicted = torch.where(torch.arange(400) < 300, labels, (labels + 1) % 4)
    expected = (0.75 - 0.25) / (0.25 * 0.75 / 400) ** 0.5
    assert beyond_chance(0.75, predicted, labels) == pytest.approx(expected)
    constant = torch.zeros(400, dtype=torch.int64)
    assert beyond_chance(1.0, constant, constant) == 0
    assert np.isfinite(beyond_chance(0.0, constant[:0], constant[:0]))


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-50, 50), seed=st.integers(0, 99))
def test_scale_shift_and_names_of_classes_do_not_matter(scale, shift, seed):
    scores, true = drawn(300, seed=seed)
    first = calibrate(scores, true)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(K))
    other = calibrate(scores[:, order] * scale + shift, torch.argsort(order)[true])
    assert other.mean == pytest.approx(first.mean, abs=1e-3)
    assert other.redrawn == pytest.approx(first.redrawn, abs=1e-3)


def test_a_class_that_cannot_be_and_constant_scores_give_no_nan():
    scores, true = drawn(200)
    scores[:, 2] = -torch.inf
    for values in (scores, torch.zeros(200, K)):
        found = calibrate(values, true)
        assert np.isfinite(found.mean)
        noise = estimate_noise(values, true, found)
        assert np.isfinite(noise.transitions).all()


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("sharp", [0.3, 3.0, 300.0])
def test_the_share_is_the_likeliest(rate, sharp):
    """Against a search that knows nothing of the slope; chances down to 0, shares up to 1."""
    draw, n, k = np.random.default_rng(int(10 * rate)), 2000, 5
    true = draw.integers(k, size=n)
    given = np.where(draw.random(n) < rate, draw.integers(k, size=n), true)
    scores = sharp * (np.eye(k)[true] + 0.3 * draw.normal(size=(n, k)))
    chances = torch.softmax(torch.from_numpy(scores), 1)[np.arange(n), given]
    share, likelihoods = label_share(chances[None], k)
    best = minimize_scalar(
        lambda e: -np.log((1 - e) * chances.numpy() + e / k + 1e-300).mean(),
        bounds=(0, 1),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert float(share[0]) == pytest.approx(best.x, abs=1e-4)
    # Labels that are all drawn anew are taken to be so but for one in a million.
    assert float(likelihoods.mean()) >= -best.fun - 1e-7


def test_calibration_error_is_what_is_missing_to_confidence():
    right = torch.tensor([True] * 6 + [False] * 4)
    assert expected_calibration_error(torch.full((10,), 0.9), right) == pytest.approx(0.3)
    assert expected_calibration_error(torch.full((10,), 0.6), right) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("kind", ["symmetric", "pair"])
@pytest.mark.parametrize("accuracy", [0.6, 0.9])
def test_accuracy_follows_from_agreement_where_wrong_answers_go_where_wrong_labels_go(
    kind, accuracy
):
    """What such labels taught is wrong in their way: with pair noise it says the next class."""
    draw, n, rate = np.random.default_rng(0), 100_000, 0.4
    true = draw.integers(K, size=n)

    def shifted(share: float) -> np.ndarray:
        shift = 1 if kind == "pair" else draw.integers(1, K, size=n)
        return np.where(draw.random(n) < share, (true + shift) % K, true)

    labels, predictions = shifted(rate), shifted(1 - accuracy)
    matrix = np.full((K, K), rate / (K - 1)) if kind == "symmetric" else np.zeros((K, K))
    if kind == "pair":
        matrix[np.arange(K), (np.arange(K) + 1) % K] = rate
    np.fill_diagonal(matrix, 1 - rate)
    scores, some = drawn(500)
    noise = replace(
        estimate_noise(scores, some, calibrate(scores, some)),
        rate=rate,
        rate_low=rate,
        rate_high=rate,
        transitions=matrix,
        by_class=kind == "pair",
    )
    found = noise.of_decoder(float((labels == predictions).mean()), n)
    assert found.accuracy == pytest.approx(accuracy, abs=0.02)
    assert found.accuracy_low < accuracy < found.accuracy_high
    wrong = predictions != true
    by_chance, alike = noise.coincidences
    assert by_chance == pytest.approx((predictions == labels)[wrong].mean(), abs=0.01)
    assert alike == pytest.approx(1.0 if kind == "pair" else 1 / (K - 1))


@pytest.mark.parametrize("n_classes", [51, 300])
def test_of_many_classes_the_largest_chances_are_written(n_classes):
    rng = np.random.default_rng(0)
    matrix = rng.dirichlet(np.full(n_classes, 0.05), n_classes)
    noise = Noise(
        rate=0.2,
        rate_low=0.1,
        rate_high=0.3,
        accuracy=0.8,
        accuracy_low=0.7,
        accuracy_high=0.9,
        transitions=matrix,
        transitions_error=matrix / 128,
        n=1000,
        beyond_chance=50.0,
        by_class=True,
    )
    told = noise.summary()
    # The same number of them, whatever the number of classes.
    assert len(json.dumps(told)) < 10_000
    assert told["transitions"] is None
    assert str(n_classes) in told["transitions_left_out"]
    off = matrix - np.diag(matrix.diagonal())
    largest = np.sort(off.ravel())[::-1][:50]
    assert [each["share"] for each in told["largest_transitions"]] == largest.tolist()
    for each in told["largest_transitions"]:
        assert each["true"] != each["given"]
        assert matrix[each["true"], each["given"]] == each["share"] == each["error"] * 128
    found = pairs({"noise": told}, 20)
    assert [pair.share for pair in found] == largest[:20].tolist()
    assert all(pair.clear for pair in found)


def test_of_few_classes_all_chances_are_written():
    matrix = np.full((50, 50), 0.02)
    noise = Noise(0.2, 0.1, 0.3, 0.8, 0.7, 0.9, matrix, matrix, 1000, 50.0, True)
    told = noise.summary()
    assert told["transitions"] == told["transitions_error"] == matrix.tolist()
    assert "largest_transitions" not in told
