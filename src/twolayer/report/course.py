"""How the cost went, from the run's ``metrics.csv``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twolayer import plots
from twolayer.plots.curves import WORDS, Curves, logged
from twolayer.report import page
from twolayer.report.drawing import drawn
from twolayer.report.wording import number

if TYPE_CHECKING:
    from twolayer.report.run import Run


def section(run: Run) -> str:
    """The learning curves, or why there are none."""
    try:
        found = logged(run.folder / "metrics.csv")
    except OSError:
        return page.section("How it went", page.paragraph("There is no metrics.csv beside the run, and so no curves."))
    except ValueError as error:
        return page.section("How it went", page.paragraph(f"There are no curves: {error}."))
    epochs = [epoch for where, _ in found.values() for epoch in where]
    shown = (
        f"Learning curves: the cost on the {' and the '.join(WORDS[stage] for stage in found)} rows against the "
        f"epoch, from {min(epochs):.0f} to {max(epochs):.0f}."
    )
    svg = drawn(lambda ax: plots.learning_curves(run.folder, ax=ax))
    return page.section("How it went", page.figure(svg, shown, _went(found)))


def _went(found: Curves) -> str:
    """From where to where, and where it was lowest."""
    lines = []
    for stage, (epochs, values) in reversed(found.items()):
        least = min(range(len(values)), key=values.__getitem__)
        text = f"from {number(values[0])} in epoch {epochs[0]:.0f} to {number(values[-1])} in epoch {epochs[-1]:.0f}"
        lowest = f", the lowest {number(values[least])} in epoch {epochs[least]:.0f}"
        lines.append(f"the cost on the {WORDS[stage]} rows went {text}{lowest if 0 < least < len(values) - 1 else ''}")
    text = "; ".join(lines)
    return text[:1].upper() + text[1:] + "."
