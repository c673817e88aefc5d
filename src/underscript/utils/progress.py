"""One bar for a whole job: its stages in order, and how much time is left.

Work is counted in advance, in two kinds: runs of the network (one per sample and view), and
multiply-adds of fitting and decoding. The seconds per unit of each kind are measured during the
job: all seconds spent on it, divided by all units done. If a stage has both kinds, its seconds are
split in the expected proportion. A multiply-add is first expected to take 1.6 times its time in a
product of two small matrices on this machine; the measurement takes over after about a second.
A run has no such guess, so no time is shown before the first batches are timed. The time left is
the remaining work at these rates. Work of a stage that ends early or is skipped does not count.
"""

import contextlib
import logging
import math
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .device import product_seconds

__all__ = ["PRODUCTS", "RUNS", "SILENT", "Estimate", "Progress", "Stage", "in_notebook", "roughly"]

logger = logging.getLogger(__name__)

# The kinds of work: runs of the network over one sample, and multiply-adds.
RUNS, PRODUCTS = "runs", "products"
# Seconds of runs of the network that are enough to time one.
_ENOUGH = 0.3
# If the first batch takes this many seconds, its one-off cost is negligible.
_WARM = 1.0
# How much longer a multiply-add takes in practice than in a product of small matrices.
_AMONG_ALL = 1.6
# Weight of the guess for a multiply-add against the measurement, in seconds.
_PRIOR = 1.0
# Seconds between two updates of the bar.
_TICK = 0.2
# Width of a bar of text in a notebook, whose own nothing tells.
_COLUMNS = 90
_FORMAT = "{desc} |{bar}| {percentage:3.0f}% [{elapsed}{postfix}]"
_WITHOUT_TOTAL = "{desc} [{elapsed}]"


@dataclass(frozen=True)
class Stage:
    """One stage of a job.

    Attributes
    ----------
    name : str
        The text of the bar.
    work : mapping of str to float
        Units of each kind; NaN if not known.
    parts : tuple of float
        Weights of the steps, if they differ.
    """

    name: str
    work: Mapping[str, float] = field(default_factory=dict)
    parts: tuple[float, ...] = ()

    @classmethod
    def of_parts(cls, name: str, parts: Sequence[float]) -> "Stage":
        """Return a stage with this many multiply-adds in each step."""
        return cls(name, {PRODUCTS: sum(parts)}, tuple(parts))


class Estimate:
    """Estimate how long the stages of a job take, from the time spent so far.

    Parameters
    ----------
    stages : sequence of Stage
        In their order.
    product : float
        Seconds of a multiply-add in a product of small matrices.
    clock : callable
        Returns seconds.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        product: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stages = list(stages)
        self._product, self._clock = product, clock
        self._spent, self._units = {RUNS: 0.0, PRODUCTS: 0.0}, {RUNS: 0.0, PRODUCTS: 0.0}
        self._at, self._count, self._steps, self._done = -1, 0.0, 1.0, 1.0
        # Seconds and runs of the first batch, which is slower than the later ones.
        self._first = 0.0, 0.0
        self._warm = False
        self._share = 0.0
        self._began = self._last = clock()

    @property
    def stage(self) -> Stage | None:
        """The current stage; None before the first."""
        return self._stages[self._at] if self._at >= 0 else None

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return self._clock() - self._began

    @property
    def countable(self) -> bool:
        """Whether the amount of work is known."""
        return not any(math.isnan(w) for stage in self._stages for w in stage.work.values())

    @property
    def timed(self) -> bool:
        """Whether enough is measured to estimate the whole time."""
        stage = self.stage
        running = stage is not None and RUNS in stage.work and self._done < 1
        return self.left is not None and (self._spent[RUNS] >= _ENOUGH or not running)

    def expect(self, stages: Sequence[Stage]) -> None:
        """Replace the plan after the current stage; earlier stages of the new plan are ignored."""
        names = [stage.name for stage in stages]
        over = 0
        if self.stage is not None and self.stage.name in names:
            over = 1 + names.index(self.stage.name)
        self._stages[self._at + 1 :] = stages[over:]

    def begin(self, name: str, steps: float | None = None) -> None:
        """End the current stage, finished or not, and begin another one with this many steps.

        Stages between the two are skipped.

        If `steps` is None, the steps are the stage's parts or its runs of the network.
        """
        later = range(self._at + 1, len(self._stages))
        place = next((at for at in later if self._stages[at].name == name), None)
        if place is None:
            place = self._at + 1
            self._stages.insert(place, Stage(name))
        self._end()
        self._at, self._count, self._done = place, 0.0, 0.0
        stage = self._stages[place]
        self._steps = stage.work.get(RUNS, 1.0) if steps is None else steps
        if math.isnan(self._steps):
            self._stages[place] = replace(stage, work={**stage.work, RUNS: math.nan})
        self._last = self._clock()

    def advance(self, by: float = 1.0) -> None:
        """Count some steps of the stage as done."""
        stage = self._stages[self._at]
        self._count += by
        if stage.parts:
            done = sum(stage.parts[: int(self._count)]) / (sum(stage.parts) or 1.0)
        elif math.isnan(self._steps):
            done = self._done
        else:
            done = min(1.0, self._count / max(self._steps, 1e-9))
        share, self._done = done - self._done, done
        self._book({kind: work * share for kind, work in stage.work.items()})

    def _end(self) -> None:
        if self._at < 0:
            return
        stage = self._stages[self._at]
        whole = not self._count and RUNS not in stage.work
        self._book(stage.work if whole else {})
        if not self._units[RUNS]:
            self._spent[RUNS], self._units[RUNS] = self._first

    def _book(self, done: Mapping[str, float]) -> None:
        """Assign the seconds since the last call to the kinds of work done in them."""
        now = self._clock()
        seconds, self._last = now - self._last, now
        if done.get(RUNS) and not self._warm:
            self._warm = True
            if seconds < _WARM:
                self._first = seconds, done[RUNS]
                return
        work = self._stages[self._at].work
        if work.get(RUNS) and not self._units[RUNS]:
            # A multiply-add has a guess; a run can only be timed here.
            work = {RUNS: 1.0}
            done = {RUNS: done.get(RUNS, 0.0)}
        expected = {k: w * (self._rate(k) or 0.0) for k, w in work.items() if w > 0}
        whole = sum(expected.values())
        for kind, needed in expected.items():
            self._spent[kind] += seconds * (needed / whole if whole else 1 / len(expected))
            self._units[kind] += done.get(kind, 0.0)

    def _rate(self, kind: str) -> float | None:
        """Return the seconds per unit, or None if not known."""
        spent, units = self._spent[kind], self._units[kind]
        if kind == PRODUCTS and self._product:
            return (spent + _PRIOR) / (units + _PRIOR / (_AMONG_ALL * self._product))
        return spent / units if units else None

    def _expected(self, stage: Stage) -> float:
        """Return the seconds of a whole stage; NaN if not known."""
        seconds = 0.0
        for kind, work in stage.work.items():
            if work:
                rate = self._rate(kind)
                seconds += math.nan if rate is None else work * rate
        return seconds

    @property
    def left(self) -> float | None:
        """Seconds left, or None if not known."""
        here = 0.0
        if self._at >= 0 and self._done < 1:
            here = (1 - self._done) * self._expected(self._stages[self._at])
            if not math.isnan(here):
                here = max(0.0, here - (self._clock() - self._last))
        seconds = here + sum(self._expected(stage) for stage in self._stages[self._at + 1 :])
        return None if math.isnan(seconds) else seconds

    @property
    def share(self) -> float:
        """Share of the whole time that has passed, 0 to 1; it never decreases."""
        left = self.left
        if left is not None and self._at >= 0:
            self._share = max(self._share, self.elapsed / max(self.elapsed + left, 1e-9))
        return self._share


class Progress:
    """One bar on standard error, in a terminal or a notebook; elsewhere nothing.

    Use it with ``with``. As soon as the first batches are timed, one line says what is done and
    about how long that takes. Inside another bar there is no such line. Without a bar the line is
    logged at level ``INFO``.

    Parameters
    ----------
    stages : sequence of Stage
        The stages, in their order.
    what : str
        The text of that line; no line if it is empty.
    shown : bool
        Whether to show anything at all.
    device : torch.device
        The device that multiplies matrices.
    """

    def __init__(
        self,
        stages: Sequence[Stage] = (),
        what: str = "",
        *,
        shown: bool = True,
        device: torch.device | str = "cpu",
    ):
        self._stages, self._what, self._shown = stages, what, shown
        self._device = torch.device(device)
        self._estimate: Estimate | None = None
        self._bar: Any = None
        # Where a notebook shows the bar.
        self._display: Any = None
        self._prefix = self._note = ""
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._ticker: threading.Thread | None = None

    @classmethod
    def of_one(cls, name: str, shown: bool = True) -> "Progress":
        """Return the bar of a job of one stage."""
        return cls([Stage(name, {RUNS: 1.0})], shown=shown)

    def __enter__(self) -> "Progress":
        visible = self._shown and (in_notebook() or _on_terminal())
        logged = self._shown and self._what and logger.isEnabledFor(logging.INFO)
        if not visible and not logged:
            return self
        countable = any(PRODUCTS in stage.work for stage in self._stages)
        product = product_seconds(self._device, torch.float32) if countable else 0.0
        self._estimate = Estimate(self._stages, product)
        if visible:
            tqdm = _bars()
            widget = tqdm.status_printer.__module__ == "tqdm.notebook"
            if any(not bar.disable for bar in getattr(tqdm, "_instances", ())):
                self._what = ""
            how: dict[str, Any] = {"dynamic_ncols": True}
            if widget:
                how["display"] = False
            elif not _on_terminal():
                how = {"ncols": _COLUMNS}
            self._bar = tqdm(total=1.0, leave=False, bar_format=_FORMAT, **how)
            if widget:
                show = sys.modules["IPython"].display.display
                self._display = show(self._bar.container, display_id=True)
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            # If no thread can start, the bar moves from stage to stage.
            with contextlib.suppress(RuntimeError):
                self._ticker.start()
        return self

    def __exit__(self, error: Any, *_: Any) -> None:
        self._estimate = None
        self._over.set()
        if self._ticker is not None and self._ticker.is_alive():
            self._ticker.join(timeout=1.0)
        if self._bar is not None:
            if error is None:
                self._bar.n = 1.0
                self._bar.set_postfix_str("")
            self._bar.close()
            self._bar = None
        if self._display is not None:
            # A saved notebook would show the bar as it was at first.
            self._display.update({"text/plain": ""}, raw=True)
            self._display = None

    def begin(self, name: str, steps: float | None = None) -> None:
        """Begin a stage; see `Estimate.begin`."""
        if self._estimate is not None:
            with self._lock:
                self._estimate.begin(self._prefix + name, steps)
                self._note = ""
            self._announce()
            self._draw()

    def advance(self, by: float = 1.0) -> None:
        """Count some steps of the current stage as done."""
        if self._estimate is not None:
            with self._lock:
                self._estimate.advance(by)
            self._announce()

    def note(self, text: str) -> None:
        """Show a detail of the current stage, such as a layer's name."""
        self._note = text

    def expect(self, stages: Sequence[Stage]) -> None:
        """Replace the plan after the current stage; see `Estimate.expect`."""
        if self._estimate is not None:
            with self._lock:
                self._estimate.expect(stages)

    @contextlib.contextmanager
    def of(self, prefix: str) -> Iterator[None]:
        """Put a prefix before the names of all stages in the block."""
        before, self._prefix = self._prefix, prefix
        try:
            yield
        finally:
            self._prefix = before

    def _announce(self) -> None:
        """Print or log the first line once, when enough is known."""
        estimate = self._estimate
        if not self._what or estimate is None or not (estimate.timed or not estimate.countable):
            return
        line, self._what = self._what, ""
        if estimate.left is not None:
            line += f"; about {roughly(estimate.elapsed + estimate.left)}"
        if self._bar is None:
            logger.info("%s", line)
        else:
            self._bar.write(line, file=sys.stderr)

    def _tick(self) -> None:
        """Keep the bar moving, however long a single batch or product takes."""
        while not self._over.wait(_TICK):
            self._draw()

    def _draw(self) -> None:
        bar = self._bar
        with self._lock:
            estimate = self._estimate
            if bar is None or estimate is None or estimate.stage is None:
                return
            left, share = estimate.left, estimate.share
            countable = estimate.countable
            description = estimate.stage.name + (f": {self._note}" if self._note else "")
        bar.n, bar.bar_format = share, _FORMAT if countable else _WITHOUT_TOTAL
        bar.set_description_str(description, refresh=False)
        bar.set_postfix_str("" if left is None else f"about {roughly(left)} left", refresh=False)
        bar.refresh()


# For work that is neither shown nor timed; it has no state, so everything may share it.
SILENT = Progress(shown=False)


def roughly(seconds: float) -> str:
    """Return a rounded duration, as text for an estimate.

    >>> roughly(0.3), roughly(7.2), roughly(41), roughly(200), roughly(9000)
    ('1 s', '7 s', '40 s', '3 minutes', '2.5 hours')
    """
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 90:
        return f"{5 * round(seconds / 5)} s"
    if seconds < 5400:
        return f"{max(2, round(seconds / 60))} minutes"
    return f"{seconds / 3600:.1f} hours"


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def in_notebook() -> bool:
    """Say whether this is a notebook; its standard error is not a terminal.

    A kernel knows itself in one of two ways: by the application that started it, or, where another
    program did (an editor, a server in the same process), by its shell.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", {}) or hasattr(shell, "kernel")


def _bars() -> Any:
    """Return tqdm's kind of bar for here: of a notebook with ipywidgets, else of a terminal.

    It is imported when it is first needed. Without ipywidgets tqdm warns, although its bar of text
    is as good.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        from tqdm.auto import tqdm
    return tqdm
