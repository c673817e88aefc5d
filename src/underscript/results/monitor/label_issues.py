"""Which labels look wrong by what their samples did during training."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture

from ...errors import DataError

__all__ = ["issues_of", "quality_of"]

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
    nothing_wrong: bool,
    seed: int,
) -> pd.DataFrame:
    """Return the table of label issues.

    Parameters
    ----------
    table : pandas.DataFrame
        From `SampleRecords.table`.
    chances : ndarray of float32, shape (n, K), or None
        Mean probabilities.
    nothing_wrong : bool
        Whether the noise estimate says that no label is wrong: then none is flagged.
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
    flags = (quality < 0.5) & (not nothing_wrong)
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
