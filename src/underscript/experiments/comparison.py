"""Compare our results with the published ones: cell by cell, mean ± spread, and how many agree.

Cells can only agree or disagree where networks were trained as the authors trained theirs.
Elsewhere only differences are shown.

The published numbers come from the authors' result files, which are not part of this project: a
table of probes (columns ``probe, experiment, corruption, subspace_labels, run, layer, split,
pca, accuracy``) or of networks (``experiment, corruption, run, test_accuracy,
best_test_accuracy``).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import DataError
from .datasets.catalogue import CATALOGUE
from .plan import Plan
from .units import ONE_COMPONENT

__all__ = ["compare", "differences", "read_published", "verdict"]

# Two means this close agree, whatever their spreads.
POINTS = 0.02
PROBES = {
    "KNN": "knn",
    "LDA": "lda",
    "QDA": "qda",
    "nearest_class_mean": "ncm",
    "logistic_regression": "logistic",
    "MASC": "masc",
}
LAYERS = {
    "flattern": "flatten",
    "bf_last": "pooled",
    "l1": "stage1",
    "l2": "stage2",
    "l3": "stage3",
    "l4": "stage4",
}
ORACLE = "model, best epoch (oracle)"
CELL = ["corruption", "layer", "probe", "variance", "subspace_labels", "split", "labels"]
_NEEDED = {
    "probes": {
        "probe",
        "experiment",
        "corruption",
        "subspace_labels",
        "run",
        "layer",
        "split",
        "pca",
        "accuracy",
    },
    "networks": {"experiment", "corruption", "run", "test_accuracy", "best_test_accuracy"},
}


def read_published(paths: Sequence[Path], plan: Plan) -> pd.DataFrame:
    """Read the published numbers of a plan's pair.

    Accuracies are taken as per cent if the largest of the same table and probe is above 1. Seeds of
    one network are averaged before the spread over networks is computed.

    Returns
    -------
    pandas.DataFrame
        Columns `CELL`, ``mean``, ``sd`` (n − 1), ``runs``.

    Raises
    ------
    DataError
        If a file cannot be read, is neither of the two tables, or has no row of this pair.
    """
    name = plan.pair.published
    if name is None:
        raise DataError(f"compare: nothing was published of {plan.experiment}")
    parts = []
    for path in paths:
        try:
            table = pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: expected a CSV table ({error})") from None
        if _NEEDED["probes"] <= set(table.columns):
            parts.append(_probes(table[table["experiment"] == name]))
        elif _NEEDED["networks"] <= set(table.columns):
            parts.append(_networks(table[table["experiment"] == name]))
        else:
            lacks = sorted(_NEEDED["probes"] - set(table.columns))
            raise DataError(f"{path}: expected a table of probes or networks; lacks {lacks}")
    rows = pd.concat(parts, ignore_index=True)
    if not len(rows):
        raise DataError(f"compare: none of the files has a row of {name}")
    runs = rows.groupby([*CELL, "run"], dropna=False)["accuracy"].mean().reset_index()
    grouped = runs.groupby(CELL, dropna=False)["accuracy"]
    return grouped.agg(mean="mean", sd="std", runs="count").reset_index()


def _probes(table: pd.DataFrame) -> pd.DataFrame:
    table = table.copy()
    for probe, rows in table.groupby("probe"):
        if rows["accuracy"].max() > 1:
            table.loc[table["probe"] == probe, "accuracy"] /= 100
    masc = table["probe"] == "MASC"
    shares = table["pca"].where(table["pca"] != 1, ONE_COMPONENT)
    labels = table["subspace_labels"]
    # The authors compare training rows of true subspaces with the true labels.
    against_true = labels.eq("corrupted/true-train") | (
        labels.eq("true") & table["split"].eq("train")
    )
    return table.assign(
        probe=table["probe"].map(PROBES).fillna(table["probe"]),
        layer=table["layer"].replace(LAYERS),
        variance=shares.where(masc, np.nan),
        subspace_labels=labels.replace("corrupted/true-train", "corrupted"),
        labels=np.where(against_true, "true", "given"),
    )[[*CELL, "run", "accuracy"]]


def _networks(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[["corruption", "run"]].assign(
        layer="output", variance=np.nan, subspace_labels=np.nan, split="test", labels="given"
    )
    parts = []
    for column, probe in (("test_accuracy", "model"), ("best_test_accuracy", ORACLE)):
        values = table[column] / (100 if table[column].max() > 1 else 1)
        parts.append(rows.assign(probe=probe, accuracy=values))
    return pd.concat(parts, ignore_index=True)


def differences(plan: Plan) -> list[str]:
    """Return, in words, how a plan's networks are made otherwise than the published ones."""
    recipe, files = plan.recipe, CATALOGUE.get(plan.pair.data)
    found = []
    if plan.preset != "paper":
        found.append(f"{plan.preset} preset")
    if files is not None and recipe.samples is not None and recipe.samples < files.n_train:
        found.append(f"{recipe.samples:,} of {files.n_train:,} training images")
    if recipe.width != 1:
        found.append(f"{recipe.width:g} of the width")
    if plan.noise != "symmetric":
        found.append("other noise")
    if plan.holdout:
        found.append(f"{plan.holdout:,} images held out")
    return found


def compare(
    summary: pd.DataFrame,
    models: pd.DataFrame,
    published: pd.DataFrame,
    differ: Sequence[str] = (),
) -> pd.DataFrame:
    """Put our results beside the published ones.

    Parameters
    ----------
    summary : pandas.DataFrame
        From `summarise`.
    models : pandas.DataFrame
        From `models_table`.
    published : pandas.DataFrame
        From `read_published`.
    differ : sequence of str
        From `differences`.

    Returns
    -------
    pandas.DataFrame
        One row for each published cell that we also ran: columns `CELL`, ``ours_mean``,
        ``ours_sd``, ``ours_runs``, ``published_mean``, …, ``difference`` (ours − published) and, if
        the set-up does not differ, ``agrees``: within 2 points, or within the sum of both standard
        deviations.
    """
    own = summary[summary["model"].isin(["trained"])]
    # E1 and E5 both have MASC at the main share, from the same network: keep E1's.
    own = own[own["experiment"] != "E3"].drop_duplicates(CELL)
    oracle = models.groupby("corruption")["oracle_test_accuracy"]
    best = oracle.agg(mean="mean", sd="std", runs="count").reset_index()
    best = best.assign(
        layer="output",
        probe=ORACLE,
        variance=np.nan,
        subspace_labels=np.nan,
        split="test",
        labels="given",
    )
    ours = pd.concat([own[[*CELL, "mean", "sd", "runs"]], best], ignore_index=True)
    # NaN counts as a value here, as networks have no variance share.
    filled = [
        frame.assign(
            variance=frame["variance"].astype(float).fillna(-1),
            subspace_labels=frame["subspace_labels"].astype(object).fillna(""),
        ).rename(columns={name: f"{who}_{name}" for name in ("mean", "sd", "runs")})
        for who, frame in (("ours", ours), ("published", published))
    ]
    both = filled[0].merge(filled[1], on=CELL)
    both["variance"] = both["variance"].where(both["variance"] >= 0)
    both["difference"] = both["ours_mean"] - both["published_mean"]
    if not differ:
        spreads = both["ours_sd"].fillna(0) + both["published_sd"].fillna(0)
        both["agrees"] = both["difference"].abs() <= np.maximum(spreads, POINTS)
    return both


def verdict(both: pd.DataFrame, differ: Sequence[str] = ()) -> str:
    """Return a sentence on how many cells agree, or why none is said to."""
    if differ:
        mean = 100 * both["difference"].abs().mean()
        off = f", {mean:.1f} points off on average" if len(both) else ""
        return (
            f"{len(both)} published cells were run here{off}; the set-up differs "
            f"({', '.join(differ)}), so none is said to agree"
        )
    agree = int(both["agrees"].sum())
    return (
        f"{agree} of {len(both)} published cells that were run here agree (within "
        f"{100 * POINTS:g} points, or within both standard deviations)"
    )
