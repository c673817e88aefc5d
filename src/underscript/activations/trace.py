"""Record one forward pass: every place where a layer can be read, and the number of classes."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import Batch
from ..data.samples import inputs_of
from ..errors import ModelError
from ..utils.device import device_of
from .hooks import (
    Path,
    Tap,
    first_tensor,
    may_be_logits,
    model_input,
    named_logits,
    tensors_in,
    undisturbed,
)
from .modules import (
    PARAMETRIZED,
    can_be_read,
    channels_of_signals,
    is_activation,
    normalised_widths,
    parts_of_blocks,
)
from .pooling import (
    AUTO,
    WORDS,
    Axes,
    PoolChoice,
    as_pools,
    grid_of,
    places_for,
    pooled,
    token_mask,
    usual_grid,
)
from .runner import forward, placed

__all__ = ["INPUT", "Place", "Survey", "survey"]

INPUT = "input"


@dataclass(frozen=True)
class Place:
    """A layer as seen in one forward pass over an example.

    `shape` is that of one sample; `key` is equal where two places hold the same tensor; `weighted`
    is true if the module has a weight matrix (linear, convolution). Read by one of the pools in
    `doubled`, it would repeat the rows of a later default, such as the output of global pooling.
    """

    tap: Tap
    module_class: str
    shape: tuple[int, ...]
    order: int
    key: tuple[int, int, int]
    weighted: bool = False
    candidate: bool = False
    default: bool = False
    doubled: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Number of values per sample when flattened."""
        return int(torch.Size(self.shape).numel())

    @property
    def spot(self) -> tuple[str, str, int, Path]:
        """Where it is, regardless of pooling."""
        return self.tap.module, self.tap.side, self.tap.call, self.tap.path


@dataclass(frozen=True)
class Survey:
    """What one forward pass recorded: the places that a tap can read, in order, and the classes.

    `pools` says how tokens and feature maps are read unless a name says otherwise, and `axes`
    identifies them. `ends` are the spots that hold the logits themselves.
    """

    whole: list[Place]
    n_classes: int
    pools: tuple[str, ...] = ("flatten",)
    axes: Axes = field(default_factory=Axes)
    ends: frozenset[tuple[str, str, int, Path]] = frozenset()

    @property
    def tokens(self) -> int | None:
        """Number of tokens in the batch's mask, if it has one."""
        return self.axes.tokens

    @property
    def all_places(self) -> list[Place]:
        """Every input and output, read as `pools` says."""
        return [view for place in self.whole for view in self.read(place)]

    @property
    def places(self) -> list[Place]:
        """Every output, and those inputs of modules (``name:input``) that are defaults."""
        return [place for place in self.all_places if place.default or place.tap.side != "input"]

    def read(self, place: Place) -> list[Place]:
        """Return a place pooled as `pools` says; if it cannot be, as it is."""
        if place.tap.side == "model":
            return [self._input(place)]
        if self.pools == (AUTO,):
            return [self._usual(place)]
        views = [self.read_as(place, pool) for pool in self.pools]
        return [view for view in views if view is not None] or [place]

    def read_as(self, place: Place, pool: str) -> Place | None:
        """Return a place read with one pool, or None if it cannot be."""
        if pool == "flatten":
            return place
        if place.tap.side == "model" and pool == self._input(place).tap.pool:
            return self._input(place)
        return _pooled(place, pool) if self.axes.can_pool(place.shape, pool) else None

    def _usual(self, place: Place, finest: bool = False) -> Place:
        """Return a place with its default pool: mean of tokens, grid of a map, else all values."""
        map_shape = self.axes.map_of(place.shape)
        if map_shape is not None:
            pool = usual_grid(map_shape, finest)
        else:
            words = self.tokens is not None and self.axes.can_pool(place.shape, "mean")
            pool = "mean" if words else None
        return place if pool is None else _pooled(place, pool)

    def _input(self, place: Place) -> Place:
        """Return the input, the control for all layers: read one way, under one name."""
        if self.pools == ("flatten",) or place.tap.pool == WORDS:
            return place
        read = self._usual(place, finest=True)
        return replace(read, tap=replace(read.tap, name=INPUT))


def survey(
    model: nn.Module,
    batch: Batch,
    device: torch.device | None = None,
    pool: PoolChoice = None,
) -> Survey:
    """Run one batch and record every module's inputs and outputs.

    Places with no floating tensor, or whose first dimension is not the batch, are left out.
    Without `pool`, tokens are averaged if the batch has a mask for them, and feature maps are read
    as a grid of means.

    Raises
    ------
    DataError
        If a pool is unknown, or the mask is invalid.
    ModelError
        If the model raises or returns no logits.
    """
    pools = as_pools(pool)
    mask = None if pools == ("flatten",) else token_mask(batch, "example")
    pools = pools or (AUTO,)
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"the model ({type(model).__name__}) is TorchScript, whose layers cannot be read: give "
            "the nn.Module that it was made from, with its weights"
        )
    recorder = _Recorder(batch.size)
    device = device or device_of(model)
    # Converted first, so that the model's input and the first layer's are one tensor.
    batch = placed(model, batch, device)
    with undisturbed(model):
        with recorder.watch(model):
            logits = forward(model, batch, device, "example")
        recorder.confirm(model, batch, device)
    _check_readout(recorder, batch.size)
    ends = frozenset(
        place.spot
        for place, tensor in zip(recorder.places, recorder.held, strict=True)
        if tensor.shape == logits.shape
        and _key(tensor) == place.key
        and torch.equal(tensor.to(logits), logits)
    )
    whole = _mark_defaults(_input_first(recorder.named(), batch, model), model)
    tokens = None if mask is None else mask.shape[1]
    axes = Axes(tokens, channels_of_signals(model), normalised_widths(model))
    whole[1:] = _mark_doubled(whole[1:], recorder.held, axes)
    return Survey(whole, logits.shape[1], pools, axes, ends)


def _pooled(place: Place, pool: str) -> Place:
    """Return a place of tokens or feature maps, pooled."""
    grid = grid_of(pool)
    if grid is not None:
        width = place.shape[0] * grid[0] * grid[1]
    else:
        width = place.shape[0] if len(place.shape) == 3 else place.shape[1]
    tap = replace(place.tap, name=f"{place.tap.name}@{pool}", width=width, pool=pool)
    default = place.default and pool not in place.doubled
    return replace(place, tap=tap, shape=(width,), default=default)


class _Recorder:
    """Notes every module's inputs and outputs during one forward pass."""

    def __init__(self, size: int):
        self.size = size
        self.places: list[Place] = []
        self.calls: Counter[tuple[str, str]] = Counter()
        # Held until the end, so that no storage is reused and equal keys mean one tensor.
        self.held: list[Tensor] = []
        self.order = 0
        self.output: Any = None
        # Modules, sides, calls and paths whose first dimension is the batch.
        self.spots: set[tuple[str, str, int, Path]] = set()

    def watch(self, model: nn.Module) -> "_Watch":
        return _Watch(self, model)

    def note(self, name: str, module: nn.Module, side: Any, value: Any) -> None:
        """Add the places of one call; the call is counted even if it gives none."""
        call = self.calls[name, side]
        self.calls[name, side] += 1
        self.order += 1
        # Children that compute a module's weights are not layers inside it.
        leaf = all(part == PARAMETRIZED for part, _ in module.named_children())
        weight = getattr(module, "weight", None)
        parts = list(tensors_in(value)) if side == "output" else []
        if side == "input":
            first = first_tensor(value)
            parts = [] if first is None else [((), first)]
        usable = [(path, t) for path, t in parts if t.ndim and len(t) == self.size and t.numel()]
        self.spots |= {(name, side, call, path) for path, _ in usable}
        for number, (path, tensor) in enumerate(usable):
            self.held.append(tensor)
            tap = Tap(name, name, side, call, path)
            self.places.append(
                Place(
                    tap,
                    type(module).__name__,
                    tuple(tensor.shape[1:]),
                    self.order,
                    # In-place operations raise the version: same memory, different values.
                    _key(tensor),
                    weighted=leaf and isinstance(weight, Tensor) and weight.ndim > 1,
                    candidate=number == 0
                    and side == "output"
                    and (not leaf or is_activation(module)),
                )
            )

    def confirm(self, model: nn.Module, batch: Batch, device: torch.device) -> None:
        """Drop places whose first dimension is not the batch if there is one sample fewer.

        Otherwise a weight with as many rows as the example has samples would pass for a layer.
        """
        if batch.size < 2:
            return
        fewer = _Recorder(batch.size - 1)
        with fewer.watch(model):
            try:
                forward(model, batch.part(slice(batch.size - 1)), device, "example")
            except ModelError:  # the network only takes this batch size
                return
        kept = [place.spot in fewer.spots for place in self.places]
        self.places = [place for place, keep in zip(self.places, kept, strict=True) if keep]
        self.held = [tensor for tensor, keep in zip(self.held, kept, strict=True) if keep]

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
    """Hooks on every module (on the root, only for its output); removed on exit."""

    def __init__(self, recorder: _Recorder, model: nn.Module):
        self.recorder, self.model = recorder, model
        self.handles: list[Any] = []

    def __enter__(self) -> None:
        try:
            for name, module in self.model.named_modules():
                if name and can_be_read(name, module):
                    self._hook(name, module)
            self.handles.append(self.model.register_forward_hook(self._end))
        except BaseException:
            self.__exit__()
            raise

    def _end(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self.recorder.output = output

    def _hook(self, name: str, module: nn.Module) -> None:
        def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
            self.recorder.note(name, module, "input", (args, kwargs))

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            self.recorder.note(name, module, "output", output)

        self.handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        self.handles.append(module.register_forward_hook(after))

    def __exit__(self, *_error: object) -> None:
        for handle in self.handles:
            handle.remove()


def _input_first(places: list[Place], batch: Batch, model: nn.Module) -> list[Place]:
    value = model_input(batch, "example")
    shape, pool = tuple(value.shape[1:]), "flatten"
    # Without quantities the numbers may stand for words: then words are counted.
    quantities, names = inputs_of(batch)
    numbers = not quantities
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    if numbers and len(shape) == 1 and embeddings:
        shape, pool = (places_for(max(table.num_embeddings for table in embeddings)),), WORDS
    tap = Tap(INPUT, "", "model", width=torch.Size(shape).numel(), pool=pool)
    # Quantities beside word numbers would be only a part of the input.
    known = pool == WORDS if numbers else not names
    whole = Place(tap, "(input)", shape, 0, _key(value), default=known)
    return [whole, *places]


def _mark_defaults(places: list[Place], model: nn.Module) -> list[Place]:
    """Mark the defaults: the input, outputs of blocks and activations, and the read-out's input.

    Each tensor is marked once. A block with attention is read only at its end, where its parts have
    been added up; shortcuts beside blocks are not read.

    If a model has neither blocks nor activation modules (its forward calls functions), the inputs
    of its weighted modules are marked instead: what the functions passed on.
    """
    outputs = [place for place in places if place.weighted and place.tap.side == "output"]
    readout = max(outputs, key=lambda place: place.order, default=None)
    end = readout.order if readout else len(places) + 1
    within = parts_of_blocks(model)
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
    # If a tensor has several names, take the outermost: a stage rather than its last block, but a
    # block rather than a part of the whole model's output.
    best: dict[tuple[int, int, int], Place] = {}
    for place in chosen:
        if place.key in taken:
            continue
        rival = best.get(place.key)
        if rival is None or _depth(place) < _depth(rival):
            best[place.key] = place
    names = {place.tap.name for place in best.values()}
    return [replace(p, default=p.default or p.tap.name in names) for p in places]


def _mark_doubled(places: list[Place], held: list[Tensor], axes: Axes) -> list[Place]:
    """Mark the feature maps whose default pool repeats the output of a pooling module."""
    rows = {
        number: held[number].reshape(len(held[number]), -1)
        for number, place in enumerate(places)
        if place.default and len(place.shape) == 1
    }
    marked = []
    for place, value in zip(places, held, strict=True):
        shape = axes.map_of(place.shape) if place.default else None
        # Not if the tensor has been changed in place since it was recorded.
        if shape is not None and _key(value) == place.key:
            pools = {usual_grid(shape), "mean"} if len(place.shape) == 3 else {usual_grid(shape)}
            doubled = [
                pool
                for pool in sorted(pool for pool in pools if pool is not None)
                if any(_same_rows(pooled(value, pool, None, ""), row) for row in rows.values())
            ]
            place = replace(place, doubled=tuple(doubled))
        marked.append(place)
    return marked


def _same_rows(one: Tensor, other: Tensor) -> bool:
    # Rows of zeros, as from inactive units, prove nothing.
    same = one.shape == other.shape and bool((other != 0).any())
    return same and torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def _check_readout(seen: _Recorder, size: int) -> None:
    """Refuse a model that returns several tensors, if the first may not be the logits.

    Raises
    ------
    ModelError
        If it has several read-outs, or returns something else before its only one.
    """
    if named_logits(seen.output) is not None:
        return
    candidates = [(path, t) for path, t in tensors_in(seen.output) if may_be_logits(t, size)]
    weighted = {p.key for p in seen.places if p.weighted and p.tap.side == "output"}
    ends = [path for path, tensor in candidates if _key(tensor) in weighted]
    if len(ends) > 1 or (ends and ends[0] != candidates[0][0]):
        what = ", ".join(f"output{_path_suffix(path)} {tuple(t.shape)}" for path, t in candidates)
        raise ModelError(
            f"example: the model returned {what}, of which "
            f"{' and '.join(f'output{_path_suffix(path)}' for path in ends)} may be its logits; "
            'return one, or a dict that calls it "logits". Only single-label classifiers can be '
            "decoded"
        )


def _key(tensor: Tensor) -> tuple[int, int, int]:
    return tensor.data_ptr(), tensor.numel(), _version(tensor)


def _version(tensor: Tensor) -> int:
    # Tensors made in inference mode do not count their in-place changes.
    return 0 if tensor.is_inference() else tensor._version


def _depth(place: Place) -> tuple[bool, bool, int]:
    return place.tap.side == "input", bool(place.tap.path), place.tap.module.count(".")


def _path_suffix(path: Path) -> str:
    return "".join(f'["{step}"]' if isinstance(step, str) else f"[{step}]" for step in path)


def with_input(places: list[Place], all_places: list[Place]) -> list[Place]:
    """Put the input before some layers, unless it is not a quantity (token numbers)."""
    first = all_places[0]
    if first.default and all(place.tap.name != first.tap.name for place in places):
        return [first, *places]
    return places
