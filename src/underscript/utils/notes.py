"""What a long job records: warnings, each shown once, and seconds by stage."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..errors import DataError, LabelError, UnderscriptWarning


class Notes:
    """Warnings, each shown once with the layers that it is about."""

    def __init__(self) -> None:
        self._layers: dict[str, list[str]] = {}
        self._missing = False

    @property
    def messages(self) -> list[str]:
        """Return one line per warning."""
        return [
            message + (f" (layer {', '.join(dict.fromkeys(layers))})" if layers else "")
            for message, layers in self._layers.items()
        ]

    def add(self, message: str) -> None:
        """Record a warning that is not about a layer."""
        self._layers.setdefault(message, [])

    def missing(self, counts: Tensor) -> None:
        """Record which classes the training data lack."""
        present = int((counts > 0).sum())
        if present < 2:
            raise LabelError(f"train: expected labels of at least 2 classes; found {present}")
        lacking = torch.nonzero(counts == 0)[:, 0].tolist()
        if lacking:
            self._missing = True
            shown = ", ".join(map(str, lacking[:10])) + (" …" if len(lacking) > 10 else "")
            self._layers.setdefault(
                f"the training labels lack class {shown} of the {len(counts)} that the read-out "
                "knows: never predicted",
                [],
            )

    @contextmanager
    def gather(self, layer: str) -> Iterator[None]:
        """Collect the decoders' warnings about one layer."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UnderscriptWarning)
            try:
                yield
            except DataError as error:
                raise DataError(f"layer {layer!r}, {error}") from error
        for warning in caught:
            message = str(warning.message)
            if not issubclass(warning.category, UnderscriptWarning):
                warnings.warn_explicit(message, warning.category, warning.filename, warning.lineno)
            elif not (self._missing and "has no samples" in message):
                self._layers.setdefault(message, []).append(layer)

    def emit(self) -> None:
        """Show each warning once."""
        for message in self.messages:
            warnings.warn(message, UnderscriptWarning, stacklevel=3)


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a block."""
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began
