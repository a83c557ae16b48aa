"""How good a trained network is on held-out rows, beside what is simpler: ``held_out``."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from twolayer.data.reading import Frame
from twolayer.data.table import Table
from twolayer.tables.predictor import Predictor

Z95 = 1.959964
MOST_ROWS = 20_000
MOST_CLASSES = 10


def held_out_rows(data: Table) -> tuple[str, Tensor]:
    """The part to judge by, and its rows: the test split, or the validation rows if there is none."""
    return next(
        ((part, data.splits[part]) for part in ("test", "val") if len(data.splits[part])),
        ("test", torch.empty(0).long()),
    )


def rows_of(data: Table, rows: Tensor) -> Frame:
    """Those rows of the table, as they came."""
    names, at = data.frame.names, [data.rows[i] for i in rows.tolist()]
    return Frame({name: [column[i] for i in at] for name in names for column in [data.frame[name]]})


def held_out(data: Table, predictor: Predictor) -> Iterator[str]:
    """Lines: the network, a baseline and a linear model on the held-out rows, each with a 95 % interval.

    Args:
        data: whose rows they are.
        predictor: what was trained.
    """
    part, rows = held_out_rows(data)
    if not len(rows):
        return
    Y, weights = data.targets[rows], None if data.sample_weight is None else data.sample_weight[rows].double()
    frame = rows_of(data, rows)
    if predictor.task == "regression":
        own = torch.tensor(predictor.predict(frame), dtype=torch.float64).reshape(-1, 1)
    else:
        own = predictor.predict_proba(frame).argmax(1)
    simple, linear = _simpler(data, rows)
    network = f"{len(predictor.members)} networks" if len(predictor.members) > 1 else "network"
    kind = "mean" if predictor.task == "regression" else "majority class"
    named = {network: own, kind: simple, linear[0]: linear[1]}
    score = "RMSE" if predictor.task == "regression" else "accuracy"
    yield f"On the {len(rows)} rows of {part}, {score} with its 95 % interval:"
    for name, found in named.items():
        value, low, high = interval(found, Y, weights)
        yield f"  {name:20} {value:.4g}  ({low:.4g} to {high:.4g})"
    if predictor.task != "regression" and len(predictor.classes) <= MOST_CLASSES:
        yield from confusion(predictor.classes, own, Y)


def interval(found: Tensor, Y: Tensor, weights: Tensor | None = None) -> tuple[float, float, float]:
    """Accuracy with Wilson's interval, or RMSE with that of a normal mean of squares.

    >>> accuracy, low, high = interval(torch.ones(10).long(), torch.ones(10).long())
    >>> accuracy, round(low, 2), round(high, 2)
    (1.0, 0.72, 1.0)
    """
    classes = not Y.is_floating_point()
    each = (found == Y).double() if classes else (found.double() - Y.double()).square().mean(1)
    weights = torch.ones(len(each), dtype=torch.float64) if weights is None else weights
    m = (weights.sum().square() / weights.square().sum()).item()  # as many rows as the weights are worth
    mean = ((weights * each).sum() / weights.sum()).item()
    if classes:
        centre = (mean + Z95**2 / (2 * m)) / (1 + Z95**2 / m)
        half = Z95 / (1 + Z95**2 / m) * math.sqrt(mean * (1 - mean) / m + Z95**2 / (4 * m * m))
        return mean, max(0.0, centre - half), min(1.0, centre + half)
    spread = ((weights * (each - mean).square()).sum() / weights.sum()).sqrt().item()
    half = Z95 * spread / math.sqrt(m)
    return math.sqrt(mean), math.sqrt(max(0.0, mean - half)), math.sqrt(mean + half)


def confusion(classes: list[str], found: Tensor, Y: Tensor) -> Iterator[str]:
    """Counts: a line for each class, a column for each that was predicted.

    >>> for line in confusion(["no", "yes"], torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])):
    ...     print(line.strip())
    Rows are classes, columns what was predicted:
    no  yes
    no    1    1
    yes    0    1
    """
    counts = torch.zeros(len(classes), len(classes), dtype=torch.long)
    counts.index_put_((Y, found), torch.ones(len(Y), dtype=torch.long), accumulate=True)
    names = [name if len(name) <= 16 else name[:15] + "…" for name in classes]
    wide = max(3, *map(len, names), len(str(int(counts.max()))))
    yield "Rows are classes, columns what was predicted:"
    yield "  " + " " * wide + "".join(f"  {name:>{wide}}" for name in names)
    for name, row in zip(names, counts.tolist(), strict=True):
        yield f"  {name:>{wide}}" + "".join(f"  {count:>{wide}}" for count in row)


def _simpler(data: Table, rows: Tensor) -> tuple[Tensor, tuple[str, Tensor]]:
    """The majority class or mean, and a linear model by its name, for those rows."""
    train = data.splits["train"][:MOST_ROWS]
    features = data.encoding.features
    numbers, bins = len(features.mean), len(features.bin_of)
    kept = torch.cat([torch.arange(numbers), torch.arange(numbers + bins, features.out_features)])
    X, Y = data.tensors[0][:, kept].double().numpy(), data.targets
    weights = None if data.sample_weight is None else data.sample_weight[train].double().numpy()
    if data.task == "regression":
        ridge = Ridge().fit(X[train], Y[train, 0].double().numpy(), sample_weight=weights)
        mean = np.average(Y[train, 0].double().numpy(), weights=weights)
        found = torch.from_numpy(np.asarray(ridge.predict(X[rows]))).reshape(-1, 1)
        return torch.full((len(rows), 1), float(mean), dtype=torch.float64), ("ridge regression", found)
    counts = np.bincount(Y[train].numpy(), weights=weights)
    majority = torch.full((len(rows),), int(counts.argmax()))
    if len(Y[train].unique()) < 2:
        return majority, ("logistic regression", majority)
    logistic = LogisticRegression(max_iter=300, tol=1e-3).fit(X[train], Y[train].numpy(), sample_weight=weights)
    return majority, ("logistic regression", torch.from_numpy(logistic.predict(X[rows])))
