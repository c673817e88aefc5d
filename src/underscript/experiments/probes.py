"""E6: every probe on the rows of each layer, with its times; and the geometry of the classes."""

import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from torch import Tensor

from ..activations.hooks import undisturbed
from ..activations.layers import resolve
from ..activations.stream import stream
from ..activations.trace import Place, survey
from ..data.source import Source
from ..linalg.moments import statistics_for
from ..linalg.spectra import ClassSpectrum, Cut, solve
from ..probes.baselines import BASELINES, MomentBaseline, NearestNeighbours, row_moments, vote
from ..probes.subspace import MinimumAngleSubspaceClassifier, PrincipalVectorClassifier
from ..results.geometry import degrees_of, effective_rank
from ..utils.memory_size import MEMORY
from ..utils.progress import Progress
from .work import Work

__all__ = ["LayerRows", "layers_of", "pairs_of_classes", "probe_layers", "rows_of"]

# Widest layer for probes that need a width × width matrix per class; others count as not run.
WIDEST = 4096


class LayerRows(NamedTuple):
    """A layer's rows (n, width) for training and test images."""

    name: str
    train: NDArray[np.float32]
    test: NDArray[np.float32]


def probe_layers(
    work: Work, kinds: dict[str, NDArray[np.int64]], *, shapes: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Fit every probe to every layer of a cell's network.

    Parameters
    ----------
    work : Work
        The cell.
    kinds : dict of str to ndarray of int64, shape (n,)
        Training labels, by the name of their kind.
    shapes : bool
        Whether to measure the geometry too.

    Returns
    -------
    probes : pandas.DataFrame
        Test accuracies, in the columns of a decode run's table, with ``fit_s`` and ``predict_s``
        (seconds) and the leading-order ``fit_flops`` and ``predict_flops`` where they are known.
    geometry : pandas.DataFrame
        See `pairs_of_classes`.
    record : dict
        Probes that were not run, and why; the layers.
    """
    data = work.data
    rows: list[dict[str, Any]] = []
    geometries: list[pd.DataFrame] = []
    not_run: list[str] = []
    for layer in _layers(work):
        about = {
            "model": "trained",
            "layer": layer.name,
            "width": layer.train.shape[1],
            "split": "test",
            "labels": "given",
            "n": len(data.test.true),
        }
        neighbours = _Neighbours(layer)
        for labels, y in kinds.items():
            for scores in _probe(work, layer, y, neighbours, not_run):
                predictions = scores.pop("predictions")
                accuracy = float((predictions == data.test.true).mean())
                rows.append({**about, "subspace_labels": labels, **scores, "accuracy": accuracy})
            if shapes:
                geometries.append(
                    pairs_of_classes(layer.train, y, data.n_classes, work.plan.variance).assign(
                        layer=layer.name, subspace_labels=labels
                    )
                )
    record = {"not_run": sorted(set(not_run)), "layers": list(work.plan.pair.layers)}
    together = pd.concat(geometries, ignore_index=True) if shapes else pd.DataFrame()
    return pd.DataFrame(rows), together, record


def _layers(work: Work) -> Iterator[LayerRows]:
    """Yield the rows of the cell's network."""
    yield from layers_of(work, work.network(), work.plan.pair.layers)


def layers_of(work: Work, network: torch.nn.Module, layers: Sequence[str]) -> Iterator[LayerRows]:
    """Yield the rows of one layer after another; layers that fit into memory are read together."""
    device = torch.device(work.plan.device)
    train, test = work.data.train.images, work.data.test.images
    with undisturbed(network):
        example = Source((train[:3], work.data.train.given[:3]), "train").first(3)
        seen = survey(network, example, device, "flatten")
        places = resolve(seen, network, layers)
        for group in _groups(places, len(train) + len(test)):
            of_train, of_test = (
                _rows(work, network, group, device, images) for images in (train, test)
            )
            for place in group:
                name = place.tap.name
                yield LayerRows(name, of_train.pop(name), of_test.pop(name))


def _groups(places: Sequence[Place], n: int) -> Iterator[list[Place]]:
    """Split layers into groups whose n rows fit into memory, with at least one layer in each."""
    group: list[Place] = []
    for place in places:
        if group and 4 * n * sum(member.width for member in [*group, place]) > MEMORY:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def rows_of(
    work: Work, network: torch.nn.Module, layers: Sequence[str], images: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """Return the rows (n, width) of each layer for some images, by layer name."""
    device = torch.device(work.plan.device)
    with undisturbed(network):
        example = Source((images[:3], np.zeros(len(images[:3]), dtype=np.int64)), "rows").first(3)
        places = resolve(survey(network, example, device, "flatten"), network, layers)
        return _rows(work, network, places, device, images)


def _rows(
    work: Work,
    network: torch.nn.Module,
    places: Sequence[Place],
    device: torch.device,
    images: NDArray[np.float32],
) -> dict[str, NDArray[np.float32]]:
    """Return the rows (n, width) of each layer, by layer name; the network runs once."""
    source = Source((images, np.zeros(len(images), dtype=np.int64)), "rows")
    taps = [place.tap for place in places]
    rows = {
        place.tap.name: np.empty((len(images), place.width), dtype=np.float32) for place in places
    }
    done = 0
    stage = f"reading {', '.join(rows)}"
    with Progress.of_one(stage, work.progress) as bar:
        for batch in stream(network, source, taps, device, stage=stage, progress=bar):
            for name, part in batch.layers.items():
                rows[name][done : done + len(part)] = part.cpu().numpy()
            done += batch.batch.size
    return rows


class _Neighbours:
    """The search for nearest neighbours, made once for all labels, as it does not use them."""

    def __init__(self, layer: LayerRows):
        self._layer = layer
        self._search: tuple[NDArray[np.int64], float] | None = None

    def predictions(self, y: NDArray[np.int64]) -> dict[str, Any]:
        if self._search is None:
            probe = NearestNeighbours().fit(self._layer.train, y)
            started = time.perf_counter()
            indices = probe.kneighbors(self._layer.test)
            self._search = indices, time.perf_counter() - started
            self._flops = probe.predict_flops(len(indices))
        indices, seconds = self._search
        started = time.perf_counter()
        predictions = vote(indices, y)
        return {
            "probe": "knn",
            "predictions": predictions,
            "fit_s": 0.0,
            "predict_s": seconds + time.perf_counter() - started,
            "fit_flops": 0.0,
            "predict_flops": self._flops,
        }


def _probe(
    work: Work,
    layer: LayerRows,
    y: NDArray[np.int64],
    neighbours: _Neighbours,
    not_run: list[str],
) -> Iterator[dict[str, Any]]:
    """Fit each probe to a layer's rows and labels, and yield its predictions for test rows."""
    yield neighbours.predictions(y)
    share = work.plan.variance
    own: dict[str, ClassifierMixin] = {
        "masc": MinimumAngleSubspaceClassifier(variance=share),
        "velpic": PrincipalVectorClassifier(),
    }
    for name, probe in own.items():
        started = time.perf_counter()
        probe.fit(layer.train, y)
        # The first prediction makes the decompositions, so that they count as fitting.
        probe.predict(layer.test[:1])
        fitted = time.perf_counter()
        predictions = probe.predict(layer.test)
        yield {
            "probe": name,
            "variance": share if name == "masc" else None,
            "rank": float(np.mean(probe.ranks_)),
            "predictions": predictions,
            "fit_s": fitted - started,
            "predict_s": time.perf_counter() - fitted,
            **_flops(name, probe.ranks_, layer.train.shape, len(predictions)),
        }
    width = layer.train.shape[1]
    started = time.perf_counter()
    moments = row_moments(layer.train, y, device=work.plan.device) if width <= WIDEST else None
    shared = time.perf_counter() - started
    for name, kind in BASELINES.items():
        if name == "knn":
            continue
        if moments is None and issubclass(kind, MomentBaseline):
            not_run.append(f"{name} on {layer.name}: {width} wide (at most {WIDEST})")
            continue
        baseline = kind()
        started = time.perf_counter()
        if isinstance(baseline, MomentBaseline) and moments is not None:
            baseline.fit_moments(moments)
            started -= shared  # as if each probe ran alone
        else:
            baseline.fit(layer.train, y)
        fitted = time.perf_counter()
        predictions = baseline.predict(layer.test)
        yield {
            "probe": name,
            "predictions": predictions,
            "fit_s": fitted - started,
            "predict_s": time.perf_counter() - fitted,
            "fit_flops": baseline.fit_flops(len(y)),
            "predict_flops": baseline.predict_flops(len(predictions)),
        }


def _flops(
    name: str, ranks: NDArray[np.int64], shape: tuple[int, ...], n_test: int
) -> dict[str, float]:
    """Return the leading orders for MASC and VeLPIC, two for each multiply-add.

    Fitting takes half of a symmetric product, and all eigenvectors of a d × d matrix at 9 d³ (Golub
    and Van Loan, 2013, section 8.3), though Lanczos may find a few with less. Predicting takes
    products with the bases, or with their complements.
    """
    n, width = shape
    smaller = np.minimum(ranks, width - ranks).sum() if name == "masc" else len(ranks)
    return {
        "fit_flops": float(n * width**2 + 9.0 * len(ranks) * width**3),
        "predict_flops": float(2 * n_test * width * smaller),
    }


def pairs_of_classes(
    rows: NDArray[np.float32], y: NDArray[np.int64], n_classes: int, share: float
) -> pd.DataFrame:
    r"""Return the sizes of a layer's class subspaces, and three measures of each pair of them.

    These are E6's: the effective rank is that of the whole second moment, not of the subspace as in
    `underscript.geometry`.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, width)
        A layer's rows.
    y : ndarray of int64, shape (n,)
        Labels.
    n_classes : int
        Number of classes.
    share : float
        Variance share τ of the subspaces.

    Returns
    -------
    pandas.DataFrame
        One row for each pair of classes a ≤ b with samples. `rank`: of a. `effective_rank`: of
        a's second moment, :math:`\exp(-\sum_j p_j \ln p_j)` with :math:`p_j = \lambda_j / \sum
        \lambda` (Roy and Vetterli, 2007). `smallest_angle`: between the two subspaces, in
        degrees; the arc cosine of the largest singular value of :math:`V_a^T V_b` (Björck and
        Golub, 1973). `overlap`: the mean squared cosine of the principal angles,
        :math:`\|V_a^T V_b\|_F^2 / \min(r_a, r_b)`. `first_angle`: between the first
        eigenvectors, in degrees.
    """
    statistics = statistics_for(n_classes, rows.shape[1], len(rows))
    statistics.update(torch.from_numpy(rows), torch.from_numpy(y))
    bases: dict[int, Tensor] = {}
    effective: dict[int, float] = {}
    for k in range(n_classes):
        problem = statistics.eigenproblem([k])
        assert problem is not None
        (spectrum,) = solve([problem])
        eigenvalues: Tensor = spectrum.values  # noqa: PD011 - no pandas here
        if not len(eigenvalues):
            continue
        # float32 is enough from here on: people read these angles, and no decision uses them.
        bases[k] = _basis(spectrum, share).float()
        effective[k] = effective_rank(eigenvalues.numpy())
    pairs = []
    for a, b in [*((k, k) for k in bases), *combinations(bases, 2)]:
        cosines = bases[a].T @ bases[b]
        smaller = min(cosines.shape)
        # Subspaces with more dimensions together than the space must meet.
        meet = a == b or sum(cosines.shape) > rows.shape[1]
        largest = 1.0 if meet else float(torch.linalg.matrix_norm(cosines, 2))
        pairs.append(
            {
                "class_a": a,
                "class_b": b,
                "rank": bases[a].shape[1],
                "effective_rank": effective[a],
                "smallest_angle": degrees_of(largest),
                "overlap": float(cosines.square().sum()) / smaller,
                "first_angle": 0.0 if a == b else degrees_of(abs(float(cosines[0, 0]))),
            }
        )
    return pd.DataFrame(pairs)


def _basis(spectrum: ClassSpectrum, share: float) -> Tensor:
    (rank,) = spectrum.ranks([Cut(share)])
    return spectrum.widened(spectrum.inner[:, :rank])
