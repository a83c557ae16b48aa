"""The network as functions of its parameters: logits, cost, and the cost with every gradient.

Three ways to the same gradient, chosen by ``backward=``:

``"autograd"``
    PyTorch differentiates the forward pass.
``"manual"``
    The notes' equations. :func:`logits` keeps ``X`` and ``A1`` for whatever stands behind it; :func:`loss` computes
    cost and gradients in one pass.
``"streamed"``
    The notes' equations in passes over a chunk of examples at a time. Nothing of size ``m × n_h`` exists at any time,
    for :func:`logits` either, for first and second derivatives; third derivatives and ``torch.vmap`` take all examples
    at once. Autocast converts only the logits that come out.

What ``torch.export`` writes down is made of ordinary operators, of all examples at once, whatever the mode; so is what
takes PyTorch's expanded weights, as Opacus' ``grad_sample_mode="ew"`` does.
"""

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from twolayer import arguments, context, shortcut
from twolayer.activations import ACTIVATIONS
from twolayer.backward import autograd, gradients, manual, streamed
from twolayer.equations import Parameters
from twolayer.kernels import choice
from twolayer.kernels import operators as operators  # registers them
from twolayer.kernels.library import cpu_level as cpu_level  # public here too
from twolayer.names import ActivationName, BackwardName, KernelName, ReductionName, TaskName
from twolayer.tasks import PAIRING, Examples, Objective, Plan

MODES: dict[str, Any] = {"autograd": autograd, "manual": manual, "streamed": streamed}
BACKWARDS = tuple(MODES)
REDUCTIONS = arguments.REDUCTIONS


def logits(
    X: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    *,
    activation: ActivationName = "relu",
    backward: BackwardName = "manual",
    chunk_size: int | None = None,
    kernel: KernelName | None = None,
) -> Tensor:
    """The network's output before its last activation: ``Z2 = g(X W1ᵀ + b1) W2ᵀ + b2``.

    Args:
        X: inputs, ``(..., n_x)``, with any leading shape, as for :func:`torch.nn.functional.linear`.
        W1, b1: hidden layer, ``(n_h, n_x)`` and ``(n_h,)``.
        W2, b2: output layer, ``(n_y, n_h)`` and ``(n_y,)``.
        activation: ``"sigmoid"``, ``"tanh"``, ``"relu"`` or ``"leaky_relu"``.
        backward: ``"manual"``, ``"autograd"`` or ``"streamed"``.
        chunk_size: examples at a time where these go in chunks; None for
            :func:`twolayer.kernels.chunked.default_chunk_size`.
        kernel: of the pass for gradients, see :func:`kernel_for`.

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
    if backward == "manual" and chunk_size is None and kernel is None:
        ordinary = shortcut.logits(X, Parameters(W1, b1, W2, b2), activation)
        if ordinary is not None:
            return ordinary
    arguments.one_of("activation", activation, ACTIVATIONS)
    plan = arguments.plan(chunk_size, kernel)
    mode = _mode(backward, plan, W1)
    parameters = Parameters(W1, b1, W2, b2)
    if not arguments.is_ordinary(X, parameters):
        parameters = arguments.checked(parameters)
        arguments.features(X, W1)
    if mode is autograd:
        return autograd.logits(X, parameters, activation, plan)
    lead = X.shape[:-1]
    rows = X if X.ndim == 2 else X.reshape(math.prod(lead), X.shape[-1])  # not -1, which no dimension of zero allows
    Z2: Tensor = mode.logits(rows, parameters, activation, plan)
    return Z2 if X.ndim == 2 else Z2.reshape(*lead, Z2.shape[-1])


def cost(
    logits: Tensor,
    Y: Tensor,
    *,
    task: TaskName = "binary",
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: ReductionName = "mean",
    backward: BackwardName = "manual",
) -> Tensor:
    """The cost ``J`` of logits against targets, finite for logits of any size that its dtype can hold the cost of.

    Binary and multilabel: cross-entropy, summed over the labels. Multiclass: cross-entropy. Regression: half the
    squared error, summed over the outputs. Half precision logits are taken to float32 first.

    Weights weigh whole examples: with ``w_i`` the weight of an example (``Σ_k w_k y_ik`` times its sample weight,
    before smoothing) and ``L_i`` its loss (on smoothed targets), ``J = Σ w_i L_i / Σ w_i``. But
    :class:`torch.nn.CrossEntropyLoss` weighs single terms: ``Σ_i Σ_k w_k ỹ_ik (−log a_ik)``, divided by ``Σ_i w_{y_i}``
    for class indices and by ``m`` for probabilities. The two agree for class indices without smoothing, and not with
    smoothing or soft labels, see below.

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
    >>> Z2, Y = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 1])
    >>> w = torch.tensor([1.0, 3.0, 1.0])
    >>> cost(Z2, Y, task="multiclass", class_weight=w, label_smoothing=0.3)
    tensor(0.7310)
    >>> torch.nn.functional.cross_entropy(Z2, Y, weight=w, label_smoothing=0.3)
    tensor(0.6844)
    """
    objective = arguments.objective("relu", task, label_smoothing, reduction)  # any activation: it plays no part
    arguments.dtype(arguments.dense("logits", logits).dtype, "logits")
    examples = Examples(logits, Y, sample_weight, class_weight)
    mode = _mode(backward, Plan(), logits)
    arguments.targets(examples, logits.shape, task)
    return objective.cost(logits, examples) if mode is autograd else gradients.cost(logits, examples, objective)


def loss(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    *,
    activation: ActivationName = "relu",
    task: TaskName = "binary",
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: ReductionName = "mean",
    backward: BackwardName = "manual",
    chunk_size: int | None = None,
    kernel: KernelName | None = None,
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
    (tensor(0.3832, grad_fn=<LossBackward>), tensor([[-0.2424]]))
    """
    objective = arguments.objective(activation, task, label_smoothing, reduction)
    examples, parameters = Examples(X, Y, sample_weight, class_weight), Parameters(W1, b1, W2, b2)
    if backward in ("manual", "streamed") and chunk_size is None and kernel is None and reduction != "none":
        ordinary = shortcut.loss(examples, parameters, objective)
        if ordinary is not None:
            return ordinary
    plan = arguments.plan(chunk_size, kernel)
    mode = _mode(backward, plan, W1)
    examples, parameters, shape = arguments.call(examples, parameters, task)
    J: Tensor = mode.loss(examples, parameters, objective, plan)
    return J.reshape(shape[:-1]) if reduction == "none" else J


def loss_and_grads(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    *,
    activation: ActivationName = "relu",
    task: TaskName = "binary",
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    chunk_size: int | None = None,
    kernel: KernelName | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The cost and its four gradients by the notes' equations, without any autograd graph.

    Args:
        chunk_size: examples at a time. With None, as many as :func:`twolayer.kernels.chunked.default_chunk_size` says,
            or as the kernel takes. So memory does not grow with ``m``, sums are kept in float64, and ``X`` and ``Y``
            may be mapped from files larger than the memory. Inside torch.compile and torch.func, all go at once.
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
    objective = arguments.objective(activation, task, label_smoothing)
    examples, parameters = Examples(X, Y, sample_weight, class_weight), Parameters(W1, b1, W2, b2)
    if chunk_size is None and kernel is None:
        ordinary = shortcut.loss_and_grads(examples, parameters, objective)
        if ordinary is not None:
            return ordinary[0], ordinary[1]._asdict()
    plan = arguments.plan(chunk_size, kernel)
    examples, parameters, _ = arguments.call(examples, parameters, task)
    if (chunk_size is not None or kernel is not None) and context.in_graph_or_transform():
        raise RuntimeError("chunk_size and kernel must be None inside torch.compile and torch.func")
    if context.at_rest(*examples, *parameters):
        J, _, grads = choice.run_loss_and_grads(examples, parameters, objective, plan)
    else:
        with torch.no_grad():
            J, _, grads = choice.loss_and_grads(examples, parameters, objective, plan)
    return J, grads._asdict()


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
    activation: ActivationName = "relu",
    task: TaskName = "binary",
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
        chunk_size: examples at a time; None for a quarter of :func:`twolayer.kernels.chunked.default_chunk_size`, or
            all if they fit one of those. ``torch.vmap``, which takes several ``v``, takes all examples at once.
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
    objective, plan = arguments.objective(activation, task, label_smoothing), arguments.plan(chunk_size)
    examples, parameters = Examples(X, Y, sample_weight, class_weight), Parameters(W1, b1, W2, b2)
    examples, parameters, _ = arguments.call(examples, parameters, task)
    direction = arguments.direction(v, parameters)
    _take_whole_into_graphs()
    return gradients.hvp(examples, parameters, direction, objective, plan)._asdict()


@torch.no_grad()
def per_sample_grad_norms(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    *,
    activation: ActivationName = "relu",
    task: TaskName = "binary",
    label_smoothing: float = 0.0,
    chunk_size: int | None = None,
) -> Tensor:
    """The norm of the gradient of each example's own loss, over all four parameters, in one pass.

    The gradient of one example is made of outer products, ``dw1 = dz1 xᵀ`` and so on, and the norm of an outer
    product is the product of the norms: ``‖dz1‖² (‖x‖² + 1) + ‖dz2‖² (‖a1‖² + 1)``, under the root. No example's
    gradient is ever formed. Weights of examples and classes play no part: they cancel in the mean over one example.

    A large norm is influence, not a wrong label. In five trials with 5 % of the labels flipped, the plain loss
    (:func:`loss` with ``reduction="none"``) found as many of them or more.

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
    objective, plan = arguments.objective(activation, task, label_smoothing), arguments.plan(chunk_size)
    examples, parameters, shape = arguments.call(Examples(X, Y), Parameters(W1, b1, W2, b2), task)
    return choice.per_sample_grad_norms(examples, parameters, objective, plan).reshape(shape[:-1])


def kernel_for(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    W2: Tensor,
    *,
    activation: ActivationName = "relu",
    sample_weight: Tensor | None = None,
    chunk_size: int | None = None,
    kernel: KernelName | None = None,
) -> str:
    """The kernel that a pass over these arguments takes: ``"torch"`` for PyTorch's operators, ``"cpu"``, or one of
    :mod:`twolayer.kernels.gpu`.

    That is the pass of :func:`loss_and_grads`, and the one for cost and gradients that :func:`loss` makes. Where it is
    ``"cpu"``, that kernel also computes :func:`logits`, their way back in mode ``"manual"``, :func:`hvp` and
    :func:`per_sample_grad_norms`. What else there is runs in PyTorch's operators.

    Args:
        X, Y, W1, W2, sample_weight: those of the call, ``X`` as ``(m, n_x)``. Shapes, strides, dtypes and devices
            matter, values do not.
        activation: of the call.
        chunk_size: is for PyTorch's operators alone; where it is given, they run.
        kernel: the one that is asked for, or None for the fastest that can run.

    Raises:
        ValueError: there is no such kernel or activation, or the kernel does not take a ``chunk_size``, or a weight is
            no matrix.
        TypeError: one is no dense tensor.
        RuntimeError: it cannot run here, or not on these arguments; the message says why.

    >>> kernel_for(torch.ones(5, 2), torch.ones(5), torch.ones(3, 2), torch.ones(1, 3), chunk_size=2)
    'torch'
    """
    plan = arguments.plan(chunk_size, kernel)
    arguments.one_of("activation", activation, ACTIVATIONS)
    arguments.dense("W1", W1), arguments.dense("W2", W2)
    if not (W1.ndim == W2.ndim == 2):
        raise ValueError(f"W1 and W2 must be matrices, got shapes {tuple(W1.shape)} and {tuple(W2.shape)}")
    arguments.dense("X", X), arguments.dense("Y", Y)
    parameters = Parameters(W1, W1[:, 0], W2, W2[:, 0])  # the biases are like the weights
    return choice.kernel_for(Examples(X, Y, sample_weight), parameters, Objective(activation, PAIRING), plan)


def _mode(backward: str, plan: Plan, weight: Tensor) -> ModuleType:
    """What computes in this mode. What is exported, or takes expanded weights, is made of ordinary operators."""
    arguments.mode(backward, plan, MODES)
    _take_whole_into_graphs()
    found: ModuleType = autograd if context.is_exporting() or context.is_expanded(weight) else MODES[backward]
    return found


def _take_whole_into_graphs() -> None:
    """Makes torch.compile take the Functions as they are: Dynamo, when it traces this import, also performs it."""
    if torch.compiler.is_compiling():
        import twolayer.backward.in_graph  # noqa: F401
