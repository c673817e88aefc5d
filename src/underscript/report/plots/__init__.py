"""Figures as functions: a decoding in, matplotlib axes out.

Each takes what `decode` or `load` gives (`trace_…`: a trace; `monitor_…`: a monitor) and, if you
like, the axes to draw on; the axes come back. The colours can be told apart with every common kind
of colour blindness, and the sizes are those of a column in print. Nothing here touches pyplot, the
global settings of matplotlib, or a display.

>>> from underscript import plots
>>> sorted(plots.__all__)  # doctest: +NORMALIZE_WHITESPACE
['COLOURS', 'angle_map', 'layer_curve', 'memory_meter', 'monitor_curves', 'monitor_map',
 'noise_matrix', 'quality_histogram', 'rank_curve', 'trace_curves', 'trace_map']
"""

from .curve import layer_curve
from .distributions import quality_histogram, rank_curve
from .maps import angle_map, noise_matrix
from .memory import memory_meter
from .monitor import monitor_curves, monitor_map
from .style import COLOURS
from .trace import trace_curves, trace_map

__all__ = [
    "COLOURS",
    "angle_map",
    "layer_curve",
    "memory_meter",
    "monitor_curves",
    "monitor_map",
    "noise_matrix",
    "quality_histogram",
    "rank_curve",
    "trace_curves",
    "trace_map",
]
