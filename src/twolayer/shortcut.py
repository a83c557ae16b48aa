"""The shortcut: a call that the door's first look shows to be ordinary goes straight to the CPU kernel.

Most calls are alike: dense float32 tensors on a CPU, of shapes that fit, while nothing traces, transforms or converts
them. :mod:`~twolayer.kernels.choice` would send them to the same kernel, but asks about each once more, and in small
steps that took as long as the equations. Whatever is not ordinary is answered by None here, and goes there.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from twolayer import arguments
from twolayer.backward.gradients import Loss
from twolayer.backward.kept import How, Logits
from twolayer.equations import Parameters
from twolayer.kernels import choice, cpu
from twolayer.tasks import Examples, Objective, Plan

AS_USUAL, WITH_DX = Plan(), Plan(input_gradient=True)
ALL_FOUR = (True,) * 4


def logits(X: Tensor, parameters: Parameters, activation: str) -> Tensor | None:
    """``Z2`` in mode ``"manual"``."""
    how = STRAIGHT.get(activation)
    if how is None or not arguments.is_ordinary(X, parameters) or X.dtype is not torch.float32 or not cpu.is_there():
        return None
    if not _moves(X, parameters):
        return cpu.forward(X, parameters, activation)[0]
    Z2: Tensor = Logits.apply_at_rest(how, X, *parameters)
    return Z2


def _backward_from_kept(
    kept: Sequence[Tensor], dZ2: Tensor, activation: str, plan: Plan, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The forward pass was ordinary. What comes back need not be, and ``.data`` may have given other memory since."""
    X, W1, _, W2, _, A1 = kept
    (m, n_h), n_x = A1.shape, X.shape[1]
    dZ2 = dZ2.contiguous()  # that of a sum is one number, expanded
    straight = (
        needs[1:] == ALL_FOUR
        and X.shape[0] == m
        and W1.shape == (n_h, n_x)
        and W2.shape == (dZ2.shape[1], n_h)
        and dZ2.shape[0] == m
        and _are_plain(X, W1, W2, dZ2)
    )
    return (cpu if straight else choice).backward_from_kept(kept, dZ2, activation, plan, needs)


def _are_plain(*tensors: Tensor) -> bool:
    """Whether the kernel can read them, where nothing looks on."""
    for V in tensors:
        if V.dtype is not torch.float32 or not V.is_contiguous() or not V.is_cpu or V.is_neg() or V.data_ptr() == 0:
            return False
    return True


STRAIGHT = {name: How(cpu.forward_and_kept, _backward_from_kept, name, AS_USUAL) for name in cpu.ACTIVATIONS}


def loss(examples: Examples, parameters: Parameters, objective: Objective) -> Tensor | None:
    """``J``, one scalar, with its gradients by the equations if any is wanted."""
    X, Y, *weights = examples
    if not _examples_fit(examples, parameters, objective) or not _moves(X, parameters) or Y.requires_grad:
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


def _moves(X: Tensor, parameters: Parameters) -> bool:
    """:func:`twolayer.context.may_move`, where the call is an ordinary one."""
    W1, b1, W2, b2 = parameters
    return torch.is_grad_enabled() and (
        W1.requires_grad or b1.requires_grad or W2.requires_grad or b2.requires_grad or X.requires_grad
    )


def _examples_fit(examples: Examples, parameters: Parameters, objective: Objective) -> bool:
    return (
        objective.activation in cpu.ACTIVATIONS
        and arguments.are_ordinary(examples, parameters, objective.task)
        and examples.X.dtype is torch.float32
        and examples.Y.dtype in cpu.DTYPES
        and cpu.is_there()
    )
