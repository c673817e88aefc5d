"""The data of a cell of a grid: images, their true labels, and the labels given to the network."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..noise.corruption import corrupt_labels
from .catalogue import NOISES
from .confusion import weak_scores
from .datasets import load_dataset, to_float
from .plan import LABEL_SEED, Cell, Plan, read_transition

__all__ = ["CellData", "LabelledImages", "cell_data"]

# Keeps the hold-out's random numbers apart from those of the labels, which share its seed.
_HOLD_OUT = 1


@dataclass(frozen=True)
class LabelledImages:
    """Images with their true and given labels, in the same order.

    Attributes
    ----------
    images : ndarray of float32, shape (n, ...)
        Scaled as the paper scales them.
    true, given : ndarray of int64, shape (n,)
        The labels before and after corruption.
    drawings : ndarray of int64, shape (n,), or None
        The number of the drawing that an image shows, where several images may share one.
    """

    images: NDArray[np.float32]
    true: NDArray[np.int64]
    given: NDArray[np.int64]
    drawings: NDArray[np.int64] | None = None

    def rows(self, chosen: NDArray[Any]) -> "LabelledImages":
        """Return the chosen rows."""
        drawings = None if self.drawings is None else self.drawings[chosen]
        return LabelledImages(self.images[chosen], self.true[chosen], self.given[chosen], drawings)


@dataclass(frozen=True)
class CellData:
    """The data that a cell trains, chooses and tests with.

    Attributes
    ----------
    train : LabelledImages
        Training data of the network.
    holdout : LabelledImages or None
        Data kept from training, with equally noisy labels, and no drawing that is trained on.
    test : LabelledImages
        Test data; their given labels are the true ones.
    n_classes : int
        Number of classes.
    source : str
        The file or folder that the data set was read from.
    """

    train: LabelledImages
    holdout: LabelledImages | None
    test: LabelledImages
    n_classes: int
    source: str


def cell_data(plan: Plan, cell: Cell) -> CellData:
    """Return a cell's data; labels are corrupted before the hold-out is split off."""
    samples = plan.recipe.samples
    pool, test, n_classes, source = _pool(plan.pair.data, plan.root, samples)
    degree = cell.corruption
    kind = plan.noise
    more: dict[str, Any] = {}
    if plan.noise not in NOISES:
        kind, more["transition"] = "transition", read_transition(Path(plan.noise))
    elif plan.noise == "instance" and degree:
        more["scores"] = _weak_scores(plan.pair.data, plan.root, samples)
    kind = kind if degree else "symmetric"
    seed = plan.label_seed(cell)
    given = corrupt_labels(
        pool.true, degree, n_classes, kind=kind, seed=seed, **(more if degree else {})
    )
    train, holdout = LabelledImages(pool.images, pool.true, given, pool.drawings), None
    if plan.holdout:
        drawings = np.arange(len(given)) if pool.drawings is None else pool.drawings
        held = _held_out(drawings, plan.holdout, seed)
        if held.all():
            raise DataError(
                f"holdout: expected fewer than the {len(given)} training samples; found "
                f"{plan.holdout}"
            )
        train, holdout = train.rows(~held), train.rows(held)
    return CellData(train, holdout, test, n_classes, source)


def _held_out(drawings: NDArray[np.int64], least: int, seed: int) -> NDArray[np.bool_]:
    """Draw whole drawings until at least so many samples show them; return which samples do."""
    _, own, sizes = np.unique(drawings, return_inverse=True, return_counts=True)
    order = np.random.default_rng((seed, _HOLD_OUT)).permutation(len(sizes))
    enough = np.searchsorted(np.cumsum(sizes[order]), least) + 1
    return np.isin(own, order[:enough])


@functools.lru_cache(maxsize=1)
def _pool(
    name: str, root: Path | None, samples: int | None
) -> tuple[LabelledImages, LabelledImages, int, str]:
    """Return test images and at most `samples` training images, drawn at random."""
    data = load_dataset(name, root)
    low = 0.0 if name == "tiny-imagenet" else -1.0
    images, true, drawings = data.train_images, data.train_labels, data.train_drawings
    if samples is not None and samples < len(true):
        drawn = np.random.default_rng(LABEL_SEED).permutation(len(true))[:samples]
        drawn.sort()
        images, true = images[drawn], true[drawn]
        drawings = None if drawings is None else drawings[drawn]
    test = LabelledImages(to_float(data.test_images, low), data.test_labels, data.test_labels)
    pool = LabelledImages(to_float(images, low), true, true, drawings)
    return pool, test, data.n_classes, data.source


@functools.lru_cache(maxsize=1)
def _weak_scores(name: str, root: Path | None, samples: int | None) -> NDArray[np.float64]:
    pool, _, n_classes, _ = _pool(name, root, samples)
    return weak_scores(pool.images, pool.true, n_classes, LABEL_SEED)
