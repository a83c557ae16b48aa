"""How good a trained network is on held-out rows, beside what is simpler: ``held_out``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from twolayer.data import checks
from twolayer.data.table import Table
from twolayer.data.tabular import TabularDataModule
from twolayer.tables.frame import Frame
from twolayer.training.standardization import Standardize

if TYPE_CHECKING:
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
    task, inputs = predictor.task, inputs_of_a_linear_model(data)
    examples = [data.targets] if data.sample_weight is None else [data.targets, data.sample_weight]
    Y, *weights = (one[rows] for one in examples)
    train = data.splits["train"]
    found = answers(task, predictor.outputs(rows_of(data, rows)))
    network = f"{len(predictor.members)} networks" if len(predictor.members) > 1 else "network"
    named = {network: found, **simpler(task, (inputs[train], *(one[train] for one in examples)), inputs[rows])}
    score = "RMSE" if task == "regression" else "accuracy"
    yield f"On the {len(rows)} rows of {part}, {score} with its 95 % interval:"
    for name, answered in named.items():
        value, low, high = interval(answered, Y, *weights)
        yield f"  {name:20} {value:.4g}  ({low:.4g} to {high:.4g})"
    if task != "regression" and len(predictor.classes) <= MOST_CLASSES:
        yield from confusion(predictor.classes, found, Y)


def answers(task: str, A2: Tensor) -> Tensor:
    """The class ``(m,)``, the labels ``(m, n_y)`` or the values ``(m, n_y)`` that an output ``(m, n_y)`` stands for.

    >>> answers("binary", torch.tensor([[0.2], [0.7]])), answers("multiclass", torch.tensor([[0.2, 0.8]]))
    (tensor([0, 1]), tensor([1]))
    """
    if task == "regression":
        return A2
    if task == "multiclass":
        return A2.argmax(1)
    return (A2 >= 0.5).long().squeeze(1) if task == "binary" else (A2 >= 0.5).long()


def truth(task: str, Y: Tensor) -> Tensor:
    """What targets say, in the form of :func:`answers`: of probabilities, the likeliest.

    >>> truth("binary", torch.tensor([[0.1], [0.8]])), truth("multiclass", torch.tensor([2, 0]))
    (tensor([0, 1]), tensor([2, 0]))
    """
    if task == "regression":
        return Y
    return (Y >= 0.5).long() if task == "multilabel" else checks.hard(Y, task).long()


def interval(found: Tensor, Y: Tensor, weights: Tensor | None = None) -> tuple[float, float, float]:
    """Accuracy with Wilson's interval, or RMSE with that of its normal approximation (the delta method).

    Args:
        found: answers, see :func:`answers`. Of several labels, all must be right.
        Y: targets of the same shape: floating point for values, whole numbers for classes and labels.
        weights: of the rows, ``(m,)``.

    >>> accuracy, low, high = interval(torch.ones(10).long(), torch.ones(10).long())
    >>> accuracy, round(low, 2), round(high, 2)
    (1.0, 0.72, 1.0)
    """
    classes = not Y.is_floating_point()
    each = (
        (found == Y).reshape(len(Y), -1).all(1).double() if classes else (found.double() - Y.double()).square().mean(1)
    )
    weights = torch.ones(len(each), dtype=torch.float64) if weights is None else weights
    m = (weights.sum().square() / weights.square().sum()).item()  # as many rows as the weights are worth
    mean = ((weights * each).sum() / weights.sum()).item()
    if classes:
        centre = (mean + Z95**2 / (2 * m)) / (1 + Z95**2 / m)
        half = Z95 / (1 + Z95**2 / m) * math.sqrt(mean * (1 - mean) / m + Z95**2 / (4 * m * m))
        return mean, max(0.0, centre - half), min(1.0, centre + half)
    spread = ((weights * (each - mean).square()).sum() / weights.sum()).sqrt().item()
    rmse = math.sqrt(mean)
    half = Z95 * spread / math.sqrt(m) / (2 * rmse) if rmse else 0.0
    return rmse, max(0.0, rmse - half), rmse + half


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


def inputs_of_a_linear_model(data: TabularDataModule) -> Tensor:
    """The rows, float64: of a table without the places between quantiles, of plain arrays standardised."""
    X = data.tensors[0].double()
    if isinstance(data, Table):
        features = data.encoding.features
        numbers, bins = len(features.mean), len(features.bin_of)
        return X[:, torch.cat([torch.arange(numbers), torch.arange(numbers + bins, features.out_features)])]
    return Standardize(X.shape[1]).double().fit(data.train_inputs)(X)


def simpler(task: str, train: tuple[Tensor, ...], X: Tensor) -> dict[str, Tensor]:
    """What the mean or the most common class, and a linear model, answer for ``X``, by their names.

    Args:
        task: of the network.
        train: rows that they learn from: inputs, targets, and weights if there are any; the first 20,000.
        X: rows to answer for, ``(m, n_x)``.

    Returns:
        answers, see :func:`answers`. For several labels, there is no linear model.
    """
    from sklearn.linear_model import LogisticRegression, Ridge  # takes a while, and most commands do without

    X_train, Y_train, *weights = (one[:MOST_ROWS] for one in train)
    inputs, Y = X_train.double().numpy(), truth(task, Y_train).double().numpy()
    weight = weights[0].double().numpy() if weights else None
    if task == "regression":
        Y = Y.reshape(len(Y), -1)
        ridge = Ridge().fit(inputs, Y, sample_weight=weight)
        values = torch.from_numpy(np.asarray(ridge.predict(X.double().numpy()))).reshape(len(X), -1)
        return {"mean": _each_time(np.average(Y, axis=0, weights=weight), X), "ridge regression": values}
    if task == "multilabel":
        return {"most common labels": _each_time(np.average(Y, axis=0, weights=weight) >= 0.5, X).long()}
    majority = _each_time(np.bincount(Y.astype(int), weights=weight).argmax(), X)
    if len(np.unique(Y)) < 2:
        return {"majority class": majority, "logistic regression": majority}
    logistic = LogisticRegression(max_iter=300, tol=1e-3).fit(inputs, Y.astype(int), sample_weight=weight)
    return {
        "majority class": majority,
        "logistic regression": torch.from_numpy(logistic.predict(X.double().numpy())),
    }


def _each_time(answer: Any, X: Tensor) -> Tensor:
    """One answer for all rows."""
    return torch.as_tensor(answer).expand(len(X), *np.shape(answer))
