"""A chosen decoder: one layer of a model, and the estimator that reads it."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._capture import Tap, capture, undisturbed
from ._classifier import SubspaceClassifier
from ._device import device_of
from ._stream import Batch, Source, stream
from .discriminant import RidgeDiscriminant
from .errors import ModelError


class Decoder:
    """A better classifier from a memorised network: its layer, read by a closed-form decoder.

    Attributes
    ----------
    layer : str
        Name of the layer.
    probe : str
        Name of the decoder, such as ``"masc"``.
    estimator : RidgeDiscriminant or SubspaceClassifier
        The fitted scikit-learn estimator; it takes the layer's flattened outputs.
    model : torch.nn.Module or None
        The network; None after loading without it.
    """

    def __init__(
        self,
        tap: Tap,
        probe: str,
        estimator: SubspaceClassifier | RidgeDiscriminant,
        model: nn.Module | None,
    ):
        self.tap, self.probe, self.estimator, self.model = tap, probe, estimator, model

    @property
    def layer(self) -> str:
        """Name of the layer."""
        return self.tap.name

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
            for rows in stream(model, source, [self.tap], device_of(model), stage="decoding"):
                parts.append(self.estimator.decide(rows.layers[self.layer]).cpu())
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
        return DecodedModule(self._model(), self.tap, self.estimator)

    def _model(self) -> nn.Module:
        if self.model is None:
            raise ModelError(
                "this decoder was loaded without its network; give it: us.load(folder, model=…)"
            )
        return self.model


class DecodedModule(nn.Module):
    """A model whose answer is decoded from one of its layers instead of its read-out.

    Parameters
    ----------
    model : torch.nn.Module
        The network, not copied.
    tap : Tap
        The layer.
    estimator : RidgeDiscriminant or SubspaceClassifier
        The fitted decoder.
    """

    def __init__(
        self, model: nn.Module, tap: Tap, estimator: SubspaceClassifier | RidgeDiscriminant
    ):
        super().__init__()
        self.model, self.tap, self.estimator = model, tap, estimator

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return decision values (n, K) for the model's own arguments."""
        values = [value for value in [*args, *kwargs.values()] if isinstance(value, Tensor)]
        batch = Batch(args, kwargs, None, None, len(values[0]))
        with capture(self.model, [self.tap]) as tapped:
            tapped.see_input(batch, "batch")
            self.model(*args, **kwargs)
            rows = tapped.rows(batch, "batch")
        return self.estimator.decide(rows[self.tap.name])
