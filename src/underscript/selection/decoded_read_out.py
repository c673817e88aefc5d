"""Refits a network's last linear layer to the decoded labels."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..linalg.products import add_products, mirrored
from ..noise.posterior import posterior
from ..probes.discriminant import Linear
from .chosen_decoder import Chosen
from .kept_rows import FOLDS
from .read_out import fit_read_out

__all__ = ["decoded_read_out"]

# Rows per column that the vector whose products with rows are 1 is fitted to.
_ROWS_PER_NUMBER = 8


def decoded_read_out(chosen: Chosen, layer: str) -> tuple[Linear, Tensor, tuple[Tensor, Tensor]]:
    """Return weights for a network's last linear layer, whose input is `layer`.

    Returns
    -------
    Linear
        A logistic regression over all classes.
    Tensor of float32, shape (width,)
        The vector whose products with rows are nearest to 1: it stands in for a bias.
    tuple of Tensor
        Class means (K, width) and counts (K,) of the decoded labels.
    """
    task, kept = chosen.task, chosen.kept
    n_classes, processes, width = task.n_classes, task.processes, kept.widths[layer]
    parts = [kept.part(fold) for fold in range(FOLDS)]
    decoded = chosen.odds.of_classes.argmax(1)
    sums = torch.zeros(n_classes, width, dtype=torch.float64)
    products = torch.zeros(width, width, dtype=torch.float64)
    total = torch.zeros(width, dtype=torch.float64)
    # Some of the rows are enough for a vector of `width` numbers.
    every = max(1, kept.n * processes.size // (_ROWS_PER_NUMBER * width))
    for fold, part in enumerate(parts):
        start = 0
        for (block,) in kept.blocks(layer, fold, [0]):
            rows = block.double().cpu()
            sums.index_add_(0, decoded[part.places[start : start + len(rows)]], rows)
            some = rows[-start % every :: every]
            add_products(products, some)
            total += some.sum(0)
            start += len(rows)
    sums, products, total = (processes.total(each) for each in (sums, products, total))
    n = processes.total(torch.bincount(decoded, minlength=n_classes))
    # The vector whose products with rows are nearest to 1, by least squares.
    products = mirrored(products)
    products.diagonal().add_(1e-6 * float(products.diagonal().mean()))
    one = torch.linalg.solve(products, total).float()
    fits = any(each.perturbed for each in chosen.fits.candidates)
    views = list(range(kept.views)) if fits else [0]

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        for fold, part in enumerate(parts):
            start = 0
            for seen in kept.blocks(layer, fold, views):
                at = part.places[start : start + len(seen[0])]
                given = part.labels[start : start + len(seen[0])]
                probabilities = posterior(*chosen.odds.at(at), given, chosen.noise)
                start += len(seen[0])
                yield from ((rows, probabilities) for rows in seen)

    size = kept.n * len(views), width, n_classes
    linear = fit_read_out(blocks(), size, processes, task.device)
    absent = torch.ones(n_classes, dtype=torch.bool)
    absent[chosen.fits.classes] = False
    offsets = linear.intercepts.cpu().masked_fill(absent, -torch.inf)
    means = sums / n.clamp(min=1)[:, None]
    return Linear(linear.coefficients.cpu(), offsets), one, (means, n)
