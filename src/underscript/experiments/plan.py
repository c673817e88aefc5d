"""The settings of one grid of networks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, LabelError
from ..noise.corruption import corrupt_labels
from ..utils.memory_size import WHOLE_LAYERS
from .architectures import check_width
from .catalogue import CORRUPTIONS, EXPERIMENTS, NOISES, PAIRS, Pair
from .presets import Preset, preset_for

__all__ = ["LABEL_SEED", "Cell", "Plan"]

# The authors corrupt labels with this seed in all runs.
LABEL_SEED = 42


@dataclass(frozen=True)
class Plan:
    """The settings of a grid of cells, one for each corruption degree and run.

    Parameters
    ----------
    experiment : str
        Name of a pair.
    preset : {"quick", "paper"}
        How networks are trained.
    noise : str
        ``symmetric``, ``pair``, ``instance``, or a CSV file of a transition matrix (rows: true
        classes).
    corruptions : sequence of float
        Corruption degrees.
    runs : int
        Networks for each degree; run r (from 1) uses seed r − 1 for weights and batches.
    only : sequence of str
        Experiments, such as ``E1``.
    variance : float
        Variance share of MASC.
    device : str
        Where to train and decode.
    compiled : bool
        Whether training steps are compiled; see `train`.
    root : Path, optional
        Where the data set is.
    samples : int, optional
        Most training samples; replaces the preset's number.
    width : float, optional
        Share of its channels that a ResNet-18 has; replaces the preset's.
    memory : int
        Bytes to decode with, beside the network and the data. It changes no result.
    holdout : int
        Number of these samples that are kept from training, with noisy labels. Where images share
        a drawing, whole drawings are kept, until they are as many.
    first_run : int
        The first run's number.
    new_labels : bool
        Corrupt labels and draw the hold-out anew in each run; the authors do so only once.
    test_curve : bool
        Whether networks are tested after every epoch, not only when they are finished.

    Raises
    ------
    DataError
        If a setting is unknown or out of range.
    ModelError
        If the architecture does not come in the width.
    """

    experiment: str
    preset: str = "quick"
    noise: str = "symmetric"
    corruptions: Sequence[float] = CORRUPTIONS
    runs: int = 3
    only: Sequence[str] = ("E1", "E2")
    variance: float = 0.99
    device: str = "cpu"
    compiled: bool = False
    root: Path | None = None
    samples: int | None = None
    width: float | None = None
    memory: int = WHOLE_LAYERS
    holdout: int = 0
    first_run: int = 1
    new_labels: bool = False
    test_curve: bool = True

    def __post_init__(self) -> None:
        if self.experiment not in PAIRS:
            raise DataError(
                f"experiment: expected one of {', '.join(PAIRS)}; found {self.experiment!r}"
            )
        recipe = self.recipe
        check_width(self.pair.arch, recipe.width)
        if recipe.samples is not None and self.holdout >= recipe.samples:
            raise DataError(
                f"holdout: expected fewer than the {recipe.samples} samples; found {self.holdout}"
            )
        for degree in self.corruptions:
            if not 0 <= degree <= 1:
                raise DataError(f"corruption: expected degrees from 0 to 1; found {degree!r}")
        if not len(self.corruptions) or len(set(self.corruptions)) < len(self.corruptions):
            raise DataError(f"corruption: expected different degrees; found {self.corruptions!r}")
        if self.runs < 1:
            raise DataError(f"runs: expected at least 1; found {self.runs}")
        unknown = [name for name in self.only if name not in EXPERIMENTS]
        if unknown or not len(self.only):
            raise DataError(f"only: expected some of {', '.join(EXPERIMENTS)}; found {self.only!r}")
        if "E7" in self.only and self.pair.arch != "resnet18":
            raise DataError("only: E7 is E1 and E2 of cifar10-resnet18; here ask for E1,E2")
        if not 0 < self.variance <= 1:
            raise DataError(f"variance: expected a share in (0, 1]; found {self.variance!r}")
        if self.noise not in NOISES:
            read_transition(Path(self.noise))

    @property
    def pair(self) -> Pair:
        """Data set and architecture."""
        return PAIRS[self.experiment]

    @property
    def recipe(self) -> Preset:
        """How networks are trained."""
        preset = preset_for(self.preset, self.pair.arch, self.pair.data)
        samples = preset.samples if self.samples is None else self.samples
        width = preset.width if self.width is None else self.width
        return replace(preset, samples=samples, width=width, test_curve=self.test_curve)

    @property
    def set_up(self) -> str:
        """How networks are trained, in words for the heads of tables."""
        recipe = self.recipe
        images = "all" if recipe.samples is None else f"at most {recipe.samples:,}"
        words = f"{self.preset} preset, {images} training images"
        if recipe.width != 1:
            words += f", ResNet-18 at {recipe.width:g} of its width"
        return words

    def label_seed(self, cell: "Cell") -> int:
        """Return the seed of a cell's corrupted labels and hold-out."""
        return LABEL_SEED + cell.seed if self.new_labels else LABEL_SEED

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that all cells of a folder share."""
        transition = None if self.noise in NOISES else read_transition(Path(self.noise)).tolist()
        return {
            "experiment": self.experiment,
            "preset": self.preset,
            "recipe": asdict(self.recipe),
            "noise": "transition" if transition else self.noise,
            "transition": transition,
            "label_seed": f"{LABEL_SEED} + run - 1" if self.new_labels else LABEL_SEED,
            "holdout": self.holdout or None,
            "variance": self.variance,
        }

    @property
    def cells(self) -> list["Cell"]:
        """The cells in the order in which they run: all of run 1 first."""
        return [
            Cell(degree, run)
            for run in range(self.first_run, self.first_run + self.runs)
            for degree in sorted(self.corruptions)
        ]


class Cell(NamedTuple):
    """One corruption degree and run of a grid."""

    corruption: float
    run: int

    @property
    def name(self) -> str:
        """Name of the cell's folder."""
        return f"c{self.corruption:g}-run{self.run}"

    @property
    def seed(self) -> int:
        """Seed of weights, batches and random twin."""
        return self.run - 1


def read_transition(path: Path) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Read a transition matrix: a CSV file without a header, a row for each true class.

    Raises
    ------
    DataError
        If there is no such file, or it is not a square matrix of numbers.
    """
    try:
        matrix = np.loadtxt(path, delimiter=",", ndmin=2, dtype=np.float64)
    except OSError:
        raise DataError(
            f"noise: expected one of {', '.join(NOISES)}, or a CSV file of a transition matrix; "
            f"found {str(path)!r}"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: expected rows of numbers and commas ({error})") from None
    if matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"{path}: expected a square matrix; found {matrix.shape}")
    try:
        corrupt_labels([0], 1.0, kind="transition", transition=matrix)
    except LabelError as error:
        raise DataError(f"{path}: {error}") from None
    return matrix
