"""Repair a network: copy it and rewrite its last linear layer, and nothing else.

Classifiers that are linear in that layer's input fit into its weights: a logistic regression on the
ensemble's decoded labels, and the class vectors of VeLPIC. Both are evaluated in passes that run
anyway, at two more products per batch; noisy labels alone choose which one is written.
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
from ..selection.observers import Observed, Observer
from ..utils.options import BIASES, WEIGHTS

__all__ = [
    "Option",
    "ReadOut",
    "ReadOutTrial",
    "Target",
    "find_last_linear",
    "find_read_out",
    "relabelled",
    "rewrite",
    "transfer",
]

#: The logit of a class without training samples: below any other, and finite.
NEVER = -1e4


class Option(NamedTuple):
    """A way to rewrite a read-out: whose weights, with which bias."""

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


def find_last_linear(seen: Survey, network: nn.Module) -> Place | str:
    """Return the output of the linear layer that computes a network's logits.

    If no such layer can be rewritten, the reason is returned in its place.
    """
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
    return last


def find_read_out(seen: Survey, network: nn.Module, places: Sequence[Place]) -> Target | str:
    """Return the linear layer that computes a network's logits, or why none can be rewritten."""
    last = find_last_linear(seen, network)
    if isinstance(last, str):
        return last
    name = last.tap.module
    module = network.get_submodule(name)
    assert isinstance(module, nn.Linear)
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
        The option that noisy labels prefer.
    reason : str
        Why it was chosen.
    tried : list of dict
        `weights`, `bias`, `agreement` (the share of training samples on which it predicts what
        the chosen decoder does), `holdout` (the share of the hold-out's noisy labels that it
        predicts, or None).
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
        fields = {key: value for key, value in self.__dict__.items() if key != "tensors"}
        return {**fields, "chosen": self.chosen._asdict()}

    @classmethod
    def restored(cls, summary: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "ReadOut":
        """Return the read-out that a `summary` and `tensors` describe.

        Raises
        ------
        KeyError, TypeError, ValueError
            If they describe none.
        """
        chosen = Option(**summary["chosen"])
        read_out = cls(**{**summary, "chosen": chosen, "tensors": dict(tensors)})
        for entry in read_out.tried:
            if entry["weights"] != "own":
                read_out.of(Option(entry["weights"], entry["bias"]), None)
        return read_out

    def of(self, option: Option, own: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return weight (K, width) and bias (K,) of an option; `own` is the layer's bias."""
        name = ".".join(option)
        weight, bias = self.tensors[_weight_of(option)], self.tensors.get(f"{name}.bias")
        bias = own if option.bias == "kept" else bias
        if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            raise ValueError(f"readout.safetensors: {name} has an unexpected shape")
        return weight, bias


class ReadOutTrial:
    """Evaluates the options of a read-out in passes over the training data and a hold-out.

    Parameters
    ----------
    target : Target
        The layer.
    velpic : PrincipalVectorClassifier
        Fitted to the layer's input.
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
        """Add a logistic regression of the layer, and biases from class means of decoded labels.

        Parameters
        ----------
        linear : Linear
            Over all classes.
        one : Tensor of float32, shape (width,)
            The vector whose products with rows are nearest to 1: it replaces a bias.
        means : tuple of Tensor
            Class means (K, width) and counts (K,) of the decoded labels.
        """
        added: list[tuple[Option, Tensor, Tensor | None]] = []
        present = torch.isfinite(linear.intercepts)
        offsets = torch.where(present, linear.intercepts, NEVER)
        if self.target.bias is not None:
            added.append((Option("logistic", "refitted"), linear.coefficients, offsets))
        # For a read-out without a bias, the weights take it up.
        folded = linear.coefficients + torch.outer(offsets, one.to(offsets))
        added.append((Option("logistic", "zero"), folded, None))
        if self.target.bias is not None:
            offsets = _half_way(self.vectors, *means)
            added.append((Option("velpic", "refitted"), self.vectors, offsets))
        self.options = added + self.options

    def on_training_data(self, key: Key) -> "DecodedAgreement":
        """Return an observer of the training data, for `finish`; `key` is the chosen decoder."""
        return DecodedAgreement(self, key)

    def on_holdout(self) -> "HoldoutAgreement":
        """Return an observer of the hold-out, for `finish`."""
        return HoldoutAgreement(self)

    def predictions(self, rows: Rows) -> Int[Tensor, "options n"]:
        """Return the classes that the network itself and each option predict of a batch."""
        x = rows.layers[self.target.layer].float()
        predictions = [rows.logits.argmax(1).cpu()]
        products: dict[int, Tensor] = {}
        for _, weight, bias in self.options:
            if id(weight) not in products:
                products[id(weight)] = x @ weight.T.to(x)
            scores = products[id(weight)]
            predictions.append((scores if bias is None else scores + bias.to(x)).argmax(1).cpu())
        return torch.stack(predictions)

    def finish(self, decoded: "DecodedAgreement", holdout: "HoldoutAgreement | None") -> ReadOut:
        """Return the read-out, from the observations of all processes."""
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


class DecodedAgreement(Observer):
    """Counts the training samples on which each option predicts what the chosen decoder does."""

    local = ("_trial",)

    def __init__(self, trial: ReadOutTrial, key: Key):
        self._trial: ReadOutTrial | None = trial
        self._key = key
        self.n = 0
        self.agreed: Tensor | int = 0

    def see(self, batch: Observed) -> None:
        """Count a batch whose labels the decoder has predicted."""
        assert self._trial is not None
        predicted = self._trial.predictions(batch.rows)
        decoded = torch.from_numpy(batch.predicted[self._key])
        self.agreed = self.agreed + (predicted == decoded).sum(1)
        self.n += batch.rows.batch.size

    def merge(self, other: Self) -> None:
        """Add the counts of another process."""
        self.agreed, self.n = self.agreed + other.agreed, self.n + other.n


class HoldoutAgreement(Observer):
    """Records for which samples of a hold-out each option predicts the noisy label."""

    local = ("_trial",)

    def __init__(self, trial: ReadOutTrial):
        self._trial: ReadOutTrial | None = trial
        self._parts: list[Tensor] = []

    def see(self, batch: Observed) -> None:
        """Record a batch."""
        assert self._trial is not None
        given = torch.from_numpy(batch.labels["given"])
        self._parts.append(self._trial.predictions(batch.rows) == given)

    def merge(self, other: Self) -> None:
        """Add the records of another process."""
        self._parts += other._parts

    def all(self) -> Bool[Tensor, "options n"] | None:
        """Return all records; None if there are none."""
        return torch.cat(self._parts, 1) if self._parts else None


def _weight_of(option: Option) -> str:
    """Return the key of an option's weights: VeLPIC's are the same with any bias."""
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
        The read-out that was fitted for it.
    weights : {"logistic", "velpic"}, optional
        Source of the weights; by default the chosen one.
    bias : {"zero", "kept", "refitted"}, optional
        Kind of bias; by default the best one for these weights.

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
    rewrite(layer, weight, offsets)
    return repaired


def rewrite(layer: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Write weights (K, width) and a bias (K,), or zero, into a linear layer, in place."""
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            if bias is None:
                layer.bias.zero_()
            else:
                layer.bias.copy_(bias)


def _chosen(read_out: ReadOut, weights: str | None, bias: str | None) -> Option:
    if weights is None and bias is None:
        return read_out.chosen
    if weights not in (None, *WEIGHTS) or bias not in (None, *BIASES):
        raise DataError(
            f"transfer: expected weights of {', '.join(WEIGHTS)} and bias {', '.join(BIASES)}; "
            f"found weights={weights!r}, bias={bias!r}"
        )
    fits = [
        entry
        for entry in read_out.tried
        if weights in (None, entry["weights"]) and bias in (None, entry["bias"])
    ]
    if not fits:
        offered = "; ".join(f"{e['weights']} with bias {e['bias']}" for e in read_out.tried)
        raise DataError(
            f"transfer: weights={weights!r} with bias={bias!r} is not offered for this layer; "
            f"there are {offered}"
        )
    best = max(fits, key=lambda entry: entry["agreement"])
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
        Whether so few labels are wrong that flags are only hints: then none is changed.
    """
    changed = issues["is_label_issue"].to_numpy(dtype=bool, copy=True)
    given, predicted = issues["given_label"].to_numpy(), issues["predicted_label"].to_numpy()
    quality, sure = issues["label_quality"].to_numpy(), issues["confidence"].to_numpy()
    if chances:
        # If the given label is wrong, the others keep the decoder's proportions.
        own = sure * np.exp(np.where(changed, issues["margin"].to_numpy(), 0.0))
        proposed = (1 - quality) * sure / np.maximum(1 - own, 1e-12)
        # A flagged label may still be the likelier one: then it stays.
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
