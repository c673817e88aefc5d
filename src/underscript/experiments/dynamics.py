"""S1 and S2, the sequel's experiments (arXiv 2603.19865): what layers know along training.

S1 fits MASC and VeLPIC to each layer with the corrupted labels. S2 writes VeLPIC's vectors of the
last hidden layer into the read-out of a copy of the network, bias zero, and does not train on.
Test accuracy is measured with clean labels and chooses nothing; only the tables name best epochs
and layers, as oracles.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..activations.copies import copied
from ..activations.hooks import undisturbed
from ..activations.layers import resolve
from ..activations.trace import survey
from ..data.source import Source
from ..linalg.moments import statistics_for
from ..probes.classifier import fit_together
from ..probes.subspace import MinimumAngleSubspaceClassifier, PrincipalVectorClassifier
from ..repair.read_out import find_read_out, rewrite
from .training import Readings, measure_accuracy
from .work import Work

__all__ = ["COLUMNS", "NETWORK", "TRANSFERRED", "is_read", "peaks", "readings_of", "wanted"]

# Names of the networks in the column `model`.
NETWORK, TRANSFERRED = "trained", "transferred"
COLUMNS = (
    "experiment",
    "corruption",
    "run",
    "epoch",
    "model",
    "layer",
    "width",
    "probe",
    "variance",
    "bias",
    "split",
    "labels",
    "n",
    "accuracy",
)
# Rows that differ in nothing of this but the epoch are one curve.
CURVE = ["experiment", "corruption", "model", "layer", "probe", "variance", "bias", "split"]
# The sequel's epochs: each of the first two, every second up to here, then every fifth.
_EVERY_SECOND = 20


def is_read(epoch: int) -> bool:
    """Say whether the sequel looks at an epoch: 0, 1, 2, 4, 6 … 20, then every fifth."""
    return epoch <= 1 or epoch % (2 if epoch <= _EVERY_SECOND else 5) == 0


def wanted(only: Sequence[str]) -> bool:
    """Say whether a plan's experiments need readings along training."""
    return not {"S1", "S2"}.isdisjoint(only)


def readings_of(work: Work) -> Readings:
    """Return what to measure along a cell's training."""
    return Readings(is_read, lambda network, epoch: _read(work, network, epoch))


def _read(work: Work, network: nn.Module, epoch: int) -> list[dict[str, Any]]:
    """Return S1's and S2's rows of one epoch."""
    from .probes import layers_of  # scikit-learn's probes take a while to import

    train, test = work.data.train, work.data.test
    images, true = torch.from_numpy(test.images), torch.from_numpy(test.true)
    given = torch.from_numpy(train.given)
    about = {"epoch": epoch, "model": NETWORK, "split": "test", "labels": "given", "n": len(true)}
    own = {**about, "experiment": "S1", "layer": "output", "width": work.data.n_classes}
    rows = [
        {**own, "probe": "model", "accuracy": measure_accuracy(network, images, true)},
        {
            **own,
            "probe": "model",
            "split": "train",
            "n": len(given),
            "accuracy": measure_accuracy(network, torch.from_numpy(train.images), given),
        },
    ]
    # The input, a control, is the same at every epoch.
    layers = [name for name in work.plan.pair.layers if epoch == 0 or name != "input"]
    vectors: dict[str, Tensor] = {}
    for layer in layers_of(work, network, layers):
        width = layer.train.shape[1]
        statistics = statistics_for(work.data.n_classes, width, len(given))
        statistics.update(torch.from_numpy(layer.train), given)
        masc = MinimumAngleSubspaceClassifier(variance=work.plan.variance)
        velpic = PrincipalVectorClassifier()
        fit_together(statistics, [masc, velpic])
        vectors[layer.name] = velpic.tensors()["principal"]
        for name, probe in (("masc", masc), ("velpic", velpic)):
            accuracy = float((probe.predict(layer.test) == test.true).mean())
            variance = work.plan.variance if name == "masc" else None
            of_layer = {"layer": layer.name, "width": width, "probe": name, "variance": variance}
            rows.append({**about, "experiment": "S1", **of_layer, "accuracy": accuracy})
    return rows + _transferred(work, network, vectors, about)


def _transferred(
    work: Work, network: nn.Module, vectors: dict[str, Tensor], about: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return test accuracies of copies of a network with another read-out."""
    data = work.data
    example = Source((data.train.images[:3], data.train.given[:3]), "train").first(3)
    with undisturbed(network):
        seen = survey(network, example, torch.device(work.plan.device), "flatten")
        target = find_read_out(seen, network, resolve(seen, network, work.plan.pair.layers))
    assert not isinstance(target, str), target
    weight = vectors[target.layer]
    rows = []
    for bias in ("zero", "kept") if target.bias is not None else ("zero",):
        repaired = copied(network)
        layer = repaired.get_submodule(target.module)
        assert isinstance(layer, nn.Linear)
        rewrite(layer, weight, target.bias if bias == "kept" else None)
        images, true = torch.from_numpy(data.test.images), torch.from_numpy(data.test.true)
        accuracy = measure_accuracy(repaired, images, true)
        names = {"model": TRANSFERRED, "layer": target.layer, "width": weight.shape[1]}
        own = {"experiment": "S2", **names, "probe": "velpic", "bias": bias}
        rows.append({**about, **own, "accuracy": accuracy})
    return rows


def peaks(dynamics: pd.DataFrame) -> pd.DataFrame:
    """Return where each curve of test accuracies begins, is highest and ends.

    Parameters
    ----------
    dynamics : pandas.DataFrame
        From `dynamics_table`.

    Returns
    -------
    pandas.DataFrame
        A row for each run and curve: columns `CURVE`, `run`, `before` (at epoch 0), `best_epoch`,
        `best` (an oracle, as clean test labels choose it), `end_epoch`, `end`.
    """
    found = []
    test = dynamics[dynamics["split"] == "test"]
    for key, curve in test.groupby([*CURVE, "run"], dropna=False, sort=False):
        ordered = curve.sort_values("epoch")
        values = ordered["accuracy"].to_numpy(np.float64)
        epochs = ordered["epoch"].to_numpy(np.int64)
        at = int(values.argmax())
        found.append(
            {
                **dict(zip([*CURVE, "run"], key, strict=True)),
                "before": float(values[0]) if epochs[0] == 0 else float("nan"),
                "best_epoch": int(epochs[at]),
                "best": float(values[at]),
                "end_epoch": int(epochs[-1]),
                "end": float(values[-1]),
            }
        )
    columns = [*CURVE, "run", "before", "best_epoch", "best", "end_epoch", "end"]
    return pd.DataFrame(found, columns=columns)
