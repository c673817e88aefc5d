"""Which given labels a decoder contradicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from ._labels import Labels

COLUMNS = ("is_label_issue", "label_quality", "given_label", "predicted_label")


@dataclass(frozen=True)
class Answers:
    """What a decoder says of samples whose given labels are known.

    All of shape (n,): `index` in the data set (None where no stable one is known), `given` and
    `predicted` classes, and the `quality` of the given label.
    """

    index: Labels | None
    given: Labels
    predicted: Labels
    quality: NDArray[np.float64]

    @classmethod
    def of(cls, closeness: Tensor, predicted: Labels, given: Labels, index: Labels | None) -> Self:
        """Return the answers for one batch, from closeness (n, K) to each class in [0, 1].

        The quality of a given label is (1 + its closeness − the best other class's) / 2: between
        0 and 1, below one half where the decoder prefers another class.
        """
        values = closeness.double().cpu().numpy()
        rows = np.arange(len(values))
        own = values[rows, given]
        others = values.copy()
        others[rows, given] = -np.inf
        quality = np.clip((1 + own - others.max(1)) / 2, 0, 1)
        # Ties, and closeness that rounding made equal: below one half exactly where contradicted.
        contradicted = predicted != given
        quality[contradicted] = np.minimum(quality[contradicted], np.nextafter(0.5, 0))
        quality[~contradicted] = np.maximum(quality[~contradicted], 0.5)
        return cls(index, given, predicted, quality)

    @classmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """Return the answers of all batches, in the data set's order where that is known."""
        indices = [part.index for part in parts if part.index is not None]
        index = np.concatenate(indices) if len(indices) == len(parts) else None
        columns = [
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("given", "predicted", "quality")
        ]
        if index is None:
            return cls(None, *columns)
        order = np.argsort(index, kind="stable")
        return cls(index[order], *(column[order] for column in columns))

    def table(self) -> pd.DataFrame:
        """Return the four columns of label issues, indexed by the data set's index."""
        index = pd.RangeIndex(len(self.given)) if self.index is None else pd.Index(self.index)
        return pd.DataFrame(
            {
                "is_label_issue": self.predicted != self.given,
                "label_quality": self.quality,
                "given_label": self.given,
                "predicted_label": self.predicted,
            },
            index=index.rename("index"),
        )
