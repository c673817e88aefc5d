"""Numbers, names and settings as short text."""

import json
import math
from typing import Any

__all__ = ["PROBE_NAMES", "decoder_name", "percent", "plain", "points", "seconds", "size", "words"]

PROBE_NAMES = {
    "masc": "MASC",
    "velpic": "VeLPIC",
    "model": "read-out",
    "auto": "decoded ensemble",
}


def percent(value: float | None) -> str:
    """Return an accuracy (0 to 1) as per cent with one decimal; an en dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def between(low: float, high: float) -> str:
    """Return an interval of shares in per cent."""
    return f"{percent(low)}% to {percent(high)}%"


def points(value: float) -> str:
    """Return a difference in points with its sign."""
    return f"{value:+.1f}".replace("-", "−")


def decoder_name(probe: str, variance: float | None) -> str:
    """Return what a decoder is called, with its variance share."""
    name = PROBE_NAMES.get(probe, probe)
    if variance is None or math.isnan(variance):
        return name
    return f"{name} {variance:.6g}"


def words(name: str) -> str:
    """Return a key of the results as words."""
    return "held out" if name == "holdout" else name.replace("_", " ")


def plain(value: Any) -> str:
    """Return a setting or a fact as short text; what is long is left to ``results.json``.

    >>> plain(None), plain(True), plain(0.1 + 0.2), plain(["masc", "velpic"])
    ('–', 'yes', '0.3', 'masc, velpic')
    >>> plain([i / 20 for i in range(20)])
    '20 values, 0 … 0.95'
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, list | tuple) and not any(isinstance(v, list | dict) for v in value):
        if len(value) > 8:
            return f"{len(value)} values, {plain(value[0])} … {plain(value[-1])}"
        return ", ".join(map(plain, value)) or "none"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else f"{text[:140]}… (all in results.json)"


def seconds(value: float) -> str:
    """Return a duration in seconds as text.

    >>> seconds(0.0312), seconds(4.2), seconds(75), seconds(3725)
    ('0.03 s', '4.2 s', '1 min 15 s', '1 h 02 min')
    """
    if value < 1:
        return f"{value:.2f} s"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(value: float | None) -> str:
    """Return a number of bytes as text.

    >>> size(712e6), size(4_294_967_296), size(None)
    ('712 MB', '4.29 GB', '–')
    """
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"
