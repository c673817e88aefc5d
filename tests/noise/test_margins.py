"""What margins say is half a likelihood ratio of two normals, fitted with the decoder's odds."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from underscript.noise.margins import evidence_of_margins, margins_of
from underscript.utils.distributed import Processes

N, RIGHT, WRONG, SPREAD = 4_000, 3.0, 0.5, 1.5


def planted(seed: int = 0, high: float = RIGHT, low: float = WRONG):
    """Return which labels are right, calibrated odds of a decoder, and independent margins."""
    draw = np.random.default_rng(seed)
    odds = draw.normal(1.5, 2.0, N)
    right = draw.random(N) < expit(odds)
    margins = np.where(right, high, low) + SPREAD * draw.normal(size=N)
    return right, torch.from_numpy(odds), torch.from_numpy(margins)


def found(margins, odds) -> np.ndarray:
    return evidence_of_margins(margins, odds, Processes()).numpy()


def test_margins_are_log_odds_of_the_label():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 9
    labels = torch.arange(50) % 4
    chance = torch.softmax(logits.double(), 1)[torch.arange(50), labels]
    expected = torch.log(chance / (1 - chance))
    torch.testing.assert_close(margins_of(logits, labels), expected, rtol=1e-5, atol=1e-5)


def test_what_the_softmax_rounds_to_one_is_still_finite():
    assert margins_of(torch.tensor([[900.0, 0.0, -900.0]]), torch.tensor([0])).item() == 900


def test_it_is_half_the_ratio_of_two_normals_of_the_greatest_likelihood():
    _, odds, margins = planted()
    m, x = (margins + odds / 2).numpy(), odds.numpy()

    def of(theta):
        curve, gap, spread = np.polyval(theta[:4], x / 3), theta[4], np.exp(theta[5])
        return [norm.logpdf(m, curve + more, spread) for more in (gap, 0)]

    def unlikely(theta):
        return -np.logaddexp(of(theta)[0] + log_expit(x), of(theta)[1] + log_expit(-x)).mean()

    right, wrong = of(minimize(unlikely, [0.0, 0.0, 0.0, 0.0, 1.0, 0.0], tol=1e-10).x)
    added = found(margins + odds / 2, odds)
    # A constant keeps the expected number of wrong labels.
    assert np.ptp(added - (right - wrong) / 2) < 0.01 * np.ptp(added)


def test_it_ranks_better_than_the_decoder_and_the_margins():
    right, odds, margins = planted()
    both = odds.numpy() + found(margins, odds)
    alone = max(roc_auc_score(right, odds), roc_auc_score(right, margins))
    assert roc_auc_score(right, both) > alone + 0.02


@pytest.mark.parametrize("seed", range(3))
def test_the_expected_number_of_wrong_labels_stays(seed):
    _, odds, margins = planted(seed)
    after = expit(odds.numpy() + found(margins, odds)).mean()
    assert after == pytest.approx(float(torch.sigmoid(odds).mean()), abs=1e-6)


def test_the_scale_of_margins_does_not_matter():
    _, odds, margins = planted()
    np.testing.assert_allclose(found(5 - 3 * -margins, odds), found(margins, odds), atol=1e-6)


@pytest.mark.parametrize("slope", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_margins_that_say_nothing_beyond_the_odds_do_no_harm(slope, seed):
    right, odds, margins = planted(seed, low=RIGHT)
    both = odds.numpy() + found(margins + slope * odds, odds)
    assert roc_auc_score(right, both) > roc_auc_score(right, odds) - 0.005


@pytest.mark.parametrize(
    "margins", [-planted()[2], torch.full((N,), 7.0), torch.full((N,), 7.0).double()]
)
def test_smaller_margins_of_right_labels_and_equal_ones_add_nothing(margins):
    assert not found(margins, planted()[1]).any()


def test_no_samples_give_no_evidence():
    nothing = torch.zeros(0, dtype=torch.float64)
    assert found(nothing, nothing).shape == (0,)
