"""Discriminants of one or more layers that answer together."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from .discriminant import RidgeDiscriminant

__all__ = ["COMBINED", "CombinedDiscriminant", "Member", "rows_for"]

# What stands where a layer's name would; no module can be called so.
COMBINED = "(combined)"

# Tensors that members of the same view have in common.
_SHARED = ("directions", "phases", "scale", "length")

LayerRows = Tensor | Mapping[str, Tensor]


def rows_for(layer: str, rows: Mapping[str, Tensor]) -> Any:
    """Return what a decoder of this layer reads: its rows, or those of all layers by name."""
    return rows if layer == COMBINED else rows[layer]


class Member(NamedTuple):
    """A discriminant and the layer that it reads."""

    layer: str
    estimator: RidgeDiscriminant

    @property
    def view(self) -> tuple[str, int, int]:
        """What it reads: members that agree in this have the same random features."""
        return self.layer, self.estimator.n_features, self.estimator.seed


class CombinedDiscriminant:
    """The sum of several discriminants' decision values.

    Each has a temperature of its own, which brings its scores to one scale, so that the softmax of
    the sum is the probability of the classes. Rows are a tensor, if all members read one layer, or
    a mapping of layers to tensors.

    Parameters
    ----------
    members : sequence of Member
        Fitted discriminants of the same classes, the first one leading.
    """

    def __init__(self, members: Sequence[Member]):
        self.members = tuple(members)
        self.classes_ = self.members[0].estimator.classes_

    def __repr__(self) -> str:
        said = ", ".join(f"{member.estimator!r} on {member.layer}" for member in self.members)
        return f"CombinedDiscriminant({said})"

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that are read, that of the leading member first."""
        return tuple(dict.fromkeys(member.layer for member in self.members))

    @property
    def n_features_in_(self) -> int:
        """The width of all layers together."""
        widths = {member.layer: member.estimator.n_features_in_ for member in self.members}
        return sum(widths.values())

    @property
    def ranks_(self) -> NDArray[np.int64]:
        """1 for every class that had rows, else 0; shape (K,)."""
        return self.members[0].estimator.ranks_

    def get_params(self) -> dict[str, Any]:
        """Return the members' layers and parameters."""
        return {
            "members": [
                {"layer": member.layer, **member.estimator.get_params()} for member in self.members
            ]
        }

    def decide(self, rows: LayerRows) -> Float[Tensor, "n classes"]:
        """Return decision values (n, K) of finite rows: their softmax is `closeness`."""
        seen: dict[tuple[str, int, int], Tensor] = {}
        parts = []
        for member in self.members:
            if member.view not in seen:
                mine = rows if isinstance(rows, Tensor) else rows[member.layer]
                seen[member.view] = member.estimator.mapped(mine)
            parts.append(member.estimator.scores(seen[member.view]))
        return torch.stack(parts).sum(0)

    def closeness(self, rows: LayerRows) -> Float[Tensor, "n classes"]:
        """Return the probability of each class, shape (n, K)."""
        return torch.softmax(self.decide(rows), 1)

    predict_proba = closeness

    def nearest(self, rows: LayerRows) -> Int[Tensor, " n"]:
        """Return the position of the largest decision value of finite rows, int64 (n,)."""
        return self.decide(rows).argmax(1)

    def answers(
        self, rows: LayerRows, given: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]]:
        """Return `closeness` and `nearest`."""
        chances = self.closeness(rows)
        return chances, chances.argmax(1)

    def to(self, device: torch.device) -> Self:
        """Move the coefficients to a device, in place."""
        for member in self.members:
            member.estimator.to(device)
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Return all that prediction needs, to be saved; shared random features once."""
        found = {}
        views = [member.view for member in self.members]
        for number, member in enumerate(self.members):
            again = member.view in views[:number]
            for name, tensor in member.estimator.tensors().items():
                if not (again and name in _SHARED):
                    found[f"{number}.{name}"] = tensor
        return found

    @classmethod
    def restored(cls, parameters: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Return what `get_params` and `tensors` described.

        Raises
        ------
        KeyError, TypeError, ValueError
            If they are not those of such a decoder.
        """
        members: list[Member] = []
        shared: dict[tuple[str, int, int], dict[str, Tensor]] = {}
        for number, told in enumerate(parameters["members"]):
            told = dict(told)
            layer = str(told.pop("layer"))
            estimator = RidgeDiscriminant(**told)
            view = Member(layer, estimator).view
            prefix = f"{number}."
            own = {
                name.removeprefix(prefix): t
                for name, t in tensors.items()
                if name.startswith(prefix)
            }
            features = {name: own[name] for name in _SHARED if name in own}
            own |= shared.setdefault(view, features)
            members.append(Member(layer, estimator.set_tensors(own)))
        if not members or len({len(m.estimator.classes_) for m in members}) > 1:
            raise ValueError("expected discriminants of the same classes")
        return cls(members)
