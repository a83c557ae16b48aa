"""Pictures as SVG that stands within a page, on light and on dark."""

import hashlib
import re
import warnings
from collections.abc import Callable
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from twolayer.plots.style import STYLE

INK = "#010203"
"""Stands for the colour of the page's text, until the picture is in the page."""
OF_THE_PAGE: Any = {
    **STYLE,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "svg.fonttype": "none",  # text stays text: it is found by searching, and read in the reader's fonts
}
IDS = re.compile(r"(\bid=\"|\bxlink:href=\"#|url\(#)")


def drawn(draw: Callable[[Axes], Any], width: float = 5.0, height: float = 3.6) -> str:
    """An ``<svg>`` of what a function draws on the axes it is given, text and axes in the colour of the page's text.

    Args:
        draw: the function.
        width, height: in inches. On a phone, 5 inches are shown at about their size.
    """
    with matplotlib.rc_context(OF_THE_PAGE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's fonts have it, perhaps
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        return svg_of(figure)


def svg_of(figure: Figure) -> str:
    """As :func:`drawn`, of a figure that is there."""
    text = StringIO()
    around_all = {"bbox_inches": "tight", "pad_inches": 0.05}  # no layout finds room for long names beside a square
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None}, **around_all)
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", svg, count=1)
    prefix = f"p{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"  # no two pictures of a page have the same ids
    return IDS.sub(rf"\1{prefix}", svg).replace(INK, "currentColor").strip()
