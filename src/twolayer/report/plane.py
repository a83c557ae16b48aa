"""The plane of two features, and what is answered in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from matplotlib.axes import Axes

from twolayer import plots
from twolayer.data.report import answers, truth
from twolayer.data.table import Table
from twolayer.network import TwoLayerNet
from twolayer.report import page
from twolayer.report.asked import Asked
from twolayer.report.drawing import drawn
from twolayer.report.wording import PARTS, counted, in_a_picture, percent

if TYPE_CHECKING:
    from twolayer.report.run import Rows, Run


class Plane(NamedTuple):
    """Two features, and what is answered for any two numbers."""

    asked: Asked
    rows: Rows
    names: tuple[str, str]


def figure(run: Run, rows: Rows) -> str | None:
    """The decision boundary; None where there is no such plane."""
    found = plane(run, rows)
    if found is None:
        return None
    names = [in_a_picture(name) for name in run.predictor.classes]

    def draw(ax: Axes) -> None:
        plots.decision_boundary(found.asked, found.rows.X, found.rows.Y, class_names=names, ax=ax)
        ax.set(xlabel=in_a_picture(found.names[0]), ylabel=in_a_picture(found.names[1]))

    one, other = found.names
    shown = (
        f"The plane of {one} and {other}: {counted(len(found.rows.X), 'point')}, each one of the {PARTS[rows.part]}, "
        "on a shade for the class that the network answers there."
    )
    return page.figure(drawn(draw, height=4.6), shown, _in_words(run.model.net.task, found))


def _in_words(task: str, found: Plane) -> str:
    rows = found.rows
    right = (answers(task, found.asked(rows.X)) == truth(task, rows.Y)).double()
    on_it = "is ½" if task == "binary" else "of two classes is the same"
    return (
        f"The stronger the shade, the surer the network is; on the black line the probability {on_it}. "
        f"{percent(right.mean().item())} of the points are on their side: {int(right.sum()):,}."
    )


def plane(run: Run, rows: Rows) -> Plane | None:
    """That of two features, or of a table's two columns of numbers, with the rows that have both; None otherwise."""
    net, data, columns = run.model.net, run.data, run.predictor.columns
    if net.task not in ("binary", "multiclass"):
        return None
    if not isinstance(data, Table):
        return Plane(Asked(net, run.predictor.outputs), rows, ("x1", "x2")) if net.in_features == 2 else None
    used = [column for column in data.encoding.columns if column.name in columns]
    if rows.numbers is None or [column.kind for column in used] != ["numeric", "numeric"]:
        return None
    at = [data.rows[i] for i in rows.numbers.tolist()]
    values = [column.numbers([data.frame[column.name][i] for i in at]) for column in used]
    X = torch.stack([torch.as_tensor(column, dtype=torch.float64) for column in values], 1)
    one, other = (column.name for column in used)
    kept = X.isfinite().all(1).nonzero().squeeze(1)
    flat = TwoLayerNet(2, 1, net.out_features, task=net.task)
    asked = Asked(flat, lambda X: run.predictor.outputs({one: X[:, 0].tolist(), other: X[:, 1].tolist()}))
    return Plane(asked, rows.at(kept)._replace(X=X[kept]), (one, other)) if len(kept) else None
