"""One step, the cost and all four gradients, as each peer's own documentation writes it, and as ours can be called.

All of them compute on the same numbers: what is drawn here is drawn from the same seeds.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from measuring import Step
from torch import Tensor, nn
from torch.nn import functional as F

from twolayer import TwoLayerNet
from twolayer.functional import BACKWARDS

MODES = {f"`net.loss`, {mode}": mode for mode in BACKWARDS}
PASS, PLAIN = "`loss_and_grads`", '`loss_and_grads`, `kernel="torch"`'


class Problem(NamedTuple):
    """A network, on so many examples: binary with one output, multiclass with several."""

    n_x: int
    n_h: int
    n_y: int
    m: int
    activation: str

    def __str__(self) -> str:
        return f"{self.n_x}, {self.n_h}, {self.n_y}, {self.m:,}, {self.activation}"

    def pacing(self, rounds: int | None = None) -> dict[str, Any]:
        """How its rounds go, see :func:`measuring.interleaved`. A step of a small network varies more and costs less to
        repeat, and hardly any threads have to come to rest after it."""
        small = self.m * self.n_h < 1e5
        given = {} if rounds is None else {"rounds": rounds}
        return ({"rounds": 60, "turn": 0.02, "pause": 0.1} if small else {"rounds": 9}) | given

    @property
    def task(self) -> str:
        return "binary" if self.n_y == 1 else "multiclass"


PROBLEMS = {
    "higgs": Problem(28, 300, 1, 100_000, "tanh"),
    "narrow": Problem(8, 64, 1, 500_000, "tanh"),
    "mnist": Problem(784, 128, 10, 20_000, "relu"),
    "wide": Problem(1024, 4096, 16, 4_096, "relu"),
    "flower": Problem(2, 4, 1, 400, "tanh"),
    "minibatch": Problem(28, 100, 1, 200, "relu"),
    "images": Problem(784, 128, 10, 64, "relu"),
}


def data(problem: Problem) -> tuple[Tensor, Tensor]:
    """Inputs, and targets: 0.0 and 1.0, or class indices."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(problem.m, problem.n_x, generator=generator)
    labels = torch.randint(max(2, problem.n_y), (problem.m,), generator=generator)
    return X, labels.float() if problem.n_y == 1 else labels


def network(problem: Problem, **options: Any) -> TwoLayerNet:
    n_x, n_h, n_y, _, activation = problem
    options |= {"init": "xavier", "generator": torch.Generator().manual_seed(1)}
    return TwoLayerNet(n_x, n_h, n_y, activation=activation, task=problem.task, **options)


def criterion(logits: Tensor, Y: Tensor) -> Tensor:
    """The loss that a project writes itself."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits.squeeze(-1), Y)
    return F.cross_entropy(logits, Y)


def stepping(cost: Callable[[Tensor, Tensor], Tensor], module: nn.Module, X: Tensor, Y: Tensor) -> Step:
    parameters = list(module.parameters())

    def step() -> list[Tensor]:
        for V in parameters:
            V.grad = None
        J = cost(X, Y)
        J.backward()
        return [J, *(V.grad for V in parameters if V.grad is not None)]

    return step


def in_torch(problem: Problem, *, compiled: bool = False) -> Step:
    sequential = network(problem).to_sequential()

    def cost(X: Tensor, Y: Tensor) -> Tensor:
        return criterion(sequential(X), Y)

    return stepping(torch.compile(cost) if compiled else cost, sequential, *data(problem))


def in_jax(problem: Problem) -> Step:
    import jax
    import jax.numpy as jnp

    g = jnp.tanh if problem.activation == "tanh" else jax.nn.relu

    def cost(parameters: list[Any], X: Any, Y: Any) -> Any:
        W1, b1, W2, b2 = parameters
        logits = g(X @ W1.T + b1) @ W2.T + b2
        if problem.n_y == 1:
            return jnp.mean(jax.nn.softplus(logits[:, 0]) - Y * logits[:, 0])
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), Y[:, None], 1))

    parameters = [jnp.asarray(V.detach().numpy()) for V in network(problem).parameters()]
    X, Y = (jnp.asarray(V.numpy()) for V in data(problem))
    value_and_grad = jax.jit(jax.value_and_grad(cost))

    def step() -> list[Any]:
        J, grads = jax.block_until_ready(value_and_grad(parameters, X, Y))
        return [J, *grads]

    return step


def in_sklearn(problem: Problem) -> Step:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    n_x, n_h, n_y, m, activation = problem
    mlp = MLPClassifier((n_h,), activation=activation, alpha=0, batch_size=n_y + 1, max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        few = np.arange(max(2, n_y)).repeat(2)
        mlp.fit(np.zeros((len(few), n_x), np.float32), few)  # only to set it up
    W1, b1, W2, b2 = (V.detach().numpy() for V in network(problem).parameters())
    mlp.coefs_, mlp.intercepts_ = [W1.T, W2.T], [b1, b2]
    X, Y = data(problem)
    dense = (Y[:, None].long() if n_y == 1 else F.one_hot(Y, n_y)).numpy()
    layers = [X.numpy(), np.empty((m, n_h), np.float32), np.empty((m, n_y), np.float32)]
    deltas = [np.empty_like(layer) for layer in layers[1:]]

    def step() -> list[Any]:
        coefs, intercepts = [np.empty_like(V) for V in mlp.coefs_], [np.empty_like(V) for V in mlp.intercepts_]
        J, (dW1, dW2), (db1, db2) = mlp._backprop(X.numpy(), dense, None, list(layers), deltas, coefs, intercepts)
        return [J, dW1.T, db1, dW2.T, db2]

    return step


def peers(problem: Problem) -> dict[str, Step]:
    return {
        "eager": in_torch(problem),
        "torch.compile": in_torch(problem, compiled=True),
        "JAX": in_jax(problem),
        "scikit-learn": in_sklearn(problem),
    }


def without_graph(problem: Problem, kernel: str | None = None) -> Step:
    net = network(problem)
    X, Y = data(problem)

    def step() -> list[Tensor]:
        J, grads = net.loss_and_grads(X, Y, kernel=kernel)
        return [J, *grads.values()]

    return step


def with_graph(problem: Problem, **options: Any) -> Step:
    net = network(problem, **options)
    return stepping(net.loss, net, *data(problem))


def ours(problem: Problem) -> dict[str, Step]:
    steps = {
        **{name: with_graph(problem, backward=mode) for name, mode in MODES.items()},
        PASS: without_graph(problem),
        PLAIN: without_graph(problem, "torch"),
    }
    check(steps, in_torch(problem)())
    return steps


def check(steps: dict[str, Step], expected: list[Tensor]) -> None:
    """That every step gives these numbers; a sum that cancels, as db2 may be, is compared with the largest of them."""
    close = 1e-3 * max(dV.abs().max().item() for dV in expected[1:])
    for name, step in steps.items():
        for found, truth in zip(step(), expected, strict=True):
            found = torch.tensor(np.asarray(found.detach() if isinstance(found, Tensor) else found)).float()
            torch.testing.assert_close(
                found, truth.detach(), rtol=1e-3, atol=close, msg=lambda wrong, name=name: f"{name}: {wrong}"
            )
