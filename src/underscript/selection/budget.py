"""How the memory budget is shared out, and which decodes are refused at the start.

There is one rule. The least that has to be in memory comes first; if it is more than the budget,
the decode does not start. A quarter of what is left is for rows (the others go to a file), half of
the rest for candidates' scores (with less, fewer samples choose), and the remainder for the sums
and features of one layer at a time.
"""

import ctypes
import sys
from dataclasses import dataclass

from ..errors import DataError
from ..utils.memory_size import MEMORY
from .kept_rows import BLOCK_BYTES, BLOCK_ROWS, FOLDS

__all__ = ["Shares", "Sizes", "give_back"]

# At least this many samples choose, and estimate the noise, if there are as many.
CHOOSE, ESTIMATE = 500, 1_000
# At most this many estimate the noise: more would narrow no interval that matters.
ESTIMATED_WITH = 10_000
# Bytes for a sample's labels, places, fingerprints, predictions and rows of tables.
_SAMPLE = 500
# float64 numbers per class that estimates of noise need, for each sample and for each class.
_OF_SAMPLE, _OF_CLASS = 12, 8
# Scores that choosing needs beside those of all candidates, counted in candidates.
_BESIDE = 5
# Matrices in memory at once: blocks of rows, for an eigenproblem, for steps of L-BFGS.
_BLOCKS, _EIGEN, _STEPS = 5, 5, 24
# Wider rows get random features only: their covariance would be too large.
WIDEST = 4096


@dataclass(frozen=True)
class Sizes:
    """The sizes that a decode's memory depends on.

    Attributes
    ----------
    samples, held : int
        Samples of the training data and of the hold-out; 0 if not known.
    n_classes : int
        Classes K.
    widths : tuple of int
        Of the layers that discriminants are fitted to; empty if none are.
    probed : tuple of int
        Of the layers that class subspaces are fitted to.
    sets : int
        Sets of labels that these are fitted to.
    views : int
        Perturbed views.
    fits_views : bool
        Whether candidates are fitted to these.
    features, rounds, ridges : int
        Random features, rounds and ridges of a candidate.
    read_out : int
        Width of the input of the network's last layer; 0 if that cannot be rewritten.
    network, of_view, tried : int
        Bytes of the network for a batch, of the inputs and rows of one view of a batch, and of the
        inputs that a perturbation is tried on.
    twin : int
        Bytes of the untrained twin's weights; 0 without one.
    copies : int
        Bytes of the weights of earlier checkpoints.
    """

    samples: int = 0
    held: int = 0
    n_classes: int = 1
    widths: tuple[int, ...] = ()
    probed: tuple[int, ...] = ()
    sets: int = 1
    views: int = 0
    fits_views: bool = False
    features: int = 0
    rounds: int = 1
    ridges: int = 1
    read_out: int = 0
    network: int = 0
    of_view: int = 0
    tried: int = 0
    twin: int = 0
    copies: int = 0

    @property
    def _kinds(self) -> int:
        return 2 if self.fits_views and self.views else 1

    @property
    def _largest_class(self) -> int:
        return max(1, -(-self.samples // max(1, self.n_classes)))

    @property
    def batch(self) -> int:
        """Bytes of a batch while it is read."""
        return max(self.network + (1 + self.views) * self.of_view, self.tried)

    @property
    def candidates(self) -> int:
        """Candidates of all layers together."""
        return len(self.widths) * 2 * self.of_layer

    @property
    def of_layer(self) -> int:
        """Candidates of a layer's rows; there are as many of its random features."""
        return self._kinds * self.rounds * self.ridges

    @property
    def of_sample(self) -> int:
        """Bytes of all candidates' scores of a training sample, and of what they give."""
        both = 8 * self.n_classes * (self.candidates + _BESIDE)
        # The scores of a layer exist twice more while they are put together.
        return both + 2 * both // max(1, len(self.widths))

    @property
    def of_held(self) -> int:
        """Bytes of all candidates' scores of a sample of the hold-out."""
        return 4 * self.n_classes * (1 + (self.views > 0)) * (self.candidates + 2 * self.of_layer)

    @property
    def rows(self) -> int:
        """Bytes of all rows that are used more than once."""
        per_sample = 4 * (sum(self.widths) * (1 + self.views) + self.n_classes)
        per_held = 4 * (sum(self.widths) * (1 + (self.views > 0)) + self.n_classes)
        return self.samples * per_sample + self.held * per_held if self.widths else 0

    @property
    def class_rows(self) -> int:
        """Bytes of the rows of layers that have more columns than a class has samples."""
        wide = sum(width for width in self.probed if width > self._largest_class)
        return 4 * self.samples * wide

    def _square(self, width: int) -> int:
        """Return the bytes of the largest matrix that discriminants of a layer need."""
        return 4 * max(self.features, width if width <= WIDEST else 0) ** 2

    def _fit(self, width: int) -> int:
        """Return the least bytes for fits of one layer: sums, factors, class means, weights."""
        square = self._square(width)
        of_class = 4 * self.n_classes * max(self.features, width if width <= WIDEST else 0)
        fits = self._kinds * self.ridges * (FOLDS + 1)
        means = of_class * (fits * (self.rounds + 2) + 2 * FOLDS)
        # Sums of each fold, a factor for each fit and ridge, and work space for one.
        return square * (FOLDS + self.ridges * (FOLDS + 1) + 2) + means

    def _decoders(self) -> int:
        """Return the bytes of all candidates' weights, and of directions of random features."""
        weights = sum(self.features + (w if w <= WIDEST else 0) for w in self.widths)
        directions = sum(self.widths) * self.features
        return 4 * (self.n_classes * self.of_layer * (FOLDS + 1) * weights + directions)

    def always(self) -> dict[str, int]:
        """Return the bytes that are in memory all the time, by what they hold."""
        n, k = self.samples, self.n_classes
        bases = sum(w * min(self._largest_class, -(-w // 2)) for w in self.probed)
        most = max((*self.widths, self.features), default=0)
        block = min(BLOCK_BYTES, 4 * most * min(n, BLOCK_ROWS))
        return {
            "labels and answers": _SAMPLE * (n + self.held),
            # Once in float32, and once in bfloat16 for screening.
            "class bases": 6 * k * self.sets * bases,
            "decoders": self._decoders(),
            "the untrained twin": self.twin,
            "earlier checkpoints": self.copies,
            "probabilities": 8 * n * k if self.widths else 0,
            "tables of class by class": 8 * _OF_CLASS * k**2 if self.widths else 0,
            "blocks of rows": (self.views + _BLOCKS) * block,
        }

    def least_statistics(self) -> int:
        """Return the least bytes for computing class subspaces: one class of one layer."""
        side = max((min(self._largest_class, w) for w in self.probed), default=0)
        rows = max((w for w in self.probed), default=0) * self._largest_class
        return 8 * _EIGEN * side**2 + 12 * rows

    def least_scores(self) -> int:
        """Return the bytes of the fewest scores that can choose."""
        if not self.widths:
            return 0
        return self.of_sample * min(self.samples, CHOOSE) + self.of_held * min(self.held, CHOOSE)

    def least_work(self) -> dict[str, int]:
        """Return the bytes of each step of choosing; steps follow one another."""
        if not self.widths:
            return {}
        estimates = 8 * _OF_SAMPLE * self.n_classes * min(self.samples, ESTIMATE)
        weights = (self.read_out + 1) * self.n_classes
        read_out = 8 * (_STEPS * weights + 3 * self.read_out**2) if self.read_out else 0
        return {
            "fits of one layer": max(self._fit(width) for width in self.widths),
            "estimates of noise": estimates,
            "the new read-out": read_out,
        }


@dataclass(frozen=True)
class Shares:
    """Bytes that each part of a decode may take, within the budget.

    Attributes
    ----------
    rows : int
        Rows that are used more than once; beyond that they go to the file.
    statistics : int
        Class statistics of the layers' subspaces.
    scores : int
        Scores of all candidates.
    features : int
        Random features of one layer, which are kept between two passes.
    estimates : int
        Samples that noise is estimated with (a number, not bytes).
    """

    rows: int = MEMORY // 5
    statistics: int = MEMORY
    scores: int = MEMORY // 4
    features: int = MEMORY // 4
    estimates: int = ESTIMATED_WITH

    @classmethod
    def of(cls, sizes: Sizes, memory: int) -> "Shares":
        """Share out a budget.

        Raises
        ------
        DataError
            If more than the budget has to be in memory.
        """
        always, work = sizes.always(), sizes.least_work()
        scores = sizes.least_scores()
        reading = {
            "a batch of the network": sizes.batch,
            "class subspaces": sizes.least_statistics(),
        }
        choosing = {"scores": scores}
        if work:
            name = max(work, key=work.__getitem__)
            choosing[name] = work[name]
        worst = max(reading, choosing, key=lambda parts: sum(parts.values()))
        fixed = sum(always.values())
        left = memory - fixed - sum(worst.values())
        if left < 0:
            raise DataError(_refusal(always | worst, memory))
        rows = min(left // 4, sizes.rows) if sizes.samples else left // 4
        left = memory - fixed - rows
        more = max(0, left - scores - max(work.values(), default=0))
        wanted = sizes.of_sample * sizes.samples + sizes.of_held * sizes.held
        scores += min(more // 2, max(0, wanted - scores)) if sizes.samples else more // 2
        working = left - scores
        per_class = 8 * _OF_SAMPLE * max(1, sizes.n_classes)
        fits = work.get("fits of one layer", 0)
        estimates = min(ESTIMATED_WITH, working // per_class)
        return cls(
            rows,
            left - sizes.batch,
            scores,
            max(0, working - fits),
            max(ESTIMATE, estimates),
        )

    def on_disk(self, sizes: Sizes) -> int:
        """Return the largest size of the temporary file."""
        kept = sizes.rows if sizes.rows > self.rows else 0
        return kept + (sizes.class_rows if sizes.class_rows > self.statistics else 0)


def _refusal(parts: dict[str, int], memory: int) -> str:
    total = sum(parts.values())
    first = sorted(parts, key=lambda name: -parts[name])[:3]
    what = ", ".join(f"{name} {_megabytes(parts[name])}" for name in first)
    return (
        f"memory: expected at least {_megabytes(total)} for this network and these data ({what}); "
        f"found {_megabytes(memory)}. Allow more (memory, --memory); or, where these can be set, "
        "decode fewer layers (layers, --layers) or narrower ones (pool, --pool), or run smaller "
        "batches (batch_size, --batch-size)"
    )


def _megabytes(size: int) -> str:
    return f"{-(-size // 1_000_000):,} MB"


def give_back() -> None:
    """Give unused memory back to the system, where that is possible.

    The C library keeps what was freed, which is much if large blocks come and go.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
