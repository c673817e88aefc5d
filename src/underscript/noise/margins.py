"""What the network's own margins say about given labels, beside what a decoder says."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..utils.distributed import Processes
from .posterior import shift_to

__all__ = ["evidence_of_margins", "margins_of"]

# The share of the log-likelihood ratio that is added (see `evidence_of_margins`).
SHARE = 0.5
# Steps of EM at most, and the mean change of a probability at which it stops.
_STEPS, _STILL = 200, 1e-6
# The largest log-odds that count.
_MOST = 50.0


def margins_of(
    logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return the log-odds that logits give to labels, float64 (n,)."""
    wide = logits.double().cpu()
    own = wide.gather(1, labels[:, None])
    others = wide.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return own[:, 0] - others


def evidence_of_margins(
    margins: Float[Tensor, " n"], odds: Float[Tensor, " n"], processes: Processes
) -> Float[Tensor, " n"]:
    """Return what margins add to the log-odds that labels are right, float64 (n,).

    For perturbed inputs, where some memory is lost, a network holds right labels more firmly than
    wrong ones: by memory and by what it knows. A margin is taken as a smooth (cubic) function of
    the decoder's odds, as both know hard samples, and a gap between right and wrong labels, with
    normal errors. EM fits them, with the decoder's odds as prior. What bends more than a cubic
    counts as gap. So the gap's log-likelihood ratio is the most that margins can say, the least is
    nothing, and half of it is added. The expected number of wrong labels stays as it was. Nothing
    is added if wrong labels have the larger margins.

    Parameters
    ----------
    margins : Tensor, shape (n,)
        Margins of this process's samples (see `margins_of`), means over perturbed views.
    odds : Tensor, shape (n,)
        Log-odds that their labels are right, by a decoder that has not seen them.
    processes : Processes
        Processes over whose samples to sum.
    """
    margins, odds = margins.double(), odds.double().clamp(-_MOST, _MOST)
    prior = right = torch.sigmoid(odds)
    nothing = torch.zeros_like(odds)
    ones = torch.ones_like(odds)
    sums = torch.stack([each.sum() for each in (ones, odds, odds**2, margins**2)])
    n, first, second, squares = processes.total(sums)
    spread = (second / n - (first / n) ** 2).clamp(min=_STILL).sqrt()
    powers = ((odds - first / n) / spread)[:, None] ** torch.arange(4)
    for _ in range(_STEPS):
        # Right labels are weighted by their probability; the squares of 0 and 1 are 0 and 1.
        known = torch.cat([powers, right[:, None]], 1)
        products, along = known.T @ known, known.T @ margins
        products[4, 4] = right.sum()
        products, along = processes.total(products), processes.total(along)
        slopes = torch.linalg.pinv(products, hermitian=True) @ along
        errors, gap = squares - slopes @ along, slopes[4]
        if gap <= 0 or errors <= _STILL * squares:
            return nothing
        beyond = margins - powers @ slopes[:4]
        added: Tensor = (beyond - gap / 2) * gap * n / errors
        before, right = right, torch.sigmoid(odds + added)
        if processes.total((right - before).abs().sum()) <= _STILL * n:
            break
    added = SHARE * added
    expected = float(processes.total(prior.sum()))
    return added + shift_to(expected, odds + added, processes)
