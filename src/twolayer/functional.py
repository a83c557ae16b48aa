"""The network as functions of its parameters: logits, cost, and the cost with every gradient.

Three ways to the same gradient, chosen by ``backward=``:

``"autograd"``
    PyTorch differentiates the forward pass.
``"manual"``
    The notes' equations, in the Functions of :mod:`twolayer.autograd`, which keep ``X``, ``A1`` and
    at most what has the size of the logits.
``"streamed"``
    The notes' equations in passes over a chunk of examples at a time, in the Functions of
    :mod:`twolayer.autograd_streamed`. Nothing of size ``m × n_h`` exists at any time, for first and second
    derivatives; third derivatives and ``torch.vmap`` take all examples at once. Autocast converts only the logits that
    come out.

What ``torch.export`` writes down is made of ordinary operators, of all examples at once, whatever the mode.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from twolayer import at_once, autograd_streamed, passes, streaming
from twolayer.activations import ACTIVATIONS
from twolayer.arguments import check_cost, check_network_and_cost, in_rows
from twolayer.autograd import Cost, Loss, Network
from twolayer.checks import (
    autocast_enabled,
    check_direction,
    check_features,
    check_parameters,
    no_autocast,
    one_of,
)
from twolayer.kernels.library import cpu_level as cpu_level  # public here too
from twolayer.passes import check_pass
from twolayer.passes import kernel_for as kernel_for  # public here too
from twolayer.tasks import TASKS, dense_targets, smoothed

BACKWARDS = ("autograd", "manual", "streamed")
REDUCTIONS = ("mean", "sum", "none")

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # PyTorch 2.6 does not say


def logits(
    X: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    *,
    activation: str = "relu",
    backward: str = "manual",
    chunk_size: int | None = None,
    kernel: str | None = None,
) -> Tensor:
    """The network's output before its last activation: ``Z2 = g(X W1ᵀ + b1) W2ᵀ + b2``.

    Args:
        X: inputs, ``(..., n_x)``, with any leading shape, as for :func:`torch.nn.functional.linear`.
        W1, b1: hidden layer, ``(n_h, n_x)`` and ``(n_h,)``.
        W2, b2: output layer, ``(n_y, n_h)`` and ``(n_y,)``.
        activation: ``"sigmoid"``, ``"tanh"``, ``"relu"`` or ``"leaky_relu"``.
        backward: ``"manual"``, ``"autograd"`` or ``"streamed"``.
        chunk_size: examples at a time in mode ``"streamed"``; None for :func:`twolayer.chunks.default_chunk_size`.
        kernel: of the backward pass in mode ``"streamed"``, see :func:`kernel_for`.

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
    check_pass(chunk_size, kernel, backward)
    check_parameters(W1, b1, W2, b2)
    check_features(X, W1)
    _keep_whole_in_graphs()
    if backward == "streamed" and not _is_exporting():
        Z2 = autograd_streamed.logits(X.reshape(-1, X.shape[-1]), W1, b1, W2, b2, activation, chunk_size, kernel)
        Z2 = Z2.to(_dtype_of_logits(W1))
        return Z2 if X.ndim == 2 else Z2.reshape(*X.shape[:-1], Z2.shape[-1])
    return _logits(X, W1, b1, W2, b2, activation, backward)


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
        backward: ``"manual"`` and ``"streamed"``, by ``dZ2 = A2 − Y``, or ``"autograd"``.

    Raises:
        TypeError, ValueError, IndexError: an argument does not fit; the message names it. Values are looked at on a CPU
            only: on a GPU that would be a synchronisation in every step.

    >>> cost(torch.tensor([[0.0], [1e4]]), torch.tensor([1, 1]))  # ½ (log 2 + 0)
    tensor(0.3466)
    """
    one_of("task", task, TASKS)
    one_of("reduction", reduction, REDUCTIONS)
    one_of("backward", backward, BACKWARDS)
    check_cost(Y, logits.shape, logits.device, task, sample_weight, class_weight, label_smoothing)
    _keep_whole_in_graphs()
    return at_once.cost(
        logits,
        Y,
        task=task,
        sample_weight=sample_weight,
        class_weight=class_weight,
        label_smoothing=label_smoothing,
        reduction=reduction,
        loss=_loss_for(task, backward),
    )


def loss(
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
    reduction: str = "mean",
    backward: str = "manual",
    chunk_size: int | None = None,
    kernel: str | None = None,
) -> Tensor:
    """The cost ``J`` of the network: :func:`cost` of :func:`logits`, and with ``backward="streamed"`` both in one pass.

    That pass computes the gradients too, where any is wanted; what comes in from behind scales them. With reduction
    ``"none"``, and for gradients along ``Y`` or weights, logits and gradients take a pass each.

    Arguments and errors: see :func:`logits`, :func:`cost` and, for ``kernel`` in mode ``"streamed"``,
    :func:`kernel_for`.

    >>> X, Y = torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 0])
    >>> W1, b1, W2, b2 = torch.ones(1, 1), torch.zeros(1), torch.ones(1, 1, requires_grad=True), torch.zeros(1)
    >>> J = loss(X, Y, W1, b1, W2, b2, activation="tanh", backward="streamed")
    >>> J, torch.autograd.grad(J, W2)[0]
    (tensor(0.3832, grad_fn=<GradientsBackward>), tensor([[-0.2424]]))
    """
    one_of("backward", backward, BACKWARDS)
    one_of("reduction", reduction, REDUCTIONS)
    check_pass(chunk_size, kernel, backward)
    shape = check_network_and_cost(X, Y, W1, b1, W2, b2, activation, task, sample_weight, class_weight, label_smoothing)
    X, Y, sample_weight = in_rows(X, Y, sample_weight, shape)
    _keep_whole_in_graphs()
    if backward == "streamed" and not _is_exporting():
        options = (activation, task, label_smoothing, reduction, chunk_size, kernel)
        J = autograd_streamed.loss(X, Y, W1, b1, W2, b2, sample_weight, class_weight, *options)
    elif backward == "manual" and sample_weight is None and class_weight is None and reduction != "none":
        like = W1.new_empty((X.shape[0], shape[-1]), dtype=torch.promote_types(W1.dtype, torch.float32))
        Y = smoothed(dense_targets(Y, like, task), label_smoothing, task)
        X, *parameters = _autocast(X, W1, b1, W2, b2)
        J, _, _ = Loss.apply(X, Y, *parameters, activation, task, reduction)
    else:
        J = at_once.cost(
            _logits(X, W1, b1, W2, b2, activation, backward),
            Y,
            task=task,
            sample_weight=sample_weight,
            class_weight=class_weight,
            label_smoothing=label_smoothing,
            reduction=reduction,
            loss=_loss_for(task, backward),
        )
    return J.reshape(shape[:-1]) if reduction == "none" else J


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
    kernel: str | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The cost and its four gradients by the notes' equations, without any autograd graph.

    Args:
        chunk_size: examples at a time. With None, as many as :func:`twolayer.chunks.default_chunk_size` says, or as
            the kernel takes. So memory does not grow with ``m``, sums are kept in float64, and ``X`` and ``Y`` may be
            mapped from files larger than the memory. Inside torch.compile and torch.func, all go at once.
        kernel: ``"torch"`` for PyTorch's operators, ``"cpu"`` for the compiled kernel, one of
            :mod:`twolayer.kernels.gpu`, or None for the first that can run; :func:`kernel_for` says which one that is.
        others: see :func:`logits` and :func:`cost`.

    Returns:
        ``J``, a scalar, and ``{"W1": dW1, "b1": db1, "W2": dW2, "b2": db2}``.

    Raises:
        TypeError, ValueError, IndexError: as :func:`logits` and :func:`cost`.
        RuntimeError: ``chunk_size`` or ``kernel`` inside torch.compile or torch.func, which neither goes through, or a
            ``kernel`` that cannot run here.

    >>> X, Y = torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 0])
    >>> W1, b1, W2, b2 = torch.ones(1, 1), torch.zeros(1), torch.ones(1, 1), torch.zeros(1)
    >>> J, grads = loss_and_grads(X, Y, W1, b1, W2, b2, activation="tanh")
    >>> J, grads["W2"]
    (tensor(0.3832), tensor([[-0.2424]]))
    """
    check_pass(chunk_size, kernel)
    shape = check_network_and_cost(X, Y, W1, b1, W2, b2, activation, task, sample_weight, class_weight, label_smoothing)
    X, Y, sample_weight = in_rows(X.to(W1.dtype), Y, sample_weight, shape)
    options: dict[str, Any] = {
        "activation": activation,
        "task": task,
        "sample_weight": sample_weight,
        "class_weight": class_weight,
        "label_smoothing": label_smoothing,
    }
    if _transformed():
        if chunk_size is not None or kernel is not None:
            raise RuntimeError("chunk_size and kernel must be None inside torch.compile and torch.func")
        with torch.no_grad(), no_autocast(X.device):
            return at_once.loss_and_grads(X, Y, W1, b1, W2, b2, **options)
    return passes.loss_and_grads(X, Y, W1, b1, W2, b2, chunk_size=chunk_size, kernel=kernel, **options)


@torch.no_grad()
def hvp(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    v: dict[str, Tensor],
    *,
    activation: str = "relu",
    task: str = "binary",
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    chunk_size: int | None = None,
) -> dict[str, Tensor]:
    """The Hessian of the cost with respect to the parameters times ``v``, exact, in one pass of constant memory.

    How the four gradients change when the parameters move along ``v``: what Newton's and conjugate gradient methods,
    Lanczos' eigenvalues and influence functions are made of. No Hessian is ever formed, and no autograd graph. The
    equations are those of the gradients, differentiated once more along ``v`` (Pearlmutter, Fast exact multiplication
    by the Hessian, Neural Computation 6, 1994).

    Args:
        v: ``{"W1": …, "b1": …, "W2": …, "b2": …}``, in the parameters' shapes and dtypes.
        chunk_size: examples at a time; None for a quarter of :func:`twolayer.chunks.default_chunk_size`, or all if they
            fit one of those. ``torch.vmap``, which takes several ``v``, takes all examples at once.
        others: see :func:`logits` and :func:`cost`.

    Returns:
        The product, by the same names.

    Raises:
        TypeError, ValueError, IndexError: as :func:`logits` and :func:`cost`, and where ``v`` does not fit.

    >>> X, Y = torch.tensor([[1.0], [-1.0]]), torch.tensor([[3.0], [0.0]])
    >>> W1, b1, W2, b2 = torch.ones(1, 1), torch.zeros(1), torch.ones(1, 1), torch.zeros(1)
    >>> v = {"W1": torch.zeros(1, 1), "b1": torch.zeros(1), "W2": torch.zeros(1, 1), "b2": torch.ones(1)}
    >>> hvp(X, Y, W1, b1, W2, b2, v, task="regression")["W2"]  # the mean of a1
    tensor([[0.5000]])
    """
    check_pass(chunk_size)
    shape = check_network_and_cost(X, Y, W1, b1, W2, b2, activation, task, sample_weight, class_weight, label_smoothing)
    parameters = {"W1": W1, "b1": b1, "W2": W2, "b2": b2}
    check_direction(v, parameters)
    X, Y, sample_weight = in_rows(X.to(W1.dtype), Y, sample_weight, shape)
    _keep_whole_in_graphs()
    options = (activation, task, label_smoothing, chunk_size)
    tW1, tb1, tW2, tb2 = (v[name] for name in parameters)
    product = autograd_streamed.hvp(X, Y, W1, b1, W2, b2, sample_weight, class_weight, tW1, tb1, tW2, tb2, *options)
    return dict(zip(parameters, product, strict=True))


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
    shape = check_network_and_cost(X, Y, W1, b1, W2, b2, activation, task, None, None, label_smoothing)
    check_pass(chunk_size)
    if _transformed():
        raise RuntimeError("per_sample_grad_norms goes in chunks, which torch.compile and torch.func do not go through")
    X, Y, _ = in_rows(X.to(W1.dtype), Y, None, shape)
    options = {"activation": activation, "task": task, "label_smoothing": label_smoothing, "chunk_size": chunk_size}
    with no_autocast(X.device):
        return streaming.per_sample_grad_norms(X, Y, W1, b1, W2, b2, **options).reshape(shape[:-1])


def _transformed() -> bool:
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _logits(X: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, activation: str, backward: str) -> Tensor:
    """``Z2`` of all examples at once; what is exported is at once in the streamed mode too."""
    if backward != "manual":
        return at_once.logits(X, W1, b1, W2, b2, activation=activation)
    Z2, _ = Network.apply(*_autocast(X.reshape(-1, X.shape[-1]), W1, b1, W2, b2), activation)
    return Z2 if X.ndim == 2 else Z2.reshape(*X.shape[:-1], Z2.shape[-1])


def _loss_for(task: str, backward: str) -> Callable[[Tensor, Tensor], Tensor] | None:
    """What gives the loss of each example, unless PyTorch's derivative is wanted."""
    return None if backward == "autograd" else lambda Z2, Y: Cost.apply(Z2, Y, task)


def _keep_whole_in_graphs() -> None:
    """Makes torch.compile take the Functions as they are: Dynamo, when it traces this import, also performs it."""
    if torch.compiler.is_compiling():
        import twolayer.in_graph  # noqa: F401


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What autocast would do to the arguments of a matrix product: PyTorch leaves that to a Function's caller."""
    device = tensors[0].device
    if not autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device.type)
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def _dtype_of_logits(W1: Tensor) -> torch.dtype:
    """That of the parameters, or what autocast makes of it."""
    convert = autocast_enabled(W1.device) and W1.dtype != torch.float64
    return torch.get_autocast_dtype(W1.device.type) if convert else W1.dtype
