"""The notes' loop: gradient descent on the full batch with a fixed learning rate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from numbers import Real

import torch
from torch import Tensor

from twolayer.arguments import one_of, positive_int
from twolayer.context import has_hook
from twolayer.equations import Parameters
from twolayer.kernels import choice, cpu_steps, gpu, memory
from twolayer.names import DescentName
from twolayer.network import TwoLayerNet, gradients_by_autograd
from twolayer.tasks import Examples, Objective

KERNELS = ("steps", "cpu_descent", "triton_descent")

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
    kernel: DescentName | None = None,
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
        kernel: ``"cpu_descent"`` for all iterations in the compiled kernel for the CPU, in float32;
            ``"triton_descent"`` for one launch of them, on a GPU and where there is little to compute; ``"steps"`` for
            a pass and an update each; None for the first that can run, and ``"steps"`` where the network asks for a
            ``kernel`` or ``chunk_size``. :func:`descent_kernel_for` says which one that is.

    Returns:
        ``(iterations,)``: the cost at the start of each iteration, on the network's device.

    Raises:
        ValueError, TypeError, IndexError: an argument does not fit; the message names it. Nothing has changed then.
        ImportError: ``progress`` without rich.
        RuntimeError: ``kernel`` cannot run here, or not on these arguments; the message says why.

    >>> net = TwoLayerNet(1, 4, 1, activation="tanh", generator=torch.Generator().manual_seed(0))
    >>> X, Y = torch.tensor([[-1.0], [0.0], [1.0]]), torch.tensor([0, 1, 0])
    >>> costs = gradient_descent(net, X, Y, iterations=500)
    >>> costs[-1] < 0.1 < costs[0]
    tensor(True)
    """
    if not hasattr(net, "loss_and_grads"):
        raise TypeError(f"net must be a TwoLayerNet, got {type(net).__name__}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be called as callback(iteration, cost, gradients), got {callback!r}")
    if not isinstance(learning_rate, Real):
        raise TypeError(f"learning_rate must be a number, got {learning_rate!r}")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be positive and finite, got {learning_rate}")
    positive_int("iterations", iterations)
    gradients = gradients_by_autograd if net.backward == "autograd" else TwoLayerNet.loss_and_grads
    parameters = net.trainable()
    if not parameters:
        raise ValueError("net must have a parameter that requires a gradient, got none")
    if net.backward != "autograd" and (others := parameters.keys() - {"W1", "b1", "W2", "b2"}):
        raise ValueError(
            f"net must hold its weights itself, got {sorted(others)}, which they follow from: use backward='autograd'"
        )
    if net.backward != "autograd":
        for name, V in parameters.items():
            if has_hook(V):
                raise ValueError(f"{name} must have no hook, which only backward='autograd' calls")
        net.loss_and_grads(X, Y, sample_weight=sample_weight)  # raises what is to be raised
    by = descent_kernel_for(net, X, Y, callback=callback, kernel=kernel)
    costs = net.b2.new_empty(iterations, dtype=torch.promote_types(net.b2.dtype, torch.float32), requires_grad=False)
    with _progress_bar(iterations) if progress else nullcontext() as show:
        if by != "steps":
            _in_few_calls(by, _values(net, X, Y, sample_weight), costs, learning_rate, show)
            return costs
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


def descent_kernel_for(
    net: TwoLayerNet, X: Tensor, Y: Tensor, *, callback: Callback | None = None, kernel: DescentName | None = None
) -> str:
    """What :func:`gradient_descent` takes with these arguments: one of its kernels.

    Raises:
        ValueError: there is no such ``kernel``.
        RuntimeError: it cannot run here, or not on these arguments; the message says why.

    >>> descent_kernel_for(TwoLayerNet(2, 4, 1), torch.ones(5, 2), torch.ones(5), callback=lambda i, J, grads: None)
    'steps'
    """
    if kernel is not None:
        one_of("kernel", kernel, KERNELS)
    if kernel == "steps" or (kernel is None and (net.kernel, net.chunk_size) != (None, None)):
        return "steps"
    candidate = kernel or ("triton_descent" if net.W1.is_cuda else "cpu_descent")
    reason = _why_not(candidate, net, X, Y, callback)
    if kernel is not None and reason is not None:
        raise RuntimeError(f"kernel {kernel!r} cannot run: {reason}")
    return candidate if reason is None else "steps"


def _why_not(kernel: str, net: TwoLayerNet, X: Tensor, Y: Tensor, callback: Callback | None) -> str | None:
    if net.backward == "autograd":
        return "it goes by the notes' equations, and mode 'autograd' by PyTorch"
    if callback is not None:
        return "it goes through all iterations by itself, and callback waits for each"
    trainable = net.trainable()
    if len(trainable) < 4 or not all(V.is_contiguous() and not V.is_neg() for V in trainable.values()):
        return "it changes all four parameters, contiguous ones"
    if isinstance(X, Tensor) and X.ndim != 2:
        return f"it reads X of shape (m, n_x), not {tuple(X.shape)}"
    return choice.why_not("cpu" if kernel == "cpu_descent" else kernel, *_values(net, X, Y))


def _values(
    net: TwoLayerNet, X: Tensor, Y: Tensor, sample_weight: Tensor | None = None
) -> tuple[Examples, Parameters, Objective]:
    examples = Examples(X, Y, sample_weight, net.class_weight)
    return (
        examples,
        Parameters(net.W1, net.b1, net.W2, net.b2),
        Objective(net.activation, net.task, net.label_smoothing),
    )


def _in_few_calls(
    kernel: str,
    values: tuple[Examples, Parameters, Objective],
    costs: Tensor,
    learning_rate: float,
    show: Callable[[int, Tensor], None] | None,
) -> None:
    """All iterations at once, or as many as the progress bar waits for."""
    by = cpu_steps if kernel == "cpu_descent" else gpu.module("triton_descent")
    if by is cpu_steps:
        values = (*memory.readable(*values[:2]), values[2])
    for part in costs.split(len(costs) if show is None else max(1, len(costs) // 200)):
        by.gradient_descent(*values, learning_rate=learning_rate, costs=part)
        if show is not None:
            show(part.storage_offset(), part[0])
    if show is not None:
        show(len(costs) - 1, costs[-1])


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
