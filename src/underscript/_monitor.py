"""`Monitor`: watches a network while it trains, and says when it begins to memorise labels."""

from .results.monitor.monitor import MonitorRun

__all__ = ["Monitor"]


class Monitor(MonitorRun):
    __doc__ = MonitorRun.__doc__
