"""Label noise: which share of the labels is redrawn, and how.

The paper's corruption is the symmetric one. Each label is, independently with probability
`degree`, replaced by a class drawn uniformly from *all* K classes, so that a redrawn label may
come out as it was: the share of labels that are really wrong is `degree * (K - 1) / K`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ._labels import as_labels
from .errors import LabelError

__all__ = ["corrupt_labels"]

_KINDS = ("symmetric",)


def corrupt_labels(
    y: Any,
    degree: float,
    n_classes: int | None = None,
    kind: str = "symmetric",
    seed: int = 0,
) -> npt.NDArray[np.int64]:
    """Redraw a share of the labels at random.

    Parameters
    ----------
    y : array-like or torch.Tensor of shape (n,)
        The true labels, integers in 0 .. n_classes - 1. They are not modified.
    degree : float
        Corruption degree: the probability, from 0 to 1, that a label is redrawn. 0 keeps every
        label, 1 leaves no information in them.
    n_classes : int, optional
        Number of classes K to draw from; by default one more than the largest label.
    kind : {"symmetric"}, default "symmetric"
        How labels are redrawn. "symmetric": uniformly from all K classes, the true one included.
    seed : int, default 0
        Seed of the draw. NumPy's global random state is neither read nor changed.

    Returns
    -------
    ndarray of shape (n,), int64
        The corrupted labels.

    Raises
    ------
    LabelError
        If the labels are not one-dimensional integers from 0 to n_classes - 1, the degree is
        not a number from 0 to 1, the number of classes or the seed is not usable, or the kind is
        unknown.

    Examples
    --------
    >>> import numpy as np
    >>> true = np.repeat(np.arange(10), 1000)
    >>> given = corrupt_labels(true, 0.8, seed=42)
    >>> wrong = given != true  # 0.8 on ten classes is 72 % wrong
    >>> print(f"{wrong.mean():.2f}")
    0.72
    """
    true = as_labels(y, "labels")
    if kind not in _KINDS:
        raise LabelError(f"unknown kind of label noise {kind!r}; choose one of {list(_KINDS)}")
    # `not (0 <= degree <= 1)` also catches NaN and the infinities.
    number = isinstance(degree, int | float | np.integer | np.floating)
    if not number or isinstance(degree, bool) or not 0.0 <= degree <= 1.0:
        raise LabelError(f"degree must be a number from 0 to 1, found {degree!r}")
    largest = int(true.max()) if true.size else 0
    classes = largest + 1 if n_classes is None else _positive_integer(n_classes)
    if largest >= classes:
        raise LabelError(
            f"labels must be from 0 to {classes - 1} for n_classes={classes}, found {largest} at "
            f"position {int(true.argmax())}; raise n_classes or correct the label"
        )
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise LabelError(f"seed must be an integer of at least 0, found {seed!r}")

    generator = np.random.default_rng(int(seed))
    # Both draws are made for every label, whatever the degree: with one seed, the labels that are
    # redrawn at a low degree are redrawn, to the same class, at every higher degree.
    redrawn = generator.random(true.size) < degree
    drawn = generator.integers(classes, size=true.size, dtype=np.int64)
    return np.where(redrawn, drawn, true)


def _positive_integer(n_classes: Any) -> int:
    if isinstance(n_classes, bool) or not isinstance(n_classes, int | np.integer) or n_classes < 1:
        raise LabelError(f"n_classes must be an integer of at least 1, found {n_classes!r}")
    return int(n_classes)
