"""Problems to test on, and PyTorch's own answer to each: its layers, its losses, its differentiation.

Weights, biases and inputs are of order one: with small ones a wrong bias would hide.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twolayer import TwoLayerNet
from twolayer.equations import Parameters
from twolayer.tasks import Examples, Objective

MODULES: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
}

OUTPUTS = {"binary": 1, "multilabel": 3, "multiclass": 4, "regression": 2}
NETWORK = ("X", "W1", "b1", "W2", "b2")
PARAMETERS = NETWORK[1:]


@dataclass
class Problem:
    """A network, its inputs and its targets, all plain tensors."""

    activation: str
    task: str
    X: Tensor
    W1: Tensor
    b1: Tensor
    W2: Tensor
    b2: Tensor
    Y: Tensor

    @property
    def network(self) -> tuple[Tensor, ...]:
        """``(X, W1, b1, W2, b2)``."""
        return tuple(getattr(self, name) for name in NETWORK)

    def net(self, **options: Any) -> TwoLayerNet:
        (n_h, n_x), n_y = self.W1.shape, len(self.b2)
        options = {"activation": self.activation, "task": self.task, **options}
        net = TwoLayerNet(n_x, n_h, n_y, device=self.W1.device, dtype=self.W1.dtype, **options)
        with torch.no_grad():
            for name in PARAMETERS:
                getattr(net, name).copy_(getattr(self, name))
        return net

    def values(
        self,
        *,
        task: str | None = None,
        sample_weight: Tensor | None = None,
        class_weight: Tensor | None = None,
        **options: Any,
    ) -> tuple[Examples, Parameters, Objective]:
        """As the kernels take it. Options are those of the objective."""
        examples = Examples(self.X, self.Y, sample_weight, class_weight)
        return examples, Parameters(*self.network[1:]), Objective(self.activation, task or self.task, **options)

    def sequential(self) -> nn.Sequential:
        """PyTorch's layers with the values of these parameters."""
        (n_h, n_x), n_y = self.W1.shape, len(self.b2)
        like = {"device": self.W1.device, "dtype": self.W1.dtype}
        layers = nn.Sequential(nn.Linear(n_x, n_h, **like), MODULES[self.activation](), nn.Linear(n_h, n_y, **like))
        with torch.no_grad():
            for parameter, name in zip(layers.parameters(), PARAMETERS, strict=True):
                parameter.copy_(getattr(self, name))
        return layers

    def true_logits(self, X: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor) -> Tensor:
        return F.linear(MODULES[self.activation]()(F.linear(X, W1, b1)), W2, b2)


def problem(
    activation: str = "tanh",
    task: str = "binary",
    *,
    m: int = 7,
    n_x: int = 5,
    n_h: int = 3,
    n_y: int | None = None,
    soft: bool = False,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    margin: float = 1e-3,
    seed: int = 0,
) -> Problem:
    """A random problem. Every number is drawn in float64 on the CPU, so that dtypes and devices see the same one.

    Targets are 0/1, class indices or floats, or with ``soft`` probabilities inside (0, 1). No hidden pre-activation is
    nearer to the kink at 0 than ``margin``.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    n_y = n_y or OUTPUTS[task]
    while True:
        X, W1, b1 = draw(m, n_x), draw(n_h, n_x), draw(n_h)
        if (X @ W1.T + b1).abs().min() > margin:
            break
    W2, b2, scores = draw(n_y, n_h), draw(n_y), draw(m, n_y)
    if task == "regression":
        Y = scores
    elif task == "multiclass":
        Y = scores.softmax(-1) if soft else scores.argmax(-1)
    else:
        Y = scores.sigmoid() if soft else (scores > 0).double()
    tensors = [V.to(device, dtype if V.is_floating_point() else None) for V in (X, W1, b1, W2, b2, Y)]
    return Problem(activation, task, *tensors)


def by_name(J: Tensor, dX: Tensor | None, grads: Parameters) -> tuple[Tensor, dict[str, Tensor]]:
    """What a kernel returns, with the gradients by name."""
    return J, grads._asdict() | ({} if dX is None else {"X": dX})


def run_kernel(kernel: Any, p: Problem, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """``kernel.loss_and_grads`` on a problem, with options of the pass and of the objective."""
    how = {name: options.pop(name) for name in ("chunk_size", "input_gradient") if name in options}
    return by_name(*kernel.loss_and_grads(*p.values(**options), **how))


TRUE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "binary": lambda Z2, Y: F.binary_cross_entropy_with_logits(Z2, Y, reduction="none").sum(-1),
    "multilabel": lambda Z2, Y: F.binary_cross_entropy_with_logits(Z2, Y, reduction="none").sum(-1),
    "multiclass": lambda Z2, Y: F.cross_entropy(Z2, Y, reduction="none"),
    "regression": lambda Z2, Y: F.mse_loss(Z2, Y, reduction="none").sum(-1) / 2,
}
"""PyTorch's loss of each example, ``(m,)``, from ``Z2`` ``(m, n_y)`` and ``Y``."""


def value_and_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], incoming: Tensor | None = None
) -> list[Tensor]:
    """``function(*inputs)``, then its gradient with respect to each floating point input."""
    inputs = [V.detach().requires_grad_(V.is_floating_point()) for V in inputs]
    value = function(*inputs)
    return [value.detach(), *torch.autograd.grad(value, [V for V in inputs if V.requires_grad], incoming)]


def relative_error(got: Tensor, truth: Tensor) -> float:
    """The largest deviation, relative to the largest entry of the truth.

    A truth of one entry, such as ``db2`` with one output, may be a sum that cancels: then a right result has a large
    relative error. The first seed has none that does.
    """
    assert got.shape == truth.shape
    assert got.device == truth.device
    if truth.numel() == 0:
        return 0.0
    deviation = (got.detach().double() - truth.detach().double()).abs().max()
    return (deviation / truth.detach().double().abs().max().clamp_min(1e-300)).item()


def assert_equal(got: Sequence[Tensor], truth: Sequence[Tensor], tolerance: float = 1e-12) -> None:
    """Each tensor equals its truth up to a relative error. The default allows float64 some thousand roundings."""
    errors = [relative_error(a, b) for a, b in zip(got, truth, strict=True)]
    assert all(error <= tolerance for error in errors), f"relative errors {errors}"
