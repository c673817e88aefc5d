"""matplotlib's figures as SVG that fits into a page."""

import base64
import hashlib
import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from .plots import COLOURS

__all__ = ["inline", "inline_figure"]


def inline(
    draw: Callable[[Axes], object],
    name: str,
    inches: tuple[float, float],
    *,
    label: str,
    kind: str = "",
) -> Markup:
    """Return what `draw` draws as SVG for a page.

    matplotlib's SVG is adapted: colours become CSS variables (dark mode), fonts the page's, and ids
    unique to `name`; metadata and namespaces are removed. `label` describes the figure for those
    who cannot see it; `kind` is a class of the style sheet.
    """
    figure = Figure(figsize=inches, layout="constrained")
    ax = figure.subplots()
    with warnings.catch_warnings():
        _let_glyphs_miss()
        draw(ax)
    return inline_figure(figure, name, label=label, kind=kind)


def inline_figure(figure: Figure, name: str, *, label: str, kind: str = "") -> Markup:
    """Return a whole figure as SVG for a page; see `inline`."""
    FigureCanvasSVG(figure)
    drawn = io.BytesIO()
    with (
        # Text stays text, and pictures are in the page, whatever the user has set.
        mpl.rc_context({"svg.fonttype": "none", "svg.image_inline": True, "svg.hashsalt": name}),
        warnings.catch_warnings(),
    ):
        _let_glyphs_miss()
        figure.savefig(drawn, format="svg", metadata={"Date": None}, transparent=True)
    root = ET.fromstring(drawn.getvalue())
    width, height = root.attrib["viewBox"].split()[2:]
    variables = {value: f"var(--{key})" for key, value in COLOURS.items()}
    for parent in list(root.iter()):
        for place, child in reversed([*enumerate(parent)]):
            if child.tag.endswith("}image"):
                parent[place : place + 1] = _masked(child)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
        parent.tag = parent.tag.rpartition("}")[2]
        attributes = {}
        for key, value in parent.attrib.items():
            key = key.rpartition("}")[2]
            if key == "id":
                value = f"{name}-{value}"
            elif key == "href" and value.startswith("#"):
                value = f"#{name}-{value.removeprefix('#')}"
            elif key == "style":
                value = re.sub(r"#[0-9a-f]{6}", lambda m: variables.get(m[0], m[0]), value)
                value = re.sub(r"font-family: [^;]*(; )?", "", value)
                value = re.sub(r"font: ((?:bold |\d+ )*)([\d.]+px)[^;]*", _own_font, value)
            elif key in ("clip-path", "mask"):
                value = value.replace("url(#", f"url(#{name}-")
            attributes[key] = value
        parent.attrib.clear()
        parent.attrib.update(attributes)
    root.attrib.clear()
    root.attrib |= {"class": f"figure {kind}".strip(), "viewBox": f"0 0 {width} {height}"}
    root.attrib |= {"role": "img", "aria-label": label}
    # Markup, as the text in it was escaped by matplotlib and again by ElementTree.
    return Markup(ET.tostring(root, encoding="unicode"))


def _masked(image: ET.Element) -> list[ET.Element]:
    """Return a picture of one colour and many opacities as that colour behind a mask.

    So the colour is a variable of the page, like every other. The mask is named by what it holds:
    in a notebook several figures of one name are on one page.
    """
    data = next(value for key, value in image.attrib.items() if key.endswith("href"))
    name = f"mask-{hashlib.sha256(data.encode()).hexdigest()[:16]}"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))))
    red, green, blue = pixels.reshape(-1, 4)[0, :3].tolist()
    box = {key: image.attrib[key] for key in ("width", "height", "transform")}
    box["style"] = f"fill: #{red:02x}{green:02x}{blue:02x}"
    mask = ET.Element("mask", {"id": name, "style": "mask-type: alpha"})
    mask.append(image)
    image.attrib.pop("transform")
    image.attrib.pop("id")
    return [mask, ET.Element("rect", {**box, "mask": f"url(#{name})"})]


def _let_glyphs_miss() -> None:
    # The page uses the browser's fonts, so a glyph that matplotlib's font lacks does not matter.
    warnings.filterwarnings("ignore", message="Glyph .* missing")


def _own_font(match: re.Match[str]) -> str:
    weight = match[1].strip()
    return f"font-size: {match[2]}" + (f"; font-weight: {weight}" if weight else "")
