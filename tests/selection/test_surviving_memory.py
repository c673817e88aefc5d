"""Memory that survives the perturbation: images are overlaid, or the verdict says so."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from planted import fits_of, scores_that_remember
from sklearn.datasets import load_digits
from torch import Tensor, nn

import underscript as us
from underscript.selection import chosen_decoder
from underscript.selection.measured_memory import measure_memory
from underscript.selection.memorisation import Memory

SURVIVES = "most of what the network memorised survives"


def knowing(true: Tensor, seed: int) -> Tensor:
    noise = torch.randn(len(true), 6, generator=torch.Generator().manual_seed(seed)).double()
    return 3.0 * torch.eye(6).double()[true] + noise


def measured(share: float, later: float | None = None, wrong: int | None = None) -> Memory:
    """Return what is measured if a share of memory survives; in a later round a share `later`."""
    plain, _, given, true = scores_that_remember(0.0, 0)
    some = slice(None) if wrong is None else slice(wrong)
    given, true = given[some], true[some]
    draw = torch.Generator().manual_seed(1)
    rows, layers = [(knowing(true, 2), knowing(true, 3))], ["fc0"]
    for left in (share, later):
        if left is not None:
            keeps = torch.rand(len(true), 1, generator=draw) < left
            rows.append((plain[some], torch.where(keeps, plain[some], knowing(true, 4))))
            layers.append("fc1")
    fits = fits_of(*(list(each) for each in zip(*rows, strict=True)), given, layers)
    if later is not None:
        fits.candidates[-1] = fits.candidates[-1]._replace(round=2)
    return measure_memory(fits, perturbed=True)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.85])
def test_what_survives_of_the_network_s_memory_is_its_least_plausible_share(share):
    memory = measured(share)
    assert share - 0.06 < memory.of_network < share + 0.03
    assert memory.of_network < memory.likely < memory.survival
    assert memory.survives == (share > 0.8)


def test_what_later_rounds_keep_is_no_memory_of_the_network():
    memory = measured(0.3, later=0.9)
    assert memory.likely > 0.8
    assert memory.of_network < 0.35
    assert not memory.survives


def test_few_samples_are_not_enough_to_say_that_memory_survives():
    assert measured(0.85).survives
    assert not measured(0.85, wrong=60).survives
    # Not even if all that is remembered survives.
    assert measured(1.0, wrong=1000).survives
    assert not measured(1.0, wrong=25).survives


def of_few_samples(last: str, seed: int) -> Memory:
    """Return what is measured of 60 samples if the last layer knows and remembers nothing."""
    draw = torch.Generator().manual_seed(seed)
    true, given = (torch.randint(6, (60,), generator=draw) for _ in range(2))
    by_chance = [[torch.randn(60, 6, generator=draw).double() for _ in range(8)] for _ in range(2)]
    by_chance[0][0] += 3 * torch.eye(6).double()[given]  # so that it is the last
    plain, moved = ([knowing(true, 2), *each] for each in by_chance)
    return measure_memory(fits_of(plain, moved, given, ["fc0"] + 8 * [last]), perturbed=True)


def test_candidates_that_remember_nothing_say_nothing_of_what_survives():
    found = [of_few_samples("fc1", seed) for seed in range(20)]
    assert any(each.reference is not None and each.survival for each in found)
    assert all(each.of_network <= 1 and not each.survives for each in found)


def test_where_no_layer_sees_memory_it_says_how_many_labels_may_be_wrong():
    found = [of_few_samples("fc1", seed) for seed in range(20)]
    assert any(each.survival for each in found)
    assert not all(each.survival for each in found)
    assert all((each.may_be_wrong > 0.3) == (each.survival == 0) for each in found)

    true = torch.arange(5_000) % 6
    both = [[3 * knowing(true, seed) for seed in (at, at + 1)] for at in (2, 4)]
    memory = measure_memory(fits_of(*both, true, ["fc0", "fc1"]), perturbed=True)
    assert memory.survival == 0
    assert 0 <= memory.may_be_wrong < 0.1


def test_the_input_remembers_nothing_that_could_survive():
    found = [of_few_samples("input", seed).of_network for seed in range(20)]
    assert found == 20 * [0.0]


# A decode ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, np.ndarray]:
    """Return a network that fits wrong labels of five digits, the images and the labels."""
    x, true = load_digits(n_class=5, return_X_y=True)
    images = torch.from_numpy((x / 8 - 1).astype(np.float32)).reshape(-1, 1, 8, 8)[:400]
    given = us.corrupt_labels(true[:400], 0.4, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
        step = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(60):
            step.zero_grad()
            nn.functional.cross_entropy(model(images), torch.from_numpy(given)).backward()
            step.step()
    return model.eval(), images, given


@pytest.fixture
def survives(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Say of one pass after the other whether memory survives, as the list says; then not."""
    said: list[bool] = []

    def instead(*args: Any) -> Memory:
        return replace(measure_memory(*args), of_network=float(bool(said and said.pop(0))))

    monkeypatch.setattr(chosen_decoder, "measure_memory", instead)
    return said


def decode(it: tuple[nn.Module, Tensor, np.ndarray], **how: object) -> us.Decoding:
    model, x, given = it
    return us.decode(model, (x, given), controls=False, progress=False, **how)


def test_where_memory_survives_shifts_images_are_overlaid_in_a_second_pass(digits, survives):
    survives.append(True)
    with pytest.warns(us.errors.UnderscriptWarning, match=SURVIVES):
        found = decode(digits)
    expected = decode(digits, perturb="overlays")
    assert found.summary["settings"]["perturb"].endswith(", overlays")
    assert not found.summary["contradictions"]
    x = digits[1]
    np.testing.assert_array_equal(found.best.predict(x), expected.best.predict(x))
    assert found.label_issues().equals(expected.label_issues())


def test_where_it_survives_overlays_too_shifts_are_kept_and_the_verdict_says_so(digits, survives):
    survives += [True, True, True]
    found = decode(digits)
    expected = decode(digits)
    assert "overlays" not in found.summary["settings"]["perturb"]
    (caution,) = found.summary["contradictions"]
    assert f"survives {found.summary['settings']['perturb']}, so" in caution
    assert f"Caution: {caution}" in found.verdict
    x = digits[1]
    np.testing.assert_array_equal(found.best.predict(x), expected.best.predict(x))


def darker(x: Tensor) -> Tensor:
    return x - 0.1


@pytest.mark.parametrize("perturb", [darker, "overlays"])
def test_what_the_user_chose_is_kept_and_the_verdict_says_so(digits, survives, perturb):
    survives += [True, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode(digits, perturb=perturb)
    assert len(found.summary["contradictions"]) == 1
    assert ("overlays" in found.summary["settings"]["perturb"]) == (perturb == "overlays")


def test_a_hold_out_shows_what_is_memory(digits, survives):
    survives += [True, True]
    model, x, given = digits
    held = x[300:], given[300:]
    found = us.decode(model, (x[:300], given[:300]), holdout=held, controls=False, progress=False)
    assert "overlays" not in found.summary["settings"]["perturb"]
    assert not found.summary["contradictions"]
