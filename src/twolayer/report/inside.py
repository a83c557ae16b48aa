"""What is inside: the hidden units, and what flows back through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twolayer import plots
from twolayer.plots.given import hidden_outputs, trace
from twolayer.plots.hidden import one_kind_each
from twolayer.report import page
from twolayer.report.drawing import drawn
from twolayer.report.wording import counted, number, percent
from twolayer.units import unit_faults

if TYPE_CHECKING:
    from twolayer.report.run import Rows, Run

EXAMPLES = 200
"""Rows that are shown number by number, at most."""


def section(run: Run, rows: Rows) -> str:
    """Of some rows of training, as the first network sees them."""
    few, n_h = rows.few(EXAMPLES), run.model.net.hidden_features
    units = drawn(lambda ax: plots.hidden_units(run.model, rows.X, ax=ax))
    sizes = drawn(lambda ax: plots.gradient_flow(run.model, few.X, few.Y, ax=ax))
    numbers = drawn(lambda ax: plots.backward_pass(run.model, few.X, few.Y, ax=ax), width=10.0, height=4.0)
    return page.section(
        "What is inside",
        page.figure(
            units,
            f"The outputs of {counted(n_h, 'hidden unit')} over {counted(len(rows.X), 'row')}: a column for each unit, "
            "bright where many rows have that output.",
            _units(run, rows),
        ),
        page.figure(
            sizes,
            f"How large dZ2, dW2, dA1, dZ1 and dW1 are for {counted(len(few.X), 'row')}, on a logarithmic scale, from "
            "the output on the left back to the first weights.",
            _flows(run, few),
        ),
        page.figure(
            numbers,
            f"Heat maps of dZ2, dA1, g' and dZ1: {counted(len(few.X), 'row')} from top to bottom, sorted by their "
            f"error, and {counted(n_h, 'hidden unit')} from left to right.",
            "The same, row by row and unit by unit. The error dZ2 goes back through the weights (dA1), and through the "
            "slope g' of each unit; where the slope is dark, the error stops (dZ1).",
            wide=True,
        ),
    )


MEANINGS = {
    "dead": ("dead", "zero for every row, so that no gradient reaches them"),
    "saturated": ("saturated", "where the activation is flat for nearly all rows, so that they hardly learn"),
    "twin": ("twins", "alike in every row, so that they count as one"),
}


def _units(run: Run, rows: Rows) -> str:
    n_h = run.model.net.hidden_features
    kinds = one_kind_each(unit_faults(hidden_outputs(run.model, rows.X), run.model.net.activation))
    text = f"{counted(n_h, 'hidden unit')}, each a column: the brighter a place in it, the more rows have that output."
    found = [(int(kinds[kind].sum()), *MEANINGS[kind]) for kind in MEANINGS if kinds[kind].any()]
    if not found:
        return f"{text} None is dead, saturated or the twin of another."
    return text + "".join(
        f" {'All ' if count == n_h > 1 else ''}{count} {'is' if count == 1 else 'are'} {name}: {meaning}."
        for count, name, meaning in found
    )


def _flows(run: Run, rows: Rows) -> str:
    X, t = trace(run.model, rows.X, rows.Y)
    m = len(X)
    error, first = m * t.dZ2.norm(dim=1), m * t.dZ1.norm(dim=1) * X.norm(dim=1)
    left = (t.dZ1.norm() / t.dA1.norm()).item() if t.dA1.any() else 0.0
    middle, worst, single, step = (
        number(value.item()) for value in (error.median(), error.max(), first.mean(), t.dW1.norm())
    )
    return (
        f"The dot is the middle row, the bar half of them. The error dZ2 is {middle} for the middle row, {worst} for "
        f"the worst. Of what reaches the hidden units (dA1), {percent(left)} comes through their slopes (dZ1). On the "
        f"mean a single row would move the first weights by {single} (dW1); all together, which partly cancel, by "
        f"{step}."
    )
