"""A network and earlier checkpoints of it, run and read as one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from .hooks import Tap
from .trace import Place

__all__ = ["Together", "checkpoint_of", "network_of", "places_together"]

_OWN = "own"


class Together(nn.Module):
    """A network with copies of it that have the weights of earlier checkpoints.

    It runs them one after another, the network last, and returns what the network returns.

    Parameters
    ----------
    own : torch.nn.Module
        The network; it is not copied.
    earlier : mapping of int to torch.nn.Module
        By step, networks of the same architecture.
    """

    def __init__(self, own: nn.Module, earlier: Mapping[int, nn.Module]):
        super().__init__()
        self.steps = tuple(sorted(earlier))
        for step in self.steps:
            self.add_module(_child(step), earlier[step])
        self.own = own

    @property
    def earlier(self) -> dict[int, nn.Module]:
        """The checkpoints' networks by step."""
        return {step: self.get_submodule(_child(step)) for step in self.steps}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run all on a batch; return the network's output."""
        for network in self.earlier.values():
            # Copies: a network may change its inputs in place.
            network(*map(_cloned, args), **{name: _cloned(v) for name, v in kwargs.items()})
        return self.own(*args, **kwargs)

    def changed(self, change: Callable[[nn.Module, int], nn.Module]) -> "Together":
        """Return new networks for all; `change` takes each one and its place, the network's 0."""
        places = enumerate(self.earlier.items(), 1)
        earlier = {step: change(network, place) for place, (step, network) in places}
        return Together(change(self.own, 0), earlier)

    def steps_of(self, taps: Iterable[Tap]) -> tuple[int, ...]:
        """Return the steps of the checkpoints that taps read."""
        children = {tap.module.partition(".")[0] for tap in taps if tap.side != "model"}
        return tuple(step for step in self.steps if _child(step) in children)

    def for_taps(self, taps: Sequence[Tap]) -> tuple[nn.Module, list[Tap]]:
        """Return what taps need, and the taps on that.

        It is the network itself if they read no other; else the network with the checkpoints that
        they read.
        """
        steps = self.steps_of(taps)
        if not steps:
            return self.own, [
                replace(tap, module=tap.module.removeprefix(f"{_OWN}.")) for tap in taps
            ]
        earlier = self.earlier
        return Together(self.own, {step: earlier[step] for step in steps}), list(taps)


def network_of(model: nn.Module) -> nn.Module:
    """Return the network itself of one with earlier checkpoints; any other as it is."""
    return model.own if isinstance(model, Together) else model


def places_together(places: Sequence[Place], steps: Sequence[int]) -> list[Place]:
    """Return the layers of a network in each of its checkpoints; the input is there once.

    A layer of a checkpoint is named ``step=500/layer``, one of the network itself as before. Those
    of earlier steps come first.
    """
    found = [place for place in places if place.tap.side == "model"]
    layers = [place for place in places if place.tap.side != "model"]
    for step in steps:
        found += [_within(place, _child(step), f"step={step}/") for place in layers]
    return found + [_within(place, _OWN, "") for place in layers]


def checkpoint_of(layer: str) -> str:
    """Return which checkpoint a layer's name tells; empty for the network itself and its input.

    >>> checkpoint_of("step=500/blocks.0@4x4"), checkpoint_of("blocks.0@4x4")
    ('step=500', '')
    """
    start, cut, _ = layer.partition("/")
    return start if cut and start.startswith("step=") else ""


def _within(place: Place, child: str, start: str) -> Place:
    tap = place.tap
    return replace(
        place, tap=replace(tap, name=f"{start}{tap.name}", module=f"{child}.{tap.module}")
    )


def _child(step: int) -> str:
    # Torch allows no dot in a child's name, and torch.export nothing but letters and digits.
    return f"step_{step}"


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
