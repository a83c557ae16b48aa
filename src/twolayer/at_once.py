"""All examples at once: the notes' equations, one after the other, in PyTorch's ordinary operators.

For few examples, where chunks would gain nothing, and for what chunks cannot do: be mapped over by ``torch.vmap``, and
be differentiated by PyTorch itself. :mod:`twolayer.streaming` is the same in constant memory.
"""

from collections.abc import Callable

from torch import Tensor

from twolayer import equations
from twolayer.activations import ACTIVATIONS
from twolayer.tasks import COSTS, PAIRING, at_least_float32, dense_targets, example_weights, smoothed


def logits(
    X: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, *, activation: str, chunk_size: int | None = None
) -> Tensor:
    """``Z2``, ``(..., n_y)``."""
    return equations.Z2(equations.A1(equations.Z1(X.to(W1.dtype), W1, b1), ACTIVATIONS[activation]), W2, b2)


def cost(
    Z2: Tensor,
    Y: Tensor,
    *,
    task: str,
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """``J``, or with reduction ``"none"`` the weighted loss of each example, in at least float32.

    Args:
        loss: what makes the loss of each example of ``Z2`` and dense ``Y``, if not the task's own.
        others: as for :func:`twolayer.functional.cost`, checked already.
    """
    Z2 = at_least_float32(Z2)
    Y = dense_targets(Y, Z2, task)
    weights = example_weights(Y, task, sample_weight, class_weight)
    L = (loss or COSTS[task].loss)(Z2, smoothed(Y, label_smoothing, task))
    if reduction == "mean":
        return L.mean() if weights is None else (weights * L).sum() / weights.sum()
    L = L if weights is None else weights * L
    return L.sum() if reduction == "sum" else L


def loss_and_grads(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    *,
    activation: str,
    task: str,
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    chunk_size: int | None = None,
    input_gradient: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What :func:`twolayer.streaming.loss_and_grads` gives."""
    g = ACTIVATIONS[activation]
    X = X.to(W1.dtype)
    A1 = equations.A1(equations.Z1(X, W1, b1), g)
    Z2 = at_least_float32(equations.Z2(A1, W2, b2))
    Y, share = _targets_and_shares(Y, Z2, task, sample_weight, class_weight, label_smoothing, reduction)
    L = COSTS[task].loss(Z2, Y)
    J = (L * share.squeeze(-1)).sum() if isinstance(share, Tensor) else L.sum() * share
    dZ2 = (share * COSTS[task].error(Z2, Y)).to(A1.dtype)
    dZ1 = equations.dZ1(equations.dA1(dZ2, W2), A1, g)
    grads = {
        "W1": equations.dW1(dZ1, X),
        "b1": equations.db1(dZ1),
        "W2": equations.dW2(dZ2, A1),
        "b2": equations.db2(dZ2),
    }
    if input_gradient:
        grads["X"] = equations.dX(dZ1, W1)
    return J, grads


def hvp(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    tX: Tensor | None,
    tY: Tensor | None,
    tW1: Tensor,
    tb1: Tensor,
    tW2: Tensor,
    tb2: Tensor,
    *,
    activation: str,
    task: str,
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    chunk_size: int | None = None,
    input_gradient: bool = False,
) -> dict[str, Tensor]:
    """What :func:`twolayer.streaming.hvp` gives: each equation, and how it changes along the direction, ``RV``."""
    g = ACTIVATIONS[activation]
    X = X.to(W1.dtype)
    A1 = equations.A1(equations.Z1(X, W1, b1), g)
    RZ1 = X @ tW1.mT + tb1 if tX is None else X @ tW1.mT + tb1 + tX @ W1.mT
    RA1 = g.prime(A1) * RZ1
    Z2 = equations.Z2(A1, W2, b2)
    RZ2 = RA1 @ W2.mT + A1 @ tW2.mT + tb2

    Y, share = _targets_and_shares(Y, Z2, task, sample_weight, class_weight, label_smoothing, reduction)
    dZ2 = share * COSTS[task].error(Z2, Y)
    RdZ2 = COSTS[task].curvature(Z2, Y, RZ2)
    RdZ2 = share * (RdZ2 if tY is None else RdZ2 + tY)

    dA1 = equations.dA1(dZ2, W2)
    RdA1 = RdZ2 @ W2 + dZ2 @ tW2
    dZ1 = equations.dZ1(dA1, A1, g)
    RdZ1 = RdA1 * g.prime(A1)
    if g.second is not None:
        RdZ1 = RdZ1 + dA1 * g.second(A1) * RZ1
    product = {
        "W1": RdZ1.mT @ X if tX is None else RdZ1.mT @ X + dZ1.mT @ tX,
        "b1": RdZ1.sum(0),
        "W2": RdZ2.mT @ A1 + dZ2.mT @ RA1,
        "b2": RdZ2.sum(0),
    }
    if input_gradient:
        product["X"] = RdZ1 @ W1 + dZ1 @ tW1
    if task == PAIRING:
        product["Y"] = share * RZ2
    return product


def _targets_and_shares(
    Y: Tensor,
    Z2: Tensor,
    task: str,
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    label_smoothing: float,
    reduction: str,
) -> tuple[Tensor, Tensor | float]:
    """Dense targets, and the share of each example in ``J``: the same for all, or ``(m, 1)``."""
    Y = dense_targets(Y, Z2, task)
    weights = example_weights(Y, task, sample_weight, class_weight)
    share: Tensor | float
    if reduction == "sum":
        share = 1.0 if weights is None else weights.unsqueeze(-1)
    else:
        share = 1 / len(Z2) if weights is None else (weights / weights.sum()).unsqueeze(-1)
    return smoothed(Y, label_smoothing, task), share
