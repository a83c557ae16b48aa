"""What is wrong with hidden units: which are dead, which saturated, which compute the same. ``A1`` alone tells."""

from dataclasses import dataclass

import torch
from torch import Tensor

from twolayer.activations import ACTIVATIONS
from twolayer.arguments import dense, one_of
from twolayer.tasks import summing_dtype

FLAT = {"tanh": (-0.99, 0.99), "sigmoid": (0.01, 0.99)}
"""Outside of these outputs the slope ``g'`` is below 2 % (tanh) and 4 % (sigmoid) of its greatest value."""
NEARLY_ALL = 0.9
"""The share of rows that makes a unit saturated."""
ALIKE = 1e-6
"""How far the outputs of twins may differ in any row: what float32 rounds numbers of order one by."""


@dataclass(frozen=True)
class UnitFaults:
    """For each hidden unit, whether it has a fault. It may have several: dead units are each other's twins."""

    dead: Tensor
    """Zero for every row, and so is its slope: no gradient reaches it. bool, ``(n_h,)``."""
    saturated: Tensor
    """Where its activation is flat, for nearly all rows: its gradient is next to nothing. bool, ``(n_h,)``."""
    twin: Tensor
    """Its output is that of another unit, in all rows: the two count as one. bool, ``(n_h,)``."""


@torch.no_grad()
def unit_faults(A1: Tensor, activation: str) -> UnitFaults:
    """Which hidden units do not do their work, by what they answer to some rows.

    A unit is **dead** if its output is zero for every row and its slope is zero there, as behind ReLU; tanh is zero
    at 0 too, but steepest. It is **saturated** if for at least nine rows in ten ``|tanh| > 0.99``, or the sigmoid lies
    outside [0.01, 0.99]; ReLU, which has a flat side alone, is never. It is a **twin** if another unit's outputs differ
    from its own by no more than 1e-6 in any row.

    Args:
        A1: outputs of the hidden units, one row an example, ``(m, n_h)``. A few hundred rows tell enough.
        activation: a key of :data:`twolayer.activations.ACTIVATIONS`.

    Raises:
        TypeError: ``A1`` is no dense tensor of floating point numbers.
        ValueError: it has another shape or no rows, or there is no such activation.

    >>> A1 = torch.tensor([[0.0, 1.5, 0.3, 1.5], [0.0, 0.2, 0.9, 0.2]])
    >>> faults = unit_faults(A1, "relu")
    >>> faults.dead
    tensor([ True, False, False, False])
    >>> faults.twin
    tensor([False,  True, False,  True])
    """
    one_of("activation", activation, ACTIVATIONS)
    if not dense("A1", A1).is_floating_point():
        raise TypeError(f"A1 must be floating point, got {A1.dtype}")
    if A1.ndim != 2 or 0 in A1.shape:
        raise ValueError(f"A1 must have shape (m, n_h), with rows and units, got {tuple(A1.shape)}")
    A = A1.to(summing_dtype(A1.device))
    flat_at_zero = ACTIVATIONS[activation].prime(A.new_zeros(())) == 0
    return UnitFaults(dead=(A == 0).all(0) & flat_at_zero, saturated=_saturated(A, activation), twin=_twins(A))


def _saturated(A: Tensor, activation: str) -> Tensor:
    low, high = FLAT.get(activation, (-torch.inf, torch.inf))
    return (A.lt(low) | A.gt(high)).to(A.dtype).mean(0) >= NEARLY_ALL


def _twins(A: Tensor) -> Tensor:
    # Twins are alike in any weighted mean of their rows too. Sorted by one, a unit is compared with the next, the next
    # but one and so on, as long as the means are that near: most often with none. There is no cosine
    # or product of matrices: MKL would start threads for a few hundred numbers, and wait for them where cores are busy.
    m, n_h = A.shape
    weights = torch.linspace(0.5, 1, m, device=A.device, dtype=A.dtype)
    means, order = (weights[:, None] * A).mean(0).sort()
    twins = torch.zeros(n_h, dtype=torch.bool, device=A.device)
    for step in range(1, n_h):
        near = means[step:] - means[:-step] <= 2 * ALIKE
        if not near.any():
            break
        one, other = order[:-step][near], order[step:][near]
        unknown = ~(twins[one] & twins[other])
        one, other = one[unknown], other[unknown]
        alike = ((A[:, one] - A[:, other]).abs() <= ALIKE).all(0)
        twins[one[alike]] = twins[other[alike]] = True
    return twins
