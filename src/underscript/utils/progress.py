"""One bar for a whole job: its stages in order, and how much time is left.

Work is counted before it is done, in two kinds: runs of the network, one a sample and view, and
multiply-adds of what is fitted and decoded. What a unit of a kind takes is measured while the job
goes on: all seconds spent on it, over all units done. The seconds of a stage of both kinds are
divided as they were expected. A multiply-add is first expected to take 1.6 times what it takes in
a product of two small matrices on this machine; what is measured replaces that from about a second
on. Of a run nothing is expected: no time is told before the first batches are timed. Time left is
the work left at these rates. Work of a stage that ends early, or is left out, is not left.
"""

import contextlib
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .device import product_seconds

__all__ = ["PRODUCTS", "RUNS", "SILENT", "Estimate", "Progress", "Stage", "roughly"]

logger = logging.getLogger(__name__)

# The kinds of work: runs of the network over one sample, and multiply-adds.
RUNS, PRODUCTS = "runs", "products"
# Seconds of runs of the network that tell what one takes.
_ENOUGH = 0.3
# Beside a first batch that takes so many seconds what it takes once is nothing.
_WARM = 1.0
# How much longer a multiply-add takes among all else than in a product of small matrices.
_AMONG_ALL = 1.6
# Seconds that what is expected of a multiply-add counts for beside what is measured.
_PRIOR = 1.0
# Seconds between two looks of the bar.
_TICK = 0.2
_FORMAT = "{desc} |{bar}| {percentage:3.0f}% [{elapsed}{postfix}]"
_WITHOUT_TOTAL = "{desc} [{elapsed}]"


@dataclass(frozen=True)
class Stage:
    """One stage of a job.

    Attributes
    ----------
    name : str
        What the bar says.
    work : mapping of str to float
        Units of each kind; NaN where it is not known how many.
    parts : tuple of float
        What its steps weigh, where they are not alike.
    """

    name: str
    work: Mapping[str, float] = field(default_factory=dict)
    parts: tuple[float, ...] = ()

    @classmethod
    def of_parts(cls, name: str, parts: Sequence[float]) -> "Stage":
        """Return a stage of so many multiply-adds, step by step."""
        return cls(name, {PRODUCTS: sum(parts)}, tuple(parts))


class Estimate:
    """How long the stages of a job take, from what they took so far.

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
        # Seconds and runs of the first batch, in which everything is slower than later.
        self._first = 0.0, 0.0
        self._warm = False
        self._share = 0.0
        self._began = self._last = clock()

    @property
    def stage(self) -> Stage | None:
        """What is being done; None before the first stage."""
        return self._stages[self._at] if self._at >= 0 else None

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return self._clock() - self._began

    @property
    def countable(self) -> bool:
        """Whether it is known how much work there is."""
        return not any(math.isnan(w) for stage in self._stages for w in stage.work.values())

    @property
    def timed(self) -> bool:
        """Whether enough is measured to tell how long the whole takes."""
        stage = self.stage
        running = stage is not None and RUNS in stage.work and self._done < 1
        return self.left is not None and (self._spent[RUNS] >= _ENOUGH or not running)

    def expect(self, stages: Sequence[Stage]) -> None:
        """Take another plan from the present stage on; what it has before that is over."""
        names = [stage.name for stage in stages]
        over = 0
        if self.stage is not None and self.stage.name in names:
            over = 1 + names.index(self.stage.name)
        self._stages[self._at + 1 :] = stages[over:]

    def begin(self, name: str, steps: float | None = None) -> None:
        """End a stage, however much of it is done, and begin another one of so many steps.

        Those between the two that were not begun are left out.

        Where `steps` is None they are the stage's parts, or its runs of the network.
        """
        later = range(self._at + 1, len(self._stages))
        found = next((at for at in later if self._stages[at].name == name), None)
        if found is None:
            found = self._at + 1
            self._stages.insert(found, Stage(name))
        self._end()
        self._at, self._count, self._done = found, 0.0, 0.0
        stage = self._stages[found]
        self._steps = stage.work.get(RUNS, 1.0) if steps is None else steps
        if math.isnan(self._steps):
            self._stages[found] = replace(stage, work={**stage.work, RUNS: math.nan})
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
        """Say what the seconds since last time were spent on, and how much that was."""
        now = self._clock()
        seconds, self._last = now - self._last, now
        if done.get(RUNS) and not self._warm:
            self._warm = True
            if seconds < _WARM:
                self._first = seconds, done[RUNS]
                return
        work = self._stages[self._at].work
        if work.get(RUNS) and not self._units[RUNS]:
            # A multiply-add is known from elsewhere, a run from here alone.
            work = {RUNS: 1.0}
            done = {RUNS: done.get(RUNS, 0.0)}
        expected = {k: w * (self._rate(k) or 0.0) for k, w in work.items() if w > 0}
        whole = sum(expected.values())
        for kind, mine in expected.items():
            self._spent[kind] += seconds * (mine / whole if whole else 1 / len(expected))
            self._units[kind] += done.get(kind, 0.0)

    def _rate(self, kind: str) -> float | None:
        """Return seconds of a unit, or None if nothing is known."""
        spent, units = self._spent[kind], self._units[kind]
        if kind == PRODUCTS and self._product:
            return (spent + _PRIOR) / (units + _PRIOR / (_AMONG_ALL * self._product))
        return spent / units if units else None

    def _expected(self, stage: Stage) -> float:
        """Return the seconds of a whole stage; NaN if they are not known."""
        seconds = 0.0
        for kind, work in stage.work.items():
            if work:
                rate = self._rate(kind)
                seconds += math.nan if rate is None else work * rate
        return seconds

    @property
    def left(self) -> float | None:
        """Seconds left, or None if they are not known."""
        here = 0.0
        if self._at >= 0 and self._done < 1:
            here = (1 - self._done) * self._expected(self._stages[self._at])
            if not math.isnan(here):
                here = max(0.0, here - (self._clock() - self._last))
        found = here + sum(self._expected(stage) for stage in self._stages[self._at + 1 :])
        return None if math.isnan(found) else found

    @property
    def share(self) -> float:
        """How much of the whole time has passed, 0 to 1; it never gets less."""
        left = self.left
        if left is not None and self._at >= 0:
            self._share = max(self._share, self.elapsed / max(self.elapsed + left, 1e-9))
        return self._share


class Progress:
    """One bar on standard error, if that is a terminal or this is a notebook; else nothing.

    It is opened and closed by ``with``. The first line is printed once, as soon as the first
    batches are timed: what is done and about how long that takes. Inside another bar it is left
    out. Where there is no bar it is logged, at the level of ``INFO``.

    Parameters
    ----------
    stages : sequence of Stage
        What is done, in its order.
    what : str
        What the first line says; no line if it is empty.
    shown : bool
        Whether anything is shown at all.
    device : torch.device
        Where matrices are multiplied.
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
        self._who = self._note = ""
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._ticker: threading.Thread | None = None

    @classmethod
    def of_one(cls, name: str, shown: bool = True) -> "Progress":
        """Return the bar of a job of one stage."""
        return cls([Stage(name, {RUNS: 1.0})], shown=shown)

    def __enter__(self) -> "Progress":
        visible = self._shown and (_in_notebook() or _on_terminal())
        logged = self._shown and self._what and logger.isEnabledFor(logging.INFO)
        if not visible and not logged:
            return self
        countable = any(PRODUCTS in stage.work for stage in self._stages)
        product = product_seconds(self._device, torch.float32) if countable else 0.0
        self._estimate = Estimate(self._stages, product)
        if visible:
            # Imported here: without a bar it is not needed.
            from tqdm.auto import tqdm

            if any(not bar.disable for bar in getattr(tqdm, "_instances", ())):
                self._what = ""
            self._bar = tqdm(total=1.0, leave=False, dynamic_ncols=True, bar_format=_FORMAT)
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            # Where there is no room for a thread the bar moves from stage to stage.
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

    def begin(self, name: str, steps: float | None = None) -> None:
        """Begin a stage; see `Estimate.begin`."""
        if self._estimate is not None:
            with self._lock:
                self._estimate.begin(self._who + name, steps)
                self._note = ""
            self._tell()
            self._draw()

    def advance(self, by: float = 1.0) -> None:
        """Count some steps of the present stage as done."""
        if self._estimate is not None:
            with self._lock:
                self._estimate.advance(by)
            self._tell()

    def note(self, text: str) -> None:
        """Say what the present stage is at, a layer's name say."""
        self._note = text

    def expect(self, stages: Sequence[Stage]) -> None:
        """Take another plan from the present stage on."""
        if self._estimate is not None:
            with self._lock:
                self._estimate.expect(stages)

    @contextlib.contextmanager
    def of(self, who: str) -> Iterator[None]:
        """Begin the names of all stages with what they are about."""
        before, self._who = self._who, who
        try:
            yield
        finally:
            self._who = before

    def _tell(self) -> None:
        """Give the first line, once, if enough is known."""
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
            said = estimate.stage.name + (f": {self._note}" if self._note else "")
        bar.n, bar.bar_format = share, _FORMAT if countable else _WITHOUT_TOTAL
        bar.set_description_str(said, refresh=False)
        bar.set_postfix_str("" if left is None else f"about {roughly(left)} left", refresh=False)
        bar.refresh()


# For what is neither shown nor timed; it keeps nothing, so all may share it.
SILENT = Progress(shown=False)


def roughly(seconds: float) -> str:
    """Return a duration as it is said beforehand.

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


def _in_notebook() -> bool:
    """Say whether a notebook shows what is written; its standard error is no terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", {})
