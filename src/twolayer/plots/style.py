"""What a colour means, and how lines, ticks and axes look, in every picture."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colorbar import Colorbar
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

GREY = "#767676"
"""As far from white as from black: text and what is neutral can be read on both."""
CLASSES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Class 0, class 1 and so on: Okabe and Ito's colours, which those who are blind to red or green tell apart too."""
MARKERS = "o^sDvP"
SERIES = ("#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#0072B2", "#D55E00")
"""Lines of a kind, one beside the other: runs, networks, activations."""
FAULT = "#EE3377"
"""What does not do its work."""
SIGN = "PRGn"
"""Numbers of either sign: purple below zero, green above."""
AMOUNT = "cividis"
"""How much there is of something: dark for nothing."""

STYLE: dict[str, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), "none"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 10,
    "axes.titlesize": 10,
    "svg.hashsalt": "twolayer",
}
"""For ``matplotlib.rc_context``: no background, and text that can be read on a white page and on a black one."""


def given_or_new(ax: Axes | None, size: tuple[float, float] = (6.0, 4.0)) -> Axes:
    """``ax``, or those of a new figure of that size in inches.

    Raises:
        TypeError: it is something else, such as the array that ``plt.subplots(2)`` returns.
    """
    if ax is None:
        from matplotlib import pyplot

        return pyplot.subplots(figsize=size, layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be matplotlib Axes, got {type(ax).__name__}")
    return ax


def literal(text: str) -> str:
    """As it stands: matplotlib takes what is between dollar signs for mathematics.

    >>> literal("$10k-$20k") == literal(literal("$10k-$20k")) == r"\\$10k-\\$20k"
    True
    """
    return re.sub(r"(?<!\\)\$", r"\\$", text)


def whole_numbers(*axes: Axis) -> None:
    """Ticks at integers alone, and not many."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def scale(image: AxesImage, where: Axes, **options: Any) -> Colorbar:
    """The colours of an image with their numbers, drawn beside ``where``, or as ``cax``."""
    bar = where.figure.colorbar(image, **({"ax": where} | options))
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)  # in an SVG, one small image in place of 256 rectangles
    return bar


def label_ends(ax: Axes, lines: Sequence[Line2D]) -> None:
    """Writes each line's label where it ends, in its colour; where ends are near each other, one above the other."""
    size = float(ax.xaxis.label.get_fontsize())
    gap = 1.2 * size / 72 * ax.figure.dpi  # in pixels
    ax.autoscale_view()  # until then the scale is not that of the lines
    ends = sorted(((*end, line) for line in lines for end in _end(ax, line)), key=lambda end: end[1])
    heights = [y for _, y, _ in ends]
    for i in range(1, len(ends)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    for i in reversed(range(len(ends) - 1)):  # back below the top, if it went beyond
        heights[i] = min(heights[i], max(ax.bbox.y1, ends[-1][1]) - (len(ends) - 1 - i) * gap)
    if ends:
        heights[-1] = min(heights[-1], max(ax.bbox.y1, ends[-1][1]))
    for height, (x, _, line) in zip(heights, ends, strict=True):
        where = ax.transData.inverted().transform((x, height))
        ax.annotate(
            str(line.get_label()),
            (where[0], where[1]),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=line.get_color(),
            size=size,
            annotation_clip=False,
        )


def _end(ax: Axes, line: Line2D) -> list[tuple[float, float]]:
    """Where the line ends, in pixels: its last point that is a number. Nowhere, if none is."""
    points = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
    points = ax.transData.transform(points)
    return [(float(x), float(y)) for x, y in points[np.isfinite(points).all(1)][-1:]]
