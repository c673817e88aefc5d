"""`Monitor`: watches a network while it trains, and says when it begins to memorise labels."""

from os import PathLike
from pathlib import Path
from typing import Any

from .results.monitor.monitor import MonitorRun
from .results.monitor.record import KeptRecord, MonitorRecord

__all__ = ["KeptMonitor", "Monitor", "load_monitor"]


class _Shown(MonitorRecord):
    """What needs `report`, which imports the rooms below."""

    def _repr_html_(self) -> str:
        """Return the verdict and the figures, for a notebook."""
        from .report import monitor_notebook  # matplotlib takes a while to import

        return monitor_notebook(self)

    def report(self, path: str | PathLike[str]) -> None:
        """Write one offline HTML file.

        Raises
        ------
        OutputError
            If it cannot be written; an earlier file is left as it was.
        """
        from .report import render_monitor, write_page  # matplotlib takes a while to import

        write_page(Path(path), render_monitor(self))


class Monitor(_Shown, MonitorRun):
    __doc__ = MonitorRun.__doc__
    _display: Any = None

    def _show(self) -> None:
        from .report import Live  # matplotlib takes a while to import

        if self._display is None:
            self._display = Live()
        self._display.show(self)


class KeptMonitor(_Shown, KeptRecord):
    """What `load_monitor` gives: all that a `Monitor` tells, but it cannot go on."""


def load_monitor(folder: str | PathLike[str]) -> KeptMonitor:
    """Read the folder of a monitor, to look at it: no training data are needed.

    Parameters
    ----------
    folder : path
        Written by `Monitor` after each epoch, or by `Monitor.save`.

    Returns
    -------
    KeptMonitor
        With the properties of `Monitor`, its `report`, `label_issues` and exports. To go on with
        training, use `Monitor.resume`.

    Raises
    ------
    OutputError
        If the folder is no monitor's, or of a newer version.
    DataError
        If a file is damaged.
    """
    return KeptMonitor(Path(folder))
