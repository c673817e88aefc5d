"""A repaired network: a copy whose last linear layer is rewritten, and nothing else.

What is linear in that layer's input fits into its weights: a logistic regression on what the
ensemble decodes, and the class vectors of VeLPIC. They are tried while others are counted, so
they cost two more products a batch; which is written is chosen with noisy labels only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..activations.copies import copied
from ..activations.stream import Rows
from ..activations.trace import Place, Survey
from ..errors import DataError, ModelError
from ..probes.discriminant import Linear
from ..selection.choice import Key, clearly_best
from ..selection.observers import Observed
from ..utils.options import BIASES, WEIGHTS

__all__ = [
    "Option",
    "ReadOut",
    "ReadOutTrial",
    "Target",
    "find_read_out",
    "relabelled",
    "transfer",
]

# The logit of a class that the training data lacked: below any other, and finite.
_NEVER = -1e4


class Option(NamedTuple):
    """What a read-out can become: whose weights, with which bias."""

    weights: str
    bias: str

    def __str__(self) -> str:
        if self.weights == "own":
            return "the weights as they are"
        names = {"logistic": "the logistic regression", "velpic": "VeLPIC"}
        return f"{names[self.weights]}'s weights, bias {self.bias}"


@dataclass(frozen=True)
class Target:
    """A network's last linear layer.

    Attributes
    ----------
    module : str
        Its name.
    layer : str
        The decoded layer that is its input.
    bias : Tensor or None, shape (K,)
        Its own bias.
    """

    module: str
    layer: str
    bias: Tensor | None


def find_read_out(seen: Survey, network: nn.Module, places: Sequence[Place]) -> Target | str:
    """Return the linear layer that gives a network's logits, or why there is none to rewrite."""
    modules = dict(network.named_modules())
    outputs = [
        place
        for place in seen.all_places
        if place.tap.side == "output"
        and (place.weighted or isinstance(modules[place.tap.module], nn.Linear))
    ]
    if not outputs:
        return "the model has no layer with weights"
    last = max(outputs, key=lambda place: place.order)
    name = last.tap.module
    module = modules[name]
    if not isinstance(module, nn.Linear):
        return f"its last layer {name!r} is {type(module).__name__}; expected nn.Linear"
    if not {"weight"} <= set(module._parameters) or hasattr(module, "parametrizations"):
        return f"the weights of its last layer {name!r} are computed from others"
    if last.tap.calls != 1 or last.shape != (seen.n_classes,):
        return (
            f"its last linear layer {name!r} gives {last.shape} values a sample in "
            f"{last.tap.calls} calls; expected one logit for each of {seen.n_classes} classes, once"
        )
    if last.spot not in seen.ends:
        return (
            f"the model's logits are computed from what its last linear layer {name!r} gives: "
            "other weights there would not do what was measured"
        )
    for other, parameter in network.named_parameters(remove_duplicate=False):
        if parameter is module.weight and other != f"{name}.weight":
            return f"its last layer {name!r} shares its weights with {other!r}"
    inputs = [
        place for place in seen.all_places if place.tap.side == "input" and place.tap.module == name
    ]
    same = [p.tap.name for p in places for i in inputs if p.key == i.key and p.shape == i.shape]
    if not same or not inputs or inputs[0].shape != (module.in_features,):
        return (
            f"the input of its last linear layer {name!r} is no decoded layer; decode with "
            f"{name + ':input'!r} among the layers"
        )
    bias = None if module.bias is None else module.bias.detach().float().cpu().clone()
    return Target(name, same[0], bias)


@dataclass(frozen=True)
class ReadOut:
    """What can be written into a network's last linear layer, and what was chosen.

    Attributes
    ----------
    module : str
        The layer's name.
    layer : str
        The decoded layer that is its input.
    chosen : Option
        What noisy labels prefer.
    reason : str
        Why.
    tried : list of dict
        `weights`, `bias`, `agreement` (the share of training samples for which it answers as the
        chosen decoder does), `holdout` (the share of the hold-out's noisy labels, or None).
    tensors : dict of str to Tensor
        Weights (K, width) and biases (K,), as ``velpic.weight``, …
    """

    module: str
    layer: str
    chosen: Option
    reason: str
    tried: list[dict[str, Any]]
    tensors: dict[str, Tensor]

    def summary(self) -> dict[str, Any]:
        """Return all but the tensors, for ``results.json``."""
        told = {key: value for key, value in self.__dict__.items() if key != "tensors"}
        return {**told, "chosen": self.chosen._asdict()}

    @classmethod
    def restored(cls, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "ReadOut":
        """Return what `summary` and `tensors` were of.

        Raises
        ------
        KeyError, TypeError, ValueError
            If they are not.
        """
        found = cls(**{**told, "chosen": Option(**told["chosen"]), "tensors": dict(tensors)})
        for each in found.tried:
            if each["weights"] != "own":
                found.of(Option(each["weights"], each["bias"]), None)
        return found

    def of(self, option: Option, own: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return weight (K, width) and bias (K,) of an option; `own` is the layer's bias."""
        name = ".".join(option)
        weight, bias = self.tensors[_weight_of(option)], self.tensors.get(f"{name}.bias")
        bias = own if option.bias == "kept" else bias
        if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            raise ValueError(f"readout.safetensors: {name} has an unexpected shape")
        return weight, bias


class ReadOutTrial:
    """Tries the options of a read-out in passes over the training data and a hold-out.

    Parameters
    ----------
    target : Target
        The layer.
    velpic : PrincipalVectorClassifier
        Fitted to its input.
    """

    def __init__(self, target: Target, velpic: Any):
        self.target = target
        self.vectors: Tensor = velpic.tensors()["principal"].float()
        # Option, weight and bias of each.
        self.options: list[tuple[Option, Tensor, Tensor | None]] = [
            (Option("velpic", "zero"), self.vectors, None)
        ]
        if target.bias is not None:
            self.options.append((Option("velpic", "kept"), self.vectors, target.bias))

    def add(self, linear: Linear, one: Tensor, means: tuple[Tensor, Tensor]) -> None:
        """Add a logistic regression of the layer, and what class means of decoded labels give.

        Parameters
        ----------
        linear : Linear
            Over all classes.
        one : Tensor of float32, shape (width,)
            The vector whose products with rows are nearest to 1: it makes up for a bias.
        means : tuple of Tensor
            Class means (K, width) and counts (K,) of the decoded labels.
        """
        found: list[tuple[Option, Tensor, Tensor | None]] = []
        present = torch.isfinite(linear.intercepts)
        offsets = torch.where(present, linear.intercepts, _NEVER)
        if self.target.bias is not None:
            found.append((Option("logistic", "refitted"), linear.coefficients, offsets))
        # A read-out without a bias: the layer's rows themselves make up for it.
        folded = linear.coefficients + torch.outer(offsets, one.to(offsets))
        found.append((Option("logistic", "zero"), folded, None))
        if self.target.bias is not None:
            offsets = _half_way(self.vectors, *means)
            found.append((Option("velpic", "refitted"), self.vectors, offsets))
        self.options = found + self.options

    def on_training_data(self, key: Key) -> "DecodedAgreement":
        """Return an observer of the training data, for `finish`; `key` predicted their labels."""
        return DecodedAgreement(self, key)

    def on_holdout(self) -> "HoldoutAgreement":
        """Return an observer of the hold-out, for `finish`."""
        return HoldoutAgreement(self)

    def answers(self, rows: Rows) -> Int[Tensor, "options n"]:
        """Return the classes that the network itself and each option predict of a batch."""
        mine = rows.layers[self.target.layer].float()
        answers = [rows.logits.argmax(1).cpu()]
        products: dict[int, Tensor] = {}
        for _, weight, bias in self.options:
            if id(weight) not in products:
                products[id(weight)] = mine @ weight.T.to(mine)
            scores = products[id(weight)]
            answers.append((scores if bias is None else scores + bias.to(mine)).argmax(1).cpu())
        return torch.stack(answers)

    def finish(self, decoded: "DecodedAgreement", holdout: "HoldoutAgreement | None") -> ReadOut:
        """Return what is to be written, from what all processes saw."""
        own = Option("own", "kept" if self.target.bias is not None else "zero")
        options = [own, *(option for option, _, _ in self.options)]
        n = decoded.n
        agreements = ((decoded.agreed + torch.zeros(len(options))) / max(n, 1)).tolist()
        held = None if holdout is None else holdout.all()
        best = {option: at for at, option in enumerate(options)}
        chosen = max(best, key=lambda option: agreements[best[option]])
        reason = f"{chosen}: agrees with the decoded labels of {agreements[best[chosen]]:.1%} of "
        reason += f"{n:,} training samples"
        if held is not None:
            names = list(best)
            other = names[clearly_best(held[list(best.values())].unbind(), names.index(chosen))]
            if other != chosen:
                reason = f"{other}: predicts {_mean(held, best[other]):.1%} of {held.shape[1]:,} "
                reason += f"noisy labels of the hold-out, clearly more than {chosen} with "
                reason += f"{_mean(held, best[chosen]):.1%}"
                chosen = other
            else:
                reason += f", and {held.shape[1]:,} noisy labels of a hold-out prefer nothing else "
                reason += "clearly"
        tried = [
            {
                **option._asdict(),
                "agreement": agreements[at],
                "holdout": None if held is None else _mean(held, at),
            }
            for option, at in best.items()
        ]
        tensors: dict[str, Tensor] = {}
        for option, at in best.items():
            if option.weights != "own":
                _, weight, bias = self.options[at - 1]
                tensors[_weight_of(option)] = weight.float().cpu()
                if option.bias == "refitted" and bias is not None:
                    tensors[f"{'.'.join(option)}.bias"] = bias.float().cpu()
        return ReadOut(self.target.module, self.target.layer, chosen, reason + ".", tried, tensors)


class DecodedAgreement:
    """For how many training samples each option predicts what the chosen decoder does."""

    def __init__(self, trial: ReadOutTrial, key: Key):
        self._trial: ReadOutTrial | None = trial
        self._key = key
        self.n = 0
        self.agreed: Tensor | int = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_trial": None}

    def see(self, batch: Observed) -> None:
        """Take a batch whose labels the decoder has predicted."""
        assert self._trial is not None
        predicted = self._trial.answers(batch.rows)
        decoded = torch.from_numpy(batch.predicted[self._key])
        self.agreed = self.agreed + (predicted == decoded).sum(1)
        self.n += batch.rows.batch.size

    def merge(self, other: Self) -> None:
        """Add what another process saw."""
        self.agreed, self.n = self.agreed + other.agreed, self.n + other.n


class HoldoutAgreement:
    """For which samples of a hold-out each option predicts the noisy label."""

    def __init__(self, trial: ReadOutTrial):
        self._trial: ReadOutTrial | None = trial
        self._parts: list[Tensor] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_trial": None}

    def see(self, batch: Observed) -> None:
        """Take a batch."""
        assert self._trial is not None
        given = torch.from_numpy(batch.labels["given"])
        self._parts.append(self._trial.answers(batch.rows) == given)

    def merge(self, other: Self) -> None:
        """Add what another process saw."""
        self._parts += other._parts

    def all(self) -> Bool[Tensor, "options n"] | None:
        """Return all of them; None if there were none."""
        return torch.cat(self._parts, 1) if self._parts else None


def _weight_of(option: Option) -> str:
    """Name an option's weights among the tensors: VeLPIC's are the same with any bias."""
    return "velpic.weight" if option.weights == "velpic" else f"{'.'.join(option)}.weight"


def _mean(held: Bool[Tensor, "options n"], at: int) -> float:
    return float(held[at].double().mean())


def _half_way(vectors: Tensor, means: Tensor, counts: Tensor) -> Float[Tensor, " classes"]:
    """Return biases that put zero half-way between a class's mean and that of all rows."""
    shares = (counts / counts.sum()).to(means)
    middle = (means + shares @ means) / 2
    return -(vectors.to(means) * middle).sum(1).float()


def transfer(
    model: nn.Module, read_out: ReadOut, weights: str | None = None, bias: str | None = None
) -> nn.Module:
    """Return a copy of a model whose last linear layer is rewritten.

    Parameters
    ----------
    model : torch.nn.Module
        It stays as it is.
    read_out : ReadOut
        What was found for it.
    weights : {"logistic", "velpic"}, optional
        Whose; by default what was chosen.
    bias : {"zero", "kept", "refitted"}, optional
        Which; by default what was chosen, of these weights.

    Raises
    ------
    DataError
        If there is no such option.
    ModelError
        If the model is not the one that was decoded, or cannot be copied.
    """
    option = _chosen(read_out, weights, bias)
    repaired = copied(model)
    if option.weights == "own":
        return repaired
    layer = dict(repaired.named_modules()).get(read_out.module)
    own = getattr(layer, "bias", None)
    weight, offsets = read_out.of(option, own)
    if not isinstance(layer, nn.Linear) or layer.weight.shape != weight.shape:
        raise ModelError(
            f"expected a linear layer {read_out.module!r} with weights of shape "
            f"{tuple(weight.shape)}, as in the model that was decoded; found "
            + (f"{tuple(layer.weight.shape)}" if isinstance(layer, nn.Linear) else "none")
        )
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            if offsets is None:
                layer.bias.zero_()
            else:
                layer.bias.copy_(offsets)
    return repaired


def _chosen(read_out: ReadOut, weights: str | None, bias: str | None) -> Option:
    if weights is None and bias is None:
        return read_out.chosen
    if weights not in (None, *WEIGHTS) or bias not in (None, *BIASES):
        raise DataError(
            f"transfer: expected weights of {', '.join(WEIGHTS)} and bias {', '.join(BIASES)}; "
            f"found weights={weights!r}, bias={bias!r}"
        )
    fits = [
        each
        for each in read_out.tried
        if weights in (None, each["weights"]) and bias in (None, each["bias"])
    ]
    if not fits:
        offered = "; ".join(f"{e['weights']} with bias {e['bias']}" for e in read_out.tried)
        raise DataError(
            f"transfer: weights={weights!r} with bias={bias!r} is not offered for this layer; "
            f"there are {offered}"
        )
    best = max(fits, key=lambda each: each["agreement"])
    return Option(best["weights"], best["bias"])


def relabelled(issues: pd.DataFrame, chances: bool, nothing_wrong: bool = False) -> pd.DataFrame:
    """Return cleaned labels; see `Decoding.relabel`.

    Parameters
    ----------
    issues : pandas.DataFrame
        The table of label issues.
    chances : bool
        Whether its qualities are probabilities.
    nothing_wrong : bool
        Whether so few labels are wrong that flags are hints at most: then none is changed.
    """
    changed = issues["is_label_issue"].to_numpy(dtype=bool, copy=True)
    given, predicted = issues["given_label"].to_numpy(), issues["predicted_label"].to_numpy()
    quality, sure = issues["label_quality"].to_numpy(), issues["confidence"].to_numpy()
    if chances:
        # Where the given label is wrong, the others are as likely as the decoder says of them.
        own = sure * np.exp(np.where(changed, issues["margin"].to_numpy(), 0.0))
        proposed = (1 - quality) * sure / np.maximum(1 - own, 1e-12)
        # A flag may be worth a look where the given label is still the likelier one.
        changed &= (proposed > quality) & (not nothing_wrong)
    else:
        proposed = sure
    return pd.DataFrame(
        {
            "given_label": given,
            "label": np.where(changed, predicted, given),
            "confidence": np.clip(np.where(changed, proposed, quality), 0, 1),
            "changed": changed,
        },
        index=issues.index,
    )
