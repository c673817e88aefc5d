"""Which layers a model has, in the order in which they run, and which of them to decode.

A layer is named as PyTorch names its module (``layer1.0``, ``fc2``). A module that is called
several times in one forward pass gives one layer a call (``relu#0``, ``relu#1``); a part of a
tuple or dict output is named by its key (``attn[0]``, ``encoder["last_hidden_state"]``);
``name:input`` is what goes into a module, and ``input`` what goes into the model. Of a layer of
tokens, ``name@mean`` is their mean, ``name@first`` and ``name@last`` one of them. Of a feature map,
``name@2x2`` is a grid of means and ``name@mean`` the mean of all.
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

    One forward pass over a few samples finds them. The model is left as it was.

    Parameters
    ----------
    model : torch.nn.Module
        A classifier.
    example : Dataset, DataLoader, pair of arrays, or array of inputs
        Where to take the few samples from, such as the training data.
    pool : str or iterable of str, optional
        How tokens and feature maps are read; see `decode`.

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
    """Return the places that a choice of layers means, in execution order, each once.

    Parameters
    ----------
    seen : Survey
        What a forward pass showed.
    layers : str, iterable of str, callable or None
        Names; globs, in which ``*`` stands for anything within one component and ``**`` also
        across dots; or a predicate ``(name, module) -> bool``. None means the defaults. After a
        name or glob ``@first``, ``@mean``, ``@last``, ``@2x2`` or ``@flatten`` says how tokens or
        feature maps are read.

    Raises
    ------
    LayerError
        If a name or glob matches nothing (the message names the three closest), or names a
        module that the forward pass does not call, or a layer that has none is to be pooled.
    """
    places = seen.whole
    modules = dict(model.named_modules(remove_duplicate=False))
    if layers is None:
        read = [each for place in places if place.default for each in seen.read(place)]
        found = [place for place in read if place.default]
    elif callable(layers):
        wanted = {name for name, module in modules.items() if name and layers(name, module)}
        found = [p for p in _main(places) if p.tap.module in wanted and p.tap.side == "output"]
        if not found:
            raise LayerError("the predicate holds for no layer that the forward pass calls")
        found = [each for place in found for each in seen.read(place)]
    else:
        if not isinstance(layers, Iterable) or not all(isinstance(p, str) for p in layers):
            raise LayerError(
                f"layers: expected names, globs or a function of name and module; found {layers!r}"
            )
        patterns = [layers] if isinstance(layers, str) else list(layers)
        patterns = [part for p in patterns for part in str(p).split(",") if part]
        if not patterns:
            raise LayerError("expected at least one layer name; found none")
        found = [place for pattern in patterns for place in _read(seen, modules, pattern)]
    flat = all(place.tap.pool in ("flatten", WORDS) for place in found)
    if flat and seen.tokens is None and seen.pools not in (("flatten",), (AUTO,)):
        raise LayerError(
            f"pool: expected a layer of tokens, shape (tokens, width), or feature maps to take the "
            f"{' and '.join(seen.pools)} of; none of the {len(found)} layers is one"
        )
    spots = {place.spot: number for number, place in enumerate(places)}
    by_name = {place.tap.name: place for place in found}
    return sorted(by_name.values(), key=lambda p: (spots[p.spot], rank_of(p.tap.pool)))


def _read(seen: Survey, modules: dict[str, nn.Module], pattern: str) -> list[Place]:
    """Return what a name or glob means, read as it says or else as `seen` does."""
    name, at, pool = pattern.rpartition("@")
    if not at or any(place.tap.name == pattern for place in seen.whole):
        return [each for p in _match(seen.whole, modules, pattern) for each in seen.read(p)]
    if not is_pool(pool):
        raise LayerError(f"{pattern!r}: expected one of {POOL_CHOICES} after the @; found {pool!r}")
    matching = _match(seen.whole, modules, name)
    found = [each for p in matching if (each := seen.read_as(p, pool)) is not None]
    if not found:
        first = matching[0]
        tokens = "tokens" if seen.tokens is None else f"{seen.tokens} tokens as the mask has"
        expected = f"a layer of {tokens}, shape (tokens, width)"
        if (grid := grid_of(pool)) is not None:
            expected = f"feature maps, at least {grid[0]} high and {grid[1]} wide"
        raise LayerError(
            f"{pattern!r}: expected {expected}; {first.tap.name!r} has shape {first.shape}"
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
