"""What is decoded and how: the same for a network and its untrained twin."""

from dataclasses import dataclass, field

import torch

from ..activations.hooks import Tap
from ..activations.stream import Rows
from ..activations.trace import Place
from ..data.batches import Batch
from ..data.source import Source, known_index
from ..errors import LabelError
from ..probes.classifier import SubspaceClassifier
from ..probes.ensemble import CombinedDiscriminant
from ..utils.distributed import ALONE, Processes
from ..utils.labels import Labels, check_range, pick
from ..utils.progress import SILENT, Progress
from ..utils.row_file import RowFile
from .budget import Shares, Sizes
from .choice import Key
from .known_fits import KnownFits

__all__ = ["Decoders", "Task"]

# This many multiply-adds for a layer's subspaces are cheap: a second of a core or less.
_CHEAP = 1 << 34
# Samples assumed if their number is not known.
_UNKNOWN = 100_000

Decoders = dict[Key, SubspaceClassifier | CombinedDiscriminant]


@dataclass(frozen=True)
class Task:
    """What is decoded and how: the same for the network and its random twin.

    If `cheap` is true, probes are fitted only at layers where that costs next to nothing for this
    number of `samples`.
    """

    places: list[Place]
    probes: tuple[str, ...]
    shares: tuple[float, ...]
    subspace_labels: tuple[str, ...]
    n_classes: int
    device: torch.device
    seed: int
    progress: Progress = SILENT
    sizes: Sizes = field(default_factory=Sizes)
    room: Shares = field(default_factory=Shares)
    # Takes the rows that do not fit in memory.
    file: RowFile = field(default_factory=RowFile)
    processes: Processes = ALONE
    paths: dict[str, str] = field(default_factory=dict)
    # Fitted whether or not it is among the probes.
    extra: Key | None = None
    cheap: bool = False
    samples: int | None = None
    # Whether rows are kept if there is room: for a later pass, and for cheaper sums.
    keeps: bool = False
    # Fits of the input that other networks left, if any are decoded with the same data.
    known: KnownFits | None = None

    @property
    def taps(self) -> list[Tap]:
        """The layers that are read."""
        return [place.tap for place in self.places]

    def keys(self, layer: str, labels: str) -> list[Key]:
        """Return the names of a layer's decoders that are fitted with one kind of labels."""
        keys = []
        for probe in self.probes if self.probed(layer) else ():
            shares: tuple[float | None, ...] = self.shares if probe == "masc" else (None,)
            keys += [Key(layer, probe, share, labels) for share in shares]
        extra = self.extra
        if extra is not None and extra not in keys and extra[::3] == (layer, labels):
            keys.append(extra)
        return keys

    def probed(self, layer: str) -> bool:
        """Return whether probes are fitted at a layer."""
        return not self.cheap or sum(self.subspace_work(layer)) <= _CHEAP

    def subspace_work(self, layer: str) -> tuple[int, int, int]:
        """Return the multiply-adds of a layer's subspaces.

        They are of sums, of each class's eigenvectors (some ten times the cube of the smaller side)
        and of products with these for as many rows again.
        """
        width = next(place.width for place in self.places if place.tap.name == layer)
        n = self.samples or _UNKNOWN
        side = min(width, -(-n // self.n_classes))
        predicting = n * width * self.n_classes * side // 2
        return n * width**2, 10 * self.n_classes * side**3, predicting

    def given(self, batch: Batch, source: Source) -> Labels:
        """Return a batch's given labels."""
        if batch.labels is None:
            raise LabelError(f"{source.role}: expected labels; the data carry none: give (x, y)")
        return check_range(batch.labels, self.n_classes, batch.index, source.role)

    def label_sets(self, rows: Rows, source: Source) -> dict[str, Labels]:
        """Return a batch's given labels, and its true ones where they are known."""
        batch, role = rows.batch, source.role
        sets = {"given": self.given(batch, source)}
        if source.truth is not None:
            index = known_index(batch, role, "true_labels")
            sets["true"] = check_range(
                pick(source.truth, index, role), self.n_classes, index, f"{role}: true_labels"
            )
        return sets
