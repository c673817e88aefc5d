"""Earlier checkpoints of a network, loaded to be decoded together with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..activations.copies import copied, weights_of
from ..activations.together import Together
from ..errors import ModelError
from .checkpoints import Checkpoint, find_checkpoints

__all__ = ["Earlier", "load_again", "load_together", "some_evenly"]


@dataclass(frozen=True)
class Earlier:
    """Checkpoints that are decoded together with a network.

    Attributes
    ----------
    network : torch.nn.Module
        The network with the checkpoints; the network alone if none is left.
    checkpoints : list of Checkpoint
        Those that are used, by step.
    digests : list of str
        Digests of their weights.
    notes : list of str
        What the user should know, one line each.
    """

    network: nn.Module
    checkpoints: list[Checkpoint]
    digests: list[str]
    notes: list[str]

    def summary(self) -> dict[str, Any]:
        """Return what ``results.json`` holds of them."""
        return {
            "steps": [one.step for one in self.checkpoints],
            "sources": [one.source for one in self.checkpoints],
            "weights": list(self.digests),
        }


def load_together(model: nn.Module, checkpoints: Sequence[Checkpoint]) -> Earlier:
    """Return a network with earlier checkpoints of it; of equal weights one is enough.

    Parameters
    ----------
    model : torch.nn.Module
        The network; it stays as it is.
    checkpoints : sequence of Checkpoint
        By step.

    Raises
    ------
    ModelError
        If one cannot be read, or belongs to another architecture.
    """
    own = weights_of(model).hex()
    earlier: dict[int, nn.Module] = {}
    kept: dict[str, Checkpoint] = {}
    notes = []
    for checkpoint in checkpoints:
        network = copied(model)
        checkpoint.load_into(network, quiet=bool(earlier))
        digest = weights_of(network).hex()
        if digest == own:
            # Usual: training keeps the network that it ends with.
            continue
        if digest in kept:
            first = kept[digest]
            notes.append(
                f"checkpoints: {checkpoint.source} (step {checkpoint.step}) has the same weights "
                f"as {first.source} (step {first.step}); it is counted once"
            )
            continue
        kept[digest] = checkpoint
        earlier[checkpoint.step] = network
    if not earlier:
        notes.append(
            "checkpoints: all have the weights of the network itself, which is decoded alone"
        )
    whole = Together(model, earlier) if earlier else model
    return Earlier(whole, list(kept.values()), list(kept), notes)


def load_again(
    model: nn.Module, given: Any, steps: Sequence[int], known: Mapping[str, Any]
) -> Together:
    """Return a network with the checkpoints that a decoder reads.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    given : path, str, sequence or mapping
        Checkpoints, as `find_checkpoints` takes them.
    steps : sequence of int
        The steps that are read.
    known : mapping
        From `Earlier.summary`, of when it was decoded.

    Raises
    ------
    ModelError
        If a step is not among them, or has other weights than then.
    """
    found = {one.step: one for one in find_checkpoints(given)[0]}
    digests = dict(zip(known["steps"], known["weights"], strict=True))
    earlier = {}
    for step in steps:
        if step not in found:
            there = ", ".join(map(str, found))
            raise ModelError(f"checkpoints: the decoder reads step {step}; found steps {there}")
        earlier[step] = copied(model)
        found[step].load_into(earlier[step], quiet=True)
        if weights_of(earlier[step]).hex() != digests.get(step):
            raise ModelError(
                f"checkpoints: {found[step].source} (step {step}) has other weights than when it "
                "was decoded"
            )
    return Together(model, earlier)


def some_evenly(steps: Sequence[int], n: int) -> list[int]:
    """Return n of ascending steps, the first and the last among them, evenly spread.

    >>> some_evenly([1, 2, 3, 4, 5, 10, 20], 3)
    [1, 10, 20]
    >>> some_evenly([1, 2, 3], 1)
    [1]
    """
    if n < 2:
        return list(steps[:n])
    left = list(steps)
    chosen = []
    for k in range(n):
        wanted = steps[0] + k * (steps[-1] - steps[0]) / (n - 1)
        chosen.append(min(left, key=lambda step: abs(step - wanted)))
        left.remove(chosen[-1])
    return sorted(chosen)
