"""A chosen decoder: one or several layers of a model, and the estimator that reads them."""

import json
import os
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..activations.features import Features
from ..activations.hooks import Tap, undisturbed
from ..activations.perturbation import Perturbation
from ..activations.stream import stream_views
from ..activations.together import Together
from ..data.batches import Batch
from ..data.input_form import InputForm, parameters_of
from ..data.source import Source
from ..errors import DataError, ModelError
from ..probes.classifier import SubspaceClassifier
from ..probes.ensemble import COMBINED, CombinedDiscriminant, rows_for
from ..repair.module import DecodedModule
from ..repair.onnx import export_onnx
from ..repair.recording import RecordedDecoder
from ..repair.tracing import CHECKED
from ..selection import Key
from ..utils.device import device_of
from ..utils.hints import DECODER
from ..utils.near_names import missing_attribute
from ..utils.progress import Progress


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
        Takes the layer's flattened outputs, or a mapping of them for several layers.
    model : torch.nn.Module or None
        The network; None after loading without it.
    example : Batch or None
        A few inputs, for `export`; None after loading.
    perturbation : Perturbation or None
        How inputs were changed to choose it; None after loading.
    inputs : InputForm or None
        Names and shapes of the model's inputs when it was decoded.
    recorded : RecordedDecoder, str or None
        Predicts in place of the network, or the reason why the run folder has no such recording;
        None unless the run was loaded without a network, or without checkpoints that are read.
    steps : tuple of int
        Steps of the earlier checkpoints that are read; empty if only the network itself is.
    together : Together or None
        The network with these checkpoints; None without any, and after loading without them.
    """

    def __init__(
        self,
        taps: Sequence[Tap],
        layer: str,
        probe: str,
        estimator: SubspaceClassifier | CombinedDiscriminant,
        model: nn.Module | None,
        *,
        example: Batch | None = None,
        recorded: RecordedDecoder | str | None = None,
        perturbation: Perturbation | None = None,
        inputs: InputForm | None = None,
        steps: Sequence[int] = (),
        together: Together | None = None,
    ):
        self.steps, self.together = tuple(steps), together
        self.perturbation = perturbation
        self.inputs = InputForm.of(example) if example is not None else inputs
        self.taps, self.layer, self.probe = tuple(taps), layer, probe
        self.estimator, self.model = estimator, model
        self.example, self.recorded = example, recorded

    @classmethod
    def of(
        cls,
        key: Key,
        estimator: SubspaceClassifier | CombinedDiscriminant,
        taps: Sequence[Tap],
        model: nn.Module | None,
        example: Batch | None = None,
        perturbation: Perturbation | None = None,
    ) -> Self:
        """Return the decoder with this key; it keeps the taps and checkpoints that it reads."""
        layers: Sequence[str] = (key.layer,)
        if isinstance(estimator, CombinedDiscriminant) and key.layer == COMBINED:
            layers = estimator.layers
        by_name = {tap.name: tap for tap in taps}
        read = [by_name[layer] for layer in layers]
        together = None
        if isinstance(model, Together):
            needed, read = model.for_taps(read)
            model, together = model.own, needed if isinstance(needed, Together) else None
        return cls(
            read,
            key.layer,
            key.probe,
            estimator,
            model,
            example=example,
            perturbation=perturbation,
            steps=() if together is None else together.steps,
            together=together,
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that are read."""
        return tuple(tap.name for tap in self.taps)

    @property
    def reads_only_input(self) -> bool:
        """Whether it reads nothing but the network's input, so that it needs no network."""
        return all(tap.side == "model" for tap in self.taps)

    # Hidden from type checkers, which otherwise allow any attribute.
    if not TYPE_CHECKING:

        def __getattr__(self, name):
            return missing_attribute(self, name, DECODER)

    def __repr__(self) -> str:
        return f"Decoder(layer={self.layer!r}, estimator={self.estimator!r})"

    def predict(self, x: Any, views: int = 0) -> NDArray[np.int64]:
        """Return the decoded class of each input, int64 (n,).

        Parameters
        ----------
        x : array or Tensor of inputs, Dataset, DataLoader or pair of arrays
            Inputs as the model takes them: also a dict of tensors, such as a tokenizer returns, a
            tuple of a model's several inputs, or a table of features. The first dimension is that
            of the samples. Labels, if any, are ignored.
        views : int
            Also decode so many perturbed copies of each input, and average all decision values.
            Each copy costs a run of the network.

        Raises
        ------
        ModelError
            If there is no model, or it raises.
        DataError
            If the inputs cannot be read, one is missing, or it is one sample that is no batch.
        """
        return np.asarray(self.decision_function(x, views).argmax(1), dtype=np.int64)

    def decision_function(self, x: Any, views: int = 0) -> NDArray[np.floating[Any]]:
        """Return the decision values of each input, shape (n, K); see `predict`.

        For MASC these are cos²θ_k; −inf for a class that the training data lacked.
        """
        changes = self._changes(views)
        x = x if self.inputs is None else self.inputs.arranged(x)
        source = Source(x, "inputs", labelled=False, prepare=self._prepared)
        parts = []
        if not changes and not self._runs and isinstance(self.recorded, RecordedDecoder):
            for batch in source.batches():
                parts.append(self.recorded.decide(batch))
            return np.asarray(torch.cat(parts).numpy())
        model = self._model()
        with undisturbed(model), Progress.of_one("decoding") as bar:
            for seen in stream_views(
                model, source, self.taps, device_of(model), changes, stage="decoding", progress=bar
            ):
                values = [self.estimator.decide(rows_for(self.layer, r.layers)) for r in seen]
                parts.append((torch.stack(values).sum(0) / len(values)).cpu())
        return np.asarray(torch.cat(parts).numpy())

    def _prepared(self, batch: Batch) -> Batch:
        """Return a batch with its inputs as when the model was decoded, after checking them."""
        if self.inputs is None:
            return batch
        return self.inputs.check(batch, parameters_of(self.model))

    def _changes(self, views: int) -> list[Callable[[Batch], Batch]]:
        """Return the functions that make the perturbed copies of a batch.

        Raises
        ------
        DataError
            If `views` is not a count, or the decoder does not know how to perturb inputs.
        """
        if isinstance(views, bool) or not isinstance(views, int) or views < 0:
            raise DataError(f"views: expected a whole number of at least 0; found {views!r}")
        if not views:
            return []
        if self.perturbation is None or not self.perturbation.fits:
            what = "no perturbation" if self.perturbation is None else "only noise"
            raise DataError(
                f"views: expected a decoder that knows how to perturb inputs so that they mean the "
                f"same; this one knows {what}. Decode with perturb=, or leave views at 0"
            )
        return [partial(self.perturbation, view=view) for view in range(views)]

    def predict_proba(self, x: Any, views: int = 0) -> NDArray[np.floating[Any]]:
        """Return the probability of each class for each input, shape (n, K); see `predict`.

        The decoder that `decode` chooses by default is calibrated on noisy labels. MASC and VeLPIC
        have no probabilities.

        Raises
        ------
        AttributeError
            If the decoder has no probabilities.
        """
        if not hasattr(self.estimator, "predict_proba"):
            raise AttributeError(f"{self.probe} has no probabilities; decode with auto=True")
        values = torch.from_numpy(self.decision_function(x, views))
        return np.asarray(torch.softmax(values, 1).numpy())

    @cached_property
    def module(self) -> DecodedModule:
        """An `nn.Module` that runs a copy of the model up to the layers and decodes there.

        It takes what the model takes, as tensors, and returns decision values (n, K); a tokenizer's
        output is given by names, ``module(**encoding)``. Its buffers hold what was
        fitted. Moving or changing it does not change the model.
        """
        return self.new_module()

    def new_module(self) -> DecodedModule:
        """Return a new `module`, which is not kept: it holds a copy of the network."""
        return DecodedModule(self._model(), self.taps, self.estimator, self.inputs)

    def export(self, path: str | os.PathLike[str], example: Any = None) -> None:
        """Write an ONNX file that predicts as `module` does, for batches of any size.

        onnxruntime tests the file before it is put in place. Its one output is
        ``decision_values`` (n, K); its inputs have the names that the model gives them.

        Parameters
        ----------
        path : path
            Ends in ``.onnx``. Written whole or not at all.
        example : Dataset, DataLoader, pair of arrays or array of inputs, optional
            Data to take a few inputs from; by default the first of the training data. A loaded
            decoder has none.

        Raises
        ------
        ModelError
            If there is no model, it cannot be exported, the file predicts unlike torch, or the
            extra ``onnx`` is not installed.
        DataError
            If there is no example or it cannot be read, or the path has another ending.
        OutputError
            If the file cannot be written.
        """
        path = Path(path)
        if path.suffix != ".onnx":
            raise DataError(f"{path}: expected a name that ends in .onnx")
        module = self.module
        if example is None and self.example is None:
            raise DataError("a decoder that was loaded has no inputs to trace: give example=")
        batch = self.example
        if example is not None:
            batch = Source(example, "example", labelled=False).first(CHECKED)
        assert batch is not None
        from .._version import __version__

        about = {
            "underscript": __version__,
            "decoder": self.probe,
            "layers": json.dumps(self.layers),
        }
        export_onnx(module, batch, path, about)

    @property
    def _runs(self) -> bool:
        """Whether all networks that are read are at hand."""
        return self.model is not None and (not self.steps or self.together is not None)

    def _model(self) -> nn.Module:
        """Return the model, with checkpoints that are read; a stand-in if only the input is read.

        Raises
        ------
        ModelError
            If it was loaded without one, or without those checkpoints.
        """
        if self.model is None and self.reads_only_input:
            return Features(len(self.estimator.classes_))
        if self.model is None or not self.steps:
            return self._network()
        if self.together is None:
            shown = ", ".join(map(str, self.steps))
            raise ModelError(
                f"this needs the checkpoints of steps {shown}, and the decoder was loaded without "
                "them: give them, us.load(folder, model=…, checkpoints=…), --checkpoints"
            )
        return self.together

    def _network(self) -> nn.Module:
        """Return the network, whatever the decoder reads.

        Raises
        ------
        ModelError
            If it was loaded without one.
        """
        if self.model is None:
            why = f" ({self.recorded})" if isinstance(self.recorded, str) else ""
            raise ModelError(
                "this needs the network, and the decoder was loaded without it: give it, "
                f"us.load(folder, model=…){why}"
            )
        return self.model
