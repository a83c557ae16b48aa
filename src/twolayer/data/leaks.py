"""Columns that tell the target by themselves: ``leaking``."""

import torch
from torch import Tensor

from twolayer.tables.encoding import Encoding, Values

NEARLY_ALL = 0.995
NEARLY_ONE = 0.9999
MOST_ROWS = 20_000


def leaking(encoding: Encoding, values: Values, targets: Tensor, rows: Tensor) -> list[str]:
    """The columns by which alone the target is known in nearly every row.

    Classes: hardly any change of class along the ordered numbers, or one class for each level. Values: a correlation
    of one.

    Args:
        encoding: of the columns.
        values: returns those of a column.
        targets: class indices, or values ``(m, 1)``.
        rows: which to look at.
    """
    rows = rows[:MOST_ROWS]
    Y = targets[rows]
    if len(rows) < 20 or (not Y.is_floating_point() and Y.bincount().max() > NEARLY_ALL * len(Y)):
        return []
    found = []
    for column in encoding.columns:
        if column.kind in ("numeric", "category"):
            every = values(column.name)
            x = torch.tensor(column.numbers([every[i] for i in rows.tolist()]), dtype=torch.float64)
            known = ~x.isnan()
            if known.float().mean() > NEARLY_ALL and _tells(x[known], Y[known], column.kind == "category"):
                found.append(column.name)
    return found


def _tells(x: Tensor, Y: Tensor, levels: bool) -> bool:
    if Y.is_floating_point():
        pair = torch.stack([x, Y[:, 0].double()])
        return not levels and bool(torch.corrcoef(pair)[0, 1].abs() > NEARLY_ONE)
    if levels:
        table = torch.zeros(int(x.max()) + 1, int(Y.max()) + 1).index_put((x.long(), Y), torch.ones(len(Y)), True)
        return bool(table.max(1).values.sum() > NEARLY_ALL * len(Y))
    ordered = Y[torch.argsort(Y, stable=True)][torch.argsort(x[torch.argsort(Y, stable=True)], stable=True)]
    changes = int((ordered[1:] != ordered[:-1]).sum())
    return changes <= int(Y.max()) + (1 - NEARLY_ALL) * len(Y)
