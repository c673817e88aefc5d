"""D1: compare ways of finding wrong labels, by one memorised network and by retraining."""

import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.mixture import GaussianMixture

from .._decode import decode
from ..errors import DataError
from ..probes.baselines import AlignmentClassifier, NearestNeighbours
from ..utils.extras import optional_package
from .probes import rows_of
from .work import Work

__all__ = [
    "NEIGHBOURS",
    "OURS",
    "RETRAINED",
    "LabelPrediction",
    "by_alignment",
    "by_neighbours",
    "fast_ways",
    "run_detection",
    "scored",
]

# The names of two ways.
OURS = "underscript"
RETRAINED = "cleanlab, 5 retrainings"

# Neighbours that vote in k-NN, as published.
NEIGHBOURS = 10
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class LabelPrediction(NamedTuple):
    """What one way of finding wrong labels predicts for every training label.

    Attributes
    ----------
    name : str
        Name of the way.
    quality : ndarray of float64, shape (n,)
        The lower, the more likely the label is wrong.
    flags : ndarray of bool, shape (n,)
        Labels that the way calls wrong, by its own threshold.
    proposed : ndarray of int64, shape (n,)
        The label that the way predicts for each sample.
    seconds, cpu_seconds : float
        Wall-clock and processor time, without training the memorised network.
    """

    name: str
    quality: Floats
    flags: NDArray[np.bool_]
    proposed: Ints
    seconds: float
    cpu_seconds: float


def scored(prediction: LabelPrediction, given: Ints, true: Ints) -> dict[str, Any]:
    """Score one way's prediction against the true labels.

    Returns
    -------
    dict
        `auroc` and `average_precision` of the ranking; `precision_at_errors`: with as many labels
        of the lowest quality as there are errors; `flagged` and `errors`: shares of all labels;
        `f1` of the flags; `class_count_error`: flags minus errors, relative to the errors, in
        absolute value, averaged over given classes with errors; `proposed_right`: on the errors;
        `accuracy` of all proposed labels; and times. Measures that need errors are left out if
        there are none.
    """
    wrong = given != true
    n, errors = len(given), int(wrong.sum())
    measures: dict[str, Any] = {
        "way": prediction.name,
        "errors": errors / n,
        "flagged": float(prediction.flags.mean()),
        "accuracy": float((prediction.proposed == true).mean()),
        "seconds": prediction.seconds,
        "cpu_seconds": prediction.cpu_seconds,
    }
    if not errors:
        return measures
    worst = np.argsort(prediction.quality, kind="stable")[:errors]
    hits = int((prediction.flags & wrong).sum())
    sizes = len(np.unique([*given, *true]))
    flagged_of, wrong_of = (
        np.bincount(given[which], minlength=sizes) for which in (prediction.flags, wrong)
    )
    some = wrong_of > 0
    return measures | {
        "auroc": float(roc_auc_score(wrong, -prediction.quality)),
        "average_precision": float(average_precision_score(wrong, -prediction.quality)),
        "precision_at_errors": float(wrong[worst].mean()),
        "f1": 2 * hits / (int(prediction.flags.sum()) + errors),
        "class_count_error": float((np.abs(flagged_of - wrong_of)[some] / wrong_of[some]).mean()),
        "proposed_right": float((prediction.proposed == true)[wrong].mean()),
    }


def run_detection(work: Work) -> dict[str, Any]:
    """Score every way on the cell's training labels and write ``detection.csv``."""
    data = work.data.train
    record: dict[str, Any] = {}
    predictions: Iterable[LabelPrediction] = fast_ways(work, record)
    if work.is_done("folds"):
        predictions = chain(predictions, (_cleanlab(work),))
    rows = [scored(prediction, data.given, data.true) for prediction in predictions]
    work.write("detection.csv", pd.DataFrame(rows))
    return record


def fast_ways(
    work: Work, record: dict[str, Any], *, neighbours: bool = True
) -> Iterator[LabelPrediction]:
    """Yield the prediction of each way that needs only the cell's network.

    What the decode run reports is added to `record`. k-NN runs only with `neighbours`, as its time
    grows with the square of the samples.
    """
    data, network = work.data.train, work.network()
    began, cpu = _clock()
    decoding = decode(
        network,
        (data.images, data.given),
        controls=False,
        evaluate=(),
        device=work.plan.device,
        seed=work.cell.seed,
        progress=work.progress,
    )
    issues = decoding.label_issues()
    record |= {key: decoding.summary[key] for key in ("selected", "noise", "timing", "warnings")}
    yield LabelPrediction(
        OURS,
        issues["label_quality"].to_numpy(),
        issues["is_label_issue"].to_numpy(),
        issues["predicted_label"].to_numpy(),
        *_since(began, cpu),
    )
    yield _read_out(network, data.images, data.given)
    by_layer = rows_of(work, network, ("input", work.plan.pair.layers[-1]), data.images)
    for name, rows in zip(("the input", "the last layer"), by_layer.values(), strict=True):
        yield by_alignment(name, rows, data.given, work.cell.seed)
        if neighbours:
            yield by_neighbours(name, rows, data.given)


def _clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(began: float, cpu: float) -> tuple[float, float]:
    return time.perf_counter() - began, time.process_time() - cpu


def _read_out(
    network: torch.nn.Module, images: NDArray[np.float32], given: Ints
) -> LabelPrediction:
    """Rank labels by their margin in the network's own, in-sample probabilities."""
    began, cpu = _clock()
    device = next(network.parameters()).device
    with torch.no_grad():
        parts = [
            network(part.to(device)).cpu() for part in torch.split(torch.from_numpy(images), 2048)
        ]
    chances = torch.softmax(torch.cat(parts).double(), 1).numpy()
    quality, predictions = _margin(chances, given), chances.argmax(1)
    return LabelPrediction(
        "softmax margin", quality, predictions != given, predictions, *_since(began, cpu)
    )


def _margin(values: Floats, given: Ints) -> Floats:
    """Return the value of the given label minus that of the best other one."""
    rows = np.arange(len(given))
    others = values.copy()
    others[rows, given] = -np.inf
    return np.asarray(values[rows, given] - others.max(1))


def by_alignment(layer: str, rows: NDArray[np.float32], given: Ints, seed: int) -> LabelPrediction:
    """FINE, "filtering noisy instances via their eigenvectors" (Kim et al., NeurIPS 2021).

    A sample's quality is its alignment with the first eigenvector of its given class. A mixture of
    two Gaussians is fitted to the alignments of each class; samples that more likely come from the
    lower one are flagged.
    """
    began, cpu = _clock()
    classifier = AlignmentClassifier().fit(rows, given)
    quality = classifier.alignment(rows, given)
    flags = np.zeros(len(given), dtype=bool)
    for k in np.unique(given):
        members = np.flatnonzero(given == k)
        values = quality[members, None]
        if len(members) < 2 or np.ptp(values) == 0:
            continue
        mixture = GaussianMixture(2, random_state=seed, reg_covar=1e-8).fit(values)
        clean = mixture.predict_proba(values)[:, int(mixture.means_[:, 0].argmax())]
        flags[members] = clean < 0.5
    predictions = np.asarray(classifier.predict(rows), dtype=np.int64)
    return LabelPrediction(
        f"FINE alignment on {layer}", quality, flags, predictions, *_since(began, cpu)
    )


def by_neighbours(layer: str, rows: NDArray[np.float32], given: Ints) -> LabelPrediction:
    """Rank labels by the share of the nearest other samples that have the same label."""
    began, cpu = _clock()
    nearest = NearestNeighbours(k=NEIGHBOURS + 1).fit(rows, given).kneighbors(rows)
    others = nearest != np.arange(len(given))[:, None]
    # A sample that equals many others may not be among its own nearest: then drop the last one.
    others[others.all(1), -1] = False
    labels = given[nearest[others].reshape(len(given), NEIGHBOURS)]
    votes = np.zeros((len(given), int(given.max()) + 1))
    np.add.at(votes, (np.arange(len(given))[:, None], labels), 1 / NEIGHBOURS)
    predictions = votes.argmax(1)
    quality = votes[np.arange(len(given)), given]
    return LabelPrediction(
        f"k-NN vote on {layer}", quality, predictions != given, predictions, *_since(began, cpu)
    )


def _cleanlab(work: Work) -> LabelPrediction:
    """Confident learning (Northcutt et al., JAIR 2021) on out-of-sample probabilities."""
    find, rank = (
        optional_package(f"cleanlab.{part}", "cleanlab", "for confident learning", DataError)
        for part in ("filter", "rank")
    )
    folds = work.record("folds")
    began, cpu = _clock()
    stored = safetensors.torch.load_file(work.folder / "folds.safetensors")
    chances = stored["pred_probs"].double().numpy()
    chances /= chances.sum(1, keepdims=True)
    given = work.data.train.given
    quality = rank.get_label_quality_scores(given, chances)
    flags = find.find_label_issues(given, chances, n_jobs=1)
    own = _since(began, cpu)
    return LabelPrediction(
        RETRAINED,
        np.asarray(quality),
        np.asarray(flags),
        chances.argmax(1),
        folds["seconds"] + own[0],
        folds["cpu_seconds"] + own[1],
    )
