"""The network as functions of its parameters: logits, cost, and the cost with every gradient.

Two ways to the same gradient, chosen by ``backward=``:

``"autograd"``
    PyTorch differentiates the forward pass.
``"manual"``
    The notes' equations, in the Functions of :mod:`twolayer.autograd`.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from twolayer import equations, streaming
from twolayer.activations import ACTIVATIONS
from twolayer.autograd import Cost, Network
from twolayer.checks import autocast_enabled, check_features, check_parameters, one_of, positive_int
from twolayer.tasks import (
    TASKS,
    check_example_weights,
    check_label_smoothing,
    check_targets,
    dense_targets,
    example_weights,
    smoothed,
)

BACKWARDS = ("autograd", "manual")
REDUCTIONS = ("mean", "sum", "none")


def logits(
    X: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    *,
    activation: str = "relu",
    backward: str = "manual",
) -> Tensor:
    """The network's output before its last activation: ``Z2 = g(X W1ᵀ + b1) W2ᵀ + b2``.

    Args:
        X: inputs, ``(..., n_x)``, with any leading shape, as for :func:`torch.nn.functional.linear`.
        W1, b1: hidden layer, ``(n_h, n_x)`` and ``(n_h,)``.
        W2, b2: output layer, ``(n_y, n_h)`` and ``(n_y,)``.
        activation: ``"sigmoid"``, ``"tanh"``, ``"relu"`` or ``"leaky_relu"``.
        backward: ``"manual"`` or ``"autograd"``.

    Returns:
        ``(..., n_y)``, in the dtype of the inputs, or autocast's where that is enabled.

    Raises:
        TypeError: ``X`` is no floating point tensor, or its dtype is not the parameters'.
        ValueError: a shape or device does not fit, or a name is unknown.

    >>> W1, b1 = torch.tensor([[1.0, -1.0]]), torch.tensor([0.5])
    >>> W2, b2 = torch.tensor([[2.0]]), torch.tensor([1.0])
    >>> logits(torch.tensor([[3.0, 1.0]]), W1, b1, W2, b2)  # 2 · relu(3 − 1 + ½) + 1
    tensor([[6.]])
    """
    one_of("activation", activation, ACTIVATIONS)
    one_of("backward", backward, BACKWARDS)
    check_parameters(W1, b1, W2, b2)
    check_features(X, W1)
    if backward == "autograd":
        g = ACTIVATIONS[activation]
        return equations.Z2(equations.A1(equations.Z1(X, W1, b1), g), W2, b2)
    _keep_whole_in_graphs()
    Z2, _ = Network.apply(*_autocast(X.reshape(-1, X.shape[-1]), W1, b1, W2, b2), activation)
    return Z2.reshape(*X.shape[:-1], Z2.shape[-1])


def cost(
    logits: Tensor,
    Y: Tensor,
    *,
    task: str = "binary",
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    backward: str = "manual",
) -> Tensor:
    """The cost ``J`` of logits against targets, finite for logits of any size that its dtype can hold the cost of.

    Binary and multilabel: cross-entropy, summed over the labels. Multiclass: cross-entropy. Regression: half the
    squared error, summed over the outputs. Half precision logits are taken to float32 first.

    Args:
        logits: ``Z2``, ``(..., n_y)``, from any network.
        Y: targets. Binary and multilabel: 0 and 1, or probabilities, ``(..., n_y)``; multiclass: class
            indices ``(...)`` or probabilities ``(..., n_y)``; regression: floats ``(..., n_y)``. With one output,
            ``(...)`` and ``(..., 1)`` are the same.
        task: ``"binary"``, ``"multilabel"``, ``"multiclass"`` or ``"regression"``.
        sample_weight: ``(...)``, the weight of each example; the mean is divided by the sum of the weights.
        class_weight: ``(2,)`` for binary, ``(n_y,)`` for multiclass: the weight of an example by its class (of a soft
            label: the mean over its classes), multiplied with ``sample_weight``.
        label_smoothing: ``ε``, moves the targets towards the uniform distribution over the classes.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for the weighted loss of each example, ``(...)``.
        backward: ``"manual"``, by ``dZ2 = A2 − Y``, or ``"autograd"``.

    Raises:
        TypeError, ValueError, IndexError: an argument does not fit; the message names it. Values are looked at on a CPU
            only: on a GPU that would be a synchronisation in every step.

    >>> cost(torch.tensor([[0.0], [1e4]]), torch.tensor([1, 1]))  # ½ (log 2 + 0)
    tensor(0.3466)
    """
    one_of("task", task, TASKS)
    one_of("reduction", reduction, REDUCTIONS)
    one_of("backward", backward, BACKWARDS)
    Z2 = _at_least_float32(logits)
    _check_targets(Y, Z2.shape, Z2.device, task, sample_weight, class_weight, label_smoothing)
    Y = dense_targets(Y, Z2, task)
    weights = example_weights(Y, task, sample_weight, class_weight)
    Y = smoothed(Y, label_smoothing, task)
    if backward == "autograd":
        L = TASKS[task].loss(Z2, Y)
    else:
        _keep_whole_in_graphs()
        L = Cost.apply(Z2, Y, task)
    if reduction == "mean":
        return _weighted_mean(L, weights)
    L = L if weights is None else weights * L
    return L.sum() if reduction == "sum" else L


@torch.no_grad()
def loss_and_grads(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    *,
    activation: str = "relu",
    task: str = "binary",
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    chunk_size: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The cost and its four gradients by the notes' equations, without any autograd graph.

    Args:
        chunk_size: examples at a time. With None, more examples than fit a CPU's cache go in chunks that do, see
            :func:`twolayer.streaming.default_chunk_size`; on a GPU, and inside torch.compile and torch.func, all go at
            once. In chunks, memory does not grow with ``m``, sums are kept in float64, and ``X`` and ``Y`` may be
            mapped from files that are larger than the memory.
        others: see :func:`logits` and :func:`cost`.

    Returns:
        ``J``, a scalar, and ``{"W1": dW1, "b1": db1, "W2": dW2, "b2": db2}``.

    Raises:
        TypeError, ValueError, IndexError: as :func:`logits` and :func:`cost`.
        RuntimeError: ``chunk_size`` inside torch.compile or torch.func, which chunks do not go through.

    >>> X, Y = torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 0])
    >>> W1, b1, W2, b2 = torch.ones(1, 1), torch.zeros(1), torch.ones(1, 1), torch.zeros(1)
    >>> J, grads = loss_and_grads(X, Y, W1, b1, W2, b2, activation="tanh")
    >>> J, grads["W2"]
    (tensor(0.3832), tensor([[-0.2424]]))
    """
    g = ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)]
    one_of("task", task, TASKS)
    check_parameters(W1, b1, W2, b2)
    check_features(X, W1)
    shape = (*X.shape[:-1], len(b2))
    _check_targets(Y, shape, X.device, task, sample_weight, class_weight, label_smoothing)
    X, Y = _flat(X.to(W1.dtype), Y, shape)
    sample_weight = None if sample_weight is None else sample_weight.reshape(-1)
    with _no_autocast(X.device):
        if _goes_in_chunks(X, W1, W2, chunk_size):
            return streaming.loss_and_grads(
                X,
                Y,
                W1,
                b1,
                W2,
                b2,
                activation=activation,
                task=task,
                sample_weight=sample_weight,
                class_weight=class_weight,
                label_smoothing=label_smoothing,
                chunk_size=chunk_size,
            )
        A1 = equations.A1(equations.Z1(X, W1, b1), g)
        Z2 = _at_least_float32(equations.Z2(A1, W2, b2))
        Y = dense_targets(Y, Z2, task)
        weights = example_weights(Y, task, sample_weight, class_weight)
        Y = smoothed(Y, label_smoothing, task)
        J = _weighted_mean(TASKS[task].loss(Z2, Y), weights)

        share = 1 / len(X) if weights is None else (weights / weights.sum()).unsqueeze(-1)
        dZ2 = (TASKS[task].error(Z2, Y) * share).to(A1.dtype)
        dZ1 = equations.dZ1(equations.dA1(dZ2, W2), A1, g)
        return J, {
            "W1": equations.dW1(dZ1, X),
            "b1": equations.db1(dZ1),
            "W2": equations.dW2(dZ2, A1),
            "b2": equations.db2(dZ2),
        }


@torch.no_grad()
def per_sample_grad_norms(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    *,
    activation: str = "relu",
    task: str = "binary",
    label_smoothing: float = 0.0,
    chunk_size: int | None = None,
) -> Tensor:
    """The norm of the gradient of each example's own loss, over all four parameters, in one pass.

    The gradient of one example is made of outer products, ``dw1 = dz1 xᵀ`` and so on, and the norm of an outer
    product is the product of the norms: ``‖dz1‖² (‖x‖² + 1) + ‖dz2‖² (‖a1‖² + 1)``, under the root. No example's
    gradient is ever formed. Weights of examples and classes play no part: they cancel in the mean over one example.

    Args:
        X: ``(..., n_x)``; ``Y``, ``task`` and ``label_smoothing`` as for :func:`cost`, others as for :func:`logits`.
        chunk_size: examples at a time; None for as many as fit the cache.

    Returns:
        ``(...)``, in at least float32.

    Raises:
        TypeError, ValueError, IndexError: as :func:`logits` and :func:`cost`.
        RuntimeError: inside torch.compile or torch.func, which chunks do not go through.

    >>> X, Y = torch.tensor([[3.0], [0.0]]), torch.tensor([1, 1])
    >>> W1, b1, W2, b2 = torch.ones(1, 1), torch.zeros(1), torch.zeros(1, 1), torch.zeros(1)
    >>> per_sample_grad_norms(X, Y, W1, b1, W2, b2)  # dz2 = −½, dz1 = 0
    tensor([1.5811, 0.5000])
    """
    one_of("activation", activation, ACTIVATIONS)
    one_of("task", task, TASKS)
    check_parameters(W1, b1, W2, b2)
    check_features(X, W1)
    shape = (*X.shape[:-1], len(b2))
    _check_targets(Y, shape, X.device, task, None, None, label_smoothing)
    _goes_in_chunks(X, W1, W2, chunk_size or len(X))
    X, Y = _flat(X.to(W1.dtype), Y, shape)
    options = {"activation": activation, "task": task, "label_smoothing": label_smoothing, "chunk_size": chunk_size}
    with _no_autocast(X.device):
        return streaming.per_sample_grad_norms(X, Y, W1, b1, W2, b2, **options).reshape(shape[:-1])


def _flat(X: Tensor, Y: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """``X`` as ``(m, n_x)``, and ``Y`` as ``(m,)`` or ``(m, n_y)``."""
    return X.reshape(-1, X.shape[-1]), Y.reshape(-1, shape[-1]) if Y.ndim == len(shape) else Y.reshape(-1)


def _goes_in_chunks(X: Tensor, W1: Tensor, W2: Tensor, chunk_size: int | None) -> bool:
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if chunk_size is None:
        if transformed or X.device.type != "cpu":
            return False
        (n_h, n_x), n_y = W1.shape, len(W2)
        return len(X) > streaming.default_chunk_size(n_x, n_h, n_y, W1.element_size())
    positive_int("chunk_size", chunk_size)
    if transformed:
        raise RuntimeError("chunks do not go through torch.compile and torch.func: leave chunk_size out there")
    return True


def _no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, enabled=False) if autocast_enabled(device) else nullcontext()


def _check_targets(
    Y: Tensor,
    shape: tuple[int, ...],
    device: torch.device,
    task: str,
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    label_smoothing: float,
) -> None:
    check_label_smoothing(label_smoothing, task)
    check_targets(Y, shape, device, task)
    check_example_weights(sample_weight, class_weight, shape, device, task)


def _weighted_mean(L: Tensor, weights: Tensor | None) -> Tensor:
    return L.mean() if weights is None else (weights * L).sum() / weights.sum()


def _keep_whole_in_graphs() -> None:
    """Makes torch.compile take the Functions as they are: Dynamo, when it traces this import, also performs it."""
    if torch.compiler.is_compiling():
        import twolayer.in_graph  # noqa: F401


def _at_least_float32(Z2: Tensor) -> Tensor:
    return Z2.float() if Z2.dtype in (torch.float16, torch.bfloat16) else Z2


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What autocast would do to the arguments of a matrix product: PyTorch leaves that to a Function's caller."""
    device = tensors[0].device
    if not autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device.type)
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)
