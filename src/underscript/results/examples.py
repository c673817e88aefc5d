"""The most suspicious training samples, small enough to be kept and looked at."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..data.batches import Batch, per_sample
from ..errors import DataError
from .issues import Predictions

__all__ = ["SHOWN", "Example", "Worst", "load_examples", "save_examples"]

#: At most so many samples are kept.
SHOWN = 60
# A given and a proposed class, or a given class.
Group = tuple[int, int] | int
# Pixels: larger pictures are made smaller.
_SIDE = 96
# Characters and numbers of a sample that is no picture.
_LETTERS = 400
_VALUES = 24
_FILE = "examples.json"
# With more pairs of classes than this, some samples of each would be too many to keep.
_PAIRS = 600


@dataclass(frozen=True, eq=False)
class Example:
    """A training sample whose given label the chosen decoder contradicts.

    Attributes
    ----------
    index : int
        Index in the training data.
    given, predicted : int
        Classes.
    quality : float
        Quality of the given label, 0 to 1.
    picture : ndarray of uint8, shape (height, width) or (height, width, 3), or None
        What it looks like, if it is a picture.
    text : str or None
        Its text, or else a short description.
    numbers : tuple of float
        Its first values, if it is a row of features.
    width : int
        Number of its values.
    """

    index: int
    given: int
    predicted: int
    quality: float
    picture: NDArray[np.uint8] | None = None
    text: str | None = None
    numbers: tuple[float, ...] = ()
    width: int = 0


@dataclass(frozen=True, eq=False)
class _Seen:
    """An example whose picture still has the values that the network sees, (channels, h, w)."""

    example: Example
    values: NDArray[np.float32] | None = None
    bytes: bool = False


class Worst:
    """The contradicted samples of the lowest quality, gathered batch by batch.

    Each pair of given and proposed class gets an equal share of them, or with many classes each
    given class, so that there are examples of all kinds.

    Parameters
    ----------
    show : callable, optional
        Turns one sample as the model takes it (a tensor; a dict or tuple of several inputs) into
        what is shown: a text, a picture (height × width, or with 3 channels last or first) or a
        row of numbers.
    n_classes : int
        Number of classes.
    size : int
        Number of samples to keep.
    """

    def __init__(
        self, show: Callable[[Any], Any] | None = None, n_classes: int = 1, size: int = SHOWN
    ):
        self.show, self.size = show, size
        pairs = n_classes * (n_classes - 1)
        self.by_pair = 0 < pairs <= _PAIRS
        self.per_group = max(1, size // (pairs if self.by_pair else n_classes))
        self._kept: list[_Seen] = []
        self._n = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what other processes have too, and what may not be pickled."""
        return {**self.__dict__, "show": None}

    def add(self, batch: Batch, predictions: Predictions) -> None:
        """Take in one batch and the decoder's predictions for it."""
        index = (
            np.arange(self._n, self._n + batch.size)
            if predictions.index is None
            else predictions.index
        )
        self._n += batch.size
        bound, bounds = self._bounds()
        rows = np.argsort(predictions.quality, kind="stable")
        rows = rows[predictions.predicted[rows] != predictions.given[rows]]
        taken: Counter[Group] = Counter()
        for place, row in enumerate(rows):
            given, predicted = int(predictions.given[row]), int(predictions.predicted[row])
            quality, group = float(predictions.quality[row]), self._group(given, predicted)
            taken[group] += 1
            overall = place < self.size and quality < bound
            if overall or (taken[group] <= self.per_group and quality < bounds.get(group, np.inf)):
                at = int(index[row])
                sample = _sample(batch, int(row))
                self._kept.append(_seen(sample, at, given, predicted, quality, self.show))
        self._cut()

    def merge(self, other: "Worst") -> None:
        """Take in what another process kept."""
        self._kept += other._kept
        self._cut()

    def _group(self, given: int, predicted: int) -> Group:
        """Return the group in which a sample competes."""
        return (given, predicted) if self.by_pair else given

    def _group_of(self, seen: _Seen) -> Group:
        return self._group(seen.example.given, seen.example.predicted)

    def _bounds(self) -> tuple[float, dict[Group, float]]:
        """Return the quality below which a sample is kept: overall, and in each full group."""
        qualities: dict[Group, list[float]] = {}
        for seen in self._kept:
            qualities.setdefault(self._group_of(seen), []).append(seen.example.quality)
        full = {
            group: values[self.per_group - 1]
            for group, values in qualities.items()
            if len(values) >= self.per_group
        }
        there = len(self._kept) >= self.size
        return self._kept[self.size - 1].example.quality if there else np.inf, full

    def _cut(self) -> None:
        """Keep the worst overall and the worst of each group."""
        self._kept.sort(key=lambda seen: (seen.example.quality, seen.example.index))
        first = {id(seen) for seen in self._worst_of_groups()}
        self._kept = [
            seen for place, seen in enumerate(self._kept) if place < self.size or id(seen) in first
        ]

    def _worst_of_groups(self) -> list[_Seen]:
        taken: Counter[Group] = Counter()
        worst = []
        for seen in self._kept:
            group = self._group_of(seen)
            taken[group] += 1
            if taken[group] <= self.per_group:
                worst.append(seen)
        return worst

    def _chosen(self) -> list[_Seen]:
        """Return the worst of each group, filled up with the worst overall."""
        chosen = self._worst_of_groups()[: self.size]
        first = {id(seen) for seen in chosen}
        chosen += [seen for seen in self._kept if id(seen) not in first][: self.size - len(chosen)]
        return sorted(chosen, key=lambda seen: (seen.example.quality, seen.example.index))

    def examples(self) -> list[Example]:
        """Return what was kept, the worst first.

        Pictures that are not bytes are stretched to 0 … 255, each channel by its range over all
        pictures: so normalised pictures look as they did before.
        """
        examples = []
        spans: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        kept = self._chosen()
        raw = [seen.values for seen in kept if seen.values is not None and not seen.bytes]
        for channels in {len(values) for values in raw}:
            flat = [values.reshape(channels, -1) for values in raw if len(values) == channels]
            together = np.concatenate(flat, 1)
            low, high = together.min(1), together.max(1)
            spans[channels] = low, np.maximum(high - low, 1e-12)
        for seen in kept:
            if seen.values is None:
                examples.append(seen.example)
                continue
            values = seen.values
            if not seen.bytes:
                low, span = spans[len(values)]
                values = 255 * (values - low[:, None, None]) / span[:, None, None]
            picture = np.rint(values).clip(0, 255).astype(np.uint8)
            picture = picture[0] if len(picture) == 1 else np.moveaxis(picture, 0, 2)
            attributes = vars(seen.example) | {"picture": np.ascontiguousarray(picture)}
            examples.append(Example(**attributes))
        return examples


def _sample(batch: Batch, row: int) -> Any:
    """Return one sample as the model takes it, without the batch's dimension."""

    def of(value: Any) -> Any:
        return value[row] if per_sample(value, batch.size) else value

    args = [of(value) for value in batch.args]
    named = {name: of(value) for name, value in batch.kwargs.items()}
    if named:
        return {**{str(place): value for place, value in enumerate(args)}, **named}
    return args[0] if len(args) == 1 else tuple(args)


def _seen(
    sample: Any,
    index: int,
    given: int,
    predicted: int,
    quality: float,
    show: Callable[[Any], Any] | None,
) -> _Seen:
    about: dict[str, Any] = {
        "index": index,
        "given": given,
        "predicted": predicted,
        "quality": quality,
    }
    if show is not None:
        try:
            sample = show(sample)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise DataError(
                f"show: raised {type(error).__name__} for sample {index}: {reason}"
            ) from error
    if isinstance(sample, str):
        return _Seen(Example(**about, text=_short(sample)))
    # A dict's first tensor stands for the sample.
    parts = sample.values() if isinstance(sample, Mapping) else sample
    if isinstance(sample, Mapping | tuple):
        sample = next((part for part in parts if isinstance(part, Tensor)), None)
    values = _as_numbers(sample)
    if values is None:
        return _Seen(Example(**about, text=f"a {type(sample).__name__}"))
    picture = _as_picture(values)
    if picture is not None:
        return _Seen(Example(**about), _smaller(picture), values.dtype == torch.uint8)
    if values.ndim > 1:
        shape = " × ".join(map(str, values.shape))
        return _Seen(Example(**about, text=f"{shape} numbers"))
    numbers = tuple(values.reshape(-1)[:_VALUES].tolist())
    return _Seen(Example(**about, numbers=numbers, width=values.numel()))


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"


def _as_numbers(sample: Any) -> Tensor | None:
    """Return the sample as a tensor on the CPU, or None if it has no numbers."""
    if isinstance(sample, Image.Image):
        sample = np.array(sample.convert("L" if sample.mode in ("1", "L", "I;16") else "RGB"))
    if isinstance(sample, list | tuple | int | float):
        try:
            sample = np.asarray(sample, dtype=np.float64)
        except (TypeError, ValueError):
            return None
    if isinstance(sample, np.ndarray | np.generic):
        if np.asarray(sample).dtype.kind not in "biuf":
            return None
        sample = torch.from_numpy(np.array(sample))
    if not isinstance(sample, Tensor) or sample.is_complex():
        return None
    return sample.detach().cpu()


def _as_picture(values: Tensor) -> Tensor | None:
    """Return (channels, height, width) with 1 or 3 channels, or None."""
    if values.ndim == 2 and min(values.shape) >= 4:
        return values[None]
    if values.ndim != 3:
        return None
    if values.shape[0] in (1, 3, 4):
        return values[: 3 if values.shape[0] > 1 else 1]
    if values.shape[2] in (1, 3, 4):
        return values.movedim(2, 0)[: 3 if values.shape[2] > 1 else 1]
    return None


def _smaller(picture: Tensor) -> NDArray[np.float32]:
    picture = picture.float()
    height, width = picture.shape[1:]
    scale = _SIDE / max(height, width, 1)
    if scale < 1:
        size = max(1, round(height * scale)), max(1, round(width * scale))
        picture = torch.nn.functional.adaptive_avg_pool2d(picture, size)
    return np.asarray(picture.numpy(), dtype=np.float32)


def save_examples(examples: Sequence[Example], folder: Path) -> None:
    """Write examples into a new folder: one JSON file, and a PNG file for each picture."""
    folder.mkdir()
    entries = []
    for place, example in enumerate(examples):
        name = None
        if example.picture is not None:
            name = f"{place:02d}.png"
            Image.fromarray(example.picture).save(folder / name, optimize=True)
        entries.append({**vars(example), "picture": name})
    text = json.dumps({"examples": entries}, indent=1, ensure_ascii=False)
    # A lone surrogate is all that UTF-8 cannot hold.
    (folder / _FILE).write_text(text + "\n", encoding="utf-8", errors="replace")


def load_examples(folder: Path) -> list[Example]:
    """Read what `save_examples` wrote.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError
        If it is missing or damaged.
    """
    stored = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    examples = []
    for entry in stored["examples"][:SHOWN]:
        name = entry.pop("picture")
        picture = None
        if name is not None:
            if not re.fullmatch(r"\d+\.png", name):
                raise ValueError(f"{_FILE}: expected a picture's name; found {name!r}")
            with Image.open(folder / name, formats=["PNG"]) as image:
                if max(image.size) > _SIDE:
                    raise ValueError(f"{name}: expected at most {_SIDE} pixels; found {image.size}")
                picture = np.array(image.convert("L" if image.mode == "L" else "RGB"))
        entry["numbers"] = tuple(float(value) for value in entry["numbers"])
        for name in ("index", "given", "predicted", "width"):
            entry[name] = int(entry[name])
        entry["quality"] = float(entry["quality"])
        text = entry["text"]
        entry["text"] = None if text is None else _short(str(text))
        examples.append(Example(**entry, picture=picture))
    return examples
