"""Results as a person reads them: one offline HTML file, and the same on a terminal.

Everything is made from what the run folder holds and from nothing else, so that it can be made
again at any time. The numbers, their order and the words are decided once, for page and terminal.
"""

from .beside import render_beside
from .brief import print_brief
from .facts import KeyNumber, key_numbers
from .layers import LayerGroup, LayerRow, layer_groups
from .live import Live
from .monitor import monitor_notebook, render_monitor
from .page import page_of, write_page
from .run import notebook, render_report, write_report
from .svg import inline_figure
from .terminal import console_table, terminal_report
from .trace import print_trace, render_trace, trace_notebook

__all__ = [
    "KeyNumber",
    "LayerGroup",
    "LayerRow",
    "Live",
    "console_table",
    "inline_figure",
    "key_numbers",
    "layer_groups",
    "monitor_notebook",
    "notebook",
    "page_of",
    "print_brief",
    "print_trace",
    "render_beside",
    "render_monitor",
    "render_report",
    "render_trace",
    "terminal_report",
    "trace_notebook",
    "write_page",
    "write_report",
]
