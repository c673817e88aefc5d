"""The decoders: class subspaces through the origin, as scikit-learn estimators.

`MinimumAngleSubspaceClassifier` (MASC) is the subspace method of pattern recognition (CLAFIC:
Watanabe 1967; Oja 1983) with uncentred subspaces, applied to hidden layers by Ketha & Ramaswamy
(arXiv 2501.14687). `PrincipalVectorClassifier` (VeLPIC, arXiv 2603.19865) keeps one signed vector
per class. Both come from the same eigenvectors of the class second moments (see `moments`).
"""

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Self, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ..linalg.bases import COMMON, ClassBases, Columns, unit_rows
from ..linalg.spectra import Cut
from ..utils.options import PROBE_NAMES
from .classifier import SubspaceClassifier, Subspaces, few, warn

Key = TypeVar("Key")


class MinimumAngleSubspaceClassifier(SubspaceClassifier):
    r"""Predict the class whose subspace makes the smallest angle with a row (MASC).

    For class k let :math:`S_k = \sum x x^T` over its rows, uncentred, and :math:`V_k` its first
    :math:`r_k` eigenvectors. The angle is :math:`\theta_k = \arccos(\|V_k^T x\| / \|x\|)` and the
    prediction :math:`\arg\min_k \theta_k`.

    Parameters
    ----------
    variance : float, default=0.99
        Variance share τ in (0, 1]: :math:`r_k` is one more than the number of leading sums of
        eigenvalues that are at most τ of their total, and at most the numerical rank of the class.
    rank : int, optional
        The same rank for every class, instead of `variance`; a class with fewer directions keeps
        those it has.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes.
    class_count_ : ndarray of int, shape (K,)
        Samples of each class.
    bases_ : list of K ndarrays, shape (width, r_k)
        Orthonormal bases of the class subspaces.
    ranks_ : ndarray of int, shape (K,)
        Their dimensions :math:`r_k`; 0 for a class with no samples or only zero rows.
    eigenvalues_ : list of K ndarrays of float64
        The eigenvalues of :math:`S_k` that were needed, at least r_k, largest first.
    n_features_in_ : int
        The width.

    Notes
    -----
    Edge cases: a zero row is at 90° from every class; a class with one sample is the line through
    it; a class with none is at 90° and never predicted; with ``variance=1`` a class keeps the whole
    span of its rows; a class whose subspace is the whole space is at 0° from everything, with a
    warning; exact ties go to the first class.

    References
    ----------
    S. Watanabe et al., "Evaluation and selection of variables in pattern recognition", 1967.
    E. Oja, "Subspace Methods of Pattern Recognition", 1983.
    S. Ketha and V. Ramaswamy, "Decoding Generalization from Memorization in Deep Neural
    Networks", arXiv 2501.14687.

    Examples
    --------
    >>> import numpy as np
    >>> from underscript import MinimumAngleSubspaceClassifier
    >>> X = np.array([[1.0, 0.1, 0], [2, 0, 0.1], [0.1, 3, 0], [0, 2, 0.2]])
    >>> masc = MinimumAngleSubspaceClassifier(rank=1).fit(X, ["east", "east", "north", "north"])
    >>> masc.predict([[5.0, 1.0, 0.0], [-0.2, -4.0, 0.0]]).tolist()
    ['east', 'north']
    >>> np.degrees(masc.angles([[0.0, 0.0, 1.0]])).round().tolist()
    [[88.0, 88.0]]
    """

    def __init__(self, *, variance: float = 0.99, rank: int | None = None):
        self.variance = variance
        self.rank = rank

    @property
    def bases_(self) -> list[NDArray[np.floating[Any]]]:
        """Orthonormal bases, one array (width, r_k) per class.

        They are the eigenvectors. For a subspace of more than half the width only the complement
        is kept, and the basis is computed from it on demand.
        """
        bases = []
        for columns, complement, features in self.projections():
            if complement:
                whole = torch.linalg.qr(columns[features].double(), mode="complete")[0]
                basis = columns.new_zeros(len(columns), len(whole) - columns.shape[1])
                basis[features] = whole[:, columns.shape[1] :].to(columns.dtype)
                columns = basis
            bases.append(columns.cpu().numpy())
        return bases

    @property
    def ranks_(self) -> NDArray[np.int64]:
        """Dimension of each class subspace, shape (K,)."""
        return np.asarray(self._decoder()["ranks"], dtype=np.int64)

    @property
    def class_count_(self) -> NDArray[np.int64]:
        """Samples of each class, shape (K,)."""
        return np.asarray(self._decoder()["counts"])

    @property
    def eigenvalues_(self) -> list[NDArray[np.float64]]:
        """The eigenvalues of each class's second moment that were needed, largest first.

        At least r_k of them; all positive ones if the whole spectrum was computed.
        """
        return [values.cpu().numpy() for values in self._decoder()["values"]]

    def decide(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        """Return cos²θ_k, the share of a row's squared length within each class subspace.

        Parameters
        ----------
        rows : Tensor, shape (n, width)
            Finite rows, not checked.

        Returns
        -------
        Tensor, shape (n, K)
            In [0, 1]; −inf for a class without a direction.
        """
        made = self._decoder()
        energies: Tensor = made["bases"].energies(*unit_rows(rows))
        return energies[:, :, made["cut"]]

    def nearest(self, rows: Float[Tensor, "n width"]) -> Int[Tensor, " n"]:
        """Return the position of each row's nearest class, int64 (n,); rows are not checked."""
        made = self._decoder()
        nearest: Tensor = made["bases"].nearest(*unit_rows(rows))
        return nearest[:, made["cut"]]

    def closeness(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        """Return cos²θ_k; 0 for a class without a direction."""
        return self.decide(rows).clamp(min=0)

    def predictions(
        self, rows: Float[Tensor, "n width"], given: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]]:
        """Return closeness, shape (n, K), and `nearest`.

        Closeness is exact only for a row's given class and the nearest other class; the remaining
        entries may be too small.
        """
        made = self._decoder()
        leaders: Tensor = made["bases"].leaders(*unit_rows(rows), given.to(rows.device))
        values = leaders[:, :, made["cut"]]
        return values.clamp(min=0), values.argmax(1)

    def projections(self) -> list[tuple[Tensor, bool, Tensor]]:
        """Return the parts of each class's projector: columns, kind and features.

        Returns
        -------
        list of (Tensor, bool, Tensor)
            Orthonormal columns C of shape (width, c); whether they span the complement of the
            subspace within the features that the class uses; and these features, bool (width,).
            The projector is C Cᵀ, or for a complement the features' diagonal matrix minus C Cᵀ.
        """
        used = self._decoder()["bases"].features.T
        return [(*own, features) for own, features in zip(self._own(), used, strict=True)]

    def _own(self) -> list[tuple[Tensor, bool]]:
        made = self._decoder()
        own: list[tuple[Tensor, bool]] = made["bases"].own(made["cut"])
        return own

    def tensors(self) -> dict[str, Tensor]:
        """Return bases (or their complements where those are smaller), ranks and counts."""
        made = self._decoder()
        own = self._own()
        return {
            "vectors": torch.cat([columns.cpu() for columns, _ in own], 1).contiguous(),
            "columns": torch.tensor([columns.shape[1] for columns, _ in own]),
            "complement": torch.tensor([complement for _, complement in own]),
            "features": made["bases"].features.T.cpu().contiguous(),
            "ranks": torch.tensor(made["ranks"]),
            "counts": torch.as_tensor(made["counts"]),
            "values": torch.cat([values.cpu() for values in made["values"]]),
            "value_counts": torch.tensor([len(values) for values in made["values"]]),
        }

    def set_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Restore the decoder from what `tensors` returned, with classes 0 … K−1."""
        columns, ranks = tensors["columns"].tolist(), tensors["ranks"].tolist()
        complements, counts = tensors["complement"].tolist(), tensors["counts"]
        value_counts, features = tensors["value_counts"].tolist(), tensors["features"]
        alive = features.sum(1).tolist()
        width, total = tensors["vectors"].shape
        if not (
            len(ranks) == len(columns) == len(complements) == len(counts) == len(value_counts)
            and sum(columns) == total
            and features.shape == (len(ranks), width)
            and features.dtype == torch.bool
            and sum(value_counts) == len(tensors["values"])
            and all(
                0 <= rank <= used and size == (used - rank if complement else rank)
                for rank, size, complement, used in zip(
                    ranks, columns, complements, alive, strict=True
                )
            )
        ):
            raise ValueError("the bases, ranks, counts and eigenvalues do not fit each other")
        parts = torch.split(tensors["vectors"], columns, 1)
        kept = []
        for part, rank, complement, used in zip(parts, ranks, complements, features, strict=True):
            leading = 0 if complement else rank
            kept.append(Columns(part, [rank], leading, part[:, : min(leading, COMMON)], used))
        self.__dict__.pop("_statistics", None)
        self.classes_ = np.arange(len(ranks))
        self.n_features_in_ = int(width)
        self._cache = {
            "bases": ClassBases(kept, int(width), tensors["vectors"].dtype),
            "cut": 0,
            "ranks": ranks,
            "values": list(torch.split(tensors["values"], value_counts)),
            "counts": counts.numpy(),
        }
        return self

    def angles(self, X: Any) -> NDArray[np.float64]:
        """Return the angle of each row to each class subspace, in radians, shape (n, K).

        Raises
        ------
        ValueError
            If `X` is not finite or of another width.
        """
        share = self.decide(self._rows(X).double()).clamp(min=0)
        return np.asarray(torch.atan2((1 - share).sqrt(), share.sqrt()).cpu().numpy())

    def _validate_parameters(self) -> None:
        rank: Any = self.rank
        variance: Any = self.variance
        if rank is not None:
            if not isinstance(rank, Integral) or int(rank) < 1:
                raise ValueError(f"rank: expected an integer ≥ 1 or None; found {rank!r}")
        elif not isinstance(variance, Real) or not 0 < float(variance) <= 1:
            raise ValueError(f"variance: expected a share in (0, 1]; found {variance!r}")

    def _cuts(self) -> tuple[Cut, ...]:
        if self.rank is not None:
            return (Cut(rank=int(self.rank)),)
        return (Cut(share=float(self.variance)),)

    def _take(self, subspaces: Subspaces) -> dict[str, Any]:
        cut = subspaces.cuts.index(self._cuts()[0])
        ranks = [ranks[cut] for ranks in subspaces.bases.ranks]
        names = [str(name) for name in self.classes_]
        width = subspaces.bases.width
        full = [name for name, rank in zip(names, ranks, strict=True) if rank == width]
        if full:
            warn(
                f"the subspace of class {few(full)} is the whole space ({width} dimensions): "
                "its angle to everything is 0; lower the variance share or the rank"
            )
        empty = [name for name, rank in zip(names, ranks, strict=True) if rank == 0]
        if empty:
            warn(f"class {few(empty)} has no samples, or only zero rows: it is never predicted")
        if self.rank is not None:
            short = [n for n, rank in zip(names, ranks, strict=True) if 0 < rank < self.rank]
            if short:
                warn(
                    f"class {few(short)} has fewer directions than the rank {self.rank} asked "
                    "for: it keeps what it has"
                )
        return {"bases": subspaces.bases, "cut": cut, "ranks": ranks, "values": subspaces.values}


class PrincipalVectorClassifier(SubspaceClassifier):
    r"""Predict the class whose principal vector has the largest product with a row (VeLPIC).

    The vector of class k is the first eigenvector of :math:`S_k = \sum x x^T`, signed so that the
    mean of :math:`v_k^T x` over the class's rows is positive; the prediction is
    :math:`\arg\max_k v_k^T x`. It is linear, so it can be written into a network's last layer.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes.
    vectors_ : ndarray, shape (K, width)
        Unit vectors; zeros for a class with no samples or only zero rows.
    n_features_in_ : int
        The width.

    Notes
    -----
    A class without a direction has decision value −inf and is never predicted; exact ties go to
    the first class; if the mean of :math:`v_k^T x` is zero the entry of largest magnitude is
    positive.

    References
    ----------
    S. Ketha and V. Ramaswamy, "On the Dynamics & Transferability of Latent Generalization during
    Memorization", arXiv 2603.19865.

    Examples
    --------
    >>> from underscript import PrincipalVectorClassifier
    >>> velpic = PrincipalVectorClassifier().fit([[2.0, 0.1], [3.0, 0.2], [0.1, 1.0]], [0, 0, 1])
    >>> velpic.predict([[4.0, 1.0], [0.0, 2.0]]).tolist()
    [0, 1]
    """

    @property
    def vectors_(self) -> NDArray[np.floating[Any]]:
        """Principal vectors, shape (K, width)."""
        return np.asarray(self._decoder()["principal"].cpu().numpy())

    @property
    def ranks_(self) -> NDArray[np.int64]:
        """1 for every class that has a direction, else 0; shape (K,)."""
        return np.asarray(self._decoder()["present"].cpu().numpy(), dtype=np.int64)

    def decide(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        """Return v_kᵀx, shape (n, K); −inf for a class without a direction."""
        made = self._decoder()
        values: Tensor = rows @ made["principal"].to(rows.device, rows.dtype).T
        return values.masked_fill(~made["present"].to(rows.device), -torch.inf)

    def closeness(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n classes"]:
        """Return (1 + cos θ_k) / 2; 0 for a class without a direction."""
        unit, _ = unit_rows(rows)
        return ((1 + self.decide(unit)) / 2).clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the principal vectors, which of them are directions, and counts."""
        made = self._decoder()
        return {
            "principal": made["principal"].cpu().contiguous(),
            "present": made["present"].cpu(),
            "counts": torch.as_tensor(made["counts"]),
        }

    def set_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Restore the decoder from what `tensors` returned, with classes 0 … K−1."""
        principal, present = tensors["principal"], tensors["present"]
        counts = tensors["counts"]
        if principal.ndim != 2 or not len(principal) == len(present) == len(counts):
            raise ValueError("the vectors do not fit the classes")
        self.__dict__.pop("_statistics", None)
        self.classes_ = np.arange(len(principal))
        self.n_features_in_ = int(principal.shape[1])
        self._cache = {
            "principal": principal,
            "present": present,
            "counts": counts.numpy(),
        }
        return self

    def angles(self, X: Any) -> NDArray[np.float64]:
        """Return the angle of each row to each principal vector, in radians, shape (n, K).

        From 0 to π; π/2 for a zero row and for a class without a direction.
        """
        unit, _ = unit_rows(self._rows(X).double())
        cosine = unit @ self._decoder()["principal"].to(unit).T
        return np.asarray(torch.arccos(cosine.clamp(-1, 1)).cpu().numpy())

    def _take(self, subspaces: Subspaces) -> dict[str, Any]:
        present = torch.tensor([len(values) > 0 for values in subspaces.values])
        empty = [
            str(n) for n, here in zip(self.classes_, present.tolist(), strict=True) if not here
        ]
        if empty:
            warn(f"class {few(empty)} has no samples, or only zero rows: it is never predicted")
        return {"principal": subspaces.principal.to(subspaces.bases.dtype), "present": present}


def nearest_together(
    decoders: Mapping[Key, Any], rows: Float[Tensor, "n width"]
) -> dict[Key, Int[Tensor, " n"]]:
    """Return `nearest` of each decoder, with one product for decoders that share bases.

    Parameters
    ----------
    decoders : mapping to fitted estimators
        Decoders of one layer, or of several layers together.
    rows : Tensor, shape (n, width)
        Finite rows, not checked; for decoders of several layers, a mapping from layers to rows.
    """
    nearest: dict[Key, Tensor] = {}
    shared: dict[int, Tensor] = {}
    unit = None
    for key, decoder in decoders.items():
        if not isinstance(decoder, MinimumAngleSubspaceClassifier):
            nearest[key] = decoder.nearest(rows)
            continue
        made = decoder._decoder()
        bases: ClassBases = made["bases"]
        if id(bases) not in shared:
            unit = unit_rows(rows) if unit is None else unit
            shared[id(bases)] = bases.nearest(*unit)
        nearest[key] = shared[id(bases)][:, made["cut"]]
    return nearest


# By their names in tables and run folders.
PROBES: dict[str, type[SubspaceClassifier]] = dict(
    zip(PROBE_NAMES, (MinimumAngleSubspaceClassifier, PrincipalVectorClassifier), strict=True)
)
