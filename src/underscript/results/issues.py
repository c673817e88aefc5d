"""Which given labels are probably wrong, and the labels that they should have."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.batches import Batch
from ..data.duplicates import Sketches, conflicting, sketches
from ..data.fingerprints import fingerprints_of
from ..noise.estimate import Noise
from ..noise.posterior import odds_of_labels
from ..selection.log_odds_lookup import LogOdds
from ..utils.labels import Labels

COLUMNS = {
    "is_label_issue": "b",
    "label_quality": "f",
    "given_label": "iu",
    "predicted_label": "iu",
    "second_label": "iu",
    "margin": "f",
    "confidence": "f",
    "conflicting_duplicate": "iu",
}
"""The columns of label issues, and the kinds of their values."""


def most_suspicious_first(issues: pd.DataFrame) -> pd.DataFrame:
    """Return label issues by their quality, the lowest first; of equal ones by the margin."""
    return issues.sort_values(["label_quality", "margin"], kind="stable")


# Larger log-odds are cut off here, so that no margin is infinite.
_MOST = 700.0
# Samples in one of the arrays that gather predictions.
_CHUNK = 1 << 16
# Pairs of classes that a summary names.
PAIRS = 20


@dataclass(frozen=True)
class Predictions:
    """A decoder's predictions for samples with given labels.

    All have n rows: `index` in the data set (None where no stable one is known); `given`,
    `predicted` and `second` classes (second choice); `quality` of the given label; `margin` and
    `confidence` as in the table of label issues; `fingerprints` and `drawn`, by which equal and
    nearly equal inputs are found. Nothing here grows with the number of classes.
    """

    index: Labels | None
    given: Labels
    predicted: Labels
    second: Labels
    quality: NDArray[np.float64]
    margin: NDArray[np.float64]
    confidence: NDArray[np.float64]
    fingerprints: NDArray[np.uint64]
    drawn: Sketches

    @classmethod
    def of(cls, decoder: Any, rows: Any, given: Labels, batch: Batch) -> Self:
        """Return the predictions of a decoder without probabilities for one batch.

        Parameters
        ----------
        decoder : SubspaceClassifier
            The chosen one.
        rows : Tensor
            Its inputs.
        given : ndarray of int64, shape (n,)
            The given labels.
        batch : Batch
            Where the rows come from.
        """
        return cls._made(_of_closeness(decoder, rows, given), given, batch)

    @classmethod
    def of_odds(cls, odds: LogOdds, given: Labels, batch: Batch, came_from: Tensor) -> Self:
        """Return the predictions that log-odds make for one batch.

        Parameters
        ----------
        odds : LogOdds
            Of a decoder that has not seen these labels.
        given : ndarray of int64, shape (n,)
            The given labels.
        batch : Batch
            The batch that they are of.
        came_from : Tensor of float64, shape (K, K)
            From `came_from`.
        """
        return cls._made(_of_chances(odds, given, came_from), given, batch)

    @classmethod
    def _made(cls, parts: tuple[Any, ...], given: Labels, batch: Batch) -> Self:
        columns = dict(
            zip(("predicted", "second", "quality", "margin", "confidence"), parts, strict=True)
        )
        return cls(
            index=batch.index,
            given=given,
            fingerprints=fingerprints_of(batch),
            drawn=sketches(batch),
            **columns,
        )

    @classmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """Return the predictions for all batches, in the data set's order if that is known."""
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
        flags = self.flags(noise)
        # A flagged label can also be the first choice, by memory or where classes differ in noise:
        # then the second choice is proposed.
        swapped = flags & (self.predicted == self.given)
        predicted = np.where(swapped, self.second, self.predicted)
        second = np.where(swapped, self.predicted, self.second)
        sure = self.confidence * np.exp(np.where(swapped, -self.margin, 0.0))
        suspects = np.flatnonzero(flags)
        suspects = suspects[np.argsort(self.quality[suspects], kind="stable")]
        partner = conflicting(self.given, predicted, suspects, self.fingerprints, self.drawn)
        named = np.where(partner < 0, -1, index.to_numpy()[partner])
        columns = (
            flags,
            self.quality,
            self.given,
            predicted,
            second,
            self.margin,
            sure,
            named,
        )
        return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)), index=index.rename("index"))

    def flags(self, noise: Noise | None) -> NDArray[np.bool_]:
        """Return which given labels are probably wrong, bool (n,).

        With a noise estimate, quality is the probability that a label is right. The labels of the
        lowest quality are flagged, as many as make the expected F1 largest; none where nothing can
        be decoded. Without an estimate, all labels that the decoder contradicts are flagged.
        """
        contradicted = np.asarray(self.predicted != self.given)
        if noise is None:
            return contradicted
        flags = np.zeros(len(self.given), dtype=bool)
        if noise.hopeless:
            return flags
        order = np.lexsort((~contradicted, self.quality))
        wrong = 1 - self.quality[order]
        # Of k flags the expected F1 is 2 × (wrong among them) / (k + all that are wrong).
        number = np.arange(1, len(order) + 1)
        expected = np.cumsum(wrong) / (number + wrong.sum())
        flags[order[: int(expected.argmax()) + 1]] = True
        return flags


class PredictionBuffer:
    """The predictions for many batches, in few large arrays.

    Small arrays, each allocated between the large temporary arrays of two batches, would leave
    holes that the C library does not reuse: memory would grow as if all probabilities were kept.
    """

    def __init__(self) -> None:
        self.parts: list[Predictions] = []
        self._chunk: dict[str, NDArray[Any]] = {}
        self._filled = 0

    def add(self, predictions: Predictions) -> None:
        """Copy a batch's predictions."""
        columns: dict[str, NDArray[Any]] = {
            field.name: value
            for field in fields(Predictions)
            if (value := getattr(predictions, field.name)) is not None
        }
        n, done = len(predictions.given), 0
        while done < n:
            if self._filled == _CHUNK or not self._chunk:
                self._finish()
                self._chunk = {
                    name: np.empty((_CHUNK, *value.shape[1:]), dtype=value.dtype)
                    for name, value in columns.items()
                }
            take = min(n - done, _CHUNK - self._filled)
            for name, value in columns.items():
                self._chunk[name][self._filled : self._filled + take] = value[done : done + take]
            self._filled += take
            done += take

    def _finish(self) -> None:
        if self._filled:
            part: dict[str, Any] = {"index": None}
            part |= {name: values[: self._filled] for name, values in self._chunk.items()}
            self.parts.append(Predictions(**part))
        self._chunk, self._filled = {}, 0

    def all(self) -> list[Predictions]:
        """Return all predictions, in parts."""
        self._finish()
        return self.parts


def _of_chances(odds: LogOdds, given: Labels, came_from: Tensor) -> tuple[Any, ...]:
    """Return predicted, second, quality, margin and confidence from log-odds.

    The quality of a given label y is the probability that it is right, given the decoder's
    probabilities, how labels go wrong and what the network's margin says: with the latter's
    likelihood ratio r it is r p(y|x) T_yy / (r p(y|x) T_yy + Σ_z≠y p(z|x) T_zy).
    """
    values = odds.of_classes
    chances = torch.log_softmax(values.double().cpu(), 1)
    labels = torch.from_numpy(given)
    first_two, best = chances.topk(2, dim=1)
    own = chances.gather(1, labels[:, None])[:, 0]
    predicted = values.argmax(1).cpu()
    rival = torch.where(predicted != labels, first_two[:, 0], first_two[:, 1])
    margin = (own - rival).clamp(-_MOST, _MOST)
    second = torch.where(best[:, 0] == predicted, best[:, 1], best[:, 0])
    quality = torch.sigmoid(odds_of_labels(values, labels, came_from) + odds.by_margins)
    columns = (predicted, second, quality, margin, first_two[:, 0].exp())
    return tuple(part.numpy() for part in columns)


def _of_closeness(decoder: Any, rows: Any, given: Labels) -> tuple[Any, ...]:
    """Return predicted, second, quality, margin and confidence from closeness in [0, 1].

    The margin of a given label is its closeness − the best other class's. Its quality is (1 +
    margin) / 2: between 0 and 1, below one half where the decoder prefers another class.
    """
    labels = torch.from_numpy(given)
    closeness, nearest = decoder.predictions(rows, labels)
    predicted = nearest.cpu()
    values = closeness.double().cpu()
    own = values.gather(1, labels[:, None])[:, 0]
    margin = own - _without(values, labels).amax(1)
    contradicted = predicted != labels
    quality = ((1 + margin) / 2).clamp(0, 1)
    # For ties, also by rounding: quality is below one half exactly where contradicted.
    below = float(np.nextafter(0.5, 0))
    quality = torch.where(contradicted, quality.clamp(max=below), quality.clamp(min=0.5))
    # Only the class asked for and the nearest other are exact, so ask again for the second choice.
    again = decoder.predictions(rows, predicted)[0].double().cpu()
    second = _without(again, predicted).argmax(1)
    confidence = again.gather(1, predicted[:, None])[:, 0]
    return tuple(part.numpy() for part in (predicted, second, quality, margin, confidence))


def _without(values: Tensor, places: Tensor) -> Tensor:
    return values.scatter(1, places[:, None], -torch.inf)


def confused_pairs(issues: pd.DataFrame, most: int = PAIRS) -> pd.DataFrame:
    """Return the pairs of given and predicted class of flagged samples, the most frequent first.

    Parameters
    ----------
    issues : pandas.DataFrame
        The table of label issues.
    most : int
        At most so many pairs.

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


def summarised(issues: pd.DataFrame, noise: Noise | None) -> dict[str, Any]:
    """Return a summary of all label issues, as plain numbers and lists.

    Returns
    -------
    dict
        `n` samples; `flagged` of them; `expected`: wrong labels by the estimated noise rate, with
        `expected_low` and `expected_high` (95 %), or None; `beyond_decoding`: whether labels say no
        more than chance, so that none is flagged; `classes`: n and flagged of each given label;
        `confused_pairs`; `conflicting_duplicates`: samples with a duplicate, or a near duplicate,
        that has another label.
    """
    n = len(issues)
    rates = (None,) * 3 if noise is None else (noise.rate, noise.rate_low, noise.rate_high)
    names = ("expected", "expected_low", "expected_high")
    by_class = issues.groupby("given_label")["is_label_issue"].agg(["size", "sum"])
    return {
        "n": n,
        "flagged": int(issues["is_label_issue"].sum()),
        **{
            name: None if rate is None else round(n * rate)
            for name, rate in zip(names, rates, strict=True)
        },
        "beyond_decoding": noise is not None and noise.hopeless,
        "classes": [
            {"given_label": int(k), "n": int(size), "flagged": int(flagged)}
            for k, size, flagged in by_class.itertuples()
        ],
        "confused_pairs": [
            {**pair, "n": int(pair["n"])} for pair in confused_pairs(issues).to_dict("records")
        ],
        "conflicting_duplicates": int((issues["conflicting_duplicate"] >= 0).sum()),
    }
