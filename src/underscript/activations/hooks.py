"""Hooks that read a model's layers, in context managers that always remove them."""

import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..data.samples import inputs_of
from ..errors import LayerError, ModelError
from ..utils.options import POOL_CHOICES
from .pooling import TOKENS, WORDS, is_pool, pooled, token_mask, words

if TYPE_CHECKING:
    from ..data.batches import Batch

Path = tuple[int | str, ...]


@dataclass(frozen=True)
class Tap:
    """One place in a forward pass.

    Attributes
    ----------
    name : str
        Name shown to the user: ``fc1``, ``relu#1``, ``attn[0]``, ``readout:input``, ``input``.
    module : str
        Dotted name of the module; unused for the model's own input.
    side : {"output", "input", "model"}
        Whether the module's output or its first input is taken; ``"model"`` is the model's input.
    call : int
        Which call of the module within one forward pass, from 0.
    path : tuple of int and str
        Where in a tuple or dict output the tensor is; empty for a plain tensor.
    calls : int
        Calls in one forward pass, as counted when the layers were listed.
    width : int
        Values per row at that time; 0 if not known.
    pool : str
        How a sample's tokens (``"first"``, ``"mean"``, ``"last"``) or feature map (``"mean"``,
        ``"2x2"``, …) become one row; an input of word numbers is read as its ``"words"``.
    """

    name: str
    module: str
    side: Literal["output", "input", "model"]
    call: int = 0
    path: Path = ()
    calls: int = 1
    width: int = 0
    pool: str = "flatten"

    def __post_init__(self) -> None:
        # A saved decoder may have been edited.
        if not isinstance(self.pool, str) or not (is_pool(self.pool) or self.pool == WORDS):
            raise ValueError(f"pool: expected one of {POOL_CHOICES}; found {self.pool!r}")


class Reached(Exception):  # noqa: N818 - no error: all taps have seen their layers
    """Ends a forward pass whose rest is not needed."""


class Tapped:
    """What the taps saw in the last forward pass.

    With `stop`, `Reached` ends the pass once all taps have seen their layers.
    """

    def __init__(self, taps: Sequence[Tap], stop: bool = False):
        self.taps, self.stop = taps, stop
        # Two taps may read one call at different paths of its output.
        self._by_call: dict[tuple[str, str, int], list[Tap]] = {}
        for tap in taps:
            self._by_call.setdefault((tap.module, tap.side, tap.call), []).append(tap)
        self._calls: Counter[tuple[str, str]] = Counter()
        self._seen: dict[str, Tensor] = {}
        self._mask: Tensor | None = None

    def see(self, module: str, side: str, value: Any) -> None:
        """Copy a module's input or output, if this call of it is tapped."""
        call = self._calls[module, side]
        self._calls[module, side] += 1
        for tap in self._by_call.get((module, side, call), ()):
            self._seen[tap.name] = _as_rows(at_path(value, tap.path, tap.name), tap, self._mask)
        if self.stop and len(self._seen) == len(self.taps):
            raise Reached

    def see_input(self, batch: "Batch", where: str) -> None:
        """Copy the model's input before the model can change it in place.

        Keep the mask of its tokens too, if a tap pools them.

        Raises
        ------
        DataError
            If the mask is invalid.
        """
        if any(tap.pool in (*TOKENS, WORDS) for tap in self.taps):
            self._mask = token_mask(batch, where)
        for tap in self.taps:
            if tap.side == "model":
                self._seen[tap.name] = _as_rows(model_input(batch, where), tap, self._mask)

    def rows(self, batch: "Batch", where: str) -> dict[str, Tensor]:
        """Return each layer's rows (n, width), and forget them.

        Raises
        ------
        LayerError
            If a tapped module did not fire as often as when the layers were listed, or its
            output does not have one row per sample.
        """
        rows: dict[str, Tensor] = {}
        for tap in self.taps:
            calls = self._calls[tap.module, tap.side] if tap.side != "model" else tap.calls
            if self.stop and tap.name in self._seen:
                calls = tap.calls
            if tap.name not in self._seen or calls != tap.calls:
                raise LayerError(
                    f"{where}: layer {tap.name!r} was expected to fire {tap.calls} times in a "
                    f"forward pass; it fired {calls} times. Tap a layer that every input passes"
                )
            rows[tap.name] = self._seen[tap.name]
            # Not len(): in a pass traced for export, that is a fixed number.
            n, width = rows[tap.name].shape
            if n != batch.size:
                raise LayerError(
                    f"{where}: layer {tap.name!r} gives {n} rows for "
                    f"{batch.size} samples; tap a layer whose first dimension is the batch"
                )
            if tap.width and width != tap.width:
                raise LayerError(
                    f"{where}: layer {tap.name!r} gives rows of {width} values; expected "
                    f"{tap.width} as at first. Pad inputs to one size, pool the layer's tokens "
                    "(pool), or tap a layer of one width"
                )
        self.forget()
        return rows

    def forget(self) -> None:
        """Discard what was seen of a pass that did not finish."""
        self._seen, self._calls = {}, Counter()


@contextmanager
def capture(model: nn.Module, taps: Sequence[Tap], *, stop: bool = False) -> Iterator[Tapped]:
    """Tap layers of a model while the block runs; the hooks are always removed.

    With `stop` the model runs only up to the last tap, where it raises `Reached`.

    Raises
    ------
    LayerError
        If a tap names a module that the model does not have.
    """
    tapped = Tapped(taps, stop)
    modules = dict(model.named_modules())
    handles = []
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        # With a padding mask the fast path hands nested tensors from layer to layer.
        torch.backends.mha.set_fastpath_enabled(False)
        for name, side in {(tap.module, tap.side) for tap in taps if tap.side != "model"}:
            if name not in modules:
                raise LayerError(f"the model has no module {name!r}")
            handles.append(_hook(modules[name], name, side, tapped))
        yield tapped
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()


def _hook(module: nn.Module, name: str, side: str, tapped: Tapped) -> Any:
    if side == "output":

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            tapped.see(name, "output", output)

        return module.register_forward_hook(after)

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tapped.see(name, "input", first_tensor((args, kwargs)))

    return module.register_forward_pre_hook(before, with_kwargs=True)


@contextmanager
def plain_torch(grad: bool = False) -> Iterator[None]:
    """Run the block, or the decorated function, with torch's default settings.

    New tensors are float32 and on the CPU, autocast is off, compiled modules run eagerly (otherwise
    no hook would see them), and gradients are recorded only with `grad`.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as settings:
        settings.enter_context(torch.inference_mode(False))
        settings.enter_context(torch.set_grad_enabled(grad))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                settings.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            settings.enter_context(torch.device("cpu"))
        stance = getattr(torch.compiler, "set_stance", None)
        if stance is not None and "torch._dynamo" in sys.modules:
            settings.enter_context(stance("force_eager"))
        try:
            torch.set_default_dtype(torch.float32)
            yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the block with the model in evaluation mode, and restore everything afterwards.

    Each module's mode and the random states of Python, NumPy and torch (CPU and CUDA) are
    restored, also when the block raises. Inside, torch has the settings of `plain_torch`.
    """
    modes = [(module, module.training) for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's own
    fast = torch.backends.mha.get_fastpath_enabled()
    torch_cpu = torch.get_rng_state()
    torch_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        with plain_torch():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes:
            module.training = training
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(torch_cpu)
        if torch_cuda:
            torch.cuda.set_rng_state_all(torch_cuda)


def tensors_in(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Yield the floating tensors in a nest of tuples, lists, dicts and dataclass-like objects."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, (*path, str(key)))
    elif isinstance(value, tuple | list):
        for number, item in enumerate(value):
            yield from tensors_in(item, (*path, number))


def first_tensor(value: Any) -> Tensor | None:
    """Return the first floating tensor in a nest, if there is one."""
    return next((tensor for _, tensor in tensors_in(value)), None)


def at_path(value: Any, path: Path, name: str) -> Tensor:
    """Return the tensor at a path of an output."""
    for step in path:
        try:
            value = _part(value, step)
        except (KeyError, IndexError, TypeError, StopIteration):
            raise LayerError(f"layer {name!r}: the output has no part {step!r}") from None
    if not isinstance(value, Tensor):
        raise LayerError(f"layer {name!r}: expected a tensor; found {type(value).__name__}")
    return value


def _part(value: Any, step: int | str) -> Any:
    """Return a part of an output; dict keys of any type are matched by their text."""
    if not isinstance(value, Mapping):
        return value[step]
    if step in value:
        return value[step]
    return next(part for key, part in value.items() if str(key) == step)


def model_input(batch: "Batch", where: str) -> Tensor:
    """Return the model's input as one tensor: all of its quantities side by side, (n, …).

    A single tensor is returned as it is; several are flattened, in the order of their places and
    names. Without quantities, the word numbers are returned; a mask is neither.
    """
    quantities, names = inputs_of(batch)
    if len(quantities) == 1:
        return quantities[0]
    if quantities:
        flat = [value.reshape(value.shape[0], -1) for value in quantities]
        return torch.cat([rows.float() if rows.dtype == torch.uint8 else rows for rows in flat], 1)
    if names:
        return names[0]
    raise LayerError(f"{where}: the batch holds no tensor for the layer 'input'")


def _as_rows(value: Tensor, tap: Tap, mask: Tensor | None) -> Tensor:
    """Pool or flatten to (n, width), as a copy that later in-place operations cannot change.

    float16, bfloat16 and integers become float32, which holds them exactly or nearly so; sums
    over samples are float64 (see `moments`).
    """
    if tap.pool == WORDS:
        return words(value, mask, tap.width)
    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    if tap.pool != "flatten":
        return pooled(value.to(dtype), tap.pool, mask, tap.name).clone()
    return value.reshape(value.shape[0], -1).to(dtype, copy=True) if value.ndim else value


def extract_logits(output: Any, size: int, where: str) -> Tensor:
    """Return the logits (n, K) in a model's output: a tensor, tuple, dict or object with .logits.

    Raises
    ------
    ModelError
        If there are none, or they are not one row per sample, of at least two classes.
    """
    logits = named_logits(output)
    if logits is None:
        # `survey` checks which of several outputs holds the logits.
        rows = (tensor for _, tensor in tensors_in(output) if may_be_logits(tensor, size))
        logits = next(rows, first_tensor(output))
    if logits is None:
        raise ModelError(
            f"{where}: expected logits (a tensor, tuple, dict or object with .logits); "
            f"the model returned {type(output).__name__}"
        )
    if logits.shape in ((size,), (size, 1)):
        raise ModelError(
            f"{where}: expected logits of shape ({size}, classes) with at least 2 classes; the "
            f"model returned {tuple(logits.shape)}. Of a binary classifier with one logit, return "
            "two, torch.cat([torch.zeros_like(logit), logit], 1)"
        )
    if not may_be_logits(logits, size):
        raise ModelError(
            f"{where}: expected logits of shape ({size}, classes) with at least 2 classes; the "
            f"model returned {tuple(logits.shape)}. Only single-label classifiers can be decoded"
        )
    return logits.float() if logits.dtype != torch.float64 else logits


def named_logits(output: Any) -> Tensor | None:
    """Return an output's own `logits`, or the output itself if it is a tensor."""
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else None
    named = getattr(output, "logits", None) if named is None else named
    return named if isinstance(named, Tensor) else None


def may_be_logits(value: Tensor, size: int) -> bool:
    """Return whether a tensor has one row per sample, of at least two numbers."""
    return value.ndim == 2 and len(value) == size and value.shape[1] >= 2
