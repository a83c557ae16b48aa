"""What a picture asks for answers in the place of a network: several networks at once, or columns of a table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from twolayer.data.table import Table
from twolayer.network import TwoLayerNet
from twolayer.report.run import Rows, Run

LONGEST = 24


@dataclass(frozen=True)
class Asked:
    """As a trained model: it takes rows ``(m, n_x)`` and answers ``(m, n_y)``, by a function."""

    net: TwoLayerNet
    """By whose sizes and task a picture goes."""
    answer: Callable[[Tensor], Tensor]

    def __call__(self, X: Tensor) -> Tensor:
        return self.answer(X)


def answered(run: Run, rows: Rows) -> Asked:
    """The run's answers for these rows and no others: those of a table's networks do not follow from ``X``."""
    A2 = run.outputs(rows)
    return Asked(run.model.net, lambda X: A2)


class Plane(NamedTuple):
    """Two features, and what is answered for any two numbers."""

    asked: Asked
    rows: Rows
    names: tuple[str, str]


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


def in_a_picture(name: str) -> str:
    """A name from the data as matplotlib takes it: no mathematics between its dollar signs, and not long."""
    return (name if len(name) <= LONGEST else name[: LONGEST - 1] + "…").replace("$", r"\$")
