"""An ensemble of discriminants on one or more layers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from .discriminant import RidgeDiscriminant

__all__ = ["COMBINED", "CombinedDiscriminant", "Member", "rows_for"]

# Replaces a layer's name for an ensemble; no module can have this name.
COMBINED = "(combined)"

# Tensors that members with the same view share.
_SHARED = ("directions", "phases", "scale", "length")

LayerRows = Tensor | Mapping[str, Tensor]


def rows_for(layer: str, rows: Mapping[str, Tensor]) -> Any:
    """Return a decoder's input: its layer's rows, or for an ensemble all layers' rows by name."""
    return rows if layer == COMBINED else rows[layer]


class Member(NamedTuple):
    """A discriminant and the layer that it reads."""

    layer: str
    estimator: RidgeDiscriminant

    @property
    def view(self) -> tuple[str, int, int]:
        """The member's input; members with equal views have the same random features."""
        return self.layer, self.estimator.n_features, self.estimator.seed


class CombinedDiscriminant:
    """The sum of several discriminants' decision values.

    Each member's temperature brings its scores to a common scale, so the softmax of the sum gives
    the class probabilities. Rows are a tensor if all members read one layer, else a mapping from
    layers to tensors.

    Parameters
    ----------
    members : sequence of Member
        Fitted discriminants of the same classes, the leading one first.
    """

    def __init__(self, members: Sequence[Member]):
        self.members = tuple(members)
        self.classes_ = self.members[0].estimator.classes_

    def __repr__(self) -> str:
        members = ", ".join(f"{member.estimator!r} on {member.layer}" for member in self.members)
        return f"CombinedDiscriminant({members})"

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that the members read, the leading member's first."""
        return tuple(dict.fromkeys(member.layer for member in self.members))

    @property
    def n_features_in_(self) -> int:
        """The total width of all layers."""
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
        """Return decision values (n, K) of finite rows; their softmax is `closeness`."""
        mapped: dict[tuple[str, int, int], Tensor] = {}
        scores = []
        for member in self.members:
            if member.view not in mapped:
                layer_rows = rows if isinstance(rows, Tensor) else rows[member.layer]
                mapped[member.view] = member.estimator.mapped(layer_rows)
            scores.append(member.estimator.scores(mapped[member.view]))
        return torch.stack(scores).sum(0)

    def closeness(self, rows: LayerRows) -> Float[Tensor, "n classes"]:
        """Return the probability of each class, shape (n, K)."""
        return torch.softmax(self.decide(rows), 1)

    predict_proba = closeness

    def nearest(self, rows: LayerRows) -> Int[Tensor, " n"]:
        """Return the position of each finite row's largest decision value, int64 (n,)."""
        return self.decide(rows).argmax(1)

    def predictions(
        self, rows: LayerRows, given: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]]:
        """Return `closeness` and `nearest`."""
        probabilities = self.closeness(rows)
        return probabilities, probabilities.argmax(1)

    def to(self, device: torch.device) -> Self:
        """Move the coefficients to a device, in place."""
        for member in self.members:
            member.estimator.to(device)
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that prediction needs, for saving; shared random features once."""
        saved = {}
        views = [member.view for member in self.members]
        for number, member in enumerate(self.members):
            repeated = member.view in views[:number]
            for name, tensor in member.estimator.tensors().items():
                if not (repeated and name in _SHARED):
                    saved[f"{number}.{name}"] = tensor
        return saved

    @classmethod
    def restored(cls, parameters: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild an ensemble from what `get_params` and `tensors` returned.

        Raises
        ------
        KeyError, TypeError, ValueError
            If they do not describe such an ensemble.
        """
        members: list[Member] = []
        shared: dict[tuple[str, int, int], dict[str, Tensor]] = {}
        for number, member in enumerate(parameters["members"]):
            settings = dict(member)
            layer = str(settings.pop("layer"))
            estimator = RidgeDiscriminant(**settings)
            view = Member(layer, estimator).view
            prefix = f"{number}."
            own = {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
            features = {name: own[name] for name in _SHARED if name in own}
            own |= shared.setdefault(view, features)
            members.append(Member(layer, estimator.set_tensors(own)))
        if not members or len({len(m.estimator.classes_) for m in members}) > 1:
            raise ValueError("expected discriminants of the same classes")
        return cls(members)
