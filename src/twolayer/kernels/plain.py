"""All examples at once: the notes' equations, one after the other, in PyTorch's ordinary operators.

The order of the equations stands here, for every caller that takes all examples at once: for few examples, for mode
``"manual"``, for ``torch.vmap``, and for what PyTorch differentiates itself.
:mod:`twolayer.kernels.chunked` is the same in constant memory.
"""

from typing import NamedTuple

from torch import Tensor

from twolayer import equations
from twolayer.activations import ACTIVATIONS, Activation
from twolayer.equations import Kept, Parameters
from twolayer.tasks import PAIRING, Direction, Examples, Objective, at_least_float32

Tangents = tuple[Tensor | None, ...]
"""Of ``X, W1, b1, W2, b2``; None for zero, or for what is not needed."""


def forward(X: Tensor, parameters: Parameters, g: Activation) -> tuple[Tensor, Kept]:
    """``Z2 (m, n_y)``, and what the backward pass needs."""
    W1, b1, W2, b2 = parameters
    A1 = equations.A1(equations.Z1(X, W1, b1), g)
    return equations.Z2(A1, W2, b2), Kept(X, W1, W2, A1)


def backward(
    kept: Kept, g: Activation, dZ2: Tensor | None, dA1: Tensor | None = None, needs: tuple[bool, ...] = (True,) * 5
) -> Tangents:
    """``dX, dW1, db1, dW2, db2``, each if it is needed, from what comes back to ``Z2``, and to ``A1`` beside it."""
    X, W1, W2, A1 = kept
    X_needs, W1_needs, b1_needs, W2_needs, b2_needs = needs
    dX = dW1 = db1 = dW2 = db2 = None
    if dZ2 is not None:
        dW2 = equations.dW2(dZ2, A1) if W2_needs else None
        db2 = equations.db2(dZ2) if b2_needs else None
        if X_needs or W1_needs or b1_needs:
            from_Z2 = equations.dA1(dZ2, W2)
            dA1 = from_Z2 if dA1 is None else from_Z2 + dA1
    if dA1 is not None:
        dZ1 = equations.dZ1(dA1, A1, g)
        dW1 = equations.dW1(dZ1, X) if W1_needs else None
        db1 = equations.db1(dZ1) if b1_needs else None
        dX = equations.dX(dZ1, W1) if X_needs else None
    return dX, dW1, db1, dW2, db2


def along(kept: Kept, g: Activation, tangents: Tangents) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """How ``Z1``, ``A1`` and ``Z2`` change along a direction: ``RZ1, RA1, RZ2``, None where they do not."""
    X, W1, W2, A1 = kept
    tX, tW1, tb1, tW2, tb2 = tangents
    m = X.shape[0]
    RZ1 = added(
        tX @ W1.mT if tX is not None else None,
        X @ tW1.mT if tW1 is not None else None,
        tb1.expand(m, -1) if tb1 is not None else None,
    )
    RA1 = None if RZ1 is None else equations.dZ1(RZ1, A1, g)  # RA1 = RZ1 ⊙ g'(Z1), the same product
    RZ2 = added(
        RA1 @ W2.mT if RA1 is not None else None,
        A1 @ tW2.mT if tW2 is not None else None,
        tb2.expand(m, -1) if tb2 is not None else None,
    )
    return RZ1, RA1, RZ2


def added(*terms: Tensor | None) -> Tensor | None:
    """The sum of the terms that are there: autograd writes a zero derivative as None."""
    present = [term for term in terms if term is not None]
    return sum(present[1:], present[0]) if present else None


def logits(X: Tensor, parameters: Parameters, activation: str) -> Tensor:
    """``Z2``, ``(..., n_y)``."""
    Z2, _ = forward(X.to(parameters.W1.dtype), parameters, ACTIVATIONS[activation])
    return Z2


def loss_and_grads(
    examples: Examples, parameters: Parameters, objective: Objective, *, input_gradient: bool = False
) -> tuple[Tensor, Tensor | None, Parameters]:
    """``J``, ``dX`` if ``input_gradient`` asks for it, and the gradients of the parameters."""
    X = examples.X.to(parameters.W1.dtype)
    Z2, kept = forward(X, parameters, objective.g)
    _, J, dZ2 = _cost_and_error(Z2, examples, objective)
    dX, *grads = backward(kept, objective.g, dZ2, needs=(input_gradient, True, True, True, True))
    return J, dX, Parameters(*grads)  # type: ignore[arg-type]  # all of these are needed


def _cost_and_error(logits: Tensor, examples: Examples, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """``Y`` as the equations take it, ``J`` and ``dZ2``."""
    Z2 = at_least_float32(logits)
    Y, weights = objective.targets(examples, Z2)
    J = objective.cost_of(Z2, Y, weights)
    dZ2 = (objective.share(weights, Z2) * objective.formulas.error(Z2, Y)).to(logits.dtype)
    return Y, J, dZ2


class Trace(NamedTuple):
    """Every quantity of the equations, by its name, in the order in which they are computed.

    ``dV`` is the derivative of the cost ``J`` with respect to ``V``. So ``dZ2``, ``dA1`` and ``dZ1`` hold the share of
    each example in the mean, ``1/m`` without weights, where the notes write it in front of ``dW2`` and its like.
    """

    Z1: Tensor
    """Hidden pre-activation, ``(m, n_h)``."""
    A1: Tensor
    """Hidden activation ``g(Z1)``, ``(m, n_h)``."""
    Z2: Tensor
    """Logits, ``(m, n_y)``."""
    A2: Tensor
    """Output: probabilities, or the mean for regression, ``(m, n_y)``."""
    Y: Tensor
    """Targets as ``A2 − Y`` takes them, dense and with label smoothing, ``(m, n_y)``, in at least float32."""
    L: Tensor
    """The loss of each example, before weights, ``(m,)``."""
    J: Tensor
    """The cost, a scalar."""
    dZ2: Tensor
    """Output error, ``A2 − Y`` times the example's share of the mean, ``(m, n_y)``."""
    dW2: Tensor
    """``(n_y, n_h)``"""
    db2: Tensor
    """``(n_y,)``"""
    dA1: Tensor
    """What comes back to the hidden units, ``(m, n_h)``."""
    slope: Tensor
    """``g'(Z1)``, ``(m, n_h)``: how much of that each unit lets through."""
    dZ1: Tensor
    """Hidden error, ``dA1 ⊙ g'(Z1)``, ``(m, n_h)``."""
    dW1: Tensor
    """``(n_h, n_x)``"""
    db1: Tensor
    """``(n_h,)``"""
    dX: Tensor
    """What comes back to the inputs, ``(m, n_x)``."""


def trace(examples: Examples, parameters: Parameters, objective: Objective) -> Trace:
    """The whole pass, of which nothing is thrown away: five arrays of ``m × n_h`` numbers."""
    g, X, (W1, b1, W2, b2) = objective.g, examples.X.to(parameters.W1.dtype), parameters
    Z1 = equations.Z1(X, W1, b1)
    A1 = equations.A1(Z1, g)
    Z2 = equations.Z2(A1, W2, b2)
    A2 = objective.formulas.output(Z2)
    Y, J, dZ2 = _cost_and_error(Z2, examples, objective)
    L = objective.formulas.loss(at_least_float32(Z2), Y)
    dW2 = equations.dW2(dZ2, A1)
    db2 = equations.db2(dZ2)
    dA1 = equations.dA1(dZ2, W2)
    dZ1 = equations.dZ1(dA1, A1, g)
    dW1 = equations.dW1(dZ1, X)
    db1 = equations.db1(dZ1)
    dX = equations.dX(dZ1, W1)
    return Trace(Z1, A1, Z2, A2, Y, L, J, dZ2, dW2, db2, dA1, g.prime(A1), dZ1, dW1, db1, dX)


def hvp(
    examples: Examples,
    parameters: Parameters,
    direction: Direction,
    objective: Objective,
    *,
    input_gradient: bool = False,
) -> Direction:
    """As :func:`twolayer.kernels.chunked.hvp`: each equation, and how it changes along the direction, ``RV``."""
    g, (tX, tY, (tW1, tb1, tW2, tb2)) = objective.g, direction
    Z2, kept = forward(examples.X.to(parameters.W1.dtype), parameters, g)
    RZ1, RA1, RZ2 = along(kept, g, (tX, tW1, tb1, tW2, tb2))
    assert RZ1 is not None
    assert RA1 is not None
    assert RZ2 is not None
    X, W1, W2, A1 = kept

    Y, weights = objective.targets(examples, Z2)
    share = objective.share(weights, Z2)
    dZ2 = share * objective.formulas.error(Z2, Y)
    RdZ2 = objective.formulas.curvature(Z2, Y, RZ2)
    RdZ2 = share * (RdZ2 if tY is None else RdZ2 + tY)

    dA1 = equations.dA1(dZ2, W2)
    RdA1 = RdZ2 @ W2 + dZ2 @ tW2
    dZ1 = equations.dZ1(dA1, A1, g)
    RdZ1 = RdA1 * g.prime(A1)
    if g.second is not None:
        RdZ1 = RdZ1 + dA1 * g.second(A1) * RZ1
    RdW1 = RdZ1.mT @ X if tX is None else RdZ1.mT @ X + dZ1.mT @ tX
    RdW2 = RdZ2.mT @ A1 + dZ2.mT @ RA1
    return Direction(
        X=RdZ1 @ W1 + dZ1 @ tW1 if input_gradient else None,
        Y=share * RZ2 if objective.task == PAIRING else None,
        parameters=Parameters(RdW1, RdZ1.sum(0), RdW2, RdZ2.sum(0)),
    )
