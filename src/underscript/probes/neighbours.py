"""k nearest neighbours: an exact search, the vote, and the estimator made of both."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from ..linalg.precision import bfloat16_pays, exact_products
from ..utils.device import as_device
from .baseline import Baseline, check_positive_integer
from .classifier import as_tensor
from .row_moments import BLOCK, blocks_of

# Neighbours: rows and queries that one product takes, and queries that rows are prepared for.
_ROWS = 4096
_TILE = 1024
_QUERIES = 4096
# Scores of a query are compared with its limit in groups of at most so many.
_GROUP = 32
# Candidates of one query that are looked at in full; with more it goes to the next precision.
_MOST = 256
# In narrower rows a first look in bfloat16 costs more than it saves, on any machine.
_WIDE = 512
# Half a unit in the last place.
_ULP_32 = 2.0**-24
_ULP_16 = 2.0**-9
# Rows are scaled to entries of at most 1: what underflows in their products is below this.
_TINY = 1e-30


class NearestNeighbours(Baseline):
    """Predict the most frequent class among the k nearest training rows (Euclidean).

    As ``KNeighborsClassifier(k, algorithm="brute")`` of scikit-learn: of classes that are equally
    frequent the first wins. Equal distances come in the order of the training rows (as a rule:
    see `kneighbors`); scikit-learn does not say which comes first.

    Parameters
    ----------
    k : int, default=5
        Number of neighbours.
    device : str, default="cpu"
        Where to search.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes.
    n_features_in_ : int
        The width.

    Examples
    --------
    >>> from underscript.baselines import NearestNeighbours, vote
    >>> knn = NearestNeighbours(k=1).fit([[0.0, 0.0], [4.0, 0.0]], ["given", "other"])
    >>> found = knn.kneighbors([[3.0, 1.0]])
    >>> vote(found, ["true", "wrong"]).tolist()
    ['wrong']
    """

    def __init__(self, *, k: int = 5, device: str = "cpu"):
        self.k = k
        self.device = device

    def kneighbors(self, X: Any) -> NDArray[np.int64]:
        """Return the positions of the k nearest training rows, nearest first, shape (n, k).

        They do not depend on labels: with `vote` one search serves any labels of the same rows.
        Equal distances come in the order of the rows, unless several hundred are equal: then any
        of these rows.
        """
        rows = as_tensor(self._checked(X))
        return np.asarray(self._search.nearest(rows, int(self.k)).cpu().numpy())

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most frequent class among the neighbours of each row, shape (n,)."""
        return vote(self.kneighbors(X), self._labels)

    def _work(self, n: int, width: int, size: float) -> float:
        return 4.0 * n * width  # the mean, and lengths

    def _work_for_each(self) -> float:
        return 2.0 * len(self._labels) * self.n_features_in_

    def _fit(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        if len(X) < self.k:
            raise DataError(f"k: expected at most the n_samples = {len(X)} rows; found {self.k}")
        self._labels = y
        self._search = NeighbourSearch(as_tensor(X).to(as_device(self.device)))

    def _validate_parameters(self) -> None:
        check_positive_integer("k", self.k)


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
            largest = max(largest, float(block.abs().max()))
            lengths.append(torch.linalg.vector_norm(block, dim=1))
        # A power of two rounds nothing; float32 has those up to this.
        self._scale = 2.0 ** -max(-100, min(math.frexp(largest)[1], 100))
        self._lengths = torch.cat(lengths) * self._scale

    def nearest(self, queries: Float[Tensor, "q width"], k: int) -> Int[Tensor, "q k"]:
        """Return the positions of the k nearest rows, nearest first.

        Equal distances come in the order of the rows, unless a query has more than a few hundred
        of them; then any of the rows that are equally far may stand for the others.
        """
        queries = queries.to(self.rows.device, self.rows.dtype)
        found = torch.empty(len(queries), k, dtype=torch.int64, device=self.rows.device)
        with exact_products():
            for left in torch.split(torch.arange(len(queries), device=found.device), _QUERIES):
                for dtype in self._dtypes():
                    answers, done = self._bounded(queries[left], k, dtype)
                    found[left[done]] = answers
                    left = left[~done]
                    if not len(left):
                        break
                else:
                    for part in torch.split(left, _TILE):
                        found[part] = self._in_full(queries[part], k)
        return found

    def _dtypes(self) -> list[torch.dtype]:
        """Return the precisions to try before float64."""
        if self.rows.shape[1] >= _WIDE and bfloat16_pays(self.rows.device.type):
            return [torch.bfloat16, torch.float32]
        return [torch.float32]

    def _centred(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return rows less the middle, scaled, in some precision."""
        if dtype is torch.float64:
            rows = rows.double()
        return (rows - self._middle).mul_(self._scale).to(dtype)

    def _bounded(
        self, queries: Float[Tensor, "q width"], k: int, dtype: torch.dtype
    ) -> tuple[Int[Tensor, "done k"], Bool[Tensor, " q"]]:
        """Return the nearest rows of those queries that few are left for, and which these are."""
        share = (self.rows.shape[1] + 16) * _ULP_32
        if dtype is torch.bfloat16:
            share += 3 * _ULP_16 + 3 * _ULP_16**2  # both factors are rounded, and the result
        lengths = torch.linalg.vector_norm(self._centred(queries, torch.float64), dim=1)
        far = lengths > 1e12  # their products could overflow: they are kept out of every sum
        rough = self._centred(queries, dtype).masked_fill_(far[:, None], 0)
        error = (share * lengths).masked_fill_(far, 0).float()
        weights = torch.stack([torch.ones_like(error), -error], 1)
        best = error.new_full((len(queries), k), torch.inf)
        best[far] = -torch.inf
        counts = torch.zeros_like(error, dtype=torch.int64)
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for first in range(0, len(self.rows), _ROWS):
            block = self._centred(self.rows[first : first + _ROWS], dtype)
            length = self._lengths[first : first + _ROWS].float()
            group = math.gcd(len(block), _GROUP)
            if len(block) < 4 * k * group:
                group = 1
            # Sums of float32 numbers are wrong by a few units of these; their share goes off here.
            half = length.square() * (0.5 - 16 * _ULP_32) - _TINY
            bounds = torch.stack([half, length])
            longest = length.view(group, -1).amax(0)
            slack = 32 * _ULP_32 * longest.square() + 4 * _TINY
            for start in range(0, len(queries), _TILE):
                part = slice(start, start + _TILE)
                low = (rough[part] @ block.T).float()
                low.addmm_(weights[part], bounds, beta=-1)
                low = low.view(len(low), group, -1)
                lowest = low.amin(1)
                high = lowest + 2 * error[part, None] * longest + slack
                best[part] = torch.cat([best[part], high], 1).topk(k, largest=False).values
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
        step = max(1, (BLOCK >> 4) // (8 * queries.shape[1]))
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
