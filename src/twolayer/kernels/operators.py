"""The passes as operators of PyTorch's, ``torch.ops.twolayer``, for what traces: first the tensors, then the options.

Under torch.compile each pass is one opaque operator: nothing looks inside, or unrolls the loop over the chunks. Known
are the shapes that come out, and the floating point operations. An operator costs tens of microseconds a call, so
:mod:`~twolayer.kernels.choice` calls it only there. The package's derivatives are those of :mod:`twolayer.backward`; an
operator that is called by itself is differentiated by PyTorch, through all examples at once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from twolayer import context
from twolayer.equations import Parameters
from twolayer.kernels import choice
from twolayer.tasks import PAIRING, Direction, Examples, Objective, Plan

EXAMPLES = "Tensor X, Tensor Y, Tensor? sample_weight, Tensor? class_weight"
PARAMETERS = "Tensor W1, Tensor b1, Tensor W2, Tensor b2"
DIRECTION = "Tensor? tX, Tensor? tY, Tensor tW1, Tensor tb1, Tensor tW2, Tensor tb2"
OPTIONS = (
    "str activation, str task, float label_smoothing, str reduction, int? chunk_size, str? kernel, bool input_gradient"
)


def _logits(run: Callable[..., Tensor], *arguments: Any) -> list[Tensor]:
    X, *parameters, activation, chunk_size, kernel = arguments
    return [run(X, Parameters(*parameters), activation, Plan(chunk_size, kernel))]


def _loss_and_grads(run: Callable[..., Any], *arguments: Any) -> list[Tensor]:
    *tensors, objective, plan = _values(arguments)
    J, dX, grads = run(Examples(*tensors[:4]), Parameters(*tensors[4:]), objective, plan)
    return [J, *grads, *([] if dX is None else [dX])]


def _hvp(run: Callable[..., Direction], *arguments: Any) -> list[Tensor]:
    *tensors, objective, plan = _values(arguments)
    direction = Direction(tensors[8], tensors[9], Parameters(*tensors[10:]))
    hX, hY, product = run(Examples(*tensors[:4]), Parameters(*tensors[4:8]), direction, objective, plan)
    return [*product, *(V for V in (hX, hY) if V is not None)]


def _shape_of_logits(X: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, *_: Any) -> list[Tensor]:
    return [_like(W1, X.shape[0], W2.shape[0])]


def _shapes_of_loss_and_grads(*arguments: Any) -> list[Tensor]:
    X, _, _, _, *parameters, _, plan = _values(arguments)
    return [_like(parameters[0]), *map(_empty, parameters), *([_empty(X)] if plan.input_gradient else [])]


def _shapes_of_hvp(*arguments: Any) -> list[Tensor]:
    X, _, _, _, W1, b1, W2, b2, *_, objective, plan = _values(arguments)
    hX = [_empty(X)] if plan.input_gradient else []
    hY = [_like(W1, X.shape[0], W2.shape[0])] if objective.task == PAIRING else []
    return [*map(_empty, (W1, b1, W2, b2)), *hX, *hY]


def _values(arguments: tuple[Any, ...]) -> list[Any]:
    """The tensors, and then the options as an objective and a plan."""
    return [*arguments[:-7], Objective(*arguments[-7:-3]), Plan(*arguments[-3:])]


def _empty(V: Tensor) -> Tensor:
    return V.new_empty(V.shape)


def _like(parameter: Tensor, *shape: int) -> Tensor:
    return parameter.new_empty(shape, dtype=torch.promote_types(parameter.dtype, torch.float32))


# Floating point operations, as PyTorch counts them: two for each product of a matrix multiplication, and no others.


def _flops_of_logits(X: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, *_: Any, **__: Any) -> int:
    return 2 * len(X) * (W1.numel() + W2.numel())


def _flops_of_loss_and_grads(*arguments: Any, **output: Any) -> int:
    X, _, _, _, W1, _, W2, *_, plan = _values(arguments)
    products = 2 + plan.input_gradient  # Z1 and dW1, and dX; Z2, dA1 and dW2
    return 2 * len(X) * (products * W1.numel() + 3 * W2.numel())


def _flops_of_hvp(*arguments: Any, **output: Any) -> int:
    X, _, _, _, W1, _, W2, _, tX, *_, plan = _values(arguments)
    products = 3 + 2 * (tX is not None) + 2 * plan.input_gradient  # Z1, RZ1 and RdW1; those of tX; those of RdX
    return 2 * len(X) * (products * W1.numel() + 8 * W2.numel())


def _define(
    name: str, schema: str, function: Callable[..., list[Tensor]], shapes: Callable[..., Any], flops: Callable[..., int]
) -> None:
    at_once = partial(function, getattr(choice, name))
    operator = torch.library.custom_op(
        f"twolayer::{name}", partial(function, getattr(choice, f"run_{name}")), mutates_args=(), schema=schema
    )
    operator.register_fake(shapes)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*(V if isinstance(V, Tensor) else None for V in inputs))
        ctx.others = [None if isinstance(V, Tensor) else V for V in inputs]

    def backward(ctx: Any, incoming: list[Tensor]) -> tuple[Tensor | None, ...]:
        arguments = [V if V is not None else W for V, W in zip(ctx.saved_tensors, ctx.others, strict=True)]
        moving = [i for i, needed in enumerate(ctx.needs_input_grad) if needed]

        def of_these(*tensors: Tensor) -> list[Tensor]:
            given = dict(zip(moving, tensors, strict=True))
            return at_once(*(given.get(i, V) for i, V in enumerate(arguments)))

        found = torch.func.vjp(of_these, *(arguments[i] for i in moving))[1](list(incoming))
        by_place = dict(zip(moving, found, strict=True))
        return tuple(by_place.get(i) for i in range(len(arguments)))

    operator.register_autograd(backward, setup_context=setup_context)
    context.FLOPS[name] = flops


_define(
    "logits",
    f"(Tensor X, {PARAMETERS}, str activation, int? chunk_size, str? kernel) -> Tensor[]",
    _logits,
    _shape_of_logits,
    _flops_of_logits,
)
_define(
    "loss_and_grads",
    f"({EXAMPLES}, {PARAMETERS}, {OPTIONS}) -> Tensor[]",
    _loss_and_grads,
    _shapes_of_loss_and_grads,
    _flops_of_loss_and_grads,
)
_define("hvp", f"({EXAMPLES}, {PARAMETERS}, {DIRECTION}, {OPTIONS}) -> Tensor[]", _hvp, _shapes_of_hvp, _flops_of_hvp)
