"""What ``load()`` may return: numbers, finite ones, and labels that are labels."""

import math
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def option(argument: str, value: Any, fits: bool, expected: str) -> None:
    """Looks at an option of a data set.

    Raises:
        ValueError: it does not fit.

    >>> option("noise", -1.0, fits=False, expected="a finite number of at least 0")
    Traceback (most recent call last):
    ...
    ValueError: noise must be a finite number of at least 0, got -1.0
    """
    if not fits:
        raise ValueError(f"{argument} must be {expected}, got {value}")


def at_least(argument: str, value: float, least: int) -> None:
    """A finite number that is not smaller, an integer if ``least`` is not 0.

    Raises:
        ValueError: it is another.
    """
    kind = "an integer" if least else "a finite number"
    fits = least <= value < math.inf and (not least or isinstance(value, Integral))
    option(argument, value, fits, f"{kind} of at least {least}")


def numbers(argument: str, values: Any) -> NDArray[Any]:
    """The values as an array of numbers.

    Raises:
        TypeError: they are no array or tensor, or not numbers.

    >>> numbers("Y", np.array(["yes", "no"]))
    Traceback (most recent call last):
    ...
    TypeError: Y must hold numbers, got an array of <U3
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if not isinstance(values, np.ndarray):
        raise TypeError(f"{argument} must be a NumPy array or a tensor, got {type(values).__name__}")
    if values.dtype.kind not in "buif":
        raise TypeError(f"{argument} must hold numbers, got an array of {values.dtype}")
    return values


def finite(argument: str, values: NDArray[Any]) -> NDArray[Any]:
    """The values, if all of them are.

    Raises:
        ValueError: one is NaN or infinite; the message says where it is.
    """
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, *columns = bad[0].tolist()
        column = f", column {columns[0]}" if columns else ""
        raise ValueError(f"{argument} must be finite, got {values[tuple(bad[0])]} in row {row}{column}")
    return values


def in_float32(argument: str, values: NDArray[Any]) -> NDArray[np.float32]:
    """A copy in float32, finite there too."""
    with np.errstate(over="ignore"):
        return finite(argument, np.array(values, dtype=np.float32))


def inputs(X: Any) -> Tensor:
    """Rows ``(m, features)`` in float32.

    Raises:
        TypeError, ValueError: they are not finite numbers in two dimensions.
    """
    X = numbers("X", X)
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"X must have shape (m, features), got {X.shape}")
    return torch.from_numpy(in_float32("X", X))


def targets(Y: Any, task: str, rows: int) -> Tensor:
    """Targets in the dtype of batches: int64 class indices and labels, float32 soft labels and values.

    Raises:
        TypeError, ValueError: there is no number for each row, or it is no target of the task; the message says why.

    >>> targets(np.array([0, 1, 1]), "binary", 3)
    tensor([0, 1, 1])
    >>> targets(np.array([0.2, 1.0]), "binary", 2)
    tensor([0.2000, 1.0000])
    >>> targets(np.array([-1, 1]), "binary", 2)
    Traceback (most recent call last):
    ...
    ValueError: Y must hold 0 and 1, or probabilities between them, for task 'binary', got values from -1 to 1
    """
    Y = finite("Y", numbers("Y", Y))
    if Y.ndim == 0 or len(Y) != rows:
        raise ValueError(f"Y must have a target for each of the {rows} rows of X, got shape {Y.shape}")
    if task == "regression":
        return torch.from_numpy(in_float32("Y", Y.reshape(rows, -1)))
    if Y.dtype.kind == "b":
        Y = Y.astype(np.int64)
    least, greatest = Y.min(), Y.max()
    whole = bool((np.round(Y) == Y).all())
    if task == "multiclass" and Y.ndim == 1:
        if not whole or least < 0:
            raise ValueError(
                f"Y must hold class indices from 0 for task 'multiclass', got values from {least} to {greatest}"
            )
        return torch.tensor(Y, dtype=torch.int64)
    if least < 0 or greatest > 1:
        raise ValueError(
            f"Y must hold 0 and 1, or probabilities between them, for task {task!r}, "
            f"got values from {least} to {greatest}"
        )
    if task == "multiclass":
        off = np.abs(Y.sum(-1) - 1) > 1e-4
        if off.any():
            row = int(np.argmax(off))
            raise ValueError(
                f"Y must hold probabilities that sum to 1 in each row, got {Y[row].sum():.6g} in row {row}"
            )
        return torch.tensor(Y, dtype=torch.float32)
    return torch.tensor(Y, dtype=torch.int64 if whole else torch.float32)


def classes(Y: Tensor) -> int:
    """How many classes there are, by class indices or probabilities.

    Raises:
        ValueError: there is an index, such as 0, that no row has: labels may have been counted from 1.
    """
    if Y.is_floating_point():
        return Y.shape[1]
    found = Y.unique()
    if len(found) != int(found[-1]) + 1:
        absent = next(k for k in range(len(found) + 1) if k not in found)
        raise ValueError(
            f"Y must hold class indices from 0, each of them in some row, got {int(found[0])} to {int(found[-1])} "
            f"without {absent}"
        )
    return len(found)


def enough(sizes: dict[str, int], labels: NDArray[Any]) -> None:
    """Whether every part of a split can have rows of each class.

    Args:
        sizes: rows of each part.
        labels: the class of each row.

    Raises:
        ValueError: there are too few rows, or too few of a class.

    >>> enough({"train": 2, "val": 2}, np.array([0, 0, 1, 1]))
    >>> enough({"train": 2, "val": 2}, np.array([0, 0, 0, 1]))
    Traceback (most recent call last):
    ...
    ValueError: each class must have at least 2 rows, one for each part of the split, got 1 of class 1
    """
    classes, counts = np.unique(labels, return_counts=True)
    needed = len(sizes)
    few = int(np.argmin(counts))
    if counts[few] < needed:
        raise ValueError(
            f"each class must have at least {needed} rows, one for each part of the split, "
            f"got {counts[few]} of class {int(classes[few])}"
        )
    for part, size in sizes.items():
        if size < len(classes):
            raise ValueError(
                f"the {part} split must have a row for each of the {len(classes)} classes, got {size} rows"
            )


def hard(Y: Tensor, task: str) -> Tensor:
    """One class for each row, by which to part them evenly."""
    if task == "multiclass":
        return Y.argmax(-1) if Y.is_floating_point() else Y
    return Y.reshape(len(Y), -1)[:, 0] >= 0.5
