"""D1: which ways of finding wrong labels find them, on one memorised network and beside it."""

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
from .probes import rows_of
from .work import Work

__all__ = ["OURS", "RETRAINED", "Found", "fast_ways", "judge", "run_detection"]

# Two of the ways, by name.
OURS = "underscript"
RETRAINED = "cleanlab, 5 retrainings"

# As published: the share of this many neighbours that have the given label.
NEIGHBOURS = 10
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Found(NamedTuple):
    """What one way says of every training label.

    Attributes
    ----------
    name : str
        The way.
    quality : ndarray of float64, shape (n,)
        The lower, the likelier the label is wrong.
    flags : ndarray of bool, shape (n,)
        Which labels it would have changed, by its own threshold.
    proposed : ndarray of int64, shape (n,)
        The label that it says each sample should have.
    seconds, cpu_seconds : float
        What it took, the network given.
    """

    name: str
    quality: Floats
    flags: NDArray[np.bool_]
    proposed: Ints
    seconds: float
    cpu_seconds: float


def judge(found: Found, given: Ints, true: Ints) -> dict[str, Any]:
    """Compare what was said with what is wrong.

    Returns
    -------
    dict
        `auroc` and `average_precision` of the ranking, `precision_at_errors` (of as many of the
        lowest quality as there are errors), `flagged` and `errors` (shares of all labels), `f1` of
        the flags, `class_count_error` (the mean over given classes of the difference between flags
        and errors, relative to the errors), `proposed_right` (on the errors), `accuracy` of all
        proposals, and times. What errors are needed for is None where there are none.
    """
    wrong = given != true
    n, errors = len(given), int(wrong.sum())
    told: dict[str, Any] = {
        "way": found.name,
        "errors": errors / n,
        "flagged": float(found.flags.mean()),
        "accuracy": float((found.proposed == true).mean()),
        "seconds": found.seconds,
        "cpu_seconds": found.cpu_seconds,
    }
    if not errors:
        return told
    worst = np.argsort(found.quality, kind="stable")[:errors]
    hits = int((found.flags & wrong).sum())
    sizes = len(np.unique([*given, *true]))
    flags, there = (np.bincount(given[which], minlength=sizes) for which in (found.flags, wrong))
    some = there > 0
    return told | {
        "auroc": float(roc_auc_score(wrong, -found.quality)),
        "average_precision": float(average_precision_score(wrong, -found.quality)),
        "precision_at_errors": float(wrong[worst].mean()),
        "f1": 2 * hits / (int(found.flags.sum()) + errors),
        "class_count_error": float((np.abs(flags - there)[some] / there[some]).mean()),
        "proposed_right": float((found.proposed == true)[wrong].mean()),
    }


def run_detection(work: Work) -> dict[str, Any]:
    """Judge every way on the cell's training labels and write ``detection.csv``."""
    data = work.data.train
    told: dict[str, Any] = {}
    ways: Iterable[Found] = fast_ways(work, told)
    if work.is_done("folds"):
        ways = chain(ways, (_cleanlab(work),))
    rows = [judge(found, data.given, data.true) for found in ways]
    work.write("detection.csv", pd.DataFrame(rows))
    return told


def fast_ways(work: Work, told: dict[str, Any], *, neighbours: bool = True) -> Iterator[Found]:
    """Give the answers of each way on the network at hand; what is to be told besides in `told`.

    k-NN, whose time grows with the square of the samples, only with `neighbours`.
    """
    data, network = work.data.train, work.network()
    began, cpu = _clock()
    found = decode(
        network,
        (data.images, data.given),
        layers=work.plan.pair.layers,
        controls=False,
        subspace_labels=("corrupted",),
        evaluate=(),
        pool="flatten",
        device=work.plan.device,
        seed=work.cell.seed,
        progress=work.progress,
    )
    issues = found.label_issues()
    told |= {key: found.summary[key] for key in ("selected", "noise", "timing", "warnings")}
    yield Found(
        OURS,
        issues["label_quality"].to_numpy(),
        issues["is_label_issue"].to_numpy(),
        issues["predicted_label"].to_numpy(),
        *_since(began, cpu),
    )
    yield _read_out(network, data.images, data.given)
    by_layer = rows_of(work, network, ("input", work.plan.pair.layers[-1]), data.images)
    for name, rows in zip(("the input", "the last layer"), by_layer.values(), strict=True):
        yield _alignment(name, rows, data.given, work.cell.seed)
        if neighbours:
            yield _neighbours(name, rows, data.given)


def _clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(began: float, cpu: float) -> tuple[float, float]:
    return time.perf_counter() - began, time.process_time() - cpu


def _read_out(network: torch.nn.Module, images: NDArray[np.float32], given: Ints) -> Found:
    """Take the network's own probabilities, in-sample: the margin of the given label."""
    began, cpu = _clock()
    device = next(network.parameters()).device
    with torch.no_grad():
        parts = [
            network(part.to(device)).cpu() for part in torch.split(torch.from_numpy(images), 2048)
        ]
    chances = torch.softmax(torch.cat(parts).double(), 1).numpy()
    quality, answers = _margin(chances, given), chances.argmax(1)
    return Found("softmax margin", quality, answers != given, answers, *_since(began, cpu))


def _margin(values: Floats, given: Ints) -> Floats:
    """Return the value of the given label less the best other one."""
    rows = np.arange(len(given))
    others = values.copy()
    others[rows, given] = -np.inf
    return np.asarray(values[rows, given] - others.max(1))


def _alignment(layer: str, rows: NDArray[np.float32], given: Ints, seed: int) -> Found:
    """FINE (Kim et al., NeurIPS 2021): alignment with the first eigenvector of the given class.

    Of each class's alignments a mixture of two Gaussians is fitted; what more likely comes from the
    lower one is flagged.
    """
    began, cpu = _clock()
    fine = AlignmentClassifier().fit(rows, given)
    quality = fine.alignment(rows, given)
    flags = np.zeros(len(given), dtype=bool)
    for k in np.unique(given):
        mine = np.flatnonzero(given == k)
        values = quality[mine, None]
        if len(mine) < 2 or np.ptp(values) == 0:
            continue
        mixture = GaussianMixture(2, random_state=seed, reg_covar=1e-8).fit(values)
        clean = mixture.predict_proba(values)[:, int(mixture.means_[:, 0].argmax())]
        flags[mine] = clean < 0.5
    answers = np.asarray(fine.predict(rows), dtype=np.int64)
    return Found(f"FINE alignment on {layer}", quality, flags, answers, *_since(began, cpu))


def _neighbours(layer: str, rows: NDArray[np.float32], given: Ints) -> Found:
    """Take the share of the nearest other samples that have the given label."""
    began, cpu = _clock()
    found = NearestNeighbours(k=NEIGHBOURS + 1).fit(rows, given).kneighbors(rows)
    others = found != np.arange(len(given))[:, None]
    # Of equal rows the sample itself may not be among the nearest: then the last one goes.
    others[others.all(1), -1] = False
    labels = given[found[others].reshape(len(given), NEIGHBOURS)]
    votes = np.zeros((len(given), int(given.max()) + 1))
    np.add.at(votes, (np.arange(len(given))[:, None], labels), 1 / NEIGHBOURS)
    answers = votes.argmax(1)
    quality = votes[np.arange(len(given)), given]
    return Found(f"k-NN vote on {layer}", quality, answers != given, answers, *_since(began, cpu))


def _cleanlab(work: Work) -> Found:
    """Confident learning (Northcutt et al., JAIR 2021) on out-of-sample probabilities."""
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise DataError(
            "cleanlab is not installed; install it with pip install 'underscript[cleanlab]'"
        ) from error
    told = work.told("folds")
    began, cpu = _clock()
    stored = safetensors.torch.load_file(work.folder / "folds.safetensors")
    chances = stored["pred_probs"].double().numpy()
    chances /= chances.sum(1, keepdims=True)
    given = work.data.train.given
    quality = get_label_quality_scores(given, chances)
    flags = find_label_issues(given, chances, n_jobs=1)
    own = _since(began, cpu)
    return Found(
        RETRAINED,
        np.asarray(quality),
        np.asarray(flags),
        chances.argmax(1),
        told["seconds"] + own[0],
        told["cpu_seconds"] + own[1],
    )
