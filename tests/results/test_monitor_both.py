"""Label issues by margins and by a decoder together."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from underscript.errors import DataError
from underscript.results.monitor.label_issues import both_together

N = 2000


def tables(seed=0):
    """Return the issues of a run and of a decoder, each unsure in its own way, and the truth."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(N) < 0.3
    given = rng.integers(0, 5, N)

    def table(flags_as):
        odds = np.where(wrong, -1.5, 1.5) + 1.5 * rng.normal(size=N)
        predicted = np.where(odds < 0, (given + 1) % 5, given)
        return pd.DataFrame(
            {
                "is_label_issue": odds < flags_as,
                "label_quality": 1 / (1 + np.exp(-odds)),
                "given_label": given,
                "predicted_label": predicted,
                "second_label": (predicted + 2) % 5,
                "margin": odds,
                "confidence": 0.5,
            },
            index=pd.Index(100 + np.arange(N), name="index"),
        )

    return table(0.0), table(-0.5), wrong


def test_both_find_more_than_each():
    run, decoder, wrong = tables()
    both = both_together(run, decoder)
    auroc = [roc_auc_score(wrong, -each["label_quality"]) for each in (run, decoder, both)]
    assert auroc[2] > max(auroc[:2]) + 0.02
    assert both["is_label_issue"].sum() == decoder["is_label_issue"].sum()
    flagged = both[both["is_label_issue"]]
    assert (flagged["predicted_label"] != flagged["given_label"]).all()
    worst_kept = both.loc[~both["is_label_issue"], "label_quality"].min()
    assert flagged["label_quality"].max() <= worst_kept


def test_odds_are_added_and_the_prior_counts_once():
    run, decoder, _ = tables()
    run["label_quality"] = 0.8
    both = both_together(run, decoder)
    np.testing.assert_allclose(both["label_quality"], decoder["label_quality"], rtol=1e-9)


def test_qualities_of_zero_and_one_stay_numbers():
    run, decoder, _ = tables()
    run["label_quality"] = np.arange(N) % 2 * 1.0
    decoder["label_quality"] = 1.0 - run["label_quality"]
    assert np.isfinite(both_together(run, decoder)["label_quality"]).all()


def test_the_decoder_may_know_more_samples_in_another_order():
    run, decoder, _ = tables()
    part = run.iloc[::3]
    expected = both_together(part, decoder)
    found = both_together(part, decoder.iloc[::-1])
    pd.testing.assert_frame_equal(found, expected)
    assert list(found.index) == list(part.index)


def test_other_samples_or_labels_are_refused():
    run, decoder, _ = tables()
    with pytest.raises(DataError, match=r"lacks 10, the first with index 100") as caught:
        both_together(run, decoder.iloc[10:])
    assert "\n" not in str(caught.value)
    decoder.loc[105, "given_label"] = (decoder.loc[105, "given_label"] + 1) % 5
    with pytest.raises(DataError, match=r"1 differ, the first at index 105"):
        both_together(run, decoder)
