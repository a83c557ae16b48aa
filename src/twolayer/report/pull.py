"""Which rows pull most at the weights: the norms of single examples' gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from matplotlib.axes import Axes
from torch import Tensor

from twolayer.data.table import Table
from twolayer.plots.style import SERIES
from twolayer.report import page
from twolayer.report.drawing import drawn
from twolayer.report.wording import counted, number, percent

if TYPE_CHECKING:
    from twolayer.report.run import Rows, Run

MOST = 10
FEW_COLUMNS = 4


def section(run: Run, rows: Rows) -> str:
    """The norms of single examples' gradients, and the rows that pull most."""
    found = pull(run, rows)
    shown = (
        f"The norms of the gradients of {counted(len(found.norms), 'training row')}, sorted from the least to the "
        "greatest, as a curve with a dot on each of the last."
    )
    advice = "Look at these rows: a wrong label, an outlier, or what has yet to be learnt."
    return page.section(
        "Which rows pull most",
        page.figure(drawn(lambda ax: sorted_norms(found, ax)), shown, told(found)),
        page.paragraph(advice),
        page.table(*greatest(run, found)),
    )


@dataclass(frozen=True)
class Pull:
    """The norm of each row's own gradient, and where those are that pull most."""

    rows: Rows
    norms: Tensor
    """``(m,)``, float64."""
    first: Tensor
    """Places of those that pull most, at most ten, the greatest first."""


def pull(run: Run, rows: Rows) -> Pull:
    """Of each row, the norm of the gradient of its own loss, by the first network."""
    X, T, _ = run.model.prepared(rows.X, rows.Y)
    norms = run.model.net.per_sample_grad_norms(X, T).detach().double()
    return Pull(rows, norms, norms.argsort(descending=True, stable=True)[:MOST])


def sorted_norms(found: Pull, ax: Axes) -> Axes:
    """Draws all norms in their order, and a dot on each of the greatest."""
    norms = found.norms.sort().values
    places = torch.arange(1, len(norms) + 1) / len(norms) * 100
    few = torch.linspace(0, len(norms) - 1, min(len(norms), 500)).long()
    ax.plot(places[few], norms[few], color=SERIES[0], linewidth=1.8)
    ax.plot(places[-len(found.first) :], norms[-len(found.first) :], "o", color=SERIES[0], markersize=5)
    ax.set(xlabel="rows, from the least pull to the most (%)", ylabel="norm of the row's own gradient", ylim=(0, None))
    return ax


def told(found: Pull) -> str:
    """What the picture says."""
    norms, top = found.norms, found.norms[found.first]
    median, share = norms.median().item(), (top.sum() / norms.sum()).item()
    text = "Each row would change the weights by a gradient of its own. "
    text += f"Half of the norms are below {number(median)}; the greatest is {number(top[0].item())}. "
    return text + f"The {counted(len(top), 'row')} with a dot make up {percent(share)} of the sum of all norms."


def greatest(run: Run, found: Pull) -> tuple[list[str], list[list[str]]]:
    """The rows that pull most: a header, and what is known of each."""
    rows = found.rows.at(found.first)
    A2 = run.outputs(rows)
    columns = {
        **_where(run, rows),
        "target": [_target(run, Y) for Y in rows.Y],
        "answer": [_answer(run, one) for one in A2],
        "norm": [number(norm) for norm in found.norms[found.first].tolist()],
    }
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def _where(run: Run, rows: Rows) -> dict[str, list[str]]:
    """Its number and its columns, those that name it first, as far as they are few."""
    data, found = run.data, {}
    if rows.numbers is not None and not getattr(data, "streams", False):
        at = [data.rows[i] for i in rows.numbers.tolist()] if isinstance(data, Table) else rows.numbers.tolist()
        found["row"] = [str(i) for i in at]
    if isinstance(data, Table) and rows.numbers is not None:
        names = [name for name in [*data.id, *run.predictor.columns] if name in data.frame.names][:FEW_COLUMNS]
        at = [data.rows[i] for i in rows.numbers.tolist()]
        found |= {name: ["" if data.frame[name][i] is None else str(data.frame[name][i]) for i in at] for name in names}
    elif rows.X.shape[1] <= FEW_COLUMNS:
        found |= {f"x{j + 1}": [number(value) for value in column] for j, column in enumerate(rows.X.T.tolist())}
    return found


def _target(run: Run, Y: Tensor) -> str:
    classes = run.predictor.classes
    if run.model.net.task == "regression":
        return ", ".join(map(number, Y.reshape(-1).tolist()))
    if Y.ndim == 0 and not Y.is_floating_point():
        return classes[int(Y)]
    return ", ".join(number(value) for value in Y.reshape(-1).tolist())


def _answer(run: Run, A2: Tensor) -> str:
    task, classes = run.model.net.task, run.predictor.classes
    if task == "regression":
        return ", ".join(map(number, A2.tolist()))
    if task == "multilabel":
        return ", ".join(number(value) for value in A2.tolist())
    P = torch.cat([1 - A2, A2]) if task == "binary" else A2
    k = int(P.argmax())
    return f"{classes[k]} ({percent(P[k].item())})"
