"""A watched training run while it runs: a line an epoch, or a figure in a notebook."""

import contextlib
import sys
import textwrap
from typing import Any

from ..results.monitor.history import NETWORK
from ..results.monitor.record import MonitorRecord
from ..utils.progress import in_notebook
from .monitor import monitor_notebook

__all__ = ["Live"]

_WIDTH = 80
# After so many lines the heading is printed again.
_AGAIN = 30
_LEGEND = (
    "In %. Network: given labels that it predicts, for exact and for changed inputs. Memory: the "
    "difference. Decoded: what the best layer gets right, estimated. Keep: the epoch to keep so "
    "far; * is this one."
)


class Live:
    """Shows the epochs of one monitor, each as soon as it is read.

    In a notebook a figure is drawn anew in its place. Elsewhere there is a line on standard error
    for each epoch, and a few when memorising starts and when training may stop. A bar of tqdm that
    runs there stays below the lines.
    """

    def __init__(self) -> None:
        self._lines = 0
        self._told: set[str] = set()
        # Where a notebook shows the figure.
        self._display: Any = None

    def show(self, m: MonitorRecord) -> None:
        """Show the last epoch that was read."""
        if in_notebook():
            page = {"text/html": monitor_notebook(m), "text/plain": m.verdict}
            if self._display is None:
                show = sys.modules["IPython"].display.display
                self._display = show(page, raw=True, display_id=True)
            else:
                self._display.update(page, raw=True)
        elif sys.stderr is not None:
            _print("\n".join(self._text(m)))

    def _text(self, m: MonitorRecord) -> list[str]:
        """Return the lines of the last epoch, none longer than 80 letters."""
        cells = _cells(m)
        text = [] if self._lines else textwrap.wrap(_LEGEND, _WIDTH)
        if self._lines % _AGAIN == 0:
            text.append("  ".join(name.rjust(width) for name, width, _ in cells).rstrip())
        self._lines += 1
        text.append("  ".join(value.rjust(width) for _, width, value in cells).rstrip())
        when, end = m.alarm, m.stop
        reasons = {
            "MEMORISES": "" if when is None else when.evidence,
            "MAY STOP": "" if end is None else end.why,
        }
        for title, reason in reasons.items():
            if reason and title not in self._told:
                text += textwrap.wrap(f"{title}: {reason}", _WIDTH, subsequent_indent="  ")
        # One that is taken back may come again.
        self._told = {title for title, reason in reasons.items() if reason}
        return text


def _cells(m: MonitorRecord) -> list[tuple[str, int, str]]:
    """Return heading, width and value of each column for the last epoch that was read."""
    numbers, kept = m.scalars(), m.recommended
    history = m.history
    epoch = int(history["epoch"].iloc[-1])
    cells = [("epoch", 5, str(epoch))]
    columns = {
        "network exact": "network_plain",
        "changed": "network_perturbed",
        "hold-out": "network_holdout",
        "memory": "network_memory",
        "decoded": "decoded_accuracy",
        "wrong labels": "noise_rate",
    }
    held = history.loc[history["layer"] == NETWORK, "holdout"].notna().any()
    for name, key in columns.items():
        if key != "network_holdout" or held:
            cells.append((name, len(name), f"{100 * numbers[key]:.1f}"))
    if kept is not None:
        cells.append(("keep  ", 7, f"{kept.epoch} {'*' if kept.epoch == epoch else ' '}"))
    return cells


def _print(text: str) -> None:
    """Print on standard error, above a bar that runs there; training goes on if that is closed."""
    from tqdm import tqdm

    with contextlib.suppress(OSError, ValueError):
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()
