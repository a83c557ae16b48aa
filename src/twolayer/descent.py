"""The notes' loop: gradient descent on the full batch with a fixed learning rate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from twolayer.checks import positive_int
from twolayer.network import TwoLayerNet

Callback = Callable[[int, Tensor, dict[str, Tensor]], None]


def gradient_descent(
    net: TwoLayerNet,
    X: Tensor,
    Y: Tensor,
    *,
    learning_rate: float = 1.2,
    iterations: int = 10_000,
    sample_weight: Tensor | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor:
    """Repeats ``W := W − α dW, b := b − α db`` on all examples at once, and says what each iteration cost.

    Args:
        net: the network; its parameters are changed in place, save those that require no gradient. In mode
            ``"autograd"`` PyTorch computes the gradients, in the others the notes' equations, by ``loss_and_grads``.
        X, Y: all examples, ``(m, in_features)`` and targets as for :func:`twolayer.functional.cost`.
        learning_rate: ``α``.
        iterations: how often.
        sample_weight: ``(m,)``.
        callback: called as ``callback(iteration, cost, gradients)`` before each update, with ``gradients`` by name.
        progress: show a progress bar with the cost (needs rich).

    Returns:
        ``(iterations,)``: the cost at the start of each iteration, on the network's device.

    Raises:
        ValueError, TypeError, IndexError: an argument does not fit; the message names it. Nothing has changed then.
        ImportError: ``progress`` without rich.

    >>> net = TwoLayerNet(1, 4, 1, activation="tanh", generator=torch.Generator().manual_seed(0))
    >>> X, Y = torch.tensor([[-1.0], [0.0], [1.0]]), torch.tensor([0, 1, 0])
    >>> costs = gradient_descent(net, X, Y, iterations=500)
    >>> costs[-1] < 0.1 < costs[0]
    tensor(True)
    """
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be positive and finite, got {learning_rate}")
    positive_int("iterations", iterations)
    gradients = by_autograd if net.backward == "autograd" else TwoLayerNet.loss_and_grads
    parameters = _trainable(net)
    if not parameters:
        raise ValueError("net must have a parameter that requires a gradient, got none")
    if net.backward != "autograd" and (others := parameters.keys() - {"W1", "b1", "W2", "b2"}):
        raise ValueError(
            f"net must hold its weights itself, got {sorted(others)}, which they follow from: use backward='autograd'"
        )
    costs = net.b2.new_empty(iterations, dtype=torch.promote_types(net.b2.dtype, torch.float32), requires_grad=False)
    with _progress_bar(iterations) if progress else nullcontext() as show:
        for i in range(iterations):
            J, grads = gradients(net, X, Y, sample_weight=sample_weight)
            costs[i] = J
            if callback is not None:
                callback(i, J, {name: grads[name] for name in parameters})
            with torch.no_grad():
                for name, V in parameters.items():
                    V.sub_(grads[name], alpha=learning_rate)
            if show is not None:
                show(i, J)
    return costs


def _trainable(net: TwoLayerNet) -> dict[str, Tensor]:
    return {name: V for name, V in net.named_parameters() if V.requires_grad}


@torch.enable_grad()
def by_autograd(
    net: TwoLayerNet, X: Tensor, Y: Tensor, *, sample_weight: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The cost and its gradients as ``net.loss_and_grads``, by name, but from PyTorch's graph of ``net.loss``."""
    parameters = _trainable(net)
    J = net.loss(X, Y, sample_weight=sample_weight)
    return J.detach(), dict(zip(parameters, torch.autograd.grad(J, list(parameters.values())), strict=True))


@contextmanager
def _progress_bar(iterations: int) -> Iterator[Callable[[int, Tensor], None]]:
    """Yields what to call after each iteration. It reads the cost, which makes a GPU wait, only 200 times in all."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("cost {task.fields[cost]:.6f}"))
    every = max(1, iterations // 200)
    with Progress("gradient descent", *columns) as progress:
        bar = progress.add_task("", total=iterations, cost=float("nan"))

        def show(i: int, J: Tensor) -> None:
            if i % every == 0 or i == iterations - 1:
                progress.update(bar, completed=i + 1, cost=J.item())

        yield show
