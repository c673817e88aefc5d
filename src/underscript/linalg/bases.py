r"""Class subspaces side by side, and how near rows are to them.

For orthonormal V_k the squared cosine of the angle of a unit row x to class k is
:math:`\|V_k^T x\|^2`, or :math:`1 - \|V_{k\perp}^T x\|^2` from the complement, whichever has fewer
columns. One product serves all classes, and every rank ("cut") of a class: its segments add up.

If only the nearest class is needed, bfloat16 products come first. Their error is bounded row by
row, and only classes within the bound of the best are computed in full (see `screening`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .precision import bfloat16_pays, exact_products
from .screening import RoundedColumns, RoundedRows
from .spectra import ClassSpectrum

# One product has about this many columns, and at most this many result values.
_GROUP_COLUMNS = 2048
_BLOCK_VALUES = 1 << 22
# Rounded bases are made after this many rows; for fewer they would not pay.
_ROWS_BEFORE_SCREENING = 2048
# Screening is switched off for good if it leaves more than this share of the work. Gathering a
# row for one class costs as much as multiplying it with this many columns.
_WORTH_SCREENING = 0.5
_GATHERING = 150
# Eigenvectors per class, and classes, that represent the common part of all rows.
COMMON = 4
_COMMON_CLASSES = 16
# Products leave out features that no class uses if less than this share is used.
_MOSTLY_USED = 0.98
# Error of a squared cosine in float32.
_SINGLE = 1e-6


@dataclass(frozen=True)
class Columns:
    """The eigenvectors of a class that are kept.

    Attributes
    ----------
    matrix : Tensor, shape (width, c)
        The first `leading` eigenvectors, then those after the smallest larger rank.
    ranks : list of int
        The C ranks to cut at; 0 for a class without a direction.
    leading : int
        Ranks up to this use the eigenvectors themselves; larger ranks use the columns after them
        (the complement).
    first : Tensor, shape (width, m)
        The first few eigenvectors.
    features : Tensor of bool, shape (width,)
        The features that the class ever uses. The complement is within them: other features of
        a row are outside the subspace anyway and need no product.
    """

    matrix: Float[Tensor, "width c"]
    ranks: list[int]
    leading: int
    first: Float[Tensor, "width m"]
    features: Bool[Tensor, " width"]

    @classmethod
    def of(cls, spectrum: ClassSpectrum, ranks: Sequence[int], dtype: torch.dtype) -> "Columns":
        """Keep the fewest columns that suffice for all ranks."""
        steps = [0, *sorted(set(ranks))]
        # Ranks up to steps[i] from the front, the others from the back.
        costs = [low + spectrum.alive - high for low, high in pairwise(steps)]
        costs.append(steps[-1])
        best = min(range(len(costs)), key=costs.__getitem__) if spectrum.whole else len(costs) - 1
        parts = [spectrum.inner[:, : steps[best]]]
        if best + 1 < len(steps):
            parts.append(spectrum.inner[:, steps[best + 1] :])
        columns = torch.cat([part.to(dtype) for part in parts], 1)
        first = spectrum.inner[:, : min(COMMON, len(spectrum.values))].to(dtype)
        features = torch.ones(spectrum.width, dtype=torch.bool, device=columns.device)
        if spectrum.features is not None:
            features.zero_()[spectrum.features] = True
        widened = spectrum.widened
        return cls(widened(columns), list(ranks), steps[best], widened(first), features)

    def ladder(self, k: int, at: int) -> "Ladder":
        """Return how the columns add up if they start at column `at` of a group."""
        alive, end = int(self.features.sum()), self.matrix.shape[1]
        ladder = Ladder(k, at, at + end)
        start = 0
        for rank in sorted({rank for rank in self.ranks if rank <= self.leading}):
            ladder.leading.append(Step(at + start, at + rank, _cuts(self.ranks, rank)))
            start = rank
        for rank in sorted({rank for rank in self.ranks if rank > self.leading}, reverse=True):
            start = self.matrix.shape[1] - (alive - rank)
            ladder.trailing.append(Step(at + start, at + end, _cuts(self.ranks, rank)))
            end = start
        return ladder


def _cuts(ranks: Sequence[int], rank: int) -> list[int]:
    return [cut for cut, known in enumerate(ranks) if known == rank]


class Step(NamedTuple):
    """Columns `start` to `stop` of a group, and the cuts whose sums end there."""

    start: int
    stop: int
    cuts: list[int]


@dataclass
class Ladder:
    """Class k's columns `start` to `stop` in a group.

    The squares of the `leading` steps, from the first column on, add up to ‖V_rᵀx‖². Those of the
    `trailing` steps, from the last column back, add up to the squared length outside a cut.
    """

    k: int
    start: int
    stop: int
    leading: list[Step] = field(default_factory=list)
    trailing: list[Step] = field(default_factory=list)

    def squares(
        self, product: Float[Tensor, "n c"], like: Float[Tensor, " n"], n_cuts: int, origin: int = 0
    ) -> Float[Tensor, "n cuts"]:
        """Return the sums of squares for the cuts, in `like`'s dtype.

        `product` is the product of rows with the group's columns from `origin` on.
        """
        result = like.new_zeros(len(product), n_cuts)
        for steps in (self.leading, self.trailing):
            total = torch.zeros_like(like)
            for step in steps:
                values = product[:, step.start - origin : step.stop - origin]
                if values.shape[1]:
                    total = total + _squared_lengths(values, like.dtype)
                for cut in step.cuts:
                    result[:, cut] = total
        return result

    def energies(
        self, squares: Float[Tensor, "n cuts"], length: Float[Tensor, " n"]
    ) -> Float[Tensor, "n cuts"]:
        """Return the squared cosines, from the sums of squares."""
        for step in self.trailing:
            for cut in step.cuts:
                squares[:, cut] = length - squares[:, cut]
        return squares.clamp_(0, 1)

    def bounds(
        self, squares: Tensor, slack: Tensor, length: Tensor
    ) -> tuple[Float[Tensor, "n cuts"], Float[Tensor, "n cuts"]]:
        """Return bounds of the true squared cosines, if norms are wrong by up to `slack`."""
        norms = squares.sqrt()
        low = (norms - slack).clamp_(min=0).square_()
        high = (norms + slack).square_()
        for step in self.trailing:
            for cut in step.cuts:
                low[:, cut], high[:, cut] = length - high[:, cut], length - low[:, cut]
        return low - _SINGLE, high + _SINGLE


@dataclass
class Group:
    """Columns of several classes side by side; no class is in two groups.

    The matrix is stored column by column, over the features that some class uses.
    """

    matrix: Float[Tensor, "used columns"]
    ladders: list[Ladder]
    rounded: RoundedColumns | None = None

    @property
    def leads(self) -> bool:
        """Whether the group has leading columns, for which the common part of rows is large."""
        return any(ladder.leading for ladder in self.ladders)

    def in_bfloat16(self, common: Float[Tensor, "width q"]) -> RoundedColumns:
        """Return the rounded columns, made at the first call."""
        if self.rounded is None or self.rounded.matrix.device != common.device:
            spans = {ladder.k: slice(ladder.start, ladder.stop) for ladder in self.ladders}
            self.rounded = RoundedColumns.of(self.matrix.to(common).contiguous(), spans, common)
        return self.rounded


class ClassBases:
    """The subspaces of K classes, each cut at C ranks.

    Parameters
    ----------
    columns : iterable of Columns
        One for each class; each is released before the next one is requested.
    width : int
        Number of values per row.
    dtype : torch.dtype
        Precision of the bases and of their products.
    """

    def __init__(self, columns: Iterable[Columns], width: int, dtype: torch.dtype):
        self.width, self.dtype = width, dtype
        self.ranks: list[list[int]] = []
        self._groups: list[Group] = []
        self._rows_seen = 0
        self._screens = True
        waiting: list[tuple[Ladder, Tensor]] = []
        first: list[Tensor] = []
        features: list[Tensor] = []
        at = 0
        for of_class in columns:
            features.append(of_class.features)
            if len(first) < _COMMON_CLASSES and of_class.first.shape[1]:
                first.append(of_class.first)
            k = len(self.ranks)
            self.ranks.append(of_class.ranks)
            if any(of_class.ranks):
                waiting.append((of_class.ladder(k, at), of_class.matrix.to(dtype)))
                at += of_class.matrix.shape[1]
            if at >= _GROUP_COLUMNS:
                self._group(waiting)
                at = 0
        self._group(waiting)
        # One column per class: the features that it uses.
        used = torch.stack(features, 1)
        self._features = used
        self._all_used = used.all(0)
        # Features that no class uses need not be multiplied.
        self._used: Tensor | None = None
        if float(used.any(1).float().mean()) < _MOSTLY_USED:
            self._used = torch.nonzero(used.any(1))[:, 0]
            for group in self._groups:
                group.matrix = group.matrix[self._used].T.contiguous().T
        empty = torch.zeros(width, 0, dtype=dtype)
        # The common part of rows of all classes; see `screening`.
        self._common = torch.linalg.qr(torch.cat(first, 1).to(dtype))[0] if first else empty
        if self._used is not None:
            self._common = self._common[self._used]

    def _group(self, waiting: list[tuple[Ladder, Tensor]]) -> None:
        """Join columns into a group, and release the parts."""
        if waiting:
            matrix = torch.cat([part.T for _, part in waiting]).T
            self._groups.append(Group(matrix, [ladder for ladder, _ in waiting]))
        waiting.clear()

    @property
    def n_cuts(self) -> int:
        """Number of ranks per class, C."""
        return len(self.ranks[0])

    @property
    def features(self) -> Bool[Tensor, "width classes"]:
        """Which features each class ever uses."""
        return self._features

    def own(self, cut: int) -> list[tuple[Tensor, bool]]:
        """Return each class's columns for one cut, and whether they span the complement.

        The complement is taken within the class's features.
        """
        empty = torch.zeros(self.width, 0, dtype=self.dtype)
        result = [(empty, False)] * len(self.ranks)
        for group in self._groups:
            for ladder in group.ladders:
                for steps, trailing in ((ladder.leading, False), (ladder.trailing, True)):
                    reach = [n for n, step in enumerate(steps) if cut in step.cuts]
                    if reach:
                        used = steps[: reach[0] + 1]
                        start = min(step.start for step in used)
                        stop = max(step.stop for step in used)
                        result[ladder.k] = (self._wide(group.matrix[:, start:stop]), trailing)
        return result

    def _wide(self, columns: Float[Tensor, "used c"]) -> Float[Tensor, "width c"]:
        if self._used is None:
            return columns
        return columns.new_zeros(self.width, columns.shape[1]).index_copy_(0, self._used, columns)

    def _narrow(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n used"]:
        return rows if self._used is None else rows.index_select(1, self._used.to(rows.device))

    def energies(
        self, unit: Float[Tensor, "n width"], length: Float[Tensor, " n"]
    ) -> Float[Tensor, "n classes cuts"]:
        """Return the squared cosines of rows to every class at every cut.

        Parameters
        ----------
        unit, length : Tensor, shapes (n, width) and (n,)
            As `unit_rows` gives them.

        Returns
        -------
        Tensor, shape (n, K, C)
            In [0, 1]; −inf for a class without a direction.
        """
        result = unit.new_full((len(unit), len(self.ranks), self.n_cuts), -torch.inf)
        with exact_products():
            within = self._within(unit, length)
            unit = self._narrow(unit)
            for group in self._groups:
                columns = group.matrix.to(unit.device, unit.dtype).T
                for part in _blocks(len(unit), len(columns)):
                    # Faster than the product from the right if rows are few or narrow.
                    product = (columns @ unit[part].T).T
                    for ladder in group.ladders:
                        squares = ladder.squares(product, length[part], self.n_cuts)
                        inside = within[part, ladder.k]
                        result[part, ladder.k] = ladder.energies(squares, inside)
        return result

    def _within(self, unit: Tensor, length: Tensor) -> Float[Tensor, "n classes"]:
        """Return the squared length of each row within each class's features."""
        whole = length[:, None].expand(-1, len(self.ranks))
        if bool(self._all_used.all()):
            return whole
        parts = unit.square() @ self._features.to(unit)
        return torch.where(self._all_used.to(unit.device), whole, parts)

    def nearest(
        self, unit: Float[Tensor, "n width"], length: Float[Tensor, " n"]
    ) -> Int[Tensor, "n cuts"]:
        """Return the class with the largest squared cosine at every cut; the first if tied."""
        return self.leaders(unit, length).argmax(1)

    def leaders(
        self,
        unit: Float[Tensor, "n width"],
        length: Float[Tensor, " n"],
        given: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n classes cuts"]:
        """Return the values of `energies` where they matter, and smaller values elsewhere.

        Without `given`, only which class is nearest is exact, not its value. With `given` classes,
        the values of these and of the nearest other class are exact.
        """
        self._rows_seen += len(unit)
        screens = self._screens and self._rows_seen >= _ROWS_BEFORE_SCREENING
        if not screens or not bfloat16_pays(unit.device.type):
            return self.energies(unit, length)
        parts = [
            self._screened(unit[part], length[part], None if given is None else given[part])
            for part in _blocks(len(unit), _GROUP_COLUMNS)
        ]
        return torch.cat(parts)

    def _screened(self, unit: Tensor, length: Tensor, given: Tensor | None) -> Tensor:
        """Return what `leaders` does; compute in full only what bfloat16 cannot decide."""
        low = unit.new_full((len(unit), len(self.ranks), self.n_cuts), -torch.inf)
        high = low.clone()
        with exact_products():
            within = self._within(unit, length)
            unit = self._narrow(unit)
            rows: dict[bool, RoundedRows] = {}
            for group in self._groups:
                common = self._common.to(unit) if group.leads else unit.new_empty(unit.shape[1], 0)
                if group.leads not in rows:
                    rows[group.leads] = RoundedRows.of(unit, common)
                rounded = group.in_bfloat16(common)
                product = rows[group.leads].product(rounded)
                for ladder in group.ladders:
                    squares = ladder.squares(product, length, self.n_cuts)
                    slack = rows[group.leads].slack(rounded, ladder.k)[:, None]
                    inside = within[:, ladder.k]
                    low[:, ladder.k], high[:, ladder.k] = ladder.bounds(squares, slack, inside)
            if given is None:
                possible = high >= low.amax(1, keepdim=True)
                asked = (possible & (possible.sum(1, keepdim=True) > 1)).any(2)
            else:
                own = given[:, None, None].expand(-1, 1, self.n_cuts)
                possible = high >= low.scatter(1, own, -torch.inf).amax(1, keepdim=True)
                possible.scatter_(1, own, True)
                asked = possible.any(2)
            columns = sum(group.matrix.shape[1] for group in self._groups) / len(self.ranks)
            left = float(asked.float().mean()) * (1 + _GATHERING / max(columns, 1))
            self._screens = left <= _WORTH_SCREENING
            for group in self._groups:
                for ladder in group.ladders:
                    which = torch.nonzero(asked[:, ladder.k])[:, 0]
                    if len(which):
                        matrix = group.matrix[:, ladder.start : ladder.stop].to(unit)
                        product = unit[which] @ matrix
                        squares = ladder.squares(product, length[which], self.n_cuts, ladder.start)
                        inside = within[which, ladder.k]
                        high[which, ladder.k] = ladder.energies(squares, inside)
        # If only one class is possible, its value is a bound; all other values are exact.
        return torch.where(possible, high, -torch.inf)


def unit_rows(
    rows: Float[Tensor, "n width"],
) -> tuple[Float[Tensor, "n width"], Float[Tensor, " n"]]:
    """Return rows of length one (zero rows stay zero), and 1 or 0 for each row.

    Rows whose squares would overflow or underflow are divided by their largest magnitude first, so
    that 1e-30 and 1e30 work as well as 1.
    """
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if bool(((length > 1e-15) & (length < 1e15)).all()):
        return rows / length, torch.ones_like(length[:, 0])
    largest = rows.abs().amax(1, keepdim=True)
    present = largest > 0
    # In two steps: 1 / 1e-40 is not finite in float32.
    scaled = torch.where(present, rows / largest, 0)
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / torch.where(present, length, 1), present[:, 0].to(rows.dtype)


def _squared_lengths(values: Float[Tensor, "n c"], dtype: torch.dtype) -> Float[Tensor, " n"]:
    """Return the squared length of each row, computed as suits the memory layout."""
    if values.stride(1) == 1:
        lengths: Tensor = torch.linalg.vector_norm(values, dim=1, dtype=dtype)
        return lengths.square()
    return values.to(dtype).square().sum(1)


def _blocks(n: int, columns: int) -> Iterator[slice]:
    """Divide n rows so that their product with this many columns stays small enough."""
    step = max(1, _BLOCK_VALUES // max(columns, 1))
    for start in range(0, n, step):
        yield slice(start, start + step)
