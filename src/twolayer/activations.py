"""The hidden activations: ``g(Z)``, and its derivatives ``g'(Z)`` and ``g''(Z)`` computed from ``A = g(Z)``.

Because these need only ``A``, the pre-activation ``Z1`` is never kept for the backward pass. At the kink of ReLU and
leaky ReLU, ``g'(0)`` is what PyTorch takes: 0 and the small slope.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

aten = torch.ops.aten

LEAKY_RELU_SLOPE = 0.01  # PyTorch's default too


class Activation(NamedTuple):
    """All that the package knows of an activation, in PyTorch's operators. ``ACTIVATIONS`` has one for each name.

    >>> g = ACTIVATIONS["tanh"]
    >>> A = g(torch.tensor([0.0, 1.0]))
    >>> g.prime(A)
    tensor([1.0000, 0.4200])
    """

    function: Callable[[Tensor], Tensor]
    """``g(Z)``."""
    prime: Callable[[Tensor], Tensor]
    """``g'(Z)`` from ``A``."""
    module: Callable[[], nn.Module]
    """PyTorch's layer for it."""
    second: Callable[[Tensor], Tensor] | None = None
    """``g''(Z)`` from ``A``, or None where ``g`` is straight lines."""
    overwrite: Callable[[Tensor], Tensor] | None = None
    """``g(Z)`` in the place of ``Z``, if PyTorch has an operator for it."""
    pull_back: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """``dA ⊙ g'(Z)`` from ``dA, A``, written to a third tensor, if PyTorch has an operator for it."""

    def __call__(self, Z: Tensor) -> Tensor:
        return self.function(Z)

    def in_place(self, Z: Tensor) -> Tensor:
        """``g(Z)`` in the place of ``Z``."""
        return Z.copy_(self.function(Z)) if self.overwrite is None else self.overwrite(Z)

    def times_prime(self, dA: Tensor, A: Tensor, out: Tensor) -> Tensor:
        """``dA ⊙ g'(Z)``, written to ``out``, which may be ``dA`` itself."""
        return torch.mul(dA, self.prime(A), out=out) if self.pull_back is None else self.pull_back(dA, A, out)


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
    "sigmoid": Activation(
        torch.sigmoid,
        _sigmoid_prime,
        nn.Sigmoid,
        _sigmoid_second,
        torch.sigmoid_,
        lambda dA, A, out: aten.sigmoid_backward(dA, A, grad_input=out),
    ),
    "tanh": Activation(
        torch.tanh,
        _tanh_prime,
        nn.Tanh,
        _tanh_second,
        torch.tanh_,
        lambda dA, A, out: aten.tanh_backward(dA, A, grad_input=out),
    ),
    "relu": Activation(
        torch.relu,
        _relu_prime,
        nn.ReLU,
        overwrite=torch.relu_,
        pull_back=lambda dA, A, out: aten.threshold_backward(dA, A, 0, grad_input=out),
    ),
    "leaky_relu": Activation(
        _leaky_relu,
        _leaky_relu_prime,
        nn.LeakyReLU,
        overwrite=lambda Z: F.leaky_relu_(Z, LEAKY_RELU_SLOPE),
        pull_back=lambda dA, A, out: aten.leaky_relu_backward(dA, A, LEAKY_RELU_SLOPE, True, grad_input=out),
    ),
}
