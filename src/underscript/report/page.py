"""Self-contained pages: no request, no library, one script whose hash the page names."""

import base64
import functools
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from ..errors import DataError
from ..utils.files import whole_file
from .layers import NUMERIC
from .plots import COLOURS
from .plots.style import printable
from .words import percent, plain, seconds, size, words

__all__ = ["page_of", "write_page"]

#: The names of `COLOURS` and some backgrounds, for dark mode.
DARK: Mapping[str, str] = {
    "ink": "#e8ebef",
    "muted": "#9aa5b1",
    "faint": "#626d79",
    "grid": "#2a313a",
    "paper": "#14181d",
    "given": "#6cb4ff",
    "true": "#ff9f5a",
    "plain": "#b79cf5",
    "tint": "#17273a",
    "sunk": "#1b2027",
    "warn": "#2f2612",
}


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("underscript.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": plain,
        "words": words,
        "seconds": seconds,
        "size": size,
        "percent": percent,
        "printable": printable,
        "number": "{:,}".format,
    }
    environment.globals |= {"colours": COLOURS, "dark": DARK, "numeric": NUMERIC}
    return environment


@functools.cache
def _script() -> tuple[str, str]:
    """Return the page's script and its hash as the page's policy names it."""
    text = (resources.files("underscript.report") / "templates" / "report.js").read_text("utf-8")
    digest = hashlib.sha256(text.encode()).digest()
    return text, f"sha256-{base64.b64encode(digest).decode()}"


def page_of(template: str, **values: Any) -> str:
    """Return a page.

    Parameters
    ----------
    template : str
        Name of a file in ``templates/``.
    **values
        The values that it shows; text is escaped.

    Raises
    ------
    DataError
        If the results lack something that the page shows.
    """
    script, digest = _script()
    try:
        return (
            _environment()
            .get_template(template)
            .render(script=script, script_hash=digest, **values)
        )
    except jinja2.UndefinedError as error:
        raise DataError(
            f"expected the results of a run, found some without {error}; give the results.json "
            "and layers.csv of one run"
        ) from error


def write_page(path: Path, page: str) -> None:
    """Write a page, whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with whole_file(path) as work:
        # A lone surrogate in a name is the only thing that UTF-8 cannot hold.
        work.write_text(page, encoding="utf-8", errors="replace", newline="\n")
