"""A chosen decoder: one layer of a model or several, and the estimator that reads them."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._capture import Tap, capture, undisturbed
from ._classifier import SubspaceClassifier
from ._device import device_of
from ._features import Features
from ._stream import Batch, Source, stream
from .combined import COMBINED, CombinedDiscriminant, rows_for
from .errors import ModelError
from .selection import Key


class Decoder:
    """A better classifier from a memorised network: its layers, read by a closed-form decoder.

    Attributes
    ----------
    layer : str
        Name of the layer, or ``"(combined)"`` for several.
    layers : tuple of str
        Names of the layers that are read, the leading one first.
    probe : str
        Name of the decoder, such as ``"masc"``.
    estimator : CombinedDiscriminant or SubspaceClassifier
        What was fitted; it takes the layer's flattened outputs (of several, a mapping of them).
    model : torch.nn.Module or None
        The network; None after loading without it.
    """

    def __init__(
        self,
        taps: Sequence[Tap],
        layer: str,
        probe: str,
        estimator: SubspaceClassifier | CombinedDiscriminant,
        model: nn.Module | None,
    ):
        self.taps, self.layer, self.probe = tuple(taps), layer, probe
        self.estimator, self.model = estimator, model

    @classmethod
    def of(
        cls,
        key: Key,
        estimator: SubspaceClassifier | CombinedDiscriminant,
        taps: Sequence[Tap],
        model: nn.Module | None,
    ) -> Self:
        """Return the decoder of this name, with those of the taps that it reads."""
        layers: Sequence[str] = (key.layer,)
        if isinstance(estimator, CombinedDiscriminant) and key.layer == COMBINED:
            layers = estimator.layers
        by_name = {tap.name: tap for tap in taps}
        return cls([by_name[layer] for layer in layers], key.layer, key.probe, estimator, model)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that are read."""
        return tuple(tap.name for tap in self.taps)

    def __repr__(self) -> str:
        return f"Decoder(layer={self.layer!r}, estimator={self.estimator!r})"

    def predict(self, x: Any) -> NDArray[np.int64]:
        """Return the decoded class of each input, int64 (n,).

        Parameters
        ----------
        x : array or Tensor of inputs, Dataset, DataLoader or pair of arrays
            Inputs as the model takes them; labels, if there are any, are not looked at.

        Raises
        ------
        ModelError
            If there is no model, or it raises.
        DataError
            If the inputs cannot be read.
        """
        return np.asarray(self.decision_function(x).argmax(1), dtype=np.int64)

    def decision_function(self, x: Any) -> NDArray[np.floating[Any]]:
        """Return the decision values of each input, shape (n, K); see `predict`.

        For MASC these are cos²θ_k; −inf for a class that the training data lacked.
        """
        model = self._model()
        source = Source(x, "inputs")
        parts = []
        with undisturbed(model):
            for rows in stream(model, source, self.taps, device_of(model), stage="decoding"):
                parts.append(self.estimator.decide(rows_for(self.layer, rows.layers)).cpu())
        return np.asarray(torch.cat(parts).numpy())

    def predict_proba(self, x: Any) -> NDArray[np.floating[Any]]:
        """Return the probability of each class for each input, shape (n, K); see `predict`.

        Calibrated on noisy labels for the decoder that `decode` chooses by default. MASC and
        VeLPIC have none.

        Raises
        ------
        AttributeError
            If the decoder has no probabilities.
        """
        if not hasattr(self.estimator, "predict_proba"):
            raise AttributeError(f"{self.probe} has no probabilities; decode with auto=True")
        values = torch.from_numpy(self.decision_function(x))
        return np.asarray(torch.softmax(values, 1).numpy())

    @property
    def module(self) -> nn.Module:
        """An `nn.Module` that runs the model up to its end and returns decision values (n, K)."""
        return DecodedModule(self._model(), self.taps, self.layer, self.estimator)

    def _model(self) -> nn.Module:
        if self.model is None and all(tap.side == "model" for tap in self.taps):
            return Features(len(self.estimator.classes_))
        if self.model is None:
            raise ModelError(
                "this decoder was loaded without its network; give it: us.load(folder, model=…)"
            )
        return self.model


class DecodedModule(nn.Module):
    """A model whose answer is decoded from its layers instead of its read-out.

    Parameters
    ----------
    model : torch.nn.Module
        The network, not copied.
    taps : sequence of Tap
        The layers.
    layer : str
        What the decoder reads: a layer's name or ``"(combined)"``.
    estimator : CombinedDiscriminant or SubspaceClassifier
        The fitted decoder.
    """

    def __init__(
        self,
        model: nn.Module,
        taps: Sequence[Tap],
        layer: str,
        estimator: SubspaceClassifier | CombinedDiscriminant,
    ):
        super().__init__()
        self.model, self.taps, self.layer, self.estimator = model, tuple(taps), layer, estimator

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return decision values (n, K) for the model's own arguments."""
        values = [value for value in [*args, *kwargs.values()] if isinstance(value, Tensor)]
        batch = Batch(args, kwargs, None, None, len(values[0]))
        with capture(self.model, self.taps) as tapped:
            tapped.see_input(batch, "batch")
            self.model(*args, **kwargs)
            rows = tapped.rows(batch, "batch")
        return self.estimator.decide(rows_for(self.layer, rows))
