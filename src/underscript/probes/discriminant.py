"""Linear discriminants on a layer's rows, or on random features of them, for any labels.

The costly part, the covariance of all rows, does not depend on labels. After one pass over the
data, a discriminant for other labels (such as decoded ones) needs only the sums of each class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ..linalg.products import add_products, mirrored
from ..linalg.second_moment import SecondMoment
from ..utils.distributed import ALONE, Processes
from .baseline import Baseline, check_positive, check_positive_integer
from .classifier import as_tensor
from .random_features import FourierFeatures, precise, units_in

__all__ = [
    "ClassSums",
    "Covariance",
    "Linear",
    "PooledMoments",
    "RidgeDiscriminant",
]

# Rows to collect before one large product.
_WAITING = 4096


class PooledMoments:
    """The covariance of all rows, regardless of labels, accumulated batch by batch.

    Products are float32, about a fixed point; sums are float64. This is enough, because the ridge
    that is added later is far above their rounding.

    Parameters
    ----------
    centre : Tensor of float32, shape (width,)
        A point near the rows' mean.
    """

    def __init__(self, centre: Float[Tensor, " width"]):
        self.centre = centre
        self._moment = SecondMoment(len(centre), _WAITING, centre.device, exact=False)

    def update(self, rows: Float[Tensor, "n width"]) -> None:
        """Add rows (float32)."""
        positions = torch.arange(len(rows), device=rows.device)
        self._moment.update(rows - self.centre, positions)

    def covariance(self, ridges: Sequence[float], processes: Processes = ALONE) -> "Covariance":
        """Return the covariance of all processes' rows, factorised with each ridge.

        If a single process has fewer rows than features, it factorises their Gram matrix instead.
        """
        few = self._moment.few()
        if processes.size == 1 and few is not None and len(few):
            rows = few.to(self._moment.sums)
            mean = rows.mean(0)
            rows -= mean
            gram = torch.empty(len(rows), len(rows)).to(rows)
            add_products(gram, rows.T, first=True)
            mirrored(gram).div_(len(rows))
            return Covariance(self.centre + mean, len(rows), gram, ridges, rows)
        whole = self._moment.whole()
        n = int(processes.total(torch.tensor([self._moment.n]))[0])
        mean = processes.total(self._moment.sums) / n
        second = processes.total(whole) / n - torch.outer(mean, mean)
        return Covariance(self.centre + mean, n, second, ridges)


class ClassSums:
    """Sums and counts of each class's rows, for the given labels or any others."""

    def __init__(self, n_classes: int, centre: Float[Tensor, " width"]):
        precise = torch.float32 if centre.device.type == "mps" else torch.float64
        self.centre = centre
        self.sums = torch.zeros(n_classes, len(centre), dtype=precise, device=centre.device)
        self.counts = torch.zeros(n_classes, dtype=torch.int64)

    def update(self, rows: Float[Tensor, "n width"], labels: Int[Tensor, " n"]) -> None:
        """Add rows with labels 0 … K−1; rows with other labels are left out."""
        classes = torch.arange(len(self.counts), device=rows.device)
        member = labels.to(rows.device)[:, None] == classes
        self.sums += member.T.to(rows.dtype) @ (rows - self.centre)
        self.counts += member.sum(0).cpu()

    @classmethod
    def added(cls, parts: Sequence[Self]) -> Self:
        """Return the total of the sums of several parts of the rows."""
        whole = cls(len(parts[0].counts), parts[0].centre)
        for part in parts:
            whole.sums += part.sums
            whole.counts += part.counts
        return whole

    def without(self, part: Self) -> Self:
        """Return the sums of the rows that are not in this part."""
        rest = type(self)(len(self.counts), self.centre)
        rest.sums, rest.counts = self.sums - part.sums, self.counts - part.counts
        return rest

    def total(self, processes: Processes) -> tuple[Tensor, Tensor]:
        """Return the class means (K, width) and counts (K,) over all processes."""
        counts = processes.total(self.counts)
        means = processes.total(self.sums) / counts.clamp(min=1)[:, None].to(self.sums)
        return means + self.centre, counts


@dataclass(frozen=True)
class Linear:
    """Scores ``rows @ coefficients.T + intercepts``; −inf for a class without rows."""

    coefficients: Float[Tensor, "classes width"]
    intercepts: Float[Tensor, " classes"]

    def __call__(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        """Return the scores."""
        return torch.addmm(self.intercepts.to(rows), rows, self.coefficients.T.to(rows))


class Covariance:
    r"""A covariance factorised with several ridges; it gives discriminants for any labels.

    Parameters
    ----------
    mean : Tensor, shape (width,)
        Mean of the rows.
    n : int
        Number of rows.
    products : Tensor, shape (width, width) or (n, n)
        The covariance C, or :math:`X X^T / n` if there are fewer rows than features.
    ridges : sequence of float
        λ divided by the mean variance.
    rows : Tensor, shape (n, width), optional
        X, the rows minus their mean; in the second case only.
    """

    def __init__(
        self,
        mean: Tensor,
        n: int,
        products: Tensor,
        ridges: Sequence[float],
        rows: Tensor | None = None,
    ):
        self.mean, self.n = mean, n
        # Both kinds of products have the same trace.
        variance = float(products.diagonal().sum()) / len(mean)
        # If the rows do not vary, everything is zero and any ridge works.
        self._amounts = {ridge: ridge * (variance or 1.0) for ridge in ridges}
        self._rows = rows
        self._factors = {}
        for ridge, amount in self._amounts.items():
            regular = products.clone()
            regular.diagonal().add_(amount)
            self._factors[ridge] = torch.linalg.cholesky(regular)

    def _solve(self, vectors: Float[Tensor, "width k"]) -> dict[float, Tensor]:
        r"""Return :math:`(C + \lambda I)^{-1} V`, shape (width, k), for each ridge.

        From rows, by Woodbury: :math:`(V - X^T (X X^T / n + \lambda I)^{-1} X V / n) / \lambda`.
        """
        rows = self._rows
        right = vectors if rows is None else rows @ vectors
        solved = {
            ridge: torch.cholesky_solve(right, factor) for ridge, factor in self._factors.items()
        }
        if rows is None:
            return solved
        within = (rows.T @ torch.cat([*solved.values()], 1) / self.n).chunk(len(solved), 1)
        return {
            ridge: (vectors - part) / amount
            for part, (ridge, amount) in zip(within, self._amounts.items(), strict=True)
        }

    def one(self) -> Float[Tensor, " width"]:
        r"""Return the vector whose products with rows are nearest to 1, float32.

        The least-squares solution for mean m and covariance C, with the smallest ridge:
        :math:`C^{-1} m / (1 + m^T C^{-1} m)`.
        """
        solution = self._solve(self.mean[:, None])[min(self._factors)][:, 0]
        vector: Tensor = (solution / (1 + self.mean @ solution)).float()
        return vector

    def discriminants(
        self, labellings: Sequence[tuple[Tensor, Tensor]]
    ) -> list[dict[float, Linear]]:
        r"""Return the linear discriminants of each labelling, by ridge.

        Classes are Gaussian and equally likely, and share one covariance within classes, W. Let C
        be the total covariance, D the class means minus the total mean, and P the class shares.
        Then :math:`W = C - D^T P D`, so :math:`W^{-1} D^T = A (I - P D A)^{-1}` with
        :math:`A = C^{-1} D^T` (Woodbury).

        Parameters
        ----------
        labellings : sequence of (Tensor, Tensor)
            For each way to label the rows: the class means (K, width), and the number of rows of
            each class, int64 (K,).
        """
        about = [means - self.mean for means, _ in labellings]
        solved = self._solve(torch.cat(about).T)
        fitted: list[dict[float, Linear]] = [{} for _ in labellings]
        for ridge, inverses in solved.items():
            parts = torch.split(inverses, [len(part) for part in about], 1)
            for by_ridge, part, inverse, (_, counts) in zip(
                fitted, about, parts, labellings, strict=True
            ):
                by_ridge[ridge] = self._discriminant(part, inverse, counts)
        return fitted

    def _discriminant(self, about: Tensor, inverse: Tensor, counts: Tensor) -> Linear:
        present = torch.nonzero(counts > 0)[:, 0].to(about.device)
        shares = (counts.to(about.device)[present] / self.n).to(about)
        coefficients = torch.zeros(about.shape, device=about.device)
        intercepts = torch.full((len(counts),), -torch.inf, device=about.device)
        about, inverse = about[present], inverse[:, present]
        between = torch.eye(len(present)).to(about) - shares[:, None] * (about @ inverse)
        weights = torch.linalg.solve(between, inverse, left=False).T
        coefficients[present] = weights.float()
        offset = -(weights * about).sum(1) / 2 - weights @ self.mean
        intercepts[present] = offset.float()
        return Linear(coefficients, intercepts)


def discriminant_of(
    rows: Float[Tensor, "n width"], labels: Int[Tensor, " n"], n_classes: int, ridge: float
) -> tuple[Linear, PooledMoments]:
    """Return the linear discriminant of rows with labels 0 … K−1, and the rows' moments."""
    centre = rows.mean(0)
    moments, sums = PooledMoments(centre), ClassSums(n_classes, centre)
    for start in range(0, len(rows), _WAITING):
        part = slice(start, start + _WAITING)
        moments.update(rows[part])
        sums.update(rows[part], labels[part])
    (by_ridge,) = moments.covariance([ridge]).discriminants([sums.total(ALONE)])
    return by_ridge[ridge], moments


class RidgeDiscriminant(Baseline):
    """A linear discriminant with a ridge, on rows or on random Fourier features of them.

    A small ridge gives the linear discriminant, a large one the nearest class mean. With noisy
    labels a large ridge averages the noise away; with cleaner labels a small one separates better.
    Classes count as equally likely.

    Parameters
    ----------
    ridge : float, default=0.1
        Positive. Added to the diagonal of the covariance, in units of the mean variance.
    n_features : int, default=0
        Number of random features of a Gaussian kernel (see `FourierFeatures`), which make the
        decision boundaries curved; with 0 they are flat.
    seed : int, default=0
        Seed of the random features.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes.
    n_features_in_ : int
        The width.
    temperature_ : float
        Factor that turns scores into log odds; 1 unless it was calibrated.
    """

    def __init__(self, *, ridge: float = 0.1, n_features: int = 0, seed: int = 0):
        self.ridge = ridge
        self.n_features = n_features
        self.seed = seed

    @property
    def ranks_(self) -> NDArray[np.int64]:
        """1 for every class that had rows, else 0; shape (K,)."""
        return np.asarray(torch.isfinite(self._linear.intercepts).cpu().numpy(), dtype=np.int64)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class with the largest score, shape (n,); ties go to the first class."""
        rows = as_tensor(self._checked(X))
        return np.asarray(self.classes_[self.nearest(rows).cpu().numpy()])

    def decision_function(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the decision values, shape (n, K); for two classes their difference, (n,)."""
        scores = self.decide(as_tensor(self._checked(X))).cpu().numpy()
        return np.asarray(scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores)

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the probability of each class, shape (n, K)."""
        return np.asarray(self.closeness(as_tensor(self._checked(X))).cpu().numpy())

    def decide(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        """Return decision values (n, K) of finite rows; their softmax is `closeness`."""
        return self.scores(self.mapped(rows))

    def mapped(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n features"]:
        """Return the random features of finite rows, or the rows if there are no features."""
        rows = precise(rows)
        return rows if self._map is None else self._map(rows)

    def scores(self, mapped: Float[Tensor, "n features"]) -> Float[Tensor, "n classes"]:
        """Return the decision values of what `mapped` returned."""
        return self._linear(mapped) * self.temperature_

    def closeness(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        """Return the probability of each class, shape (n, K)."""
        return torch.softmax(self.decide(rows), 1)

    def nearest(self, rows: Float[Tensor, "n width"]) -> Int[Tensor, " n"]:
        """Return the position of each finite row's largest decision value, int64 (n,)."""
        return self.decide(rows).argmax(1)

    def predictions(
        self, rows: Float[Tensor, "n width"], given: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]]:
        """Return `closeness` and `nearest`."""
        probabilities = self.closeness(rows)
        return probabilities, probabilities.argmax(1)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that prediction needs, for saving."""
        made = {
            "coefficients": self._linear.coefficients.cpu().contiguous(),
            "intercepts": self._linear.intercepts.cpu().contiguous(),
            "temperature": torch.tensor(self.temperature_),
        }
        if self._map is not None:
            made["directions"] = self._map.directions.cpu().contiguous()
            made["phases"] = self._map.phases.cpu().contiguous()
            if self._map.units is not None:
                made["units"] = self._map.units.cpu().contiguous()
            if self._map.structured is not None:
                made["length"] = torch.tensor(self._map.structured.length, dtype=torch.float64)
        return made

    def set_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Restore the decoder from what `tensors` returned, with classes 0 … K−1.

        Raises
        ------
        KeyError, ValueError
            If the tensors are not those of such a decoder.
        """
        linear = Linear(tensors["coefficients"], tensors["intercepts"])
        features = None
        if self.n_features:
            known = tensors["directions"], tensors["phases"], units_in(tensors)
            if "length" in tensors and tensors["length"].numel() != 1:
                raise ValueError("expected one length of the kernel")
            features = (
                FourierFeatures.restored(self.seed, *known, float(tensors["length"]))
                if "length" in tensors
                else FourierFeatures(*known)
            )
        inner = linear.coefficients.shape[1] if linear.coefficients.ndim == 2 else -1
        fits = linear.intercepts.shape == linear.coefficients.shape[:1]
        if features is not None:
            shape = features.directions.shape
            fits &= len(shape) == 2 and features.phases.shape == shape[1:] and shape[1] == inner
            fits &= features.units is None or features.units.shape == (2, shape[0])
        if not fits or inner < 0:
            raise ValueError("the coefficients do not fit the classes and features")
        return self.set_fitted(linear, features, float(tensors["temperature"]))

    def set_fitted(
        self, linear: Linear, features: FourierFeatures | None, temperature: float
    ) -> Self:
        """Set the fitted coefficients, for classes 0 … K−1."""
        self._linear, self._map, self.temperature_ = linear, features, temperature
        self.classes_ = np.arange(len(linear.intercepts))
        width = linear.coefficients if features is None else features.directions.T
        self.n_features_in_ = int(width.shape[1])
        return self

    def to(self, device: torch.device) -> Self:
        """Move the coefficients to a device, in place."""
        line, features = self._linear, self._map
        self._linear = Linear(line.coefficients.to(device), line.intercepts.to(device))
        if features is not None:
            self._map = features.to(device)
        return self

    def _fit(self, X: NDArray[Any], y: NDArray[Any]) -> None:
        rows = as_tensor(X).float()
        places = torch.from_numpy(np.searchsorted(self.classes_, y).astype(np.int64))
        features = None
        if self.n_features:
            features = FourierFeatures.drawn(rows, self.n_features, self.seed)
            rows = features(rows)
        linear, _ = discriminant_of(rows, places, len(self.classes_), self.ridge)
        classes, width = self.classes_, self.n_features_in_
        self.set_fitted(linear, features, 1.0)
        self.classes_, self.n_features_in_ = classes, width

    def _work(self, n: int, width: int, size: float) -> float:
        inner = self.n_features or width
        features = 2 * n * width * self.n_features
        side = min(n, inner)
        return features + n * inner * side + side**3 / 3

    def _validate_parameters(self) -> None:
        check_positive("ridge", self.ridge)
        if self.n_features != 0:
            check_positive_integer("n_features", self.n_features)
