"""Measures how much of the given labels the candidates of all layers repeat from memory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ..activations.trace import INPUT
from ..noise.estimate import beyond_chance, chance_right, largest_rate
from .budget import ESTIMATED_WITH
from .candidates import Fits
from .greedy import step_of, thinned
from .memorisation import (
    TOO_MUCH,
    Memory,
    Reference,
    by_agreement,
    survival_by_references,
    survival_of_likelihoods,
    survival_of_scores,
)
from .memory_by_holdout import survival_on_holdout, weight_of_holdout

__all__ = ["SecondView", "measure_memory"]


class SecondView(Protocol):
    """Scores of a perturbed view that `Fits.scores` do not have (see `out_of_fold`)."""

    def scores(self, layer: str, step: int) -> Tensor:
        """Return a layer's summed scores of every `step`-th sample that chooses."""


def measure_memory(
    fits: Fits,
    perturbed: bool,
    samples: int = ESTIMATED_WITH,
    another: SecondView | None = None,
) -> Memory:
    """Return how often candidates agree with labels, and how much memory survives.

    Parameters
    ----------
    fits : Fits
        The candidates, with their scores.
    perturbed : bool
        Whether inputs were perturbed.
    samples : int
        How many samples the noise is estimated with.
    another : SecondView, optional
        Where references look at the inputs. Without one they look at the perturbed view on which
        the other layers are measured, and ρ comes out too small: what the view happens to hide
        misleads all layers alike.
    """
    scores = fits.scores
    plain = torch.stack([each.argmax(1) for each in scores.plain])
    moved = torch.stack([each.argmax(1) for each in scores.moved])
    of_plain, of_moved = ((each == scores.labels).double().mean(1) for each in (plain, moved))
    layers = [each.layer for each in fits.candidates]
    order = by_agreement(of_plain, layers)
    at_of = {name: [at for at, each in enumerate(layers) if each == name] for name in order}
    some = thinned(scores)
    every = -(-len(some.labels) // max(1, samples))
    labels, n_classes = some.labels[::every], len(fits.classes)

    def summed(rows: Sequence[Tensor], name: str) -> Tensor:
        """Return the summed scores of a layer's candidates."""
        return sum(rows[at][::every] for at in at_of[name])  # type: ignore[return-value]

    by_least = summed(some.moved, order[0])
    predictions = by_least.argmax(1)
    known_by_least = float((predictions == labels).double().mean())
    beyond = beyond_chance(known_by_least, predictions, labels)
    references, agree = {}, {}
    for name in order[:-1] if perturbed else ():
        if another is None:
            known = summed(some.moved, name)
        else:
            known = another.scores(name, step_of(len(scores.labels)) * every)
        vote, as_it_is = known.argmax(1), summed(some.plain, name).argmax(1)
        right = chance_right(known, labels)
        references[name] = Reference(labels, vote, right, n_classes, every)
        shares = [float((each == labels).double().mean()) for each in (as_it_is, vote)]
        agree[name] = shares[0], shares[1]
    before, after = (
        [rows[at][::every] for at in at_of[order[-1]]] for rows in (some.plain, some.moved)
    )
    last = [torch.stack([each.argmax(1) for each in rows]) for rows in (before, after)]
    likely, most, reference = survival_by_references(last[0], last[1], references, agree, {INPUT})
    free = tuple(at_of.get(INPUT, ()))
    left, of_network, in_likelihoods = 0.0, 0.0, None
    if reference is not None and most:
        given = [not fits.candidates[at].round for at in at_of[order[-1]]]
        seen = reference.seen(last[0][given], last[1][given])
        if seen is not None and order[-1] != INPUT:
            of_network = seen.least_survival(reference.hidden)
        in_likelihoods = survival_of_likelihoods(reference, before, after, most)
        left = survival_of_scores(reference, before, after) if most < TOO_MUCH else 0.0
    memory = Memory(
        of_plain,
        of_moved,
        None,
        most,
        likely,
        trust=0.0,
        beyond_chance=beyond,
        reference=reference,
        free=free,
        left=left,
        of_likelihoods=in_likelihoods,
        of_network=of_network,
        may_be_wrong=largest_rate(by_least, labels) if perturbed and not most else 0.0,
        known=known_by_least,
    )
    if scores.held is None or not len(scores.holdout):
        return memory
    held = torch.stack([each.argmax(1) for each in scores.holdout]) == scores.held
    on_holdout = held.double().mean(1)
    likely = survival_on_holdout(of_plain, of_moved, on_holdout)
    most = max(most, likely)
    trust = 1.0
    if perturbed:
        trust = weight_of_holdout(plain == scores.labels, moved == scores.labels, held, most)
    # Without perturbed inputs, memory shows on training inputs as they are.
    if in_likelihoods is not None:
        in_likelihoods = in_likelihoods.clamp(min=likely)
    return replace(
        memory,
        holdout=on_holdout,
        survival=most,
        likely=likely,
        trust=trust,
        of_likelihoods=in_likelihoods,
    )
