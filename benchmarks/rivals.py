"""Rivals that need neither retraining nor clean labels, side by side on one network.

`rivals` returns a table: the network itself; SAP; the robust discriminants of all layers together
(RoG); and the read-out fitted again to shifted and flipped inputs. Only a row that is called an
oracle uses the test data to choose.

    python -m benchmarks.rivals c0.25-0 --root ROOT --networks runs/networks --out runs/rivals

writes the table of a network of `benchmarks.networks`; `benchmarks.decoder` decodes the same one.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from underscript.activations.hooks import undisturbed
from underscript.activations.stream import stream
from underscript.activations.trace import Place, survey
from underscript.data.source import Source
from underscript.probes.baselines import RobustDiscriminant
from underscript.probes.discriminant import ClassSums, Linear, PooledMoments
from underscript.repair.sap import sap
from underscript.utils.device import as_device, device_of
from underscript.utils.distributed import ALONE

Pair = tuple[Tensor, np.ndarray]

# Of what is added to the covariance for the perturbed read-out; the hold-out chooses.
RIDGES = (0.001, 0.01, 0.1, 1.0)
COPIES = 3
MOST = 4


def rivals(
    model: nn.Module,
    train: Pair,
    holdout: Pair | None,
    test: Pair,
    *,
    n_trusted: int = 1000,
    device: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return a row for each way: `way`, `chosen`, `accuracy` (of the test data), `seconds`.

    Parameters
    ----------
    model : torch.nn.Module
        A network that memorised its training labels; it stays as it is.
    train, holdout : pair of inputs, Tensor (n, …), and noisy labels (n,)
        Without a hold-out, SAP has no alpha but the oracle's, RoG's layers count the same, and the
        read-out takes the ridge of 0.1.
    test : pair of inputs and clean labels
        To measure by, and for the oracle to choose by.
    n_trusted : int
        Samples that SAP trusts.
    device : str, optional
        Where to compute; by default where the model is.
    seed : int
        Of all that is drawn.
    """
    lines: list[dict[str, Any]] = []

    def timed(way: str, run: Any) -> None:
        began = time.perf_counter()
        accuracy, chosen = run()
        seconds = time.perf_counter() - began
        lines.append({"way": way, "chosen": chosen, "accuracy": accuracy, "seconds": seconds})

    def by_sap(chooser: Pair) -> tuple[float, str]:
        repaired, report = sap(
            model, train, chooser, n_trusted=n_trusted, device=device, seed=seed, progress=False
        )
        return accuracy_of(repaired, test, device), f"alpha {report.alpha:g}"

    timed("the network itself", lambda: (accuracy_of(model, test, device), ""))
    if holdout is not None:
        timed("SAP", lambda: by_sap(holdout))
    timed("SAP, alpha by test labels (oracle)", lambda: by_sap(test))
    timed("RoG, all layers", lambda: Rog(model, train, holdout, device).accuracy(test))
    if train[0].ndim == 4:
        timed(
            "read-out fitted to perturbed rows",
            lambda: PerturbedReadOut(model, train, holdout, device, seed).accuracy(test),
        )
    return pd.DataFrame(lines)


class Rog:
    """Robust discriminants of every layer, whose probabilities are added up.

    As in RoG their weights are those of the largest likelihood of held-out noisy labels.
    """

    def __init__(self, model: nn.Module, train: Pair, holdout: Pair | None, device: str | None):
        self.model, self.device = model, device
        self.places = layers_of(model, train)
        rows = rows_of(model, train[0], self.places, device)
        self.probes = {name: RobustDiscriminant().fit(rows.pop(name), train[1]) for name in [*rows]}
        self.classes = np.unique(train[1])
        self.weights = np.full(len(self.probes), 1 / len(self.probes))
        if holdout is not None:
            known = np.isin(holdout[1], self.classes)
            own = np.searchsorted(self.classes, holdout[1][known])
            chances = self._by_layer(holdout[0])[:, known]
            self.weights = mixture_weights(chances[:, np.arange(len(own)), own])

    def _by_layer(self, inputs: Tensor) -> np.ndarray:
        rows = rows_of(self.model, inputs, self.places, self.device)
        return np.stack([_probabilities(probe, rows[name]) for name, probe in self.probes.items()])

    def chances(self, inputs: Tensor) -> np.ndarray:
        """Return the probability of each class, (n, K)."""
        return np.asarray(np.einsum("l,lnk->nk", self.weights, self._by_layer(inputs)))

    def accuracy(self, test: Pair) -> tuple[float, str]:
        """Return the accuracy on test data, and the weights of layers in words."""
        pairs = zip(self.probes, self.weights, strict=True)
        told = ", ".join(f"{name} {weight:.2f}" for name, weight in pairs if weight > 0.01)
        found = self.classes[self.chances(test[0]).argmax(1)]
        return float((found == test[1]).mean()), told


def mixture_weights(likelihoods: np.ndarray, steps: int = 200) -> np.ndarray:
    """Return the weights (L,) of largest likelihood, of each layer's chances of labels (L, n)."""
    weights = np.full(len(likelihoods), 1 / len(likelihoods))
    likelihoods = np.maximum(likelihoods, 1e-12)
    for _ in range(steps):
        parts = weights[:, None] * likelihoods
        weights = (parts / parts.sum(0)).mean(1)
    return weights


class PerturbedReadOut:
    """The last hidden layer's read-out, fitted to plain images and shifted, flipped copies."""

    def __init__(
        self,
        model: nn.Module,
        train: Pair,
        holdout: Pair | None,
        device: str | None,
        seed: int,
        copies: int = COPIES,
    ):
        self.model, self.device = model, device
        self.places = layers_of(model, train)[-1:]
        generator = torch.Generator().manual_seed(seed)
        perturbed = (self.rows(shifted(train[0], generator)) for _ in range(copies))
        found = perturbed_read_out(
            self.rows(train[0]), perturbed, torch.as_tensor(train[1]), RIDGES
        )
        self.ridge = 0.1
        if holdout is not None:
            held = self.rows(holdout[0])
            self.ridge = max(found, key=lambda each: _share(found[each], held, holdout[1]))
        self.linear = found[self.ridge]

    def rows(self, images: Tensor) -> Tensor:
        """Return the layer's rows, float32 (n, width)."""
        name = self.places[0].tap.name
        return torch.from_numpy(rows_of(self.model, images, self.places, self.device)[name])

    def scores(self, images: Tensor) -> Tensor:
        """Return the scores of each class, (n, K)."""
        return self.linear(self.rows(images).float())

    def accuracy(self, test: Pair) -> tuple[float, str]:
        """Return the accuracy on test data, and the choice in words."""
        right = (self.scores(test[0]).argmax(1).numpy() == np.asarray(test[1])).mean()
        return float(right), f"ridge {self.ridge:g}, {self.places[0].tap.name}"


def perturbed_read_out(
    plain: Tensor, perturbed: Any, labels: Tensor, ridges: Sequence[float] = (0.1,)
) -> dict[float, Linear]:
    """Return linear discriminants of plain and perturbed rows with the same labels, by ridge.

    Parameters
    ----------
    plain : Tensor, shape (n, width)
        A layer's rows.
    perturbed : iterable of Tensor, shape (n, width)
        The same samples' rows under changes that keep the meaning; one after the other.
    labels : Tensor of int64, shape (n,)
        Labels, 0 … K−1.
    ridges : sequence of float
        What is added to the diagonal of the covariance, relative to the mean variance.
    """
    centre = plain.float().mean(0)
    moments, sums = PooledMoments(centre), ClassSums(int(labels.max()) + 1, centre)
    for rows in _each(plain, perturbed):
        if rows.shape != plain.shape:
            raise ValueError(f"expected rows of shape {plain.shape}; found {rows.shape}")
        for part in torch.split(torch.arange(len(rows)), 4096):
            moments.update(rows[part].float())
            sums.update(rows[part].float(), labels[part])
    (found,) = moments.covariance(ridges).discriminants([sums.total(ALONE)])
    return found


def _each(plain: Tensor, perturbed: Any) -> Iterator[Tensor]:
    yield plain
    yield from perturbed


def shifted(images: Tensor, generator: torch.Generator, most: int = MOST) -> Tensor:
    """Return images (n, channels, h, w) moved by up to some pixels each way, half of them flipped.

    What moves in at the border is the image reflected.
    """
    n, _, height, width = images.shape
    padded = functional.pad(images, [most] * 4, mode="reflect")
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(2 * most + 1, (2, n), generator=generator)
    moved = windows[torch.arange(n), :, down, right]
    flipped = torch.rand(n, generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None], moved.flip(3), moved)


def layers_of(model: nn.Module, train: Pair) -> list[Place]:
    """Return the layers that are decoded by default, without the input."""
    seen = survey(model, Source(train, "train").first(), pool="flatten")
    return [place for place in seen.all_places if place.default and place.tap.side != "model"]


def rows_of(
    model: nn.Module, inputs: Tensor, places: Sequence[Place], device: str | None
) -> dict[str, np.ndarray]:
    """Return each layer's rows, float32 (n, width); feature maps by their means of 2 × 2 parts."""
    parts: dict[str, list[np.ndarray]] = {place.tap.name: [] for place in places}
    for _, layers in _streamed(model, (inputs, None), places, device):
        for place in places:
            rows = layers[place.tap.name]
            if len(place.shape) == 3:
                maps = rows.view(-1, *place.shape)
                rows = functional.adaptive_avg_pool2d(maps, 2).flatten(1)
            parts[place.tap.name].append(rows.float().cpu().numpy())
    return {name: np.concatenate(each) for name, each in parts.items()}


def accuracy_of(model: nn.Module, data: Pair, device: str | None) -> float:
    """Return the share of labels that a network predicts."""
    predictions = [
        logits.argmax(1).cpu().numpy() for logits, _ in _streamed(model, data, [], device)
    ]
    return float((np.concatenate(predictions) == np.asarray(data[1])).mean())


def _streamed(
    model: nn.Module, data: Any, places: Sequence[Place], device: str | None
) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
    """Give logits and layers, with the model on the device for as long as this runs."""
    home = device_of(model)
    place = home if device is None else as_device(device)
    source = Source(data[0] if data[1] is None else data, "data")
    taps = [each.tap for each in places]
    try:
        with undisturbed(model.to(place)):
            for rows in stream(model, source, taps, place, stage="rivals"):
                yield rows.logits, rows.layers
    finally:
        model.to(home)


def _probabilities(probe: RobustDiscriminant, rows: np.ndarray) -> np.ndarray:
    scores = probe.decision_function(rows)
    if scores.ndim == 1:
        scores = np.stack([np.zeros_like(scores), scores], 1)
    return torch.softmax(torch.from_numpy(scores), 1).numpy()


def _share(linear: Linear, rows: Tensor, labels: np.ndarray) -> float:
    return float((linear(rows.float()).argmax(1).numpy() == np.asarray(labels)).mean())


def main() -> None:
    """Print and write the tables of some networks."""
    from .decoder import load

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--networks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device")
    parser.add_argument("--trusted", type=int, default=1000)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        model, data = load(name, arguments.root, arguments.networks)
        train, held, test = (
            (data[part][0], data[part][kind].numpy())
            for part, kind in (("train", 1), ("holdout", 1), ("test", 2))
        )
        table = rivals(
            model, train, held, test, device=arguments.device, n_trusted=arguments.trusted
        )
        table.to_csv(arguments.out / f"{name}.csv", index=False)
        print(name, table.to_string(index=False), sep="\n", flush=True)


if __name__ == "__main__":
    main()
