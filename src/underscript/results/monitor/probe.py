"""The fixed samples that a monitor reads the network on, as they are and slightly changed."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...activations.hooks import Tap, capture, undisturbed
from ...activations.layers import LayerChoice, resolve
from ...activations.perturbation import Perturbation, perturbation_by_kind
from ...activations.runner import Runner
from ...activations.trace import survey
from ...data.batches import Batch
from ...data.fingerprints import fingerprints_of
from ...data.source import Source, known_index
from ...errors import DataError, LabelError
from ...utils.device import device_of
from ...utils.labels import Labels, check_range
from ...utils.notes import Notes
from .narrowing import Narrowing

__all__ = ["ProbeReader", "ProbeRows", "ProbeSet"]

# Samples in a batch; and how many are read twice, to see whether the data repeat themselves.
_AT_ONCE, _TWICE = 256, 16
# Inputs up to this size are kept; larger ones are read again at each epoch.
_KEPT = 1 << 28


class ProbeSet:
    """Some samples of the training data, the same at every epoch.

    Parameters
    ----------
    data : Dataset, DataLoader or pair of arrays
        Training data with the labels that the network is trained on.
    n : int
        At most so many samples, chosen by the seed.
    seed : int
        Seed of the choice.
    role : str
        Name of the data in messages.

    Attributes
    ----------
    index, labels : ndarray of int64, shape (n,)
        The samples' places in the data set, and given labels.
    fingerprint : str
        A hash of all inputs and labels.

    Raises
    ------
    DataError
        If the data have no length or fixed order, or give other inputs when they are read again.
    LabelError
        If they carry no labels, or only one class.
    """

    def __init__(self, data: Any, n: int, seed: int, role: str = "probe"):
        self._role = role
        self._source = Source(data, role, batch_size=_AT_ONCE)
        places = self._source.places
        chosen = np.random.default_rng(seed).permutation(len(places))[:n]
        self._places = places[np.sort(chosen)]
        self._kept: list[Batch] | None = None
        with undisturbed(nn.Identity()):
            batches = list(self._read(self._places))
            again = next(self._read(self._places[:_TWICE]))
        if (fingerprints_of(again) != fingerprints_of(batches[0])[:_TWICE]).any():
            raise DataError(
                f"{role}: the data gave other inputs when they were read again, so nothing can be "
                "compared between epochs: give the training data without random augmentation"
            )
        if batches[0].labels is None:
            raise LabelError(f"{role}: expected labels; the data carry none: give (x, y)")
        self.labels: Labels = np.concatenate([b.labels for b in batches if b.labels is not None])
        self.index: Labels = np.concatenate([known_index(b, role, "samples") for b in batches])
        if len(np.unique(self.labels)) < 2:
            raise LabelError(f"{role}: expected labels of at least 2 classes; found one")
        self.fingerprint = self._hashed(batches)
        if sum(_bytes_of(batch) for batch in batches) <= _KEPT:
            self._kept = batches

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self) -> Iterator[Batch]:
        """Yield the samples, always the same.

        Raises
        ------
        DataError
            If inputs or labels are not those of the first time.
        """
        if self._kept is not None:
            yield from self._kept
            return
        seen = []
        for batch in self._read(self._places):
            seen.append(self._numbers(batch))
            yield batch
        if hashlib.sha256(b"".join(seen)).hexdigest() != self.fingerprint:
            raise DataError(
                f"{self._role}: inputs or labels are not those of the first epoch; they must stay "
                "the same. Give data that do not change, or start a new monitor"
            )

    def _read(self, places: Labels) -> Iterator[Batch]:
        return self._source.reordered(places, _AT_ONCE)

    def _hashed(self, batches: list[Batch]) -> str:
        return hashlib.sha256(b"".join(self._numbers(batch) for batch in batches)).hexdigest()

    @staticmethod
    def _numbers(batch: Batch) -> bytes:
        labels = b"" if batch.labels is None else batch.labels.tobytes()
        return fingerprints_of(batch).tobytes() + labels


class ProbeRows:
    """A network's layers and predictions on the probe.

    Attributes
    ----------
    layers : dict of str to list of Tensor, float32, shape (n, at most 512)
        Each layer's rows, narrowed: for inputs as they are, then for each perturbed view.
    logits : list of Tensor, float32, shape (n, K)
        The same for the network's logits.
    fits : bool
        Whether decoders may be fitted to perturbed rows.
    unchanged : tuple of str
        Layers whose rows are the same at every epoch: the input.
    """

    def __init__(
        self,
        layers: dict[str, list[Tensor]],
        logits: list[Tensor],
        fits: bool,
        unchanged: tuple[str, ...] = (),
    ):
        self.layers, self.logits, self.fits, self.unchanged = layers, logits, fits, unchanged


class ProbeReader:
    """Reads a network on the probe, and leaves it as it was.

    Parameters
    ----------
    probe : ProbeSet
        The samples.
    layers : LayerChoice
        As for `decode`.
    perturb : {"auto", "overlays", "none"} or callable
        As for `decode`; but that the network keeps its predictions is not tested, for it may not
        be trained yet, and images are not flipped.
    views : int
        Perturbed views of each sample.
    seed : int
        Seed of the perturbation.
    narrow : bool
        Whether wide rows are made narrow.
    """

    def __init__(
        self,
        probe: ProbeSet,
        layers: LayerChoice,
        perturb: str | Callable[[Any], Any],
        views: int,
        seed: int,
        narrow: bool = True,
    ):
        self.probe, self.views, self.seed = probe, views, seed
        self.notes = Notes()
        self._fixed: tuple[str, ...] = ()
        self._layers, self._perturb = layers, perturb
        self._taps: list[Tap] = []
        self._narrows = narrow
        self._narrow: dict[str, Narrowing] = {}
        # The input never changes, so it is read once.
        self._input: dict[str, list[Tensor]] = {}
        self._perturbation: Perturbation | None = None

    def read(self, model: nn.Module) -> ProbeRows:
        """Run the network once over the probe and its perturbed views.

        Raises
        ------
        LayerError, ModelError
            If a layer is not there, or the network raises.
        LabelError
            If a label is outside the network's classes.
        """
        device = device_of(model)
        if not self._taps:
            self._begin(model)
        taps = [tap for tap in self._taps if tap.name not in self._input]
        layers: dict[str, list[list[Tensor]]] = {tap.name: [] for tap in taps}
        logits: list[list[Tensor]] = []
        views = range(self.views if self._perturbation is not None else 0)
        with undisturbed(model), capture(model, taps) as tapped:
            run = Runner(model, tapped, device, divisible=True)
            for batch in self.probe.batches():
                changed = [batch]
                if self._perturbation is not None:
                    changed += [self._perturbation(batch, view) for view in views]
                found = [run(each, "probe") for each in changed]
                logits.append([values.float() for _, values in found])
                for name, parts in layers.items():
                    of_views = [rows[name].float() for rows, _ in found]
                    narrow = self._narrow.get(name)
                    parts.append(of_views if narrow is None else [narrow(x) for x in of_views])
        joined = self._input | {
            name: [torch.cat(part) for part in zip(*parts, strict=True)]
            for name, parts in layers.items()
        }
        self._input = {name: rows for name, rows in joined.items() if name in self._fixed}
        fits = self._perturbation is not None and self._perturbation.fits
        both = [torch.cat(part) for part in zip(*logits, strict=True)]
        return ProbeRows(joined, both, fits, tuple(self._input))

    def agrees(self, model: nn.Module, data: ProbeSet) -> NDArray[np.float32]:
        """Return whether the network predicts each given label of other data, float32 (m,)."""
        device, agrees = device_of(model), []
        with undisturbed(model), capture(model, ()) as tapped:
            run = Runner(model, tapped, device, divisible=True)
            for batch in data.batches():
                _, logits = run(batch, "holdout")
                agrees.append(logits.argmax(1).cpu().numpy() == batch.labels)
        return np.concatenate(agrees).astype(np.float32)

    def of_layers(self, layers: LayerChoice) -> "ProbeReader":
        """Return a reader of other layers, for the same inputs, that leaves their rows whole."""
        return ProbeReader(self.probe, layers, self._perturb, self.views, self.seed, narrow=False)

    def _begin(self, model: nn.Module) -> None:
        """Find the layers and the perturbation, on the first network."""
        example = next(iter(self.probe.batches()))
        seen = survey(model, example.take(np.arange(example.size) < 3))
        check_range(self.probe.labels, seen.n_classes, self.probe.index, "probe")
        if callable(self._perturb):
            self._perturbation = Perturbation("own", True, self.seed, own=self._perturb)
        elif self._perturb != "none":
            overlaid = self._perturb == "overlays"
            self._perturbation = perturbation_by_kind(
                model, example, self.seed, self.notes, overlaid
            )
        places = resolve(seen, model, self._layers)
        self._taps = [place.tap for place in places]
        self._fixed = tuple(tap.name for tap in self._taps if tap.side == "model")
        if self._narrows:
            self._narrow = {p.tap.name: Narrowing(p, seen.axes, self.seed) for p in places}


def _bytes_of(batch: Batch) -> int:
    return sum(
        value.nbytes for value in (*batch.args, *batch.kwargs.values()) if isinstance(value, Tensor)
    )
