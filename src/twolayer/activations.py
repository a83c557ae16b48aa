"""The hidden activations: ``g(Z)``, and its derivatives ``g'(Z)`` and ``g''(Z)`` computed from ``A = g(Z)``.

Because these need only ``A``, the pre-activation ``Z1`` is never kept for the backward pass. At the kink of ReLU and
leaky ReLU, ``g'(0)`` is what PyTorch takes: 0 and the small slope.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

LEAKY_RELU_SLOPE = 0.01  # PyTorch's default too


class Activation(NamedTuple):
    """``g(Z)`` when called, and ``g.prime(A)``, its derivative ``g'(Z)`` at the ``Z`` for which ``A = g(Z)``.

    ``g.second(A)`` is ``g''(Z)``, or None where ``g`` is straight lines.

    >>> g = ACTIVATIONS["tanh"]
    >>> A = g(torch.tensor([0.0, 1.0]))
    >>> g.prime(A)
    tensor([1.0000, 0.4200])
    """

    function: Callable[[Tensor], Tensor]
    prime: Callable[[Tensor], Tensor]
    second: Callable[[Tensor], Tensor] | None = None

    def __call__(self, Z: Tensor) -> Tensor:
        return self.function(Z)


def _leaky_relu(Z: Tensor) -> Tensor:
    return F.leaky_relu(Z, LEAKY_RELU_SLOPE)


def _sigmoid_prime(A: Tensor) -> Tensor:
    return A * (1 - A)


def _sigmoid_second(A: Tensor) -> Tensor:
    return A * (1 - A) * (1 - 2 * A)


def _tanh_prime(A: Tensor) -> Tensor:
    return 1 - A * A


def _tanh_second(A: Tensor) -> Tensor:
    return -2 * A * (1 - A * A)


def _relu_prime(A: Tensor) -> Tensor:
    return A.sign()  # 0 or 1, for A is not negative; several times as fast as a comparison


def _leaky_relu_prime(A: Tensor) -> Tensor:
    return F.threshold(A.sign(), 0, LEAKY_RELU_SLOPE)  # 1, and where that is not above 0, the slope


ACTIVATIONS = {
    "sigmoid": Activation(torch.sigmoid, _sigmoid_prime, _sigmoid_second),
    "tanh": Activation(torch.tanh, _tanh_prime, _tanh_second),
    "relu": Activation(torch.relu, _relu_prime),
    "leaky_relu": Activation(_leaky_relu, _leaky_relu_prime),
}
