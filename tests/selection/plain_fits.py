"""The decoder's candidates in plain float64, without speed; and rows to try them on.

Nothing here is shared with the library, but for the rule that says which fold an input falls into.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from underscript.selection.fitting import Candidate, Fitted, Grid, LayerFit
from underscript.selection.kept_rows import FOLDS, KeptRows
from underscript.utils.distributed import ALONE
from underscript.utils.hashing import mixed


@dataclass
class Rows:
    """Views of a layer's rows, (n, width) each, the plain one first; labels and fingerprints."""

    views: list[np.ndarray]
    given: np.ndarray
    true: np.ndarray
    fingerprints: np.ndarray

    @property
    def folds(self):
        return (mixed(self.fingerprints) % np.uint64(FOLDS)).astype(np.int64)

    @property
    def by_fold(self):
        """Samples in the order in which the library keeps them."""
        return np.argsort(self.folds, kind="stable")

    def taken(self, order):
        views = [view[order] for view in self.views]
        return Rows(views, self.given[order], self.true[order], self.fingerprints[order])


def rows(n=900, width=24, n_classes=5, moved=2, wrong=0.3, remembered=0.6, seed=0):
    """Draw rows of known classes, the plain ones of which also hint at the given labels."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, n_classes, n)
    given = np.where(rng.random(n) < wrong, rng.integers(0, n_classes, n), true)
    centres, hints = rng.normal(size=(2, n_classes, width))
    base = centres[true] + 1.5 * rng.normal(size=(n, width)) + 3
    base = base * np.linspace(0.2, 2, width)
    views = [base + remembered * hints[given]]
    views += [base + 0.3 * rng.normal(size=(n, width)) for _ in range(moved)]
    fingerprints = rng.integers(0, 2**63, n, dtype=np.uint64)
    return Rows([view.astype(np.float32) for view in views], given, true, fingerprints)


def fingerprints_of(folds):
    """Return fingerprints, all of them different, that fall into these folds."""
    numbers = np.arange(20 * FOLDS * len(folds), dtype=np.uint64)
    fold_of = mixed(numbers) % np.uint64(FOLDS)
    free = [iter(numbers[fold_of == fold]) for fold in range(FOLDS)]
    return np.array([next(free[fold]) for fold in folds], dtype=np.uint64)


def kept(some: Rows, memory=1 << 30, batch=250, layer="fc"):
    """Keep rows as the library does, batch by batch."""
    kept_rows = KeptRows(len(some.views), memory)
    for start in range(0, len(some.given), batch):
        part = slice(start, start + batch)
        kept_rows.add(
            [{layer: torch.from_numpy(view[part])} for view in some.views],
            torch.from_numpy(some.given[part]),
            some.fingerprints[part],
        )
    return kept_rows


def fitted(
    some: Rows, grid: Grid, n_classes=None, features=None, room=1 << 30, steps=1, turns=None, **how
) -> dict[Candidate, Fitted]:
    """Fit the library's candidates."""
    kept_rows = kept(some, **how)
    n_classes = n_classes or int(some.given.max()) + 1
    labels = [kept_rows.part(fold).labels for fold in range(FOLDS)]
    counts = torch.stack([torch.bincount(part, minlength=n_classes) for part in labels])
    _, first = kept_rows.some("fc", 200)
    centre = (first if features is None else features(first)).mean(0)
    views = list(range(1, len(some.views)))
    fit = LayerFit(
        kept_rows, "fc", features, labels, counts, centre, grid, views, ALONE, room, turns=turns
    )
    return fit.fit(steps)


@dataclass
class Plain:
    """One candidate: `whole` and `without` are pairs (weights (width, K), biases (K,)).

    `plain` and `moved` are out-of-fold scores of rows as they are, and of the first perturbed view.
    """

    whole: tuple[np.ndarray, np.ndarray]
    without: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    plain: np.ndarray = field(default_factory=lambda: np.empty(0))
    moved: np.ndarray = field(default_factory=lambda: np.empty(0))


def discriminants(parts: Sequence[np.ndarray], labels, n_classes, ridge, rounds, covered=None):
    """Fit rounds of discriminants to rows: each to the labels that the last one decodes of them.

    The covariance is that of the `covered` rows, by default the same ones.
    """
    parts = [np.asarray(part, dtype=np.float64) for part in parts]
    stacked = np.concatenate(parts if covered is None else covered).astype(np.float64)
    mean = stacked.mean(0)
    covariance = np.cov(stacked, rowvar=False, bias=True)
    covariance += ridge * np.diag(covariance).mean() * np.eye(len(covariance))
    linears, means = [], np.full((n_classes, len(mean)), np.nan)
    for _ in range(rounds):
        for k in range(n_classes):
            if (labels == k).any():
                means[k] = np.concatenate([part[labels == k] for part in parts]).mean(0) - mean
        weights = np.linalg.solve(covariance, means.T)
        bias = -0.5 * np.diag(means @ weights) - mean @ weights
        linears.append((weights, bias))
        labels = np.nan_to_num(scores(linears[-1], parts), nan=-np.inf).argmax(1)
    return linears


def scores(linear, parts):
    """Return scores (n, K), summed over views; NaN for a class that was never seen."""
    return sum(np.asarray(part, dtype=np.float64) @ linear[0] + linear[1] for part in parts)


def candidates(some: Rows, grid: Grid, n_classes=None, features=None):
    """Return every candidate by (perturbed, ridge, round); out-of-fold scores in samples' order."""
    n_classes = n_classes or int(some.given.max()) + 1
    views = [np.asarray(view, dtype=np.float64) for view in some.views]
    if features is not None:
        views = [features(torch.from_numpy(view)).numpy() for view in views]
    folds, by_name = some.folds, {}
    covered = views if True in grid.perturbed else views[:1]
    for perturbed in grid.perturbed:
        parts = views if perturbed else views[:1]
        for ridge in grid.ridges:
            how = n_classes, ridge, grid.rounds
            whole = discriminants(parts, some.given, *how, covered)
            of_round = [Plain(linear) for linear in whole]
            for candidate in of_round:
                candidate.plain = np.zeros((len(folds), n_classes))
                candidate.moved = np.zeros((len(folds), n_classes))
            for fold in range(FOLDS):
                others, here = folds != fold, folds == fold
                kept_from = discriminants(
                    [part[others] for part in parts],
                    some.given[others],
                    *how,
                    [part[others] for part in covered],
                )
                for candidate, linear in zip(of_round, kept_from, strict=True):
                    candidate.without.append(linear)
                    candidate.plain[here] = scores(linear, [views[0][here]])
                    first = views[1] if len(views) > 1 else views[0]
                    candidate.moved[here] = scores(linear, [first[here]])
            for number, candidate in enumerate(of_round):
                by_name[perturbed, ridge, number] = candidate
    return by_name
