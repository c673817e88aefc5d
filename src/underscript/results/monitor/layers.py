"""How much of the given labels each layer knows, and how much of it is memory, at one epoch."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...noise.calibration import calibrate
from ...noise.estimate import Noise, chance_right, estimate_noise
from ...probes.discriminant import discriminant_of
from .. import geometry
from .probe import ProbeRows

__all__ = ["Epoch", "Layer", "LayerReader", "effective_rank", "principal_angles"]

# Of the discriminant; in units of the mean variance. Large, for few rows and noisy labels.
RIDGE = 0.3
# Rows for effective ranks: the time grows with their cube.
_FOR_RANKS = 512


@dataclass(frozen=True)
class Layer:
    """One layer at one epoch.

    Attributes
    ----------
    plain, perturbed : float
        Share of given labels that an out-of-fold decoder predicts for inputs as they are, and
        perturbed.
    effective_rank : float
        Exponential of the entropy of the eigenvalues' shares.
    angle : float
        Mean principal angle, in degrees, between the spaces of the class means of this epoch and
        the last that was read; NaN at first.
    """

    plain: float
    perturbed: float
    effective_rank: float
    angle: float


@dataclass(frozen=True)
class Epoch:
    """What one reading of the probe shows.

    Attributes
    ----------
    layers : dict of str to Layer
        By name, in the order in which they run.
    noise : Noise
        Of the given labels, estimated from the best layer.
    right : Tensor of float32, shape (n,)
        The probability by the best layer that each given label is right.
    vote : Tensor of int64, shape (n,)
        The class that a decoder of that layer predicts, out of fold, for perturbed inputs.
    known : float
        2 A − A₀ of that layer.
    plain : Tensor of int64, shape (n,)
        The network's predictions for inputs as they are.
    moved : Tensor of int64, shape (n, views)
        The same for perturbed inputs; for inputs as they are if there are none.
    """

    layers: dict[str, Layer]
    noise: Noise
    right: Tensor
    vote: Tensor
    known: float
    plain: Tensor
    moved: Tensor


class LayerReader:
    """Measures all layers at each epoch.

    The best layer has the largest 2 A − A₀: agreement on perturbed inputs, less what the
    perturbation removes. For as much memory again may have survived it.

    Attributes
    ----------
    bases : dict of str to Tensor
        Orthonormal bases of the class means at the last reading.
    """

    def __init__(self) -> None:
        self.bases: dict[str, Tensor] = {}
        # Of layers whose rows never change.
        self._known: dict[str, _Measured] = {}

    def read(self, rows: ProbeRows, labels: Int[Tensor, " n"]) -> Epoch:
        """Return what the layers hold now.

        Parameters
        ----------
        rows : ProbeRows
            What the network gave.
        labels : Tensor of int64, shape (n,)
            Given labels of the probe, the same at every epoch.
        """
        classes, places = torch.unique(labels, return_inverse=True)
        # Samples of every class in both halves.
        half = torch.empty(len(labels), dtype=torch.bool)
        half[torch.argsort(places, stable=True)] = torch.arange(len(labels)) % 2 == 0
        found = {
            name: self._known.get(name) or _measure(parts, places, half, len(classes), rows.fits)
            for name, parts in rows.layers.items()
        }
        self._known = {name: found[name] for name in rows.unchanged}
        known = {name: 2 * each.moved_share - each.plain_share for name, each in found.items()}
        best = max(known, key=known.__getitem__)
        of_moved = found[best].of_moved
        # Samples chosen by one kind of input would look different on the other by that alone.
        both = found[best].of_plain + of_moved
        noise = estimate_noise(of_moved, places, calibrate(of_moved, places))
        layers = {}
        for name, layer in found.items():
            angles = None
            if name in self.bases:
                angles = principal_angles(self.bases[name], layer.basis)
            layers[name] = Layer(
                layer.plain_share,
                layer.moved_share,
                layer.rank,
                float("nan") if angles is None or not len(angles) else float(angles.mean()),
            )
        self.bases = {name: layer.basis for name, layer in found.items()}
        own = [logits.argmax(1).cpu() for logits in rows.logits]
        return Epoch(
            layers,
            noise,
            chance_right(both, places).float(),
            classes[of_moved.argmax(1)],
            known[best],
            own[0],
            torch.stack(own[1:] or own, 1),
        )


@dataclass(frozen=True)
class _Measured:
    """Scores of a layer, out of fold, the shares of given labels they predict, rank and basis."""

    of_plain: Tensor
    of_moved: Tensor
    plain_share: float
    moved_share: float
    rank: float
    basis: Tensor


def _measure(
    parts: list[Tensor], places: Tensor, half: Tensor, n_classes: int, fits: bool
) -> _Measured:
    """Measure one layer from its rows for inputs as they are, and perturbed."""
    plain, *moved = parts
    of_plain, of_moved = cross_fitted(plain, moved, places.to(plain.device), half, n_classes, fits)
    return _Measured(
        of_plain,
        of_moved,
        float((of_plain.argmax(1) == places).double().mean()),
        float((of_moved.argmax(1) == places).double().mean()),
        effective_rank(plain),
        class_basis(plain, places, n_classes),
    )


def cross_fitted(
    plain: Float[Tensor, "n width"],
    moved: list[Tensor],
    labels: Int[Tensor, " n"],
    half: Bool[Tensor, " n"],
    n_classes: int,
    fits: bool,
) -> tuple[Float[Tensor, "n classes"], Float[Tensor, "n classes"]]:
    """Return scores of all rows by a discriminant fitted to the other half of the samples.

    Returns
    -------
    tuple of Tensor, float32, on the CPU
        For rows as they are, and the mean over perturbed ones.
    """
    parts = [plain, *(moved if fits else [])]
    of_plain = torch.zeros(len(plain), n_classes)
    of_moved = torch.zeros(len(plain), n_classes)
    for fold in (half, ~half):
        # Means and covariance are of the same rows: with the covariance of all, classes that are
        # far apart could vary between more than in total, and scores would change their sign.
        there = (~fold).to(plain.device)
        rows, its_labels = torch.cat([each[there] for each in parts]), labels[there]
        linear, _ = discriminant_of(rows, its_labels.repeat(len(parts)), n_classes, RIDGE)
        here = fold.to(plain.device)
        of_plain[fold] = linear(plain[here]).cpu()
        views = moved or [plain]
        of_moved[fold] = torch.stack([linear(each[here]).cpu() for each in views]).mean(0)
    return of_plain, of_moved


def effective_rank(rows: Float[Tensor, "n width"]) -> float:
    """Return the exponential of the entropy of the covariance's eigenvalues (Roy, Vetterli 2007).

    Of the first 512 rows at most; 1 for rows that do not vary.
    """
    rows = rows[:_FOR_RANKS] - rows[:_FOR_RANKS].mean(0)
    products = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    values = torch.linalg.eigvalsh(products.double().cpu()).clamp(min=0)
    if float(values.sum()) <= 0:
        return 1.0
    return geometry.effective_rank(values.numpy())


def class_basis(
    rows: Float[Tensor, "n width"], labels: Int[Tensor, " n"], n_classes: int
) -> Float[Tensor, "width k"]:
    """Return an orthonormal basis of the class means minus their mean, float32 on the CPU."""
    sums = torch.zeros(n_classes, rows.shape[1], device=rows.device)
    sums.index_add_(0, labels.to(rows.device), rows)
    counts = torch.bincount(labels, minlength=n_classes).clamp(min=1)
    means = (sums / counts.to(rows.device)[:, None]).double().cpu()
    _, values, right = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    kept = values > 1e-6 * values.max().clamp(min=1e-30)
    basis: Tensor = right[kept].T.float().contiguous()
    return basis


def principal_angles(one: Tensor, other: Tensor) -> Float[Tensor, " k"]:
    """Return the principal angles between two spaces, in degrees, ascending."""
    if one.shape[0] != other.shape[0]:
        return torch.empty(0, dtype=torch.float64)
    cosines = torch.linalg.svdvals(one.double().T @ other.double()).clamp(0, 1)
    return torch.rad2deg(torch.arccos(cosines))
