"""The notes' equations as two :class:`torch.autograd.Function`, which meet at the logits, and as one.

:class:`Network` takes the ``∂J/∂Z2`` of whatever stands behind it through both layers; :class:`Cost` hands ``A2 − Y``
to whatever stands before it; :class:`Loss` is both. :mod:`twolayer.functional` calls them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import Function, forward_ad

from twolayer import equations
from twolayer.activations import ACTIVATIONS
from twolayer.tasks import TASKS, at_least_float32


def added(*terms: Tensor | None) -> Tensor | None:
    """The sum of the terms that are there: autograd writes a zero derivative as None."""
    present = [term for term in terms if term is not None]
    return sum(present[1:], present[0]) if present else None


@contextmanager
def saved_for_jvp(ctx: Any) -> Iterator[tuple[Any, ...]]:
    """What was saved, for the block that computes a ``jvp``.

    PyTorch runs a ``jvp`` with forward mode switched off, so that the ``jvp`` of a ``jvp`` silently lacks terms
    (pytorch/pytorch#197867). In the block it is on; what was saved comes without the tangents of this very level.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        # Level 0, the only one: the default asks Python's record of it, which a compiled graph does not keep.
        yield tuple(V if V is None else forward_ad.unpack_dual(V, level=0).primal for V in ctx.saved_tensors)


class LightFunction(Function):
    """A Function whose call costs less: PyTorch's own binds its arguments to the signature of ``forward`` each time.

    That is for defaults and keywords, which the Functions here do not have. All else that it does outside
    ``torch.func`` is done here too.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args)
        return super(Function, cls).apply(*unwrap_dead_wrappers(args))  # type: ignore[misc]


class Network(LightFunction):
    """``(X, W1, b1, W2, b2) → (Z2, A1)``.

    ``A1`` is an output rather than only kept, because the backward pass depends on it: a second derivative follows
    that dependence through inputs and outputs and nothing else. What comes back along it, ``dA1``, joins ``dZ2 W2``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(X: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, activation: str) -> tuple[Tensor, Tensor]:
        A1 = equations.A1(equations.Z1(X, W1, b1), ACTIVATIONS[activation])
        return equations.Z2(A1, W2, b2), A1

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        X, W1, _, W2, _, ctx.activation = inputs
        ctx.save_for_backward(X, W1, W2, output[1])
        ctx.save_for_forward(X, W1, W2, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dZ2: Tensor | None, dA1: Tensor | None) -> tuple[Tensor | None, ...]:
        X, W1, W2, A1 = ctx.saved_tensors
        return *_pulled_back(dZ2, dA1, X, W1, W2, A1, ctx.activation, ctx.needs_input_grad[:5]), None

    @staticmethod
    def jvp(
        ctx: Any,
        tX: Tensor | None,
        tW1: Tensor | None,
        tb1: Tensor | None,
        tW2: Tensor | None,
        tb2: Tensor | None,
        _: None,
    ) -> tuple[Tensor | None, Tensor]:
        with saved_for_jvp(ctx) as (X, W1, W2, A1):
            return _pushed_forward((tX, tW1, tb1, tW2, tb2), X, W1, W2, A1, ctx.activation)


def _pulled_back(
    dZ2: Tensor | None,
    dA1: Tensor | None,
    X: Tensor,
    W1: Tensor,
    W2: Tensor,
    A1: Tensor,
    activation: str,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """``dX, dW1, db1, dW2, db2``, each if it is needed, from what comes back to ``Z2`` and to ``A1``."""
    X_needs, W1_needs, b1_needs, W2_needs, b2_needs = needs
    dX = dW1 = db1 = dW2 = db2 = None
    if dZ2 is not None:
        dW2 = equations.dW2(dZ2, A1) if W2_needs else None
        db2 = equations.db2(dZ2) if b2_needs else None
        if X_needs or W1_needs or b1_needs:
            dA1 = added(equations.dA1(dZ2, W2), dA1)
    if dA1 is not None:
        dZ1 = equations.dZ1(dA1, A1, ACTIVATIONS[activation])
        dW1 = equations.dW1(dZ1, X) if W1_needs else None
        db1 = equations.db1(dZ1) if b1_needs else None
        dX = equations.dX(dZ1, W1) if X_needs else None
    return dX, dW1, db1, dW2, db2


def _pushed_forward(
    tangents: tuple[Tensor | None, ...], X: Tensor, W1: Tensor, W2: Tensor, A1: Tensor, activation: str
) -> tuple[Tensor | None, Tensor]:
    """The tangents of ``Z2`` and ``A1`` from those of ``X, W1, b1, W2, b2``."""
    tX, tW1, tb1, tW2, tb2 = tangents
    m = X.shape[0]
    tZ1 = added(
        tX @ W1.mT if tX is not None else None,
        X @ tW1.mT if tW1 is not None else None,
        tb1.expand(m, -1) if tb1 is not None else None,
    )
    # Zeros, since PyTorch does not take None for the tangent of an output.
    tA1 = torch.zeros_like(A1) if tZ1 is None else equations.dZ1(tZ1, A1, ACTIVATIONS[activation])
    tZ2 = added(
        tA1 @ W2.mT if tZ1 is not None else None,
        A1 @ tW2.mT if tW2 is not None else None,
        tb2.expand(m, -1) if tb2 is not None else None,
    )
    return tZ2, tA1


class Cost(LightFunction):
    """``(Z2, Y) → L``, the loss of each example, with ``dZ2 = A2 − Y``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(Z2: Tensor, Y: Tensor, task: str) -> Tensor:
        return TASKS[task].loss(Z2, Y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        Z2, Y, ctx.task = inputs
        ctx.save_for_backward(Z2, Y)
        ctx.save_for_forward(Z2, Y)

    @staticmethod
    def backward(ctx: Any, dL: Tensor) -> tuple[Tensor | None, ...]:
        Z2, Y = ctx.saved_tensors
        task = TASKS[ctx.task]
        scale = dL.unsqueeze(-1)
        return (
            scale * task.error(Z2, Y) if ctx.needs_input_grad[0] else None,
            scale * task.target_gradient(Z2, Y) if ctx.needs_input_grad[1] else None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, tZ2: Tensor | None, tY: Tensor | None, _: None) -> Tensor | None:
        task = TASKS[ctx.task]
        with saved_for_jvp(ctx) as (Z2, Y):
            return added(
                (tZ2 * task.error(Z2, Y)).sum(-1) if tZ2 is not None else None,
                (tY * task.target_gradient(Z2, Y)).sum(-1) if tY is not None else None,
            )


class Loss(LightFunction):
    """``(X, Y, W1, b1, W2, b2) → (J, Z2, A1)``: :class:`Network`, :class:`Cost` and the sum or mean over the examples.

    One call of a Function instead of two, and no sum or mean to differentiate, which counts where there are few
    examples. ``Z2`` and ``A1`` are outputs for the reason that :class:`Network` has.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        X: Tensor, Y: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, activation: str, task: str, reduction: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        Z2, A1 = Network.forward(X, W1, b1, W2, b2, activation)
        L = TASKS[task].loss(at_least_float32(Z2), Y)
        return L.mean() if reduction == "mean" else L.sum(), Z2, A1

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        X, Y, W1, _, W2, _, ctx.activation, ctx.task, ctx.reduction = inputs
        saved = (X, Y, W1, W2, *output[1:])
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dJ: Tensor | None, dZ2: Tensor | None, dA1: Tensor | None) -> tuple[Tensor | None, ...]:
        X, Y, W1, W2, Z2, A1 = ctx.saved_tensors
        X_needs, Y_needs, *needs = ctx.needs_input_grad[:6]
        task, logits, dY = TASKS[ctx.task], at_least_float32(Z2), None
        if dJ is not None:
            dL = dJ / X.shape[0] if ctx.reduction == "mean" else dJ
            dZ2 = added((dL * task.error(logits, Y)).to(Z2.dtype), dZ2)
            dY = dL * task.target_gradient(logits, Y) if Y_needs else None
        dX, *gradients = _pulled_back(dZ2, dA1, X, W1, W2, A1, ctx.activation, (X_needs, *needs))
        return dX, dY, *gradients, None, None, None

    @staticmethod
    def jvp(ctx: Any, tX: Tensor | None, tY: Tensor | None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        with saved_for_jvp(ctx) as (X, Y, W1, W2, Z2, A1):
            task, logits = TASKS[ctx.task], at_least_float32(Z2)
            tZ2, tA1 = _pushed_forward((tX, *tangents[:4]), X, W1, W2, A1, ctx.activation)
            tJ = added(
                (tZ2 * task.error(logits, Y)).sum() if tZ2 is not None else None,
                (tY * task.target_gradient(logits, Y)).sum() if tY is not None else None,
            )
            if tJ is not None and ctx.reduction == "mean":
                tJ = tJ / X.shape[0]
            return tJ, torch.zeros_like(Z2) if tZ2 is None else tZ2, tA1
