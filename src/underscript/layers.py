"""Which layers a model has, in the order in which they run, and which of them to decode.

A layer is named as PyTorch names its module (``layer1.0``, ``fc2``). A module that is called
several times in one forward pass gives one layer a call (``relu#0``, ``relu#1``); a part of a
tuple or dict output is named by its key (``attn[0]``, ``encoder["last_hidden_state"]``);
``name:input`` is what goes into a module, and ``input`` what goes into the model. Of a layer of
tokens, ``name@mean`` is their mean, ``name@first`` and ``name@last`` one of them.
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ._capture import Path, Tap, first_tensor, model_input, tensors_in, undisturbed
from ._device import device_of
from ._pooling import POOLS, PoolChoice, as_pools, can_pool, token_mask
from ._stream import Batch, Source, forward, placed
from .errors import LayerError

LayerChoice = str | Iterable[str] | Callable[[str, nn.Module], bool] | None

INPUT = "input"
# Probabilities over classes or attention weights, not representations.
_NOT_ACTIVATIONS = (nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin, nn.MultiheadAttention)
_ACTIVATION_NAME = re.compile(r"relu|gelu|silu|swish|mish|tanh|sigmoid|elu|activation", re.I)

_ATTENTION_NAME = re.compile(r"attention|attn", re.I)
# What a shortcut beside a residual block is made of: it holds no more than what goes into it.
_LINEAR = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
    nn.AvgPool2d, nn.Identity,
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A layer as seen in one forward pass over an example.

    `shape` is that of one sample; `key` tells whether two places hold the same tensor; `weighted`
    is true of the output of a module with a weight matrix (linear, convolution).
    """

    tap: Tap
    module_class: str
    shape: tuple[int, ...]
    order: int
    key: tuple[int, int, int]
    weighted: bool = False
    candidate: bool = False
    default: bool = False

    @property
    def width(self) -> int:
        """Number of values a sample when flattened."""
        return int(torch.Size(self.shape).numel())

    @property
    def spot(self) -> tuple[str, str, int, Path]:
        """Where it is, however it is read."""
        return self.tap.module, self.tap.side, self.tap.call, self.tap.path


def list_layers(model: nn.Module, example: Any, pool: PoolChoice = None) -> pd.DataFrame:
    """List the layers that can be decoded, in the order in which they run.

    One forward pass over a few samples finds them. The model is left as it was.

    Parameters
    ----------
    model : torch.nn.Module
        A classifier.
    example : Dataset, DataLoader, pair of arrays, or array of inputs
        Where to take the few samples from, such as the training data.
    pool : str or iterable of str, optional
        How layers of tokens are read; see `decode`.

    Returns
    -------
    pandas.DataFrame
        One row a layer: `layer` (its name), `module` (its class), `shape` (of one sample, as it is
        read), `width` (values a sample), `default` (whether `decode` takes it unless told
        otherwise).

    Raises
    ------
    DataError
        If the example cannot be read, or a pool is unknown.
    ModelError
        If the model raises on it or returns no logits.
    """
    with undisturbed(model):
        batch = Source(example, "example").first(3)
    places = survey(model, batch, pool=pool).places
    return pd.DataFrame(
        {
            "layer": [place.tap.name for place in places],
            "module": [place.module_class for place in places],
            "shape": [place.shape for place in places],
            "width": [place.width for place in places],
            "default": [place.default for place in places],
        }
    )


@dataclass(frozen=True)
class Survey:
    """What one forward pass shows: the places that a tap can read, in order, and the classes.

    `pools` says how tokens are read that no name says it of, and `tokens` how many the batch's
    mask has, if it has one.
    """

    whole: list[Place]
    n_classes: int
    pools: tuple[str, ...] = ("flatten",)
    tokens: int | None = None

    @property
    def all_places(self) -> list[Place]:
        """Every input and output, read as `pools` says."""
        return [place for each in self.whole for place in self.read(each)]

    @property
    def places(self) -> list[Place]:
        """Every output, and those inputs of modules (``name:input``) that are defaults."""
        return [place for place in self.all_places if place.default or place.tap.side != "input"]

    def read(self, place: Place) -> list[Place]:
        """Return a place as `pools` says; what has no tokens as it is."""
        if place.tap.side == "model":
            return [self._input(place)]
        read = [self.read_as(place, pool) for pool in self.pools]
        return [each for each in read if each is not None] or [place]

    def read_as(self, place: Place, pool: str) -> Place | None:
        """Return a place read in one way, or None if it has no tokens to read so."""
        if pool == "flatten":
            return place
        if place.tap.side == "model" and pool == self._input(place).tap.pool:
            return self._input(place)
        return _pooled(place, pool) if can_pool(place.shape, pool, self.tokens) else None

    def _input(self, place: Place) -> Place:
        """Return the control of all layers: one, under one name, without padding."""
        masked = self.tokens is not None and can_pool(place.shape, "mean", self.tokens)
        if not masked or self.pools == ("flatten",):
            return place
        mean = _pooled(place, "mean")
        return replace(mean, tap=replace(mean.tap, name=INPUT))


def survey(
    model: nn.Module,
    batch: Batch,
    device: torch.device | None = None,
    pool: PoolChoice = None,
) -> Survey:
    """Run one batch and note every module's inputs and outputs.

    Places with no floating tensor, or whose first dimension is not the batch, are left out.
    Without `pool` the mean is taken of tokens that the batch has a mask for.

    Raises
    ------
    DataError
        If a pool is unknown, or the mask is none.
    ModelError
        If the model raises or returns no logits.
    """
    pools = as_pools(pool)
    mask = None if pools == ("flatten",) else token_mask(batch, "example")
    pools = pools or (("flatten",) if mask is None else ("mean",))
    recorder = _Recorder(batch.size)
    device = device or device_of(model)
    # Converted first, so that the input and what the first layer takes are one tensor.
    batch = placed(model, batch, device)
    with undisturbed(model), recorder.watch(model):
        logits = forward(model, batch, device, "example")
    whole = _mark_defaults(_with_input(recorder.named(), batch), model)
    return Survey(whole, logits.shape[1], pools, None if mask is None else mask.shape[1])


def _pooled(place: Place, pool: str) -> Place:
    """Return a place of tokens or feature maps, pooled."""
    width = place.shape[0] if len(place.shape) == 3 else place.shape[1]
    tap = replace(place.tap, name=f"{place.tap.name}@{pool}", width=width, pool=pool)
    return replace(place, tap=tap, shape=(width,))


class _Recorder:
    """Notes every module's inputs and outputs during one forward pass."""

    def __init__(self, size: int):
        self.size = size
        self.places: list[Place] = []
        self.calls: Counter[tuple[str, str]] = Counter()
        # Held until the end, so that no storage is used twice and identity means sameness.
        self.held: list[Tensor] = []
        self.order = 0

    def watch(self, model: nn.Module) -> "_Watch":
        return _Watch(self, model)

    def note(self, name: str, module: nn.Module, side: Any, value: Any) -> None:
        """Add the places of one call; the call is counted even if it gives none."""
        call = self.calls[name, side]
        self.calls[name, side] += 1
        self.order += 1
        leaf = next(module.children(), None) is None
        weight = getattr(module, "weight", None)
        parts = list(tensors_in(value)) if side == "output" else []
        if side == "input":
            first = first_tensor(value)
            parts = [] if first is None else [((), first)]
        usable = [(path, t) for path, t in parts if t.ndim and len(t) == self.size and t.numel()]
        for number, (path, tensor) in enumerate(usable):
            self.held.append(tensor)
            tap = Tap(name, name, side, call, path)
            self.places.append(
                Place(
                    tap,
                    type(module).__name__,
                    tuple(tensor.shape[1:]),
                    self.order,
                    # In-place operations raise the version: same memory, other values.
                    (tensor.data_ptr(), tensor.numel(), _version(tensor)),
                    weighted=leaf and isinstance(weight, Tensor) and weight.ndim > 1,
                    candidate=number == 0
                    and side == "output"
                    and (not leaf or _is_activation(module)),
                )
            )

    def named(self) -> list[Place]:
        """Return the places with their final names, now that the number of calls is known."""
        named = []
        for place in self.places:
            tap = place.tap
            calls = self.calls[tap.module, tap.side]
            # A module that is called "input" must not hide the model's own input.
            several = calls > 1 or (tap.module == INPUT and tap.side == "output")
            name = tap.module + (":input" if tap.side == "input" else "")
            name += (f"#{tap.call}" if several else "") + _path_suffix(tap.path)
            named.append(
                replace(place, tap=replace(tap, name=name, calls=calls, width=place.width))
            )
        return named


class _Watch:
    """Hooks on every module but the root; removed on exit."""

    def __init__(self, recorder: _Recorder, model: nn.Module):
        self.recorder, self.model = recorder, model
        self.handles: list[Any] = []

    def __enter__(self) -> None:
        for name, module in self.model.named_modules():
            if name:
                self.handles += self._hooks(name, module)

    def _hooks(self, name: str, module: nn.Module) -> list[Any]:
        def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
            self.recorder.note(name, module, "input", (args, kwargs))

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            self.recorder.note(name, module, "output", output)

        return [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after),
        ]

    def __exit__(self, *_error: object) -> None:
        for handle in self.handles:
            handle.remove()


def _with_input(places: list[Place], batch: Batch) -> list[Place]:
    value = model_input(batch, "example")
    # Token numbers are names, not quantities: they are no representation to decode.
    tokens = value.dtype in (torch.int64, torch.int32, torch.bool)
    key = (value.data_ptr(), value.numel(), _version(value))
    shape = tuple(value.shape[1:])
    tap = Tap(INPUT, "", "model", width=torch.Size(shape).numel())
    whole = Place(tap, "(input)", shape, 0, key,
                  default=not tokens)  # fmt: skip
    return [whole, *places]


def _mark_defaults(places: list[Place], model: nn.Module) -> list[Place]:
    """Mark the input, each block's or activation's output and the read-out's input, each once.

    A block with attention is read at its end only, where the parts have been added up; a shortcut
    beside a block not at all.

    A model that has neither blocks nor activation modules (its forward calls functions) gets the
    inputs of its weighted modules instead: what its functions left for the next layer.
    """
    outputs = [place for place in places if place.weighted and place.tap.side == "output"]
    readout = max(outputs, key=lambda place: place.order, default=None)
    end = readout.order if readout else len(places) + 1
    within = _parts_of_blocks(model)
    chosen = [
        place
        for place in places
        if place.candidate and place.order < end and place.tap.module not in within
    ]
    if not chosen:
        chosen = [p for p in places if p.weighted and p.tap.side == "input" and p.order < end]
    if readout:
        chosen += [
            place
            for place in places
            if place.tap.side == "input"
            and (place.tap.module, place.tap.call) == (readout.tap.module, readout.tap.call)
        ]
    taken = {places[0].key} if places[0].default else set()
    # Of several names for one tensor, the outermost: a stage rather than its last block; but a
    # block rather than a part of a whole model's answer.
    best: dict[tuple[int, int, int], Place] = {}
    for place in chosen:
        if place.key in taken:
            continue
        rival = best.get(place.key)
        if rival is None or _depth(place) < _depth(rival):
            best[place.key] = place
    names = {place.tap.name for place in best.values()}
    return [replace(p, default=p.default or p.tap.name in names) for p in places]


def _parts_of_blocks(model: nn.Module) -> set[str]:
    """Name the modules inside a block with attention, and the linear shortcuts beside blocks."""
    modules = dict(model.named_modules())
    attention = {name for name, module in modules.items() if name and _is_attention(module)}
    blocks: Counter[str] = Counter()
    for name in attention:
        parent = name.rpartition(".")[0]
        if parent not in attention:
            blocks[parent] += 1
    # A block attends once, or twice where it also looks elsewhere; more make a model.
    starts = tuple(f"{name}." for name, times in blocks.items() if name and times <= 2)
    return {
        name
        for name, module in modules.items()
        if name.startswith(starts) or (type(module) is nn.Sequential and _is_linear(module))
    }


def _is_attention(module: nn.Module) -> bool:
    return bool(_ATTENTION_NAME.search(type(module).__name__))


def _is_linear(module: nn.Module) -> bool:
    leaves = [part for part in module.modules() if next(part.children(), None) is None]
    return all(isinstance(leaf, _LINEAR) for leaf in leaves)


def _version(tensor: Tensor) -> int:
    # Tensors made in inference mode do not count their in-place changes.
    return 0 if tensor.is_inference() else tensor._version


def _depth(place: Place) -> tuple[bool, bool, int]:
    return place.tap.side == "input", bool(place.tap.path), place.tap.module.count(".")


def resolve(seen: Survey, model: nn.Module, layers: LayerChoice) -> list[Place]:
    """Return the places that a choice of layers means, in execution order, each once.

    Parameters
    ----------
    seen : Survey
        What a forward pass showed.
    layers : str, iterable of str, callable or None
        Names; globs, in which ``*`` stands for anything within one component and ``**`` also
        across dots; or a predicate ``(name, module) -> bool``. None means the defaults. After a
        name or glob ``@first``, ``@mean``, ``@last`` or ``@flatten`` says how tokens are read.

    Raises
    ------
    LayerError
        If a name or glob matches nothing (the message names the three closest), or names a
        module that the forward pass does not call, or a layer without tokens is to be pooled.
    """
    places = seen.whole
    modules = dict(model.named_modules(remove_duplicate=False))
    if layers is None:
        found = [each for place in places if place.default for each in seen.read(place)]
    elif callable(layers):
        wanted = {name for name, module in modules.items() if name and layers(name, module)}
        found = [p for p in _main(places) if p.tap.module in wanted and p.tap.side == "output"]
        if not found:
            raise LayerError("the predicate holds for no layer that the forward pass calls")
        found = [each for place in found for each in seen.read(place)]
    else:
        patterns = [layers] if isinstance(layers, str) else list(layers)
        patterns = [part for p in patterns for part in str(p).split(",") if part]
        if not patterns:
            raise LayerError("expected at least one layer name; found none")
        found = [place for pattern in patterns for place in _read(seen, modules, pattern)]
    flat = all(place.tap.pool == "flatten" for place in found)
    if flat and seen.tokens is None and seen.pools != ("flatten",):
        raise LayerError(
            f"pool: expected a layer of tokens, shape (tokens, width), to take the "
            f"{' and '.join(seen.pools)} of; none of the {len(found)} layers is one"
        )
    spots = {place.spot: number for number, place in enumerate(places)}
    by_name = {place.tap.name: place for place in found}
    return sorted(
        by_name.values(), key=lambda place: (spots[place.spot], POOLS.index(place.tap.pool))
    )


def _read(seen: Survey, modules: dict[str, nn.Module], pattern: str) -> list[Place]:
    """Return what a name or glob means, read as it says or else as `seen` does."""
    name, at, pool = pattern.rpartition("@")
    if not at or any(place.tap.name == pattern for place in seen.whole):
        return [each for p in _match(seen.whole, modules, pattern) for each in seen.read(p)]
    if pool not in POOLS:
        raise LayerError(
            f"{pattern!r}: expected one of {', '.join(POOLS)} after the @; found {pool!r}"
        )
    matching = _match(seen.whole, modules, name)
    found = [each for p in matching if (each := seen.read_as(p, pool)) is not None]
    if not found:
        first = matching[0]
        tokens = "tokens" if seen.tokens is None else f"{seen.tokens} tokens as the mask has"
        raise LayerError(
            f"{pattern!r}: expected a layer of {tokens}, shape (tokens, width); "
            f"{first.tap.name!r} has shape {first.shape}"
        )
    return found


def _match(places: list[Place], modules: dict[str, nn.Module], pattern: str) -> list[Place]:
    exact = [place for place in places if place.tap.name == pattern]
    if exact:
        return exact
    # A module's bare name means all its calls, and the first tensor of each.
    wanted = re.compile(_glob(pattern))
    main = [place for place in _main(places) if wanted.fullmatch(_bare(place.tap))]
    if main:
        return main
    if pattern in modules:
        raise LayerError(
            f"layer {pattern!r} ({type(modules[pattern]).__name__}) never fires in a forward "
            "pass, or gives no floating tensor with one row a sample; `underscript layers` "
            "lists those that do"
        )
    names = list(dict.fromkeys(place.tap.name for place in places))
    shown = [name for name in names if ":input" not in name or ":input" in pattern]
    close = difflib.get_close_matches(pattern, shown, n=3, cutoff=0.0)
    raise LayerError(f"no layer matches {pattern!r}; the closest are {', '.join(close)}")


def _main(places: list[Place]) -> list[Place]:
    """Return the first place of every call: a tuple's first tensor."""
    first: dict[tuple[str, str, int], Place] = {}
    for place in places:
        first.setdefault((place.tap.module, place.tap.side, place.tap.call), place)
    return list(first.values())


def _bare(tap: Tap) -> str:
    if tap.side == "model":
        return INPUT
    return tap.module + (":input" if tap.side == "input" else "")


def _glob(pattern: str) -> str:
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    meaning = {"**": ".*", "*": "[^.:]*", "?": "[^.:]"}
    return "".join(meaning.get(part, re.escape(part)) for part in parts)


def _path_suffix(path: Path) -> str:
    return "".join(f'["{step}"]' if isinstance(step, str) else f"[{step}]" for step in path)


def _is_activation(module: nn.Module) -> bool:
    if isinstance(module, _NOT_ACTIVATIONS):
        return False
    if type(module).__module__ == "torch.nn.modules.activation":
        return True
    own = next(module.parameters(), None) is not None
    return not own and bool(_ACTIVATION_NAME.search(type(module).__name__))
