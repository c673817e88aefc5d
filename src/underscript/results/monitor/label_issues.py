"""Which labels look wrong by what their samples did during training."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture

from ...errors import DataError

__all__ = ["both_together", "issues_of", "quality_of"]

# Samples that the mixture is fitted to.
_FITTED = 50_000


def quality_of(aum: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return the probability that each label is right, by its area under the margin.

    Margins of right and of wrong labels are taken as two normal distributions of one variance, so
    that the probability rises with the margin. It is 1 for all if the margins do not vary.
    """
    if len(aum) < 2 or float(aum.std()) == 0:
        return np.ones(len(aum))
    values = (aum - aum.mean()) / aum.std()
    some = values
    if len(values) > _FITTED:
        some = np.random.default_rng(seed).choice(values, _FITTED, replace=False)
    start = np.quantile(some, [0.1, 0.9])[:, None]
    mixture = GaussianMixture(
        2, covariance_type="tied", means_init=start, max_iter=1000, random_state=seed
    )
    chances: Any = mixture.fit(some[:, None]).predict_proba(values[:, None])
    return np.asarray(chances[:, int(mixture.means_[:, 0].argmax())], dtype=np.float64)


def issues_of(
    table: pd.DataFrame,
    chances: NDArray[np.float32] | None,
    rate: float | None,
    seed: int,
) -> pd.DataFrame:
    """Return the table of label issues.

    Parameters
    ----------
    table : pandas.DataFrame
        From `SampleRecords.table`.
    chances : ndarray of float32, shape (n, K), or None
        Mean probabilities.
    rate : float or None
        Noise rate, from the layers: such a share of labels is flagged, those of the smallest
        margins. None if it is not known: those that are rather wrong than right are flagged.
    seed : int
        Seed of the mixture.

    Raises
    ------
    DataError
        If no epoch has ended yet.
    """
    if not len(table):
        raise DataError("label_issues: expected at least one epoch; call update, then end_epoch")
    quality = quality_of(table["aum"].to_numpy(), seed)
    flags = quality < 0.5
    if rate is not None:
        flags = _lowest(table["aum"].to_numpy(), round(rate * len(table)))
    given, predicted = (table[name].to_numpy() for name in ("given_label", "predicted_label"))
    confidence = np.full(len(table), np.nan)
    if chances is not None:
        # What is remembered late may outweigh early epochs: of a flagged label the best other.
        other = chances.copy()
        other[np.arange(len(other)), given] = -1.0
        predicted = np.where(flags, other.argmax(1), predicted)
        confidence = chances[np.arange(len(chances)), predicted].astype(np.float64)
    columns = {
        "is_label_issue": flags,
        "label_quality": quality,
        "given_label": given,
        "predicted_label": predicted,
        "margin": table["aum"].to_numpy(),
        "confidence": confidence,
    }
    return pd.DataFrame(columns, index=pd.Index(table["index"], name="index"))


def both_together(of_run: pd.DataFrame, of_decoder: pd.DataFrame) -> pd.DataFrame:
    """Return label issues by what samples did in training and by a decoder, together.

    A decoder reads what the network knows in the end, the margins say how hard a label was to
    learn. Given whether a label is right, the two count as independent: log-odds add up, and the
    prior, which both hold, counts once. As many labels are flagged as the decoder flags, for it
    knows the noise rate.

    Parameters
    ----------
    of_run : pandas.DataFrame
        From `issues_of`.
    of_decoder : pandas.DataFrame
        From `Decoding.label_issues`, of the same samples.

    Raises
    ------
    DataError
        If a sample has other labels in the two, or is missing in the decoder's.
    """
    missing = ~of_run.index.isin(of_decoder.index)
    if missing.any():
        raise DataError(
            f"label_issues: expected a decoding of all {len(of_run)} samples that were trained on; "
            f"it lacks {missing.sum()}, the first with index {of_run.index[missing][0]}. Decode "
            "the same training data, in the same order"
        )
    other = of_decoder.loc[of_run.index]
    given = of_run["given_label"].to_numpy()
    differs = other["given_label"].to_numpy() != given
    if differs.any():
        raise DataError(
            "label_issues: expected the labels that were trained on in the decoding; "
            f"{differs.sum()} differ, the first at index {of_run.index[differs][0]}. Decode the "
            "same training data, in the same order"
        )
    prior = _log_odds(np.array([of_run["label_quality"].mean()]))
    odds = _log_odds(of_run["label_quality"]) - prior + _log_odds(other["label_quality"])
    flags = _lowest(odds, int(other["is_label_issue"].sum()))
    predicted = other["predicted_label"].to_numpy()
    # Where the decoder repeats a flagged label, the run's other class, else the second choice.
    repeats = flags & (predicted == given)
    of_training = of_run["predicted_label"].to_numpy()
    instead = np.where(of_training != given, of_training, other["second_label"].to_numpy())
    columns = {
        "is_label_issue": flags,
        "label_quality": 1 / (1 + np.exp(-odds)),
        "given_label": given,
        "predicted_label": np.where(repeats, instead, predicted),
        "margin": of_run["margin"].to_numpy(),
        "confidence": other["confidence"].to_numpy(),
    }
    return pd.DataFrame(columns, index=of_run.index)


def _lowest(values: NDArray[np.float64], n: int) -> NDArray[np.bool_]:
    """Return which are the n smallest values; of equal ones the first."""
    found = np.zeros(len(values), dtype=bool)
    found[np.argsort(values, kind="stable")[:n]] = True
    return found


def _log_odds(quality: Any) -> NDArray[np.float64]:
    """Return log-odds of probabilities, none infinite."""
    quality = np.clip(np.asarray(quality, dtype=np.float64), 1e-12, 1 - 1e-12)
    return np.asarray(np.log(quality) - np.log1p(-quality), dtype=np.float64)
