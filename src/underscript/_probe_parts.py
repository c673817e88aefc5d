"""What the baselines are made of: class moments, regular inverses, nearest neighbours, estimators.

Moments are about the class means, found in a first pass, so that rows far from the origin lose no
digits. Everything that an answer depends on is float64; products of lower precision only decide
which neighbours are looked at, within proven bounds of their error.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ._classifier import _as_array, _as_tensor
from ._device import as_device
from ._labels import by_class
from ._precision import bfloat16_pays, exact_products
from ._products import add_products, in_float64, mirrored
from .errors import DataError, LabelError
from .spectra import Eigenproblem, eigenvectors

# Bytes of a block of rows that is converted to float64 at once.
_BLOCK = 24 << 20
_EPS = torch.finfo(torch.float64).eps

# Neighbours: rows and queries that one product takes, and queries that rows are prepared for.
_ROWS = 4096
_TILE = 1024
_QUERIES = 4096
# Scores of a query are compared with its limit in groups of at most so many.
_GROUP = 32
# Candidates of one query that are looked at in full; with more it goes to the next precision.
_MOST = 256
# Multiply-adds from which a first look in bfloat16 is worth the trouble.
_MANY = 1 << 30
# Half a unit in the last place.
_ULP_32 = 2.0**-24
_ULP_16 = 2.0**-9
# Rows are scaled to entries of at most 1: what underflows in their products is below this.
_TINY = 1e-30


def blocks_of(rows: Float[Tensor, "n width"]) -> Iterator[tuple[slice, Float[Tensor, "m width"]]]:
    """Give the rows in float64, block by block, in memory that is used again for the next."""
    room: list[Tensor] = []
    step = max(1, _BLOCK // (8 * rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, min(start + step, len(rows)))
        yield part, in_float64(rows[part], room)


class RowMoments:
    """Counts, means and second moments about the mean of each class; what is asked for, once.

    Several probes that are fitted to the same rows and labels can share one of these: see
    `row_moments`. It refers to the rows, and keeps at most as many numbers as they have.

    Parameters
    ----------
    rows : Tensor, shape (n, width)
        Finite float32 or float64.
    places : Tensor of int64, shape (n,)
        The position of each row's class in `classes`.
    classes : ndarray, shape (K,)
        The classes; each has a row.

    Attributes
    ----------
    rows, classes
        As given.
    positions : list of K tensors of int64
        Each class's rows, ascending.
    counts : Tensor of int64, shape (K,)
        Rows of each class.
    means : Tensor of float64, shape (K, width)
        Their means.
    """

    def __init__(
        self,
        rows: Float[Tensor, "n width"],
        places: Int[Tensor, " n"],
        classes: NDArray[Any],
    ):
        self.rows, self.classes = rows, classes
        self.positions = [chosen.to(rows.device) for _, chosen in by_class(places.cpu())]
        self.counts = torch.tensor([len(chosen) for chosen in self.positions])
        self.means = torch.stack([self.sum(chosen) / len(chosen) for chosen in self.positions])
        self._scatters: list[Tensor | None] = [None] * len(classes)
        self._pooled: Tensor | None = None

    @property
    def width(self) -> int:
        """Number of values a row."""
        return int(self.rows.shape[1])

    def about(
        self, chosen: Int[Tensor, " m"], center: Float[Tensor, " width"]
    ) -> Iterator[Float[Tensor, "b width"]]:
        """Give chosen rows less a center, in float64, block by block in the same memory."""
        room: list[Tensor] = []
        for part in torch.split(chosen, max(1, _BLOCK // (8 * self.width))):
            yield in_float64(self.rows.index_select(0, part), room).sub_(center)

    def sum(self, chosen: Int[Tensor, " m"]) -> Float[Tensor, " width"]:
        """Return the sum of chosen rows, in float64."""
        total = self.rows.new_zeros(self.width, dtype=torch.float64)
        for block in self.about(chosen, torch.zeros_like(total)):
            total += block.sum(0)
        return total

    def wide(self, k: int) -> bool:
        """Say whether a class has fewer rows than they are wide: they are less than its moment."""
        return len(self.positions[k]) < self.width

    def centred(self, k: int) -> Float[Tensor, "m width"]:
        """Return the rows of class k less their mean, in float64."""
        return torch.cat([block.clone() for block in self.about(self.positions[k], self.means[k])])

    def scatter(self, k: int) -> Float[Tensor, "width width"]:
        """Return ``Σ (x − m_k)(x − m_k)ᵀ`` of class k: to be read only, where it is kept."""
        kept = self._scatters[k]
        if kept is not None:
            return kept
        scatter = self.means.new_zeros(self.width, self.width)
        for block in self.about(self.positions[k], self.means[k]):
            add_products(scatter, block)
        mirrored(scatter)
        if not self.wide(k):
            self._scatters[k] = scatter
        return scatter

    def pooled(self) -> Float[Tensor, "width width"]:
        """Return the sum of all classes' `scatter`: to be read only."""
        if self._pooled is None:
            pooled = self.means.new_zeros(self.width, self.width)
            for k, chosen in enumerate(self.positions):
                if not self.wide(k):
                    pooled += self.scatter(k)
                    continue
                for block in self.about(chosen, self.means[k]):
                    add_products(pooled, block)
            self._pooled = mirrored(pooled)
        return self._pooled

    def eigenproblem(self, k: int) -> Eigenproblem:
        """Return that of ``Σ x xᵀ`` of class k, or of its Gram matrix where that is smaller."""
        count, mean, what = int(self.counts[k]), self.means[k], f"class {self.classes[k]}"
        if self.wide(k):
            rows = self.rows.index_select(0, self.positions[k]).double()
            return Eigenproblem(rows @ rows.T, count, rows.new_zeros(count), what)
        second = torch.addr(self.scatter(k), mean, mean, alpha=count)
        return Eigenproblem(second, count, mean, what)

    def combined(self, k: int, weights: Float[Tensor, " m"]) -> Float[Tensor, " width"]:
        """Return the sum of the rows of class k, each with its weight."""
        return weights @ self.rows.index_select(0, self.positions[k]).double()


@dataclass(frozen=True)
class Subset:
    """Some rows of each class, their means, and their second moments about these.

    Attributes
    ----------
    moments : RowMoments
        Of all rows.
    kept : list of K tensors of int64
        The positions of the rows, ascending; at least one of each class.
    means : Tensor of float64, shape (K, width)
        Their means.
    scatter : Tensor of float64, shape (width, width)
        ``Σ (x − m_k)(x − m_k)ᵀ``, all classes together.
    """

    moments: RowMoments
    kept: list[Tensor]
    means: Float[Tensor, "classes width"]
    scatter: Float[Tensor, "width width"]

    def changed_to(self, kept: list[Tensor]) -> "Subset":
        """Return the statistics of other rows, from those that come and go if these are fewer."""
        moments = self.moments
        means = torch.stack([moments.sum(chosen) / len(chosen) for chosen in kept])
        gone = [old[~torch.isin(old, new)] for old, new in zip(self.kept, kept, strict=True)]
        come = [new[~torch.isin(new, old)] for old, new in zip(self.kept, kept, strict=True)]
        if sum(map(len, gone)) + sum(map(len, come)) >= sum(map(len, kept)):
            scatter = torch.zeros_like(self.scatter)
            _add_about(scatter, moments, kept, means)
        else:
            scatter = -self.scatter
            _add_about(scatter, moments, gone, self.means)
            scatter.neg_()
            _add_about(scatter, moments, come, self.means)
            moved = means - self.means
            sizes = torch.tensor([len(chosen) for chosen in kept]).to(moved)
            scatter.addmm_(moved.T * sizes, moved, alpha=-1)
        return Subset(moments, kept, means, mirrored(scatter))


def _add_about(scatter: Tensor, moments: RowMoments, chosen: list[Tensor], centers: Tensor) -> None:
    """Add the products of chosen rows of each class less its center, above the diagonal."""
    for positions, center in zip(chosen, centers, strict=True):
        for block in moments.about(positions, center):
            add_products(scatter, block)


def regular(least: float, width: int, trace: float) -> bool:
    """Say whether a covariance with that least eigenvalue is regular, in spite of rounding."""
    return least > 10 * width * _EPS * trace


def regular_factor(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"] | None:
    """Return the Cholesky factor of a covariance, or None where it is numerically singular.

    A few steps of inverse iteration find
    the smallest: they see it the better the smaller it is.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        return None
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(len(matrix), 4, dtype=torch.float64, generator=generator).to(matrix)
    grown = 0.0
    for _ in range(5):
        columns = torch.linalg.qr(columns)[0]
        columns = torch.cholesky_solve(columns, factor)
        grown = float(torch.linalg.vector_norm(columns, dim=0).max())
    floor = 10 * len(matrix) * _EPS * float(matrix.diagonal().sum())
    return factor if math.isfinite(grown) and floor * grown < 1 else None


def minimum_norm(
    matrix: Float[Tensor, "d d"], columns: Float[Tensor, "d c"]
) -> Float[Tensor, "d c"]:
    """Return the shortest least-squares solution of ``matrix · Z = columns``.

    Parameters
    ----------
    matrix : Tensor of float64, shape (d, d)
        Symmetric and positive semi-definite, such as a covariance. Eigenvalues below d · ε of the
        largest count as zero; so do features with such a variance, which are left out first.
    columns : Tensor of float64, shape (d, c)
        The right-hand sides.
    """
    solution = torch.zeros_like(columns)
    variances = matrix.diagonal()
    features = torch.nonzero(variances > len(matrix) * _EPS * variances.max())[:, 0]
    if not len(features):
        return solution
    inner, right = matrix, columns
    if len(features) < len(matrix):
        inner = matrix.index_select(0, features).index_select(1, features)
        right = columns.index_select(0, features)
    factor = regular_factor(inner)
    if factor is not None:
        found = torch.cholesky_solve(right, factor)
    else:
        values, vectors = eigenvectors(inner, "covariance")
        vectors = vectors[:, values > len(values) * _EPS * values[0]]
        found = vectors @ ((vectors.T @ right) / values[: vectors.shape[1], None])
    return solution.index_copy_(0, features, found)


class NeighbourSearch:
    r"""The nearest of some rows, by Euclidean distance: products in blocks, then exact distances.

    For a query x and a row y, both less the mean of the rows, the distance grows with
    :math:`s = \|y\|^2 / 2 - x^T y`. The product is taken in bfloat16 where that pays, else in
    float32; with the rows' rounding, that of the result and that of the sum it is wrong by at
    most :math:`\beta \|x\| \|y\|`, so that s has a lower and an upper bound. Rows whose lower
    bound exceeds the k-th smallest upper bound cannot be among the k nearest. The others' distances
    are computed from differences in float64. Queries that this leaves with too many rows (many
    equal ones, or all at nearly the same distance) are searched in the next precision, and
    in float64 in the end.

    Parameters
    ----------
    rows : Tensor, shape (n, width)
        Finite float32 or float64; referred to, not copied.
    """

    def __init__(self, rows: Float[Tensor, "n width"]):
        self.rows = rows
        total = rows.new_zeros(rows.shape[1], dtype=torch.float64)
        for _, block in blocks_of(rows):
            total += block.sum(0)
        self._middle = (total / len(rows)).to(rows.dtype)
        lengths = []
        largest = 0.0
        for _, block in blocks_of(rows):
            block = block - self._middle
            size = float(block.abs().max())
            largest = max(largest, size)
            lengths.append(torch.linalg.vector_norm(block / (size or 1.0), dim=1) * size)
        exponent = math.frexp(largest)[1] if 0 < largest < math.inf else 0
        # A power of two rounds nothing; float32 has those up to this.
        self._scale = 2.0 ** -max(-100, min(exponent, 100))
        self._lengths = torch.cat(lengths) * self._scale

    def nearest(self, queries: Float[Tensor, "q width"], k: int) -> Int[Tensor, "q k"]:
        """Return the positions of the k nearest rows, nearest first.

        Equal distances come in the order of the rows, unless a query has more than a few hundred
        of them; then any of the rows that are equally far may stand for the others.

        Raises
        ------
        DataError
            If there are fewer than k rows.
        """
        if len(self.rows) < k:
            raise DataError(f"k: expected at most the n_samples = {len(self.rows)} rows; found {k}")
        queries = queries.to(self.rows.device, self.rows.dtype)
        found = torch.empty(len(queries), k, dtype=torch.int64, device=self.rows.device)
        dtypes = self._dtypes(len(queries))
        with exact_products():
            for start in range(0, len(queries), _QUERIES):
                left = torch.arange(start, min(start + _QUERIES, len(queries))).to(found.device)
                for dtype in list(dtypes):
                    answers, done = self._bounded(queries[left], k, dtype)
                    found[left[done]] = answers
                    if len(answers) < len(done) / 2:
                        dtypes.remove(dtype)
                    left = left[~done]
                    if not len(left):
                        break
                else:
                    for part in torch.split(left, _TILE):
                        found[part] = self._in_full(queries[part], k)
        return found

    def _dtypes(self, n_queries: int) -> list[torch.dtype]:
        """Return the precisions to try before float64."""
        many = self.rows.numel() * n_queries > _MANY and bfloat16_pays(self.rows.device.type)
        return [torch.bfloat16, torch.float32] if many else [torch.float32]

    def _centred(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return rows less the middle, scaled, in some precision."""
        if dtype is torch.float64:
            rows = rows.double()
        return (rows - self._middle).mul_(self._scale).to(dtype)

    def _bounded(
        self, queries: Float[Tensor, "q width"], k: int, dtype: torch.dtype
    ) -> tuple[Int[Tensor, "done k"], Bool[Tensor, " q"]]:
        """Return the nearest rows of those queries that few are left for, and which these are."""
        device, width = self.rows.device, self.rows.shape[1]
        if dtype is torch.bfloat16:
            # Both factors are rounded, and the result.
            share = 3 * _ULP_16 + 3 * _ULP_16**2 + (width + 16) * _ULP_32
        else:
            share = (width + 16) * _ULP_32
        lengths = torch.linalg.vector_norm(self._centred(queries, torch.float64), dim=1)
        usable = lengths < 1e12
        # Unusable ones are kept out of every sum.
        rough = self._centred(queries, dtype).masked_fill_(~usable[:, None], 0)
        error = (share * lengths).masked_fill_(~usable, 0).float()
        best = torch.full((len(queries), k), torch.inf, device=device)
        best[~usable] = -torch.inf
        counts = torch.zeros(len(queries), dtype=torch.int64, device=device)
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for first in range(0, len(self.rows), _ROWS):
            block = self._centred(self.rows[first : first + _ROWS], dtype)
            length = self._lengths[first : first + _ROWS].float()
            group = math.gcd(len(block), _GROUP)
            if len(block) < 4 * k * group:
                group = 1
            # Sums of float32 numbers are wrong by a few units of these; their share goes off here.
            half = length.square() * (0.5 - 16 * _ULP_32) - _TINY
            longest = length.view(group, -1).amax(0)
            for start in range(0, len(queries), _TILE):
                part = slice(start, start + _TILE)
                low = (rough[part] @ block.T).float()
                ones = torch.ones_like(error[part])
                low.addmm_(
                    torch.stack([ones, -error[part]], 1), torch.stack([half, length]), beta=-1
                )
                low = low.view(len(low), group, -1)
                lowest = low.amin(1)
                high = torch.addmm(
                    lowest,
                    torch.stack([2 * error[part], ones], 1),
                    torch.stack([longest, 32 * _ULP_32 * longest.square() + 4 * _TINY]),
                )
                high = torch.cat([best[part], high], 1)
                best[part] = high.topk(k, dim=1, largest=False).values
                limit = best[part].amax(1)
                query, column = torch.nonzero(lowest <= limit[:, None], as_tuple=True)
                members = low[query, :, column]
                hit, place = torch.nonzero(members <= limit[query, None], as_tuple=True)
                query, row = query[hit], first + place * low.shape[2] + column[hit]
                counts[part] += torch.bincount(query, minlength=len(limit))
                best[part][counts[part] > _MOST] = -torch.inf
                kept.append((query + start, row, members[hit, place]))
        query, row, value = (torch.cat(parts) for parts in zip(*kept, strict=True))
        limit = best.amax(1)
        inside = value <= limit[query]
        done = limit > -torch.inf
        return self._ordered(queries, query[inside], row[inside], k), done

    def _in_full(self, queries: Float[Tensor, "q width"], k: int) -> Int[Tensor, "q k"]:
        """Return the nearest rows by products in float64."""
        exact = self._centred(queries, torch.float64)
        values = exact.new_full((len(queries), 0), torch.inf)
        rows = torch.empty(len(queries), 0, dtype=torch.int64, device=exact.device)
        for first in range(0, len(self.rows), _ROWS):
            block = self._centred(self.rows[first : first + _ROWS], torch.float64)
            half = self._lengths[first : first + _ROWS].square() / 2
            score = torch.addmm(half, exact, block.T, alpha=-1)
            near = score.topk(min(k, len(block)), dim=1, largest=False)
            values = torch.cat([values, near.values], 1)
            rows = torch.cat([rows, near.indices + first], 1)
            values, places = values.topk(min(k, values.shape[1]), dim=1, largest=False)
            rows = rows.gather(1, places)
        query = torch.arange(len(queries), device=rows.device).repeat_interleave(k)
        return self._ordered(queries, query, rows.reshape(-1), k)

    def _ordered(
        self,
        queries: Float[Tensor, "q width"],
        query: Int[Tensor, " pairs"],
        row: Int[Tensor, " pairs"],
        k: int,
    ) -> Int[Tensor, "done k"]:
        """Return the k nearest of the rows that each query is paired with, nearest first."""
        distances = torch.empty(len(query), dtype=torch.float64, device=query.device)
        # Small blocks stay in the processor's cache.
        step = max(1, (_BLOCK >> 4) // (8 * queries.shape[1]))
        if query.device.type != "cpu":
            step *= 256
        for start in range(0, len(query), step):
            part = slice(start, start + step)
            difference = self.rows[row[part]].double().sub_(queries[query[part]])
            distances[part] = difference.mul_(self._scale).square_().sum(1)
        order = torch.argsort(row)
        order = order[torch.argsort(distances[order], stable=True)]
        order = order[torch.argsort(query[order], stable=True)]
        sizes = torch.unique_consecutive(query[order], return_counts=True)[1]
        starts = sizes.cumsum(0) - sizes
        first_few = starts[:, None] + torch.arange(k, device=query.device)
        return row[order[first_few]]


def vote(neighbours: NDArray[np.int64], labels: Any) -> NDArray[Any]:
    """Return the most frequent label among each row's neighbours; of equals the first sorted one.

    Parameters
    ----------
    neighbours : ndarray of int64, shape (n, k)
        Positions of training rows, as `NearestNeighbours.kneighbors` gives them.
    labels : array-like, shape (n_train,)
        Labels of the training rows; not necessarily those that the search was fitted with.

    Returns
    -------
    ndarray, shape (n,)
        One of the labels each.
    """
    classes, places = np.unique(np.asarray(labels), return_inverse=True)
    votes = np.zeros((len(neighbours), len(classes)), dtype=np.int64)
    every = np.arange(len(neighbours))
    for column in np.asarray(neighbours).T:
        votes[every, places[column]] += 1
    return np.asarray(classes[votes.argmax(1)])


def row_moments(X: Any, y: Any, *, device: str = "cpu") -> RowMoments:
    """Return counts, means and second moments of each class, to be shared by several probes.

    Second moments are computed when a probe first asks for them, in float64, and kept.

    Parameters
    ----------
    X : array-like, shape (n, width)
        Finite rows; float32 or float64 are referred to, not copied.
    y : array-like, shape (n,)
        Labels of at least two classes.
    device : str, default="cpu"
        Where to compute and to keep them.

    Raises
    ------
    DataError
        If `X` is not a matrix of finite numbers.
    LabelError
        If there is not one label a row, or one class only.

    Examples
    --------
    >>> from underscript.baselines import LinearDiscriminant, NearestClassMean, row_moments
    >>> X, y = [[0.0, 1.0], [1.0, 2.0], [3.0, 0.0], [4.0, 2.0]], [0, 0, 1, 1]
    >>> moments = row_moments(X, y)
    >>> LinearDiscriminant().fit_moments(moments).predict(X).tolist()
    [0, 0, 1, 1]
    >>> NearestClassMean().fit_moments(moments).means_.tolist()
    [[0.5, 1.5], [3.5, 1.0]]
    """
    X, labels = np.asarray(_as_array(X)), np.asarray(y)
    if X.dtype not in (np.float32, np.float64):
        X = X.astype(np.float64)
    if X.ndim != 2 or not X.size or not np.isfinite(X).all():
        raise DataError(f"X: expected finite rows, shape (n, width); found shape {X.shape}")
    if labels.shape != (len(X),):
        raise LabelError(f"y: expected {len(X)} labels, one a row; found shape {labels.shape}")
    classes = classes_of(labels)
    places = torch.from_numpy(np.searchsorted(classes, labels))
    return RowMoments(_as_tensor(X).to(as_device(device)), places, classes)


def classes_of(y: NDArray[Any]) -> NDArray[Any]:
    classes = np.unique(y)
    if len(classes) < 2:
        raise LabelError(f"y: expected at least 2 classes; found one class, {classes.tolist()}")
    return classes


def check_share(name: str, value: Any) -> None:
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"{name}: expected a share in [0, 1]; found {value!r}")


def check_positive(name: str, value: Any) -> None:
    if not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name}: expected a positive number; found {value!r}")


def check_positive_integer(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or int(value) < 1:
        raise ValueError(f"{name}: expected an integer ≥ 1; found {value!r}")


class Baseline(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What the probes share: checks, labels, and counts of operations."""

    classes_: NDArray[Any]
    n_features_in_: int

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the probe.

        Parameters
        ----------
        X : array-like, shape (n, width)
            Rows. float32 stays float32; everything else becomes float64.
        y : array-like, shape (n,)
            Labels: integers or strings, of at least two classes.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `X` is empty, not finite or of another length than `y`, `y` has one class only, or
            a hyper-parameter is out of range.
        """
        self._validate_parameters()
        X, y = validate_data(self, _as_array(X), y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_ = classes_of(y)
        self._fit(X, y)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class of each row, shape (n,)."""
        raise NotImplementedError

    def fit_flops(self, n: int) -> float:
        """Return about how many floating-point operations fitting to n rows takes.

        The leading terms for the fitted width and classes, taken to be of equal size; a
        multiply-add counts as two.
        """
        check_is_fitted(self, "classes_")
        return self._work(n, self.n_features_in_, n / len(self.classes_))

    def predict_flops(self, n: int) -> float:
        """Return about how many floating-point operations predicting n rows takes."""
        check_is_fitted(self, "classes_")
        return self._work_for_each() * n

    def _work(self, n: int, width: int, size: float) -> float:
        """Return the operations of a fit to n rows, `size` of each class."""
        raise NotImplementedError

    def _work_for_each(self) -> float:
        """Return the operations of predicting one row: by default one product with each class."""
        return 2.0 * len(self.classes_) * self.n_features_in_

    def _fit(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        raise NotImplementedError

    def _validate_parameters(self) -> None:
        """Raise ValueError for hyper-parameters out of range."""

    def _checked(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self, "classes_")
        return np.asarray(
            validate_data(self, _as_array(X), reset=False, dtype=[np.float64, np.float32])
        )


class ScoringBaseline(Baseline):
    """A probe that has a score for each class, in float64."""

    device: str

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class of the largest score, shape (n,); of equal ones the first."""
        best = self._all_scores(X).argmax(1)  # checks that there are classes
        return np.asarray(self.classes_[best])

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return the scores, shape (n, K); for two classes their difference, shape (n,)."""
        scores = self._all_scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def _all_scores(self, X: Any) -> NDArray[np.float64]:
        rows = _as_tensor(self._checked(X)).to(as_device(self.device))
        scores = np.empty((len(rows), len(self.classes_)))
        for part, block in blocks_of(rows):
            scores[part] = self._scores(block).cpu().numpy()
        return scores

    def _scores(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        """Return the score of each class for float64 rows, which are not to be changed."""
        raise NotImplementedError

    def _like(self, values: NDArray[np.float64], rows: Tensor) -> Tensor:
        return torch.tensor(values).to(rows)


class MomentBaseline(ScoringBaseline):
    """A probe that is made of class moments."""

    def fit_moments(self, moments: RowMoments) -> Self:
        """Fit to the rows that moments were gathered from.

        Parameters
        ----------
        moments : RowMoments
            From `row_moments`. What they compute for one probe serves the next.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a hyper-parameter is out of range.
        """
        self._validate_parameters()
        self.classes_ = moments.classes
        self.n_features_in_ = moments.width
        self._solve(moments)
        return self

    def _fit(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        self._solve(row_moments(X, y, device=self.device))

    def _solve(self, moments: RowMoments) -> None:
        raise NotImplementedError


class LinearBaseline(MomentBaseline):
    """A probe whose scores are linear in the row."""

    coef_: NDArray[np.float64]
    intercept_: NDArray[np.float64]

    def _scores(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        return torch.addmm(self._like(self.intercept_, rows), rows, self._like(self.coef_, rows).T)

    def _discriminate(self, coefficients: Tensor, means: Tensor, counts: Tensor) -> None:
        """Take Σ⁻¹ m_k (width, K) as the coefficients of Gaussian classes."""
        priors = (counts.double() / counts.sum()).to(means)
        self.coef_ = coefficients.T.cpu().numpy()
        self.intercept_ = (priors.log() - (means * coefficients.T).sum(1) / 2).cpu().numpy()
        self.means_ = means.cpu().numpy()
        self.priors_ = priors.cpu().numpy()
