"""Make label noise: change a share of the labels.

The paper's corruption is the symmetric one. Each label is, independently with probability
`degree`, replaced by a class drawn uniformly from *all* K classes, so that a redrawn label may
come out as it was: the share of labels that are really wrong is `degree * (K - 1) / K`.

Real labels are seldom wrong in that way. The other kinds confuse each class with the next one,
follow any matrix of class confusions, or depend on the sample: on a model's scores, or on features.
`transition_matrix` and `wrong_share` measure the result.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import LabelError
from ..utils.hints import CORRUPT_ARGUMENTS
from ..utils.labels import Labels, as_labels
from ..utils.near_names import with_argument_hints
from .by_sample import (
    STAYING,
    capped_shares,
    change_by_margin,
    change_clusters,
    cumulative,
    doubt_and_confusion,
)
from .matrices import Matrix, as_features, as_scores, as_transition

__all__ = ["corrupt_labels", "transition_matrix", "wrong_share"]

_KINDS = ("symmetric", "pair", "transition", "instance", *STAYING, "cluster")
# The kinds that use an argument.
_USERS = {
    "transition": ("transition",),
    "scores": ("instance", *STAYING),
    "features": ("cluster",),
    "clusters": ("cluster",),
}


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
    features: Any = None,
    clusters: int | None = None,
) -> npt.NDArray[np.int64]:
    r"""Change a share of the labels at random.

    Parameters
    ----------
    y : array-like or torch.Tensor of shape (n,)
        The true labels, integers in 0 .. n_classes - 1. They are not modified.
    degree : float
        Corruption degree, from 0 to 1; 0 keeps every label. For "symmetric" and "transition" it
        is the probability that a label is redrawn, and a redrawn label may come out as it was.
        For all others it is the share of labels that are expected to be really wrong; for
        "cluster" that share is exact, up to rounding to whole samples.
    n_classes : int, optional
        Number of classes K. By default that of `transition` or `scores` if one is given, else
        one more than the largest label.
    kind : str, default "symmetric"
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
        - "pmd-1", "pmd-2", "pmd-3": changed to the likeliest other class under the model of
          `scores`, and the more often, the smaller its lead is over the true class:
          polynomial-margin-diminishing noise of type I, II or III.
        - "cluster": changed for all samples that are near some centres, which are samples of the
          same class drawn at random. They become the other class whose mean of `features` is
          nearest. So whole groups of alike samples are wrong in the same way.
    seed : int, default 0
        Seed of the draw. NumPy's global random state is neither read nor changed. With one seed,
        a label changed at a low degree is changed to the same class at every higher one.
    transition : array-like or torch.Tensor of shape (K, K), optional
        Required for the kind "transition": row k holds the probabilities of the given classes if
        the true class is k. Rows must sum to 1 within 1e-6; they are scaled to sum to 1.
    scores : array-like or torch.Tensor of shape (n, K), optional
        Required for the kinds "instance", "pmd-1", "pmd-2" and "pmd-3": finite scores of a model,
        one row per sample. A softmax turns them into probabilities, so pass logits or
        log-probabilities; probabilities work too, but spread the noise more evenly. For "instance"
        the model should be weak (`experiments.confusion.weak_scores` makes some); for the others
        it is a network trained on the true labels.
    features : array-like or torch.Tensor of shape (n, d), optional
        Required for the kind "cluster": finite numbers, one row per sample, in whose space near
        samples are alike, such as a pretrained network's last hidden layer. Distances are
        Euclidean.
    clusters : int, optional
        For the kind "cluster": the number of centres of each class; a class with fewer samples has
        as many centres as samples. By default one for every 88 samples of the class, rounded up,
        as in the reference. With fewer, the groups are larger.

    Returns
    -------
    ndarray of shape (n,), int64
        The corrupted labels.

    Raises
    ------
    LabelError
        If the labels are not one-dimensional integers from 0 to n_classes - 1, the degree is
        not a number from 0 to 1, the number of classes or the seed is not usable, the kind is
        unknown, an argument is missing or given to a kind that does not use it, `transition` is
        not K × K, finite and non-negative with rows that sum to 1, `scores` is not n × K and
        finite, `features` is not n × d and finite, or `clusters` is not at least 1.

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

    Polynomial-margin-diminishing (PMD) noise: the margin of sample i is the lead of its true class,
    :math:`m_i = \max(0, P_i[y_i] - \max_{k \ne y_i} P_i[k])`, and

    .. math:: \tau_{1}(m) = \tfrac12 - \tfrac12 m^2, \qquad \tau_{2}(m) = 1 - m^3, \qquad
              \tau_{3}(m) = 1 - \tfrac13 (m^3 + m^2 + m).

    A label stays with probability :math:`\min(1, (1 - \tau(m_i)) / f)`, where f is such that the
    expected share of changed labels is the degree. The authors' text says that :math:`\tau` is
    multiplied by a factor; their code (github.com/pxiangwu/PLC), which made the labels that others
    use, divides :math:`1 - \tau` by one. We do as the code does. So a sample of full margin is
    changed too, with probability :math:`1 - 1/f` where :math:`f > 1`. Differently from there, the
    true labels are those given, not classes drawn from P, and a sample that P puts into another
    class has a margin of 0.

    Cluster noise: with centres :math:`C_k`, drawn from the samples of class k, a label changes if
    :math:`\min_{c \in C_{y_i}} \lVert x_i - c \rVert < r`. The reference chooses the number of
    centres and the radius r, in a t-SNE map of CLIP's features, by trial for a share of wrong
    labels (57 a class and r = 2 for 35 % of CIFAR-10). Here the number is given and r follows from
    the degree.

    References
    ----------
    X. Xia et al., "Part-dependent label noise: towards instance-dependent label noise", 2020,
    arXiv 2006.07836.
    A. Berthon et al., "Confidence scores make instance-dependent label-noise learning possible",
    2021, arXiv 2001.03772.
    Y. Zhang et al., "Learning with feature-dependent label noise: a progressive approach", 2021,
    arXiv 2103.07756 (PMD noise).
    G. Lim et al., "Robust testing for deep learning using human label noise", 2025,
    arXiv 2412.00244 (cluster noise).

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
    for name, value in (("transition", transition), ("scores", scores), ("features", features)):
        _check_used(kind, name, value)
    if clusters is not None:
        _check_used(kind, "clusters", clusters)
        clusters = _positive_integer(clusters, "clusters")
    asked = None if n_classes is None else _positive_integer(n_classes)
    largest = int(true.max()) if true.size else 0
    classes = largest + 1 if asked is None else asked
    if kind == "transition":
        transition = as_transition(transition, asked)
        classes = len(transition)
    elif kind in _USERS["scores"]:
        scores = as_scores(scores, true.size, asked)
        classes = scores.shape[1]
    elif kind == "cluster":
        features = as_features(features, true.size)
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
    elif classes == 1:
        drawn = true
    elif kind == "instance":
        hardness, drawn = doubt_and_confusion(scores, true, generator.random(true.size))
        probability = capped_shares(hardness, float(degree))
    elif kind == "cluster":
        probability, drawn = change_clusters(features, true, float(degree), clusters, generator)
    else:
        probability, drawn = change_by_margin(scores, true, kind, float(degree))
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
        drawn[rows] = np.searchsorted(cumulative(transition[k]), chance[rows], side="right")
    return drawn


def _check_used(kind: str, name: str, value: Any) -> None:
    users = _USERS[name]
    if kind in users and value is None:
        raise LabelError(f"kind={kind!r} needs {name}=, found none")
    if kind not in users and value is not None:
        named = " or ".join(repr(user) for user in users)
        raise LabelError(
            f"{name}= is for kind={named} alone, found it with kind={kind!r}; leave it out"
        )


def _as_pair(true: Any, given: Any) -> tuple[Labels, Labels]:
    before, after = as_labels(true, "true labels"), as_labels(given, "given labels")
    if len(before) != len(after):
        raise LabelError(
            f"expected as many given as true labels; found {len(after)} and {len(before)}"
        )
    return before, after


def _positive_integer(value: Any, name: str = "n_classes") -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise LabelError(f"{name} must be an integer of at least 1, found {value!r}")
    return int(value)
