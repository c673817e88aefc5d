"""The base class of the decoders: a scikit-learn estimator that gathers class statistics.

`fit`, `partial_fit` or outside code (`fit_together`) gathers the statistics. Each class is
decomposed once, and every decoder keeps the part of the spectrum that it needs.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ..errors import DataError, LabelError, UnderscriptWarning
from ..linalg.bases import ClassBases, Columns
from ..linalg.moments import ClassStatistics, statistics_for
from ..linalg.spectra import ClassSpectrum, Cut, solve
from ..utils.distributed import ALONE, Processes

# Bytes of eigenproblems to solve in one call. On the CPU only small problems gain from this;
# larger ones gain from one thread per problem.
_AT_ONCE = 4 << 20
_SIDE_BY_SIDE = 512 << 20
_ON_A_DEVICE = 1 << 30


class SubspaceClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Base class of both decoders: gathers statistics and decomposes them on demand."""

    classes_: NDArray[Any]
    n_features_in_: int

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the class subspaces.

        Parameters
        ----------
        X : array-like or torch.Tensor, shape (n, width)
            Rows. float32 stays float32; everything else becomes float64.
        y : array-like, shape (n,)
            Labels: integers or strings, of at least two classes.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `X` is empty, not finite or of another length than `y`, or `y` has one class only.
        """
        rows, y = self._check(X, y, reset=True)
        self._reset(np.unique(y), rows.shape, len(rows))
        self._add(rows, y)
        self._decoder()
        return self

    def partial_fit(self, X: Any, y: Any, classes: ArrayLike | None = None) -> Self:
        """Add a batch of rows; the subspaces describe all batches so far.

        Adding is cheap: the subspaces are computed at the next prediction.

        Parameters
        ----------
        X : array-like or torch.Tensor, shape (n, width)
            Rows.
        y : array-like, shape (n,)
            Labels.
        classes : array-like, shape (K,), optional
            All classes that may occur in any batch. Required at the first call, unless the first
            batch contains them all.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            As for `fit`; also if a label is not among the classes of the first call.
        """
        first = not hasattr(self, "classes_")
        if not first and not hasattr(self, "_statistics"):
            raise DataError(
                "partial_fit: expected a decoder that gathered its own rows; this one came from "
                "saved tensors or shared statistics: use fit"
            )
        rows, y = self._check(X, y, reset=first)
        if first:
            named = np.unique(y if classes is None else np.asarray(classes))
            _places(y, named)  # before anything is kept
            self._reset(named, rows.shape, None)
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise LabelError("classes differs from the classes of the first call to partial_fit")
        self._add(rows, y)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class with the largest decision value, shape (n,).

        Exact ties, as for the all-zero row of a dead ReLU layer, go to the class that is first in
        `classes_`. A class without a direction never wins.
        """
        best = self.nearest(self._rows(X)).cpu().numpy()
        return np.asarray(self.classes_[best])

    def decision_function(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the decision values, shape (n, K); for two classes their difference, shape (n,).

        A class without a direction (no samples, or only zeros) has −inf: it is never predicted.
        """
        values = self.decide(self._rows(X)).cpu().numpy()
        if len(self.classes_) == 2:
            with np.errstate(invalid="ignore"):
                difference = values[:, 1] - values[:, 0]
            return np.asarray(np.nan_to_num(difference, nan=0.0, posinf=np.inf, neginf=-np.inf))
        return np.asarray(values)

    def decide(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        """Return decision values (n, K) of finite rows, on their device; rows are not checked."""
        raise NotImplementedError

    def closeness(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        """Return how near rows are to each class, from 0 to 1; 0 if a class has no direction."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that prediction needs, for saving."""
        raise NotImplementedError

    def set_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Restore the decoder from what `tensors` returned, with classes 0 … K−1.

        Raises
        ------
        KeyError, ValueError
            If the tensors are not those of a decoder of this kind.
        """
        raise NotImplementedError

    def nearest(self, rows: Float[Tensor, "n width"]) -> Int[Tensor, " n"]:
        """Return the position of each row's largest decision value, int64; rows are not checked."""
        return self.decide(rows).argmax(1)

    def predictions(
        self, rows: Float[Tensor, "n width"], given: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]]:
        """Return closeness, shape (n, K), and `nearest`.

        Closeness must be exact only for a row's given class and the nearest other class; the
        remaining entries may be too small.
        """
        return self.closeness(rows), self.nearest(rows)

    def _cuts(self) -> tuple[Cut, ...]:
        """Return where this decoder cuts its subspaces; empty if it needs no bases."""
        return ()

    def _take(self, subspaces: "Subspaces") -> dict[str, Any]:
        """Return the parts of the decomposed classes that `decide` needs."""
        raise NotImplementedError

    def _validate_parameters(self) -> None:
        """Raise ValueError for hyper-parameters out of range."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # A subspace through the origin cannot tell two blobs in the plane apart: with two
        # features, a class of rank 2 spans the whole plane. The tests use digits instead.
        tags.classifier_tags.poor_score = True
        return tags

    def _check(self, X: Any, y: Any, reset: bool) -> tuple[Tensor, NDArray[Any]]:
        self._validate_parameters()
        if isinstance(y, Tensor):
            y = y.detach().cpu().numpy()
        X, y = validate_data(self, as_array(X), y, reset=reset, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        return as_tensor(X), y

    def _rows(self, X: Any) -> Tensor:
        check_is_fitted(self, "classes_")
        return as_tensor(
            validate_data(self, as_array(X), reset=False, dtype=[np.float64, np.float32])
        )

    def _reset(self, classes: NDArray[Any], shape: torch.Size, samples: int | None) -> None:
        if len(classes) < 2:
            raise LabelError(f"y: expected at least 2 classes; found one class, {classes.tolist()}")
        self.classes_ = classes
        self._statistics: ClassStatistics = statistics_for(len(classes), int(shape[1]), samples)
        self._cache: dict[str, Any] = {}

    def _add(self, rows: Tensor, y: NDArray[Any]) -> None:
        places = _places(y, self.classes_)
        self._dtype = rows.dtype
        self._statistics.update(rows, torch.from_numpy(places))
        self._cache.clear()

    def _decoder(self) -> dict[str, Any]:
        """Return the decomposition; the first call computes it and fills the cache."""
        if not self._cache:
            fit_together(self._statistics, [self], dtype=self._dtype)
        return self._cache


@dataclass(frozen=True)
class Subspaces:
    """A layer's decomposed classes, from which every decoder takes its part.

    Attributes
    ----------
    cuts : list of Cut
        Where the bases are cut.
    bases : ClassBases
        The class bases, cut there.
    values : list of K tensors of float64
        The eigenvalues that were needed, largest first.
    principal : Tensor of float64, shape (K, width)
        Each class's first eigenvector, signed to point towards its mean; zeros without one.
    counts : ndarray of int64, shape (K,)
        Samples of each class.
    """

    cuts: list[Cut]
    bases: ClassBases
    values: list[Tensor]
    principal: Float[Tensor, "classes width"]
    counts: NDArray[np.int64]


def fit_together(
    statistics: ClassStatistics,
    decoders: Sequence[SubspaceClassifier],
    *,
    dtype: torch.dtype = torch.float32,
    processes: Processes = ALONE,
) -> None:
    """Fit several decoders from one decomposition of a layer's class statistics.

    Parameters
    ----------
    statistics : ClassMoments or ClassRows
        The gathered statistics, with classes 0 … K−1.
    decoders : sequence of estimators
        Fitted in place. Their classes become 0 … K−1, unless they gathered the statistics
        themselves.
    dtype : torch.dtype
        Precision of the bases and of predictions from them; the decomposition is float64.
    processes : Processes
        The process group that shares the classes; every process must call this.
    """
    cuts = list(dict.fromkeys(cut for decoder in decoders for cut in decoder._cuts()))
    subspaces = _decompose(statistics, cuts, dtype, processes)
    for decoder in decoders:
        if getattr(decoder, "_statistics", None) is not statistics:
            decoder.classes_ = np.arange(statistics.n_classes)
            decoder.n_features_in_ = statistics.width
            decoder.__dict__.pop("_statistics", None)
            decoder._cache = {}
        decoder._cache.update(decoder._take(subspaces), counts=subspaces.counts)


def _decompose(
    statistics: ClassStatistics, cuts: list[Cut], dtype: torch.dtype, processes: Processes
) -> Subspaces:
    """Decompose the classes, divided among the processes, in batches of a suitable size."""
    values: list[Tensor] = []
    principal: list[Tensor] = []
    counts: list[int] = []
    wanted = [*cuts, Cut(rank=1)]
    room = _ON_A_DEVICE if statistics.device.type == "cuda" else _AT_ONCE
    problem_bytes = max(1, statistics.eigenproblem_bytes(processes))
    threads = min(torch.get_num_threads(), _SIDE_BY_SIDE // problem_bytes)
    turns = max(1, room // problem_bytes, threads)

    def columns() -> Iterator[Columns]:
        likely_rank = None
        for batch in _in_turns(statistics.n_classes, processes.size, turns):
            problems = [statistics.eigenproblem(classes, processes) for classes in batch]
            with processes.together():
                own = [problem for problem in problems if problem is not None]
                del problems
                spectra = solve(own, wanted, likely_rank)
                solved = [_kept(spectrum, cuts, dtype) for spectrum in spectra]
                del spectra
            for turn, classes in enumerate(batch):
                for owner in range(len(classes)):
                    kept = solved[turn] if owner == processes.rank else None
                    matrix, first_few, features, meta, eigenvalues, vector = processes.share(
                        kept, owner
                    )
                    count, leading, *ranks = meta.tolist()
                    values.append(eigenvalues)
                    principal.append(vector)
                    counts.append(count)
                    likely_rank = max(ranks, default=1)
                    yield Columns(matrix, ranks, leading, first_few, features)
            del kept, solved

    bases = ClassBases(columns(), statistics.width, dtype)
    return Subspaces(cuts, bases, values, torch.stack(principal), np.asarray(counts))


def _in_turns(n_classes: int, size: int, turns: int) -> Iterator[list[list[int]]]:
    """Yield batches of `turns` turns; each turn lists one class per process."""
    groups = [list(range(k, min(k + size, n_classes))) for k in range(0, n_classes, size)]
    for start in range(0, len(groups), turns):
        yield groups[start : start + turns]


def _kept(spectrum: ClassSpectrum, cuts: list[Cut], dtype: torch.dtype) -> list[Tensor]:
    """Return the kept parts of a class as tensors that can be sent to other processes."""
    columns = Columns.of(spectrum, spectrum.ranks(cuts), dtype)
    vector = torch.zeros_like(spectrum.mean)
    if len(spectrum.values):
        vector = spectrum.widened(spectrum.inner[:, :1])[:, 0].clone()
        side = float(vector @ spectrum.mean)
        if side == 0:
            side = float(vector[vector.abs().argmax()])
        vector = -vector if side < 0 else vector
    meta = torch.tensor([spectrum.count, columns.leading, *columns.ranks])
    return [columns.matrix, columns.first, columns.features, meta, spectrum.values.clone(), vector]


def _places(y: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.int64]:
    """Return the position of each label among the sorted classes, shape (n,)."""
    places = np.searchsorted(classes, y)
    known = classes[np.minimum(places, len(classes) - 1)] == y
    if not known.all():
        raise LabelError(f"y: expected classes {classes.tolist()}; found {y[~known][0]!r}")
    return places.astype(np.int64)


def as_array(X: Any) -> Any:
    """Return torch tensors as numpy arrays; half precision becomes float32, without loss."""
    if isinstance(X, Tensor):
        X = X.detach().cpu()
        X = X.float() if X.dtype in (torch.bfloat16, torch.float16) else X
        return X.numpy()
    if isinstance(X, np.ndarray) and X.dtype == np.float16:
        return X.astype(np.float32)
    return X


def as_tensor(X: NDArray[Any]) -> Tensor:
    """Return an array as a tensor, sharing its memory where possible."""
    # torch cannot view read-only or negatively strided memory without a warning or an error.
    return torch.from_numpy(np.require(X, requirements=["C", "W"]))


def few(names: Sequence[str]) -> str:
    """Return the first five names and how many more there are, for a message."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def warn(message: str) -> None:
    """Warn the caller's caller."""
    warnings.warn(message, UnderscriptWarning, stacklevel=3)
