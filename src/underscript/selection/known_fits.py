"""Fits of the input, which are the same for all networks that are decoded with the same data."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..probes.random_features import FourierFeatures
from .fitting import Candidate, Fitted
from .kept_rows import KeptRows

__all__ = ["FitsOfLayer", "KnownFits"]

#: A layer's candidates, and its random features.
FitsOfLayer = tuple[dict[Candidate, Fitted], FourierFeatures | None]


class KnownFits:
    """Fits that were made before, found again by all that they depend on.

    Parameters
    ----------
    most : int
        Bytes that they may take; beyond that they are made again.
    """

    def __init__(self, most: int):
        self.most = most
        self._bytes = 0
        self._known: dict[bytes, FitsOfLayer] = {}

    def fits(
        self, kept: KeptRows, layer: str, settings: object, make: Callable[[], FitsOfLayer]
    ) -> FitsOfLayer:
        """Return a layer's fits: those of the same rows, labels and settings, or new ones.

        Parameters
        ----------
        kept : KeptRows
            The rows of all layers.
        layer : str
            The layer.
        settings : object
            All else on which the fits depend; equal settings have equal texts.
        make : callable
            Makes the fits.
        """
        key = _digest(kept, layer, settings)
        if key not in self._known:
            made = make()
            size = _bytes(made)
            if self._bytes + size <= self.most:
                self._bytes += size
                self._known[key] = _copied(made)
            return made
        return _copied(self._known[key])


def _digest(kept: KeptRows, layer: str, settings: object) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{layer} {settings!r}".encode())
    for fold in range(kept.folds):
        part = kept.part(fold)
        digest.update(part.labels.numpy().tobytes())
        digest.update(part.fingerprints.tobytes())
        for views in kept.blocks(layer, fold, range(kept.views)):
            for rows in views:
                digest.update(rows.cpu().numpy().tobytes())
    return digest.digest()


def _copied(fits: FitsOfLayer) -> FitsOfLayer:
    """Return fits whose scores can be changed in place."""
    fitted, maps = fits
    copies = {
        candidate: replace(one, plain=one.plain.clone(), moved=one.moved.clone())
        for candidate, one in fitted.items()
    }
    return copies, maps


def _bytes(fits: FitsOfLayer) -> int:
    fitted, maps = fits
    tensors: list[Tensor] = [] if maps is None else [maps.directions]
    for one in fitted.values():
        tensors += [one.plain, one.moved]
        tensors += [part.coefficients for part in (one.whole, *one.without)]
    return sum(tensor.nbytes for tensor in tensors)
