"""List a model's layers in the order in which they run, and resolve which of them to decode.

A layer is named as PyTorch names its module (``layer1.0``, ``fc2``). A module that is called
several times in one forward pass gives one layer per call (``relu#0``, ``relu#1``); a part of a
tuple or dict output is named by its key (``attn[0]``, ``encoder["last_hidden_state"]``);
``name:input`` is what goes into a module, and ``input`` what goes into the model. For a layer of
tokens, ``name@mean`` is their mean, and ``name@first`` and ``name@last`` are single tokens. For a
feature map, ``name@2x2`` is a grid of means and ``name@mean`` the mean of the whole map.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
from torch import nn

from ..data.source import Source
from ..errors import LayerError
from ..utils.options import POOL_CHOICES
from .given_model import as_module
from .hooks import Tap, undisturbed
from .pooling import AUTO, WORDS, PoolChoice, grid_of, is_pool, rank_of
from .trace import INPUT, Place, Survey, survey

LayerChoice = str | Iterable[str] | Callable[[str, nn.Module], bool] | None


def list_layers(model: nn.Module, example: Any, pool: PoolChoice = None) -> pd.DataFrame:
    """List the layers that can be decoded, in the order in which they run.

    This takes one forward pass over a few samples. The model is left as it was.

    Parameters
    ----------
    model : torch.nn.Module
        A classifier.
    example : Dataset, DataLoader, pair of arrays, or array of inputs
        Source of the few samples, such as the training data.
    pool : str or iterable of str, optional
        How tokens and feature maps are read; see `decode`.

    Returns
    -------
    pandas.DataFrame
        One row per layer: `layer` (its name), `module` (its class), `shape` (of one sample, as it
        is read), `width` (values per sample), `default` (whether `decode` takes it by default).

    Raises
    ------
    DataError
        If the example cannot be read, or a pool is unknown.
    ModelError
        If the model raises on it or returns no logits.
    """
    model = as_module(model)
    with undisturbed(model):
        batch = Source(example, "example", labelled=False).first(3)
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


def resolve(seen: Survey, model: nn.Module, layers: LayerChoice) -> list[Place]:
    """Return the places that a choice of layers selects, in execution order, without duplicates.

    Parameters
    ----------
    seen : Survey
        What one forward pass recorded.
    layers : str, iterable of str, callable or None
        Names; globs, in which ``*`` stands for anything within one component and ``**`` also
        across dots; or a predicate ``(name, module) -> bool``. None means the defaults. After a
        name or glob ``@first``, ``@mean``, ``@last``, ``@2x2`` or ``@flatten`` says how tokens or
        feature maps are read.

    Raises
    ------
    LayerError
        If a name or glob matches nothing (the message lists the three closest) or names a module
        that the forward pass does not call, or if no layer can be pooled as asked.
    """
    places = seen.whole
    modules = dict(model.named_modules(remove_duplicate=False))
    if layers is None:
        pooled = [view for place in places if place.default for view in seen.read(place)]
        selected = [view for view in pooled if view.default]
    elif callable(layers):
        wanted = {name for name, module in modules.items() if name and layers(name, module)}
        selected = [p for p in _main(places) if p.tap.module in wanted and p.tap.side == "output"]
        if not selected:
            raise LayerError("the predicate holds for no layer that the forward pass calls")
        selected = [view for place in selected for view in seen.read(place)]
    else:
        if not isinstance(layers, Iterable) or not all(isinstance(p, str) for p in layers):
            raise LayerError(
                f"layers: expected names, globs or a function of name and module; found {layers!r}"
            )
        patterns = [layers] if isinstance(layers, str) else list(layers)
        patterns = [part for p in patterns for part in str(p).split(",") if part]
        if not patterns:
            raise LayerError("expected at least one layer name; found none")
        selected = [place for pattern in patterns for place in _read(seen, modules, pattern)]
    flat = all(place.tap.pool in ("flatten", WORDS) for place in selected)
    if flat and seen.tokens is None and seen.pools not in (("flatten",), (AUTO,)):
        raise LayerError(
            f"pool: expected a layer of tokens, shape (tokens, width), or feature maps to take the "
            f"{' and '.join(seen.pools)} of; none of the {len(selected)} layers is one"
        )
    spots = {place.spot: number for number, place in enumerate(places)}
    by_name = {place.tap.name: place for place in selected}
    return sorted(by_name.values(), key=lambda p: (spots[p.spot], rank_of(p.tap.pool)))


def _read(seen: Survey, modules: dict[str, nn.Module], pattern: str) -> list[Place]:
    """Return the places that a name or glob selects, pooled as it says or else as `seen` does."""
    name, at, pool = pattern.rpartition("@")
    if not at or any(place.tap.name == pattern for place in seen.whole):
        return [view for p in _match(seen.whole, modules, pattern) for view in seen.read(p)]
    if not is_pool(pool):
        raise LayerError(f"{pattern!r}: expected one of {POOL_CHOICES} after the @; found {pool!r}")
    matching = _match(seen.whole, modules, name)
    pooled = [view for p in matching if (view := seen.read_as(p, pool)) is not None]
    if not pooled:
        first = matching[0]
        tokens = "tokens" if seen.tokens is None else f"{seen.tokens} tokens as the mask has"
        expected = f"a layer of {tokens}, shape (tokens, width)"
        if (grid := grid_of(pool)) is not None:
            expected = f"feature maps, at least {grid[0]} high and {grid[1]} wide"
        raise LayerError(
            f"{pattern!r}: expected {expected}; {first.tap.name!r} has shape {first.shape}"
        )
    return pooled


def _match(places: list[Place], modules: dict[str, nn.Module], pattern: str) -> list[Place]:
    exact = [place for place in places if place.tap.name == pattern]
    if exact:
        return exact
    # A module's bare name selects all its calls, and the first tensor of each call.
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
