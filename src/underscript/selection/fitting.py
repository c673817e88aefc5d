"""The candidates of one layer, fitted to all of the training data and to all but each fold.

A candidate is a ridge discriminant of a layer's rows, or of random features of them. It is fitted
to the rows as they are, or to perturbed ones too; with a small ridge or a large one; to the given
labels, or to labels that it decoded itself a round before. The covariance does not depend on
labels, so one factorisation serves all rounds. Sums are kept by fold and added up for each fit.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..linalg.products import add_products, mirrored
from ..probes.discriminant import Linear
from ..probes.random_features import FourierFeatures
from ..utils.distributed import Processes
from .arithmetic import (
    add_by_class,
    as_dtype,
    class_means,
    factor,
    from_centre,
    kept_of,
    picked,
    turned,
)
from .kept_rows import FOLDS, KeptRows

__all__ = ["Candidate", "Fitted", "Grid", "LayerFit", "scores_of"]

# The number of the fit to all folds; fit k leaves out fold k.
WHOLE = FOLDS
# Discriminants by (perturbed, ridge), and by fit.
_Linears = dict[tuple[bool, float], dict[int, Linear]]
# A covariance needs this many rows as they are, and as many perturbed: per column, and at least.
_ROWS_PER_NUMBER, _ROWS = 8, 1 << 14


class Candidate(NamedTuple):
    """One discriminant: round 0 is fitted to the given labels."""

    layer: str
    n_features: int
    perturbed: bool
    ridge: float
    round: int

    def __str__(self) -> str:
        kind = "kernel discriminant" if self.n_features else "linear discriminant"
        rows = ", perturbed rows too" if self.perturbed else ""
        again = f", round {self.round}" if self.round else ""
        return f"{kind} of {self.layer} (ridge {self.ridge:g}{rows}{again})"


@dataclass(frozen=True)
class Grid:
    """Which candidates there are of a layer.

    Attributes
    ----------
    ridges : tuple of float
        Added to the diagonal of the covariance, over its mean.
    rounds : int
        How often each is fitted: to the given labels, then to what it decodes.
    perturbed : tuple of bool
        Whether perturbed rows are fitted to as well.
    """

    ridges: tuple[float, ...]
    rounds: int
    perturbed: tuple[bool, ...]


@dataclass
class Fitted:
    """A candidate's fits, to all folds and to all but each, and its scores.

    Attributes
    ----------
    whole : Linear
        Fitted to everything.
    without : list of Linear
        For each fold the fit to the others; empty if it was not wanted.
    plain, moved : Tensor of float32, shape (n, K)
        Out-of-fold scores of rows as they are, and of the first perturbed view. Each is of one
        view, so that their agreement with labels differs by memory alone.
    spread, plain_spread, moved_spread : float
        Standard deviations about each row's mean: of scores of one new input, of `plain`, and of
        `moved`.
    """

    whole: Linear
    without: list[Linear]
    plain: Tensor
    moved: Tensor
    spread: float = 1.0
    plain_spread: float = 1.0
    moved_spread: float = 1.0


@dataclass
class _Sums:
    """Sums over the rows of one fold.

    Attributes
    ----------
    products : Tensor, shape (width, width)
        Of the products of all rows that are fitted to, as they are and perturbed.
    total : Tensor of float64, shape (width,)
        Of the same rows.
    of_class : list of Tensor, shape (C, width)
        By class: of rows as they are, and of all perturbed ones together.
    """

    products: Tensor
    total: Tensor
    of_class: list[Tensor]


@dataclass
class LayerFit:
    """Fits a layer's candidates.

    Parameters
    ----------
    rows : KeptRows
        Rows of all views.
    layer : str
        The layer.
    features : FourierFeatures or None
        Random features of its rows, or None for the rows themselves.
    scale : Tensor of float32, shape (width,), or None
        Without features: columns are divided by it for fitting. The discriminants that come out
        take rows that are not scaled.
    labels : list of Tensor of int64, shape (n_k,)
        Given labels by fold, 0 … C − 1, all of which occur.
    counts : Tensor of int64, shape (FOLDS, C)
        Labels of all processes.
    centre : Tensor of float32, shape (width,)
        A point near the mean of the rows.
    grid : Grid
        What is fitted.
    views : sequence of int
        The perturbed views.
    processes : Processes
        The processes that share the rows.
    room : int
        Bytes that features may take; beyond that they are computed again for each pass.
    turns : list of Tensor of int64, shape (n_k,), or None
        By fold a random number of each sample, at least 0. With many samples it selects the rows
        that the covariance is computed from: some of the rows as they are, and one perturbed view
        of each sample, as another of the same adds little. With None all rows are used.
    """

    rows: KeptRows
    layer: str
    features: FourierFeatures | None
    labels: list[Tensor]
    counts: Tensor
    centre: Tensor
    grid: Grid
    views: Sequence[int]
    processes: Processes
    room: int
    scale: Tensor | None = None
    turns: list[Tensor] | None = None
    folds: bool = True
    _cache: list[list[tuple[Tensor, Tensor, Tensor]]] | None = field(default=None, init=False)
    _factors: dict[tuple[int, float], tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False
    )

    @property
    def n_classes(self) -> int:
        """Classes that occur."""
        return self.counts.shape[1]

    @property
    def _fits(self) -> tuple[int, ...]:
        return (*(range(FOLDS) if self.folds else ()), WHOLE)

    @property
    def _enough(self) -> float:
        """How many rows a covariance needs, over the number of samples."""
        return max(_ROWS, _ROWS_PER_NUMBER * len(self.centre)) / max(1, int(self.counts.sum()))

    @property
    def _moved(self) -> int:
        """How many perturbed rows of a sample count."""
        most = len(self.views)
        return most if self.turns is None else min(most, math.ceil(self._enough))

    @property
    def _parts(self) -> int:
        """How many rows of a sample a perturbed candidate is fitted to."""
        return 1 + self._moved

    def fit(self, steps: int) -> dict[Candidate, Fitted]:
        """Fit all candidates; keep the scores of every `steps`-th sample of each fold."""
        sums = self._gathered()
        self._factorise(sums)
        linears: list[_Linears] = []
        means = self._given_means(sums)
        del sums
        for number in range(self.grid.rounds):
            if number:
                means = self._decoded_means(linears[-1], means)
            linears.append(self._solved(means))
        self._factors.clear()
        fitted = self._scored(linears, steps)
        self._cache = None
        return fitted

    def _lifted(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield each fold's rows: as they are, first perturbed, and the sum of all perturbed."""
        if self._cache is not None:
            for fold, blocks in enumerate(self._cache):
                for block in blocks:
                    plain, first, moved = as_dtype(torch.float32, block)
                    yield fold, plain, first, moved
            return
        for fold, _, parts in self._blocks():
            yield fold, *kept_of(parts)

    def _blocks(self) -> Iterator[tuple[int, slice, list[Tensor]]]:
        """Yield each fold's rows as they are, and the perturbed ones that count."""
        for fold in range(FOLDS):
            start = 0
            for blocks in self.rows.blocks(self.layer, fold, [0, *self.views]):
                at = slice(start, start + len(blocks[0]))
                if 0 < self._moved < len(self.views):
                    assert self.turns is not None
                    turns = self.turns[fold][at]
                    blocks[1:] = [turned(blocks[1:], turns + k) for k in range(self._moved)]
                yield fold, at, [self._mapped(block) for block in blocks]
                start = at.stop

    def _mapped(self, rows: Tensor) -> Tensor:
        rows = rows.to(self.centre.device)
        about = (rows if self.features is None else self.features(rows)) - self.centre
        return about if self.scale is None else about / self.scale

    def _gathered(self) -> list[_Sums]:
        """Read all rows once: products, sums and class sums of each fold, over all processes."""
        width, n_classes = len(self.centre), self.n_classes
        fits = True in self.grid.perturbed and len(self.views) > 0
        sums = [
            _Sums(
                self.centre.new_zeros(width, width),
                self.centre.new_zeros(width, dtype=torch.float64),
                [self.centre.new_zeros(n_classes, width) for _ in range(2)],
            )
            for _ in range(FOLDS)
        ]
        cache: list[list[tuple[Tensor, Tensor, Tensor]]] | None = None
        size = 2 * width * self.rows.n * (1 + min(2, self._moved))
        # Features are between -1 and 1, so half of their digits do where there is no room. Those
        # that one dense product gives are computed again instead, which costs little.
        half = 2 * size > self.room
        kept_as = torch.float16 if half else torch.float32
        again = half and self.features is not None and self.features.structured is None
        if self.features is not None and size <= self.room and not again:
            cache = [[] for _ in range(FOLDS)]
        counted = torch.zeros(FOLDS)
        with self.processes.together():
            for fold, at, parts in self._blocks():
                fold_sums, labels = sums[fold], self.labels[fold][at].to(self.centre.device)
                # Perturbed rows are added up only if something is fitted to them.
                for part in parts if fits else parts[:1]:
                    rows = self._counting(part, fold, at)
                    add_products(fold_sums.products, rows)
                    fold_sums.total += rows.sum(0)
                    counted[fold] += len(rows)
                plain, first, moved = kept_of(parts)
                add_by_class(fold_sums.of_class[0], plain, labels)
                if fits:
                    add_by_class(fold_sums.of_class[1], moved, labels)
                if cache is not None:
                    cache[fold].append(as_dtype(kept_as, (plain, first, moved)))
        self._cache = cache
        counted = self.processes.total(counted)
        for fold, fold_sums in enumerate(sums):
            fold_sums.products = self.processes.total(fold_sums.products)
            fold_sums.total = self.processes.total(fold_sums.total)
            fold_sums.of_class = [self.processes.total(each) for each in fold_sums.of_class]
            # Scaled as if all rows had been added up.
            n = int(self.counts[fold].sum()) * (self._parts if fits else 1)
            scale = n / max(1.0, float(counted[fold]))
            fold_sums.products *= scale
            fold_sums.total *= scale
        return sums

    def _counting(self, rows: Tensor, fold: int, at: slice) -> Tensor:
        """Return the rows that enter the covariance: those of some of the samples."""
        every = int(1 / self._enough)
        if self.turns is None or every < 2:
            return rows
        some = self.turns[fold][at] // max(1, len(self.views)) % every == 0
        return picked(rows, torch.nonzero(some)[:, 0].to(rows.device))

    def _factorise(self, sums: list[_Sums]) -> None:
        """Factorise the covariances of all rows that are fitted to, and of all but each fold's."""
        parts = self._parts if True in self.grid.perturbed else 1
        for fit in self._fits:
            some = [k for k in range(FOLDS) if k != fit]
            n = max(1, int(self.counts[some].sum()) * parts)
            mean = sum(sums[k].total for k in some).float() / n  # type: ignore[union-attr]
            covariance = sums[some[0]].products / n
            for k in some[1:]:
                covariance.add_(sums[k].products, alpha=1 / n)
            mirrored(covariance).addr_(mean, mean, alpha=-1)
            scale = max(float(covariance.diagonal().mean()), 0.0) or 1.0
            for ridge in self.grid.ridges:
                regular = covariance.clone()
                regular.diagonal().add_(ridge * scale)
                self._factors[fit, ridge] = mean, factor(regular)

    def _given_means(self, sums: list[_Sums]) -> dict[tuple[int, bool, float], Tensor]:
        means = {}
        for perturbed, fit in product(self.grid.perturbed, self._fits):
            some = [k for k in range(FOLDS) if k != fit]
            kinds = (0, 1) if perturbed else (0,)
            total = sum(sums[k].of_class[kind] for k in some for kind in kinds)
            counts = self.counts[some].sum(0) * (self._parts if perturbed else 1)
            class_mean = class_means(total, counts)  # type: ignore[arg-type]
            for ridge in self.grid.ridges:
                means[fit, perturbed, ridge] = class_mean
        return means

    def _decoded_means(
        self,
        last: _Linears,
        before: dict[tuple[int, bool, float], Tensor],
    ) -> dict[tuple[int, bool, float], Tensor]:
        """Return class means by the labels that each fit decodes for its own training rows.

        A class that is decoded nowhere keeps its mean.
        """
        n_classes = self.n_classes
        sums = {key: torch.zeros_like(mean) for key, mean in before.items()}
        counts = {key: torch.zeros(n_classes, dtype=torch.int64) for key in before}
        with self.processes.together():
            for fold, plain, _, moved in self._lifted():
                both = plain + moved
                for perturbed in self.grid.perturbed:
                    rows, parts = (both, self._parts) if perturbed else (plain, 1)
                    keys = [
                        (fit, perturbed, ridge)
                        for fit, ridge in product(self._fits, self.grid.ridges)
                        if fit != fold
                    ]
                    some = [last[perturbed, ridge][fit] for fit, _, ridge in keys]
                    scores = scores_of(rows, some, parts).view(len(rows), len(some), n_classes)
                    decoded = scores.argmax(2)
                    # One product adds up the rows for all fits, so that they are read once.
                    apart = decoded + n_classes * torch.arange(len(keys), device=decoded.device)
                    of_all = rows.new_zeros(len(keys) * n_classes, rows.shape[1])
                    add_by_class(of_all, rows, apart)
                    number = torch.bincount(apart.flatten().cpu(), minlength=len(of_all))
                    for at, key in enumerate(keys):
                        of_fit = slice(at * n_classes, (at + 1) * n_classes)
                        sums[key] += of_all[of_fit]
                        counts[key] += parts * number[of_fit]
        decoded_means = {}
        for key, total in sums.items():
            n = self.processes.total(counts[key])
            mean = class_means(self.processes.total(total), n)
            decoded_means[key] = torch.where((n > 0)[:, None].to(mean.device), mean, before[key])
        return decoded_means

    def _solved(self, means: dict[tuple[int, bool, float], Tensor]) -> _Linears:
        """Return the discriminants that class means give, by fit."""
        linears: _Linears = {key: {} for key in product(self.grid.perturbed, self.grid.ridges)}
        for fit, ridge in product(self._fits, self.grid.ridges):
            mean, factor = self._factors[fit, ridge]
            of_class = torch.cat([means[fit, each, ridge] for each in self.grid.perturbed])
            absent = torch.isnan(of_class[:, 0])
            about = torch.where(absent[:, None], 0.0, of_class - mean)
            weights = torch.cholesky_solve(about.T, factor).T.contiguous()
            intercepts = -0.5 * (about * weights).sum(1) - weights @ mean
            intercepts = torch.where(absent, -torch.inf, intercepts)
            both = zip(
                *(torch.split(each, self.n_classes) for each in (weights, intercepts)), strict=True
            )
            for perturbed, linear in zip(self.grid.perturbed, both, strict=True):
                linears[perturbed, ridge][fit] = Linear(*linear)
        return linears

    def _scored(self, linears: list[_Linears], steps: int) -> dict[Candidate, Fitted]:
        """Score samples out of fold."""
        keys = [(p, r, n) for n, made in enumerate(linears) for p, r in made]
        kept: list[list[Tensor]] = [[], []]
        starts = [0] * FOLDS
        with self.processes.together():
            for fold, *views, _ in self._lifted():
                start, starts[fold] = starts[fold], starts[fold] + len(views[0])
                some = torch.arange(len(views[0]))[-start % steps :: steps]
                fit = fold if self.folds else WHOLE
                fold_linears = [linears[number][p, ridge][fit] for p, ridge, number in keys]
                for rows, view_scores in zip(views, kept, strict=True):
                    if rows is views[0] and view_scores is kept[1]:
                        view_scores.append(kept[0][-1])
                        continue
                    rows = rows if steps == 1 else picked(rows, some.to(rows.device))
                    view_scores.append(scores_of(rows, fold_linears, 1).cpu())
        plain, moved = (
            torch.cat(parts).view(-1, len(keys), self.n_classes)
            if parts
            else torch.zeros(0, len(keys), self.n_classes)
            for parts in kept
        )
        n_features = 0 if self.features is None else len(self.features.phases)
        fitted = {}
        for place, (perturbed, ridge, number) in enumerate(keys):
            fits = [
                from_centre(linear, self.centre, self.scale)
                for linear in linears[number][perturbed, ridge].values()
            ]
            candidate = Candidate(self.layer, n_features, perturbed, ridge, number)
            fitted[candidate] = Fitted(
                fits[-1],
                fits[:-1],
                plain[:, place].clone(),
                moved[:, place].clone(),
            )
        return fitted


def scores_of(
    rows: Tensor, linears: Sequence[Linear], parts: int
) -> Float[Tensor, "n all_classes"]:
    """Return the scores of all discriminants side by side, for rows that sum `parts` views.

    A class that a fit has never seen gets the row's lowest score, never the highest. A fit that has
    seen nothing scores 0.
    """
    weights = torch.cat([linear.coefficients for linear in linears])
    offsets = torch.cat([linear.intercepts for linear in linears])
    absent = torch.isinf(offsets)
    offsets = torch.where(absent, 0.0, offsets) * parts
    scores = torch.addmm(offsets, rows, weights.T)
    if bool(absent.any()):
        by_fit = scores.view(len(rows), len(linears), -1)
        away = absent.view(len(linears), -1)
        lowest = by_fit.masked_fill(away, torch.inf).amin(2, keepdim=True)
        lowest = lowest.masked_fill(torch.isinf(lowest), 0.0)
        scores = torch.where(away, lowest, by_fit).view(len(rows), -1)
    return scores
