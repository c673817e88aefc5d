"""Make label noise: change a share of the labels.

The paper's corruption is the symmetric one. Each label is, independently with probability
`degree`, replaced by a class drawn uniformly from *all* K classes, so that a redrawn label may
come out as it was: the share of labels that are really wrong is `degree * (K - 1) / K`.

Real labels are seldom wrong in that way. The other kinds confuse each class with the next one,
follow any matrix of class confusions, or follow a weak model's predictions for each sample.
`transition_matrix` and `wrong_share` measure the result.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..errors import LabelError
from ..utils.hints import CORRUPT_ARGUMENTS
from ..utils.labels import Labels, as_labels
from ..utils.near_names import with_argument_hints

__all__ = ["corrupt_labels", "transition_matrix", "wrong_share"]

Matrix = npt.NDArray[np.float64]

_KINDS = ("symmetric", "pair", "transition", "instance")
# How far from 1 a row of a transition matrix may sum.
_SUM_TOLERANCE = 1e-6


@with_argument_hints(CORRUPT_ARGUMENTS)
def corrupt_labels(
    y: Any,
    degree: float,
    n_classes: int | None = None,
    kind: str = "symmetric",
    seed: int = 0,
    *,
    transition: Any = None,
    scores: Any = None,
) -> npt.NDArray[np.int64]:
    r"""Change a share of the labels at random.

    Parameters
    ----------
    y : array-like or torch.Tensor of shape (n,)
        The true labels, integers in 0 .. n_classes - 1. They are not modified.
    degree : float
        Corruption degree, from 0 to 1; 0 keeps every label. For "symmetric" and "transition" it
        is the probability that a label is redrawn, and a redrawn label may come out as it was.
        For "pair" and "instance" it is the share of labels that are expected to be really wrong.
    n_classes : int, optional
        Number of classes K. By default that of `transition` or `scores` if one is given, else
        one more than the largest label.
    kind : {"symmetric", "pair", "transition", "instance"}, default "symmetric"
        How labels are changed. With one class no kind can change any.

        - "symmetric": redrawn uniformly from all K classes, the true one included. Degree 1
          leaves no information in the labels.
        - "pair": class k becomes class (k + 1) mod K.
        - "transition": redrawn from row k of `transition`, so that degree 1 applies the matrix T
          as it is and any other the matrix (1 - degree) I + degree T. A label of class k is
          really wrong with probability degree (1 - T[k, k]).
        - "instance": changed to another class. The less likely the true class is under the weak
          model of `scores`, the likelier the change, and the model's probabilities decide the new
          class; see the notes.
    seed : int, default 0
        Seed of the draw. NumPy's global random state is neither read nor changed. With one seed,
        a label changed at a low degree is changed to the same class at every higher one.
    transition : array-like or torch.Tensor of shape (K, K), optional
        Required for the kind "transition": row k holds the probabilities of the given classes if
        the true class is k. Rows must sum to 1 within 1e-6; they are scaled to sum to 1.
    scores : array-like or torch.Tensor of shape (n, K), optional
        Required for the kind "instance": finite scores of a weak model, one row per sample. A
        softmax turns them into probabilities, so pass logits or log-probabilities; probabilities
        work too, but spread the noise more evenly. `experiments.confusion.weak_scores` makes
        some.

    Returns
    -------
    ndarray of shape (n,), int64
        The corrupted labels.

    Raises
    ------
    LabelError
        If the labels are not one-dimensional integers from 0 to n_classes - 1, the degree is
        not a number from 0 to 1, the number of classes or the seed is not usable, the kind is
        unknown, `transition` or `scores` is missing or given to a kind that does not use it,
        `transition` is not K × K, finite and non-negative with rows that sum to 1, or `scores`
        is not n × K and finite.

    Notes
    -----
    Instance-dependent noise: with :math:`P_i = \mathrm{softmax}(\mathrm{scores}_i)`, the hardness
    of sample i is the weak model's doubt in its true class, :math:`q_i = 1 - P_i[y_i]`. Its label
    is changed with probability

    .. math:: p_i = \min(1, q_i / \ell), \qquad \frac{1}{n} \sum_i p_i = \mathrm{degree},

    where the level :math:`\ell` solves the second equation. A changed label becomes
    :math:`k \ne y_i` with probability :math:`P_i[k] / q_i`. So the expected share of wrong labels
    equals the degree, and degree 1 changes all labels. The references introduced noise that
    depends on the sample through a model's confidence. This construction is our own: the share is
    exact, and a higher degree only changes more labels.

    References
    ----------
    X. Xia et al., "Part-dependent label noise: towards instance-dependent label noise", 2020,
    arXiv 2006.07836.
    A. Berthon et al., "Confidence scores make instance-dependent label-noise learning possible",
    2021, arXiv 2001.03772.

    Examples
    --------
    >>> import numpy as np
    >>> true = np.repeat(np.arange(10), 1000)
    >>> given = corrupt_labels(true, 0.8, seed=42)
    >>> wrong = given != true  # 0.8 on ten classes is 72 % wrong
    >>> print(f"{wrong.mean():.2f}")
    0.72
    >>> corrupt_labels([0, 1, 2], 1.0, kind="pair").tolist()
    [1, 2, 0]
    """
    true = as_labels(y, "labels")
    if kind not in _KINDS:
        raise LabelError(f"unknown kind of label noise {kind!r}; choose one of {list(_KINDS)}")
    # `not (0 <= degree <= 1)` also catches NaN and the infinities.
    number = isinstance(degree, int | float | np.integer | np.floating)
    if not number or isinstance(degree, bool) or not 0.0 <= degree <= 1.0:
        raise LabelError(f"degree must be a number from 0 to 1, found {degree!r}")
    _check_used(kind, "transition", transition, "transition")
    _check_used(kind, "scores", scores, "instance")
    asked = None if n_classes is None else _positive_integer(n_classes)
    largest = int(true.max()) if true.size else 0
    classes = largest + 1 if asked is None else asked
    if kind == "transition":
        transition = _as_transition(transition, asked)
        classes = len(transition)
    elif kind == "instance":
        scores = _as_scores(scores, true.size, asked)
        classes = scores.shape[1]
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
    chance = generator.random(true.size)
    probability: float | Matrix = float(degree)
    if kind == "symmetric":
        drawn = generator.integers(classes, size=true.size, dtype=np.int64)
    elif kind == "pair":
        drawn = np.where(true == classes - 1, 0, true + 1)
    elif kind == "transition":
        drawn = _draw_by_class(transition, true, generator.random(true.size))
    elif classes > 1:
        hardness, drawn = _confuse(scores, true, generator.random(true.size))
        probability = _flip_probabilities(hardness, float(degree))
    else:
        drawn = true
    return np.where(chance < probability, drawn, true)


def transition_matrix(true: Any, given: Any, n_classes: int) -> Matrix:
    """Estimate the transition matrix: which given class each true class became.

    Parameters
    ----------
    true, given : array-like or torch.Tensor of shape (n,)
        The labels before and after corruption, integers in 0 .. n_classes - 1.
    n_classes : int
        Number of classes K.

    Returns
    -------
    ndarray of shape (K, K), float64
        Row k holds the share of each given class among the samples whose true class is k, so
        every row sums to 1. The row of a class without samples is that of the identity: nothing
        shows that it is confused.

    Raises
    ------
    LabelError
        If the labels are not two equally long lists of integers from 0 to n_classes - 1, or the
        number of classes is not usable.

    Examples
    --------
    >>> transition_matrix([0, 0, 0, 0, 1], [0, 0, 0, 1, 1], 3).tolist()
    [[0.75, 0.25, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    classes = _positive_integer(n_classes)
    before, after = _as_pair(true, given)
    for labels, what in ((before, "true labels"), (after, "given labels")):
        if labels.size and labels.max() >= classes:
            at = int(np.argmax(labels >= classes))
            raise LabelError(
                f"{what}: expected classes 0 … {classes - 1}; found {labels[at]} at index {at}"
            )
    counts = np.bincount(before * classes + after, minlength=classes**2).reshape(classes, classes)
    sizes = counts.sum(axis=1, keepdims=True)
    return np.where(sizes > 0, counts / np.maximum(sizes, 1), np.eye(classes))


def wrong_share(true: Any, given: Any) -> float:
    """Return the share of labels that are really wrong.

    Parameters
    ----------
    true, given : array-like or torch.Tensor of shape (n,)
        The labels before and after corruption.

    Returns
    -------
    float
        From 0 to 1; 0 where there are no labels.

    Raises
    ------
    LabelError
        If the labels are not two equally long lists of integers of at least 0.

    Examples
    --------
    >>> wrong_share([0, 1, 2, 3], [0, 1, 2, 0])
    0.25
    """
    before, after = _as_pair(true, given)
    return float((before != after).mean()) if before.size else 0.0


def _draw_by_class(transition: Matrix, true: Labels, chance: Matrix) -> Labels:
    """Draw each label from the row of its class."""
    drawn = np.empty_like(true)
    for k in np.unique(true):
        rows = true == k
        drawn[rows] = np.searchsorted(_cumulative(transition[k]), chance[rows], side="right")
    return drawn


def _confuse(scores: Matrix, true: Labels, chance: Matrix) -> tuple[Matrix, Labels]:
    """Return each sample's hardness q, shape (n,), and a wrong label drawn by the weak model."""
    from scipy.special import expit  # takes half a second to import

    rows = np.arange(true.size)
    others = scores.copy()
    others[rows, true] = -np.inf
    # Relative to the likeliest *other* class: the others never all vanish, however sure the model
    # is of the true one.
    likeliest = others.max(axis=1)
    # Differences of scores may overflow: then a probability is 0 or 1, as it should be.
    with np.errstate(over="ignore"):
        others -= likeliest[:, None]
        weights = np.exp(others, out=others)
        # q = 1 - softmax[true], without the rounding that loses small ones.
        hardness = expit(likeliest - scores[rows, true] + np.log(weights.sum(axis=1)))
    drawn = (_cumulative(weights) <= chance[:, None]).sum(axis=1, dtype=np.int64)
    return hardness, drawn


def _flip_probabilities(hardness: Matrix, degree: float) -> Matrix:
    """Return min(1, q / level), shape (n,), with the level at which its mean is the degree.

    If the m hardest samples are at 1, the others must make up the rest of the sum, so the level
    is (sum of their q) / (n degree - m). The right m is the smallest for which none of the others
    exceeds the level; sorting finds it.
    """
    n = hardness.size
    if degree == 0.0 or not n:
        return np.zeros(n)
    # A sample that the model is sure of must stay possible to change: without a minimum hardness,
    # high degrees could not be reached.
    hardness = np.maximum(hardness, np.finfo(np.float64).tiny)
    hardest_first = np.sort(hardness)[::-1]
    rest = np.cumsum(hardest_first[::-1])[::-1]
    flips = n * degree - np.arange(n)
    certain = int(np.argmax(flips * hardest_first <= rest))
    # A degree near 0 can have an infinite level: then nothing is changed.
    with np.errstate(over="ignore"):
        level = rest[certain] / flips[certain]
    probabilities: Matrix = np.minimum(1.0, hardness / level)
    return probabilities


def _cumulative(weights: Matrix) -> Matrix:
    """Return cumulative probabilities along the last axis, exactly 1 from the last weight on.

    The first one above a number from [0, 1) never belongs to a weight of 0.
    """
    sums: Matrix = np.cumsum(weights, axis=-1)
    shares: Matrix = sums / sums[..., -1:]
    return shares


def _check_used(kind: str, name: str, value: Any, user: str) -> None:
    if kind == user and value is None:
        raise LabelError(f"kind={kind!r} needs {name}=, found none")
    if kind != user and value is not None:
        raise LabelError(
            f"{name}= is for kind={user!r} alone, found it with kind={kind!r}; leave it out"
        )


def _as_transition(transition: Any, n_classes: int | None) -> Matrix:
    """Return a transition matrix as float64, shape (K, K), after checking it row by row."""
    matrix = _as_matrix(transition, "transition", "row")
    classes = len(matrix) if n_classes is None else n_classes
    if matrix.shape != (classes, classes):
        if matrix.shape[1] != classes:
            first = f"row 0 holds {matrix.shape[1]}"
        else:
            first = f"row {min(len(matrix), classes)} is {_more_or_less(len(matrix), classes)}"
        raise LabelError(
            f"transition: expected one row and one column a class, shape {(classes, classes)}; "
            f"found {matrix.shape}: {first}"
        )
    negative = matrix < 0
    if negative.any():
        row, column = (int(at) for at in np.argwhere(negative)[0])
        raise LabelError(
            f"transition: expected probabilities of at least 0; found {matrix[row, column]:g} in "
            f"row {row}, column {column}"
        )
    # Finite numbers may still sum to infinity.
    with np.errstate(over="ignore"):
        sums = matrix.sum(axis=1)
    bad = np.abs(sums - 1.0) > _SUM_TOLERANCE
    if bad.any():
        row = int(bad.argmax())
        raise LabelError(
            f"transition: expected rows that sum to 1; found {sums[row]:.9g} for row {row}"
        )
    return matrix


def _as_scores(scores: Any, n: int, n_classes: int | None) -> Matrix:
    """Return scores as float64, shape (n, K)."""
    matrix = _as_matrix(scores, "scores", "sample")
    classes = matrix.shape[1] if n_classes is None else n_classes
    if matrix.shape != (n, classes) or not classes:
        if matrix.shape[1] != classes or not classes:
            first = f"sample 0 holds {matrix.shape[1]}"
        else:
            first = f"sample {min(len(matrix), n)} is {_more_or_less(len(matrix), n)}"
        raise LabelError(
            f"scores: expected one row a sample and one column a class, shape "
            f"{(n, max(1, classes))}; found {matrix.shape}: {first}"
        )
    return matrix


def _more_or_less(number: int, expected: int) -> str:
    return "missing" if number < expected else "one too many"


def _as_matrix(values: Any, what: str, row: str) -> Matrix:
    """Return finite numbers as a float64 array with two axes.

    Raises
    ------
    LabelError
        If they are not numbers, not in rows of one length, or not finite, naming the first row
        that is not.
    """
    if isinstance(values, Tensor):
        # NumPy has no bfloat16.
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()
    try:
        array = np.asarray(values)
    except ValueError:  # rows of several lengths
        raise LabelError(
            f"{what}: expected rows of one length; {row} {_first_odd(values)} is of another"
        ) from None
    if array.ndim != 2:
        raise LabelError(f"{what}: expected a matrix; found shape {array.shape}")
    if array.dtype.kind not in "iuf":
        raise LabelError(f"{what}: expected numbers; found dtype {array.dtype}")
    matrix = array.astype(np.float64)
    finite = np.isfinite(matrix)
    if not finite.all():
        at, column = (int(place) for place in np.argwhere(~finite)[0])
        raise LabelError(
            f"{what}: expected finite numbers; found {matrix[at, column]} in {row} {at}, "
            f"column {column}"
        )
    return matrix


def _first_odd(rows: Any) -> int:
    """Return the position of the first row whose shape differs from that of row 0."""
    shape = None
    for at, row in enumerate(rows):
        try:
            row_shape = np.shape(row)
        except ValueError:  # a row that is itself of several lengths
            return at
        if shape is not None and row_shape != shape:
            return at
        shape = row_shape
    return 0


def _as_pair(true: Any, given: Any) -> tuple[Labels, Labels]:
    before, after = as_labels(true, "true labels"), as_labels(given, "given labels")
    if len(before) != len(after):
        raise LabelError(
            f"expected as many given as true labels; found {len(after)} and {len(before)}"
        )
    return before, after


def _positive_integer(n_classes: Any) -> int:
    if isinstance(n_classes, bool) or not isinstance(n_classes, int | np.integer) or n_classes < 1:
        raise LabelError(f"n_classes must be an integer of at least 1, found {n_classes!r}")
    return int(n_classes)
