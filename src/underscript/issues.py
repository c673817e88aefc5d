"""Which given labels are probably wrong, and the labels that they should have."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ._labels import Labels
from .noise import SMALLEST, Noise

COLUMNS = {
    "is_label_issue": "b",
    "label_quality": "f",
    "given_label": "iu",
    "predicted_label": "iu",
    "second_label": "iu",
    "margin": "f",
    "confidence": "f",
}
"""The columns of label issues, and the kinds of their values."""

# Log-odds beyond this say the same; so that no margin is infinite.
_MOST = 700.0
_PAIRS = 20


@dataclass(frozen=True)
class Answers:
    """What a decoder says of samples whose given labels are known.

    All of shape (n,): `index` in the data set (None where no stable one is known); `given`,
    `predicted` and `second` classes (second choice); `quality` of the given label; `margin` and
    `confidence` as in the table of label issues.
    """

    index: Labels | None
    given: Labels
    predicted: Labels
    second: Labels
    quality: NDArray[np.float64]
    margin: NDArray[np.float64]
    confidence: NDArray[np.float64]

    @classmethod
    def of(
        cls, decoder: Any, rows: Any, given: Labels, index: Labels | None, noise: Noise | None
    ) -> Self:
        """Return the answers for one batch.

        Parameters
        ----------
        decoder : CombinedDiscriminant or SubspaceClassifier
            The chosen one.
        rows : Tensor or mapping of str to Tensor
            What it reads.
        given : ndarray of int64, shape (n,)
            The given labels.
        index : ndarray of int64, shape (n,), or None
            In the data set.
        noise : Noise or None
            As it was estimated; None for a decoder without probabilities.
        """
        if noise is not None:
            return cls(index, given, *_of_chances(decoder.decide(rows), given, noise))
        return cls(index, given, *_of_closeness(decoder, rows, given))

    @classmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """Return the answers of all batches, in the data set's order where that is known."""
        indices = [part.index for part in parts if part.index is not None]
        index = np.concatenate(indices) if len(indices) == len(parts) else None
        names = [field.name for field in fields(cls)][1:]
        columns = [np.concatenate([getattr(part, name) for part in parts]) for name in names]
        if index is None:
            return cls(None, *columns)
        order = np.argsort(index, kind="stable")
        return cls(index[order], *(column[order] for column in columns))

    def table(self, noise: Noise | None) -> pd.DataFrame:
        """Return the columns of label issues, indexed by the data set's index."""
        index = pd.RangeIndex(len(self.given)) if self.index is None else pd.Index(self.index)
        return pd.DataFrame(
            {
                "is_label_issue": self.flags(noise),
                "label_quality": self.quality,
                "given_label": self.given,
                "predicted_label": self.predicted,
                "second_label": self.second,
                "margin": self.margin,
                "confidence": self.confidence,
            },
            index=index.rename("index"),
        )

    def flags(self, noise: Noise | None) -> NDArray[np.bool_]:
        """Say which given labels are probably wrong, bool (n,).

        With an estimate of the noise each class has as many as its labels are expected to be
        wrong: the sum of 1 − quality, those of the lowest quality; without, all that the decoder
        contradicts. Where nothing can be decoded, none.
        """
        contradicted = np.asarray(self.predicted != self.given)
        if noise is None:
            return contradicted
        flags = np.zeros(len(self.given), dtype=bool)
        if noise.hopeless:
            return flags
        # By class and within it by quality; contradicted ones first among equals.
        order = np.lexsort((~contradicted, self.quality, self.given))
        sizes = np.bincount(self.given)
        wrong = np.bincount(self.given, weights=1 - self.quality)
        place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        flags[order] = place < np.repeat(np.round(wrong), sizes)
        return np.asarray(flags & contradicted)


def _of_chances(values: Float[Tensor, "n classes"], given: Labels, noise: Noise) -> tuple[Any, ...]:
    """Return predicted, second, quality, margin and confidence from log-odds.

    The quality of a given label y is the probability that it is right, given what the decoder
    says of the input and how labels go wrong: p(y|x) T_yy / Σ_z p(z|x) T_zy.
    """
    chances = torch.log_softmax(values.double().cpu(), 1)
    labels = torch.from_numpy(given)
    values_of_best, best = chances.topk(2, dim=1)
    own = chances.gather(1, labels[:, None])[:, 0]
    predicted = values.argmax(1).cpu()
    contradicted = predicted != labels
    rival = torch.where(contradicted, values_of_best[:, 0], values_of_best[:, 1])
    margin = (own - rival).clamp(-_MOST, _MOST)
    second = torch.where(best[:, 0] == predicted, best[:, 1], best[:, 0])
    shares = chances.exp()
    came_from = torch.from_numpy(transitions(noise)).T[labels]
    of_own = own.exp() * came_from.gather(1, labels[:, None])[:, 0]
    quality = of_own / (shares * came_from).sum(1).clamp(min=1e-300)
    found = (predicted, second, quality.clamp(0, 1), margin, values_of_best[:, 0].exp())
    return tuple(part.numpy() for part in found)


def transitions(noise: Noise) -> NDArray[np.float64]:
    """Return the estimated transition matrix, a little noise added: none is never quite known."""
    n_classes = len(noise.transitions)
    return (1 - SMALLEST) * noise.transitions + SMALLEST / n_classes


def _of_closeness(decoder: Any, rows: Any, given: Labels) -> tuple[Any, ...]:
    """Return predicted, second, quality, margin and confidence from closeness in [0, 1].

    The margin of a given label is its closeness − the best other class's, the quality (1 +
    margin) / 2: between 0 and 1, below one half where the decoder prefers another class.
    """
    labels = torch.from_numpy(given)
    closeness, nearest = decoder.answers(rows, labels)
    predicted = nearest.cpu()
    values = closeness.double().cpu()
    own = values.gather(1, labels[:, None])[:, 0]
    margin = own - _without(values, labels).amax(1)
    contradicted = predicted != labels
    quality = ((1 + margin) / 2).clamp(0, 1)
    # Ties, and closeness that rounding made equal: below one half exactly where contradicted.
    below = float(np.nextafter(0.5, 0))
    quality = torch.where(contradicted, quality.clamp(max=below), quality.clamp(min=0.5))
    # Only the asked-for class and the nearest other are exact, so the second choice is asked for.
    again = decoder.answers(rows, predicted)[0].double().cpu()
    second = _without(again, predicted).argmax(1)
    confidence = again.gather(1, predicted[:, None])[:, 0]
    return tuple(part.numpy() for part in (predicted, second, quality, margin, confidence))


def _without(values: Tensor, places: Tensor) -> Tensor:
    return values.scatter(1, places[:, None], -torch.inf)


def confused_pairs(issues: pd.DataFrame, most: int = _PAIRS) -> pd.DataFrame:
    """Return the pairs of classes that flagged samples are between, the most frequent first.

    Parameters
    ----------
    issues : pandas.DataFrame
        The table of label issues.
    most : int
        Of so many pairs.

    Returns
    -------
    pandas.DataFrame
        `given_label`, `predicted_label`, `n` (flagged samples), and `share` of the samples with
        this given label.
    """
    flagged = issues[issues["is_label_issue"]]
    pairs = flagged.groupby(["given_label", "predicted_label"]).size().rename("n").reset_index()
    of_class = issues["given_label"].value_counts()
    pairs["share"] = pairs["n"] / pairs["given_label"].map(of_class)
    return pairs.sort_values("n", ascending=False, kind="stable", ignore_index=True).head(most)
