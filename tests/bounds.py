"""The network's equations in numbers that know how far rounding may take them: the bound of ``test_properties.py``.

The standard model of rounding (Higham, Accuracy and Stability of Numerical Algorithms, 2.4 and 3.5): a sum of ``n``
products, in whatever order, is wrong by at most ``n ε Σ |a| |b|``; here plus ``n`` times the smallest normal number,
for what is flushed to zero. An error that comes in is carried along by ``|a| |δb| + |δa| |b| + |δa| |δb|``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SLOPE = {"relu": 0.0, "leaky_relu": 0.01}
FUNCTION = 8
"""Units in the last place that a tanh, an exponential or a logarithm may be wrong by."""


@dataclass
class Near:
    """A value in float64, and how far from it the computed one may be."""

    value: Tensor
    error: Tensor
    eps: float
    tiny: float
    peak: float = 0.0
    """The greatest magnitude on the way here. Beyond what the dtype holds, the order of operations decides."""

    def __matmul__(self, other: "Near") -> "Near":
        a, b, da, db = self.value.abs(), other.value.abs(), self.error, other.error
        n = a.shape[-1] + 1
        magnitude = (a + da) @ (b + db)
        rounding = n * self.eps * magnitude + n * self.tiny
        return self._new(self.value @ other.value, a @ db + da @ b + da @ db + rounding, magnitude, other)

    def __mul__(self, other: "Near | float | Tensor") -> "Near":
        other = other if isinstance(other, Near) else self._exact(other)
        a, b, da, db = self.value.abs(), other.value.abs(), self.error, other.error
        magnitude = (a + da) * (b + db)
        rounding = self.eps * magnitude + self.tiny
        return self._new(self.value * other.value, a * db + da * b + da * db + rounding, magnitude, other)

    def __add__(self, other: "Near | float") -> "Near":
        other = other if isinstance(other, Near) else self._exact(other)
        value, error = self.value + other.value, self.error + other.error
        return self._new(value, error + self.eps * (value.abs() + error) + self.tiny, value, other)

    def __sub__(self, other: "Near | float") -> "Near":
        return self + other * -1.0 if isinstance(other, Near) else self + -other

    def sum(self, dim: int, keepdim: bool = False) -> "Near":
        n = self.value.shape[dim] + 1
        magnitude = (self.value.abs() + self.error).sum(dim, keepdim=keepdim)
        error = self.error.sum(dim, keepdim=keepdim) + n * self.eps * magnitude
        return self._new(self.value.sum(dim, keepdim=keepdim), error, magnitude)

    @property
    def mT(self) -> "Near":
        return self._new(self.value.mT, self.error.mT)

    def through(self, value: Tensor, error: Tensor) -> "Near":
        """A function of this: its value, and what the error that came in has become, with the function's own."""
        return self._new(value, error + FUNCTION * self.eps * (1 + value.abs()) + self.tiny)

    def _exact(self, other: float | Tensor) -> "Near":
        other = torch.as_tensor(other, dtype=torch.float64)
        return self._new(other, torch.zeros_like(other))

    def _new(
        self, value: Tensor, error: Tensor, magnitude: Tensor | None = None, other: "Near | None" = None
    ) -> "Near":
        here = value if magnitude is None else magnitude
        peak = here.abs().nan_to_num(torch.inf).max().item()
        return Near(value, error, self.eps, self.tiny, max(peak, self.peak, 0.0 if other is None else other.peak))


def activated(Z1: Near, activation: str) -> tuple[Near, Near, Near | None]:
    """``A1``, ``g'`` and ``g''``. Near a kink, the slope may be that of the other side."""
    if activation in SLOPE:
        slope = SLOPE[activation]
        A = torch.where(Z1.value > 0, Z1.value, slope * Z1.value)
        prime = torch.where(Z1.value > 0, 1.0, slope).double()
        either = (Z1.value.abs() <= Z1.error).double() * (1 - slope)
        return Z1.through(A, Z1.error), Z1.through(prime, either), None
    A = Z1.value.tanh() if activation == "tanh" else Z1.value.sigmoid()
    A1 = Z1.through(A, Z1.error.clamp(max=2.0))  # no slope is above one
    prime = A1 * A1 * -1.0 + 1.0 if activation == "tanh" else A1 * (A1 * -1.0 + 1.0)
    return A1, prime, prime * (A1 * -2.0 if activation == "tanh" else A1 * -2.0 + 1.0)


def losses(Z2: Near, Y: Near, task: str) -> tuple[Near, Near, Near]:
    """``L (m,)``, ``dZ2`` and the output ``A2``; of dense targets. Costs and outputs move no faster than logits."""
    if task == "regression":
        error = Z2 - Y
        return (error * error * 0.5).sum(-1), error, Z2
    if task == "multiclass":
        largest = Z2.error.amax(-1, keepdim=True)
        A2 = Z2.through(Z2.value.softmax(-1), (2 * largest).clamp(max=1.0).expand_as(Z2.error))
        log_A2 = Z2.through(
            Z2.value.log_softmax(-1), (2 * largest + Z2.eps * Z2.value.abs().amax(-1, True)).expand_as(Z2.error)
        )
        return (log_A2 * Y * -1.0).sum(-1), A2 * Y.sum(-1, keepdim=True) - Y, A2
    A2 = Z2.through(Z2.value.sigmoid(), Z2.error.clamp(max=1.0))
    softplus = Z2.through(torch.nn.functional.softplus(Z2.value), Z2.error)
    return (softplus - Z2 * Y).sum(-1), A2 - Y, A2


def cost_and_gradients(
    X: Near, Y: Near, share: Near, parameters: dict[str, Near], activation: str, task: str, v: dict[str, Near] | None
) -> dict[str, Near]:
    """The weighted cost, its gradients along ``X`` and the parameters, and its Hessian times ``v``, by name."""
    W1, b1, W2, b2 = parameters.values()
    A1, prime, second = activated(X @ W1.mT + b1, activation)
    Z2 = A1 @ W2.mT + b2
    L, error, A2 = losses(Z2, Y, task)
    dZ2 = error * share
    dA1 = dZ2 @ W2
    dZ1 = dA1 * prime
    L = L * share._new(share.value[:, 0], share.error[:, 0])
    found = {"none": L, "J": L.sum(0), "X": dZ1 @ W1}
    found |= {"W1": dZ1.mT @ X, "b1": dZ1.sum(0), "W2": dZ2.mT @ A1, "b2": dZ2.sum(0)}
    if v is None:
        return found
    RZ1 = X @ v["W1"].mT + v["b1"]
    RA1 = RZ1 * prime
    RZ2 = RA1 @ W2.mT + A1 @ v["W2"].mT + v["b2"]
    if task == "multiclass":
        RdZ2 = A2 * (RZ2 - (A2 * RZ2).sum(-1, keepdim=True)) * Y.sum(-1, keepdim=True)
    else:
        RdZ2 = RZ2 if task == "regression" else A2 * (A2 * -1.0 + 1.0) * RZ2
    RdZ2 = RdZ2 * share
    RdA1 = RdZ2 @ W2 + dZ2 @ v["W2"]
    RdZ1 = RdA1 * prime
    if second is not None:
        RdZ1 = RdZ1 + dA1 * second * RZ1
    products = {"W1": RdZ1.mT @ X, "b1": RdZ1.sum(0), "W2": RdZ2.mT @ A1 + dZ2.mT @ RA1, "b2": RdZ2.sum(0)}
    return found | {f"v[{name}]": product for name, product in products.items()}
