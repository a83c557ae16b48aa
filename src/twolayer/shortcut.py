"""The shortcut past the door: a call that one look shows to be ordinary goes straight to the CPU kernel.

Most calls are alike: dense float32 tensors on a CPU, of shapes that fit, while nothing traces, transforms or converts
them. What is let through here, :mod:`~twolayer.arguments` and :mod:`~twolayer.kernels.choice` would let through too,
to the same kernel. But they ask every tensor for every property, to say which one does not fit, and in small steps that
took as long as the equations. Whatever is not ordinary is answered by None here, and goes to them.
"""

import torch
from torch import Tensor

from twolayer import context
from twolayer.backward.gradients import Loss
from twolayer.backward.manual import Logits
from twolayer.equations import Parameters
from twolayer.kernels import cpu
from twolayer.tasks import Examples, Objective, Plan

AS_USUAL, WITH_DX = Plan(), Plan(input_gradient=True)


def logits(X: Tensor, parameters: Parameters, activation: str) -> Tensor | None:
    """``Z2`` in mode ``"manual"``."""
    if not _fits(X, parameters, activation):
        return None
    if not context.may_move(X, *parameters):
        return cpu.forward(X, parameters, activation)[0]
    Z2: Tensor = Logits.apply_at_rest(cpu.forward_and_kept, activation, AS_USUAL, X, *parameters)
    return Z2


def loss(examples: Examples, parameters: Parameters, objective: Objective) -> Tensor | None:
    """``J``, one scalar, with its gradients by the equations if any is wanted."""
    X, Y, *weights = examples
    if not _examples_fit(examples, parameters, objective) or not context.may_move(X, *parameters) or Y.requires_grad:
        return None
    plan = WITH_DX if X.requires_grad else AS_USUAL
    try:
        J: Tensor = Loss.apply_at_rest(cpu.run_loss_and_grads, objective, plan, X, Y, *parameters, *weights)
    except ValueError:  # of targets, that the door looks at
        return None
    return J


def loss_and_grads(
    examples: Examples, parameters: Parameters, objective: Objective
) -> tuple[Tensor, Parameters] | None:
    """``J`` and its gradients."""
    if not _examples_fit(examples, parameters, objective):
        return None
    try:
        J, _, grads = cpu.loss_and_grads(examples, parameters, objective)
    except ValueError:  # of targets, that the door looks at
        return None
    return J, grads


def _fits(X: Tensor, parameters: Parameters, activation: str, Y: Tensor | None = None) -> bool:
    W1, b1, W2, b2 = parameters
    try:
        (m, n_x), (n_h, features), (n_y, hidden) = X.shape, W1.shape, W2.shape
        return (
            features == n_x
            and hidden == n_h
            and b1.shape == (n_h,)
            and b2.shape == (n_y,)
            and m * n_x * n_h * n_y > 0
            and context.undisturbed(X, W1, b1, W2, b2, Y)
            and X.dtype == W1.dtype == b1.dtype == W2.dtype == b2.dtype == torch.float32
            and activation in cpu.ACTIVATIONS
            and cpu.is_there()
        )
    except (RuntimeError, ValueError, AttributeError):  # another number of dimensions, no memory, no tensor
        return False


def _examples_fit(examples: Examples, parameters: Parameters, objective: Objective) -> bool:
    X, Y, sample_weight, class_weight = examples
    if sample_weight is not None or class_weight is not None or not _fits(X, parameters, objective.activation, Y):
        return False
    task, rows, n_y = objective.task, X.shape[:1], parameters.b2.shape
    if not Y.dtype.is_floating_point:
        if task == "multiclass":
            return Y.shape == rows and Y.dtype in cpu.DTYPES
        if task == "regression":
            return False
    return (
        (Y.shape == rows + n_y or (n_y == (1,) and Y.shape == rows))
        and Y.dtype in cpu.DTYPES
        and not (task == "binary" and n_y != (1,))
    )
