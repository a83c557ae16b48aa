"""The notes' equations, each a function of one line, in the order in which the notes derive them.

The notes write one example as a *column*: ``X`` is ``(n_x, m)`` and ``Z1 = W1 X + b1``. PyTorch writes it as a
*row*: ``X`` is ``(m, n_x)``. The parameters are the same in both; every array with ``m`` in its shape is the
transpose of the notes', which turns ``W A`` into ``A Wᵀ`` and ``dZ Aᵀ`` into ``dZᵀ A``. This is the only place
that says so; the shapes below are those of the rows.

``dV`` is the derivative of the cost ``J`` with respect to ``V``. The mean over the examples stands once, where it
arises: in ``dZ2 = (A2 − Y) / m``. The notes write ``dZ2 = A2 − Y`` and repeat the ``1/m`` in each of the four
gradients below it; all of these are linear in ``dZ2``, so the gradients are equal. Here ``dZ2(A2, Y)`` is the error
of single examples, and whoever calls it scales it: by ``1/m`` for the mean, by ``w_i / Σ w`` with weights, or by
whatever gradient comes in from outside.

=====  =====  ===============================
name   shape  what it is
=====  =====  ===============================
n_x           input features
n_h           hidden units
n_y           outputs
m             examples
g             hidden activation, see :mod:`twolayer.activations`
=====  =====  ===============================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor
from torch.nn.functional import linear

if TYPE_CHECKING:
    from twolayer.activations import Activation


class Parameters(NamedTuple):
    """The four parameters; their gradients, and directions in which they move, have the same form."""

    W1: Tensor
    """``(n_h, n_x)``"""
    b1: Tensor
    """``(n_h,)``"""
    W2: Tensor
    """``(n_y, n_h)``"""
    b2: Tensor
    """``(n_y,)``"""


class Kept(NamedTuple):
    """What the equations that run backwards take from the forward pass: not the biases, and not ``Z1``."""

    X: Tensor
    """``(m, n_x)``"""
    W1: Tensor
    W2: Tensor
    A1: Tensor
    """``(m, n_h)``"""


# Forward: from the inputs to the logits.


def Z1(X: Tensor, W1: Tensor, b1: Tensor) -> Tensor:
    return linear(X, W1, b1)  # Z1 = X W1ᵀ + b1            (m, n_h)


def A1(Z1: Tensor, g: Activation) -> Tensor:
    return g(Z1)  # A1 = g(Z1)                             (m, n_h)


def Z2(A1: Tensor, W2: Tensor, b2: Tensor) -> Tensor:
    return linear(A1, W2, b2)  # Z2 = A1 W2ᵀ + b2          (m, n_y)


# Backward: from the output error to the gradients.


def dZ2(A2: Tensor, Y: Tensor) -> Tensor:
    return A2 - Y  # dZ2 = A2 − Y                          (m, n_y)


def dW2(dZ2: Tensor, A1: Tensor) -> Tensor:
    return dZ2.mT @ A1  # dW2 = dZ2ᵀ A1                    (n_y, n_h)


def db2(dZ2: Tensor) -> Tensor:
    return dZ2.sum(0)  # db2 = Σ_rows dZ2                  (n_y,)


def dA1(dZ2: Tensor, W2: Tensor) -> Tensor:
    return dZ2 @ W2  # dA1 = dZ2 W2                        (m, n_h)


def dZ1(dA1: Tensor, A1: Tensor, g: Activation) -> Tensor:
    return dA1 * g.prime(A1)  # dZ1 = dA1 ⊙ g'(Z1)         (m, n_h)


def dW1(dZ1: Tensor, X: Tensor) -> Tensor:
    return dZ1.mT @ X  # dW1 = dZ1ᵀ X                      (n_h, n_x)


def db1(dZ1: Tensor) -> Tensor:
    return dZ1.sum(0)  # db1 = Σ_rows dZ1                  (n_h,)


def dX(dZ1: Tensor, W1: Tensor) -> Tensor:
    return dZ1 @ W1  # dX = dZ1 W1                         (m, n_x)
