"""Where a run met something that is not finite: NaN or infinity."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def where_not_finite(**tensors: Tensor) -> str | None:
    """The first value that is not finite, in words; None if there is none.

    >>> where_not_finite(X=torch.zeros(2, 3), Y=torch.tensor([[0.0, 1.0], [0.0, float("nan")]]))
    'Y has nan in row 1, column 1'
    >>> where_not_finite(X=torch.zeros(2, 3))
    """
    for name, tensor in tensors.items():
        bad = (~tensor.isfinite()).nonzero()
        if len(bad):
            row, *columns = bad[0].tolist()
            column = f", column {', '.join(map(str, columns))}" if columns else ""
            return f"{name} has {tensor[tuple(bad[0])].item()} in row {row}{column}"
    return None


def of_a_batch(batch: Any) -> str | None:
    """The same of a batch ``(X, Y)`` or ``(X, Y, sample_weight)``; None for other kinds."""
    if not (isinstance(batch, tuple | list) and all(isinstance(part, Tensor) for part in batch)):
        return None
    return where_not_finite(**dict(zip(("X", "Y", "sample_weight"), batch, strict=False)))


def check_step(J: Tensor, step: int, batch: Any) -> None:
    """Raises FloatingPointError if the cost of an optimiser step, the ``step``-th of the run, is not finite."""
    value = J.item()
    if not math.isfinite(value):
        found = of_a_batch(batch)
        reason = (
            f"{found} of its batch" if found else f"its rows are finite, so the weights after step {step - 1} are not"
        )
        if not found:
            reason += ", or too large for the dtype: try a smaller learning rate, or clip the gradients"
        raise FloatingPointError(f"the cost is {value} at step {step}: {reason}")


def check_weights(named: Iterable[tuple[str, Tensor]], step: int) -> None:
    """Raises FloatingPointError if a weight is not finite after that many optimiser steps of the run."""
    for name, V in named:
        if not torch.isfinite(V).all():
            raise FloatingPointError(
                f"{name} is not finite after step {step}: the gradient of that step was not, or the learning rate is "
                "too large; nothing is saved, and earlier checkpoints stay"
            )
