"""The cost together with its gradients, in one pass of constant memory, under autograd.

The gradients are outputs that can be differentiated. The backward pass of the cost scales them. What comes back along
the gradients themselves, as with ``create_graph=True``, is answered by the Hessian's product, and so are forward
derivatives. A third derivative, and torch.vmap, take all examples at once.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from twolayer.backward.function import LightFunction, keep, whole_in_graphs
from twolayer.context import at_rest, is_last_backward, may_move, saved_for_jvp
from twolayer.equations import Parameters
from twolayer.kernels import choice
from twolayer.kernels.plain import added
from twolayer.tasks import PAIRING, TASKS, Direction, Examples, Objective, Plan

Tensors = tuple[Any, ...]
"""Tensors, and None where there is none. At a Function's boundary they stand one after the other, first those along
which a derivative may be asked for: ``X, Y, W1, b1, W2, b2``, then ``sample_weight, class_weight``."""


def loss(
    examples: Examples, parameters: Parameters, objective: Objective, plan: Plan, logits: Callable[..., Tensor]
) -> Tensor:
    """``J``, in one pass together with its gradients where these are what is wanted.

    For a derivative along targets or weights, and for the loss of each example, it goes by the mode's ``logits``; where
    no derivative is wanted, by a forward pass alone.
    """
    X, *targets = examples
    moves, targets_move = may_move(X, *parameters), may_move(*targets)
    if targets_move or (moves and objective.reduction == "none"):
        return cost(logits(X, parameters, objective.activation, plan), examples, objective)
    plan = Plan(plan.chunk_size, plan.kernel, input_gradient=may_move(X))
    X, *others = at_least_float32(X, *parameters)
    if not moves:
        return objective.cost(choice.logits(X, Parameters(*others), objective.activation, plan), examples)
    tensors = (X, examples.Y, *others, *examples[2:])
    if at_rest(*tensors):
        J: Tensor = Loss.apply_at_rest(choice.run_loss_and_grads, objective, plan, *tensors)
        return J
    return Gradients.apply(*tensors, objective, plan)[0]


def cost(Z2: Tensor, examples: Examples, objective: Objective) -> Tensor:
    """``J`` from logits that are there, by ``dZ2 = A2 − Y``."""
    return objective.cost(Z2, examples, lambda Z2, Y: Cost.apply(Z2, Y, objective.task))


@whole_in_graphs
def hvp(
    examples: Examples, parameters: Parameters, direction: Direction, objective: Objective, plan: Plan
) -> Parameters:
    """The Hessian of the cost with respect to the parameters, times a direction of theirs."""
    tensors, moving = _tensors(examples, parameters), direction.parameters
    return Parameters(*HessianProduct.apply(*tensors, None, None, *moving, objective, plan)[2:])


def at_least_float32(X: Tensor, *parameters: Tensor) -> list[Tensor]:
    """So that what comes in from behind scales gradients that are not yet rounded. ``X`` waits for its chunks."""
    dtype = torch.promote_types(parameters[0].dtype, torch.float32)
    rows = X.to(dtype) if X.dtype != dtype and may_move(X) else X
    return [rows, *(V if V.dtype == dtype else V.to(dtype) for V in parameters)]


@whole_in_graphs
class Cost(LightFunction):
    """``(Z2, Y) → L``, the loss of each example, with ``dZ2 = A2 − Y``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(Z2: Tensor, Y: Tensor, task: str) -> Tensor:
        return TASKS[task].loss(Z2, Y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        Z2, Y, ctx.task = inputs
        keep(ctx, Z2, Y)

    @staticmethod
    def backward(ctx: Any, dL: Tensor | None) -> Tensors:
        if dL is None:
            return None, None, None
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
    """``(X, Y, W1, b1, W2, b2, sample_weight, class_weight) → J``: :class:`Gradients`, where nothing but a first
    derivative is likely to follow. For a second one, the gradients are computed once more, under autograd."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], objective: Objective, plan: Plan, *tensors: Any) -> Tensor:
        ctx.objective, ctx.plan = objective, plan
        J, dX, grads = run(*_values(tensors), objective, plan)
        ctx.save_for_backward(*tensors, dX, *grads)
        return J

    @staticmethod
    def backward(ctx: Any, dJ: Tensor) -> Tensors:
        saved = ctx.saved_tensors
        dX, *grads = saved[8:]
        if torch.is_grad_enabled():
            _, dX, *grads = Gradients.apply(*saved[:8], ctx.objective, ctx.plan)
        elif is_last_backward(dJ) and dJ.is_cpu and dJ.item() == 1:
            return None, None, None, dX, None, *grads, None, None
        return None, None, None, None if dX is None else dJ * dX, None, *(dJ * dV for dV in grads), None, None


class Gradients(LightFunction):
    """``(X, Y, W1, b1, W2, b2, sample_weight, class_weight) → (J, dX or None, dW1, db1, dW2, db2)``.

    All can be differentiated with respect to ``X`` and the parameters. Of the cost ``PAIRING``, the gradients can be
    with respect to ``Y`` too, and ``J`` cannot.
    """

    @staticmethod
    def forward(X: Tensor, *others: Any) -> Tensors:
        *tensors, objective, plan = others
        J, dX, grads = choice.loss_and_grads(*_values((X, *tensors)), objective, plan)
        return J, dX, *grads

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        *tensors, ctx.objective, ctx.plan = inputs
        keep(ctx, *tensors, *output[1:])
        if ctx.objective.task == PAIRING:
            ctx.mark_non_differentiable(output[0])

    @staticmethod
    def backward(ctx: Any, dJ: Tensor | None, *incoming: Tensor | None) -> Tensors:
        saved = ctx.saved_tensors  # unpacked once: a checkpoint refuses a second time
        tensors, (dX, *grads) = saved[:8], saved[8:]
        _refuse_targets(ctx.needs_input_grad, ctx.objective)
        scale = None if ctx.objective.task == PAIRING else dJ
        terms = [None if scale is None or dV is None else scale * dV for dV in (dX, None, *grads)]
        if any(V is not None for V in incoming):
            product = hessian_times((incoming[0], None, *incoming[1:]), tensors, ctx.objective, ctx.plan)
            terms = [added(*pair) for pair in zip(terms, product, strict=True)]
        return *terms, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensors:
        _refuse_targets([V is not None for V in tangents], ctx.objective)
        with saved_for_jvp(ctx) as saved:
            tensors, (dX, *grads) = saved[:8], saved[8:]
            pairs = zip((dX, None, *grads), tangents[:6], strict=True)
            tJ = added(*((dV * tV).sum() for dV, tV in pairs if dV is not None and tV is not None))
            tdX, _, *moved = hessian_times(tangents[:6], tensors, ctx.objective, ctx.plan)
            return None if ctx.objective.task == PAIRING else tJ, tdX, *moved

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int | None, ...]]:
        *tensors, objective, plan = args

        def present(*tensors: Tensor) -> list[Tensor]:
            J, dX, grads = choice.loss_and_grads(*_values(tensors), objective, plan)
            return [J, *([] if dX is None else [dX]), *grads]

        J, *grads = torch.vmap(present, in_dims[:8])(*tensors)
        return with_dims((J, *([] if plan.input_gradient else [None]), *grads))


class HessianProduct(LightFunction):
    """``(X, Y, W1, b1, W2, b2, sample_weight, class_weight, tX, tY, tW1, …, tb2) → (hX, hY, hW1, hb1, hW2, hb2)``.

    The Hessian times the direction ``t…``, of which ``tX`` and ``tY`` may be None. ``hX`` is None unless the plan asks
    for it, and ``hY`` but for the cost ``PAIRING``.
    """

    @staticmethod
    def forward(X: Tensor, *others: Any) -> Tensors:
        *tensors, objective, plan = others
        return _in_place(_product((X, *tensors), objective, plan), objective, plan)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        *tensors, ctx.objective, ctx.plan = inputs
        keep(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor | None) -> Tensors:
        options, saved = (ctx.objective, ctx.plan), ctx.saved_tensors
        tensors, direction = saved[:8], saved[8:]
        _refuse_targets(ctx.needs_input_grad, ctx.objective)
        along: Tensors = (None,) * 6
        back = along
        if any(ctx.needs_input_grad[:6]):
            along = _third_derivative(direction, incoming, tensors, *options)
        if any(ctx.needs_input_grad[8:]):
            product = hessian_times(incoming, tensors, *options)  # it is symmetric
            back = tuple(None if tV is None else hV for hV, tV in zip(product, direction, strict=True))
        return *along, None, None, *back, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensors:
        options = (ctx.objective, ctx.plan)
        _refuse_targets([V is not None for V in tangents], ctx.objective)
        with saved_for_jvp(ctx) as saved:
            tensors, direction = saved[:8], saved[8:]
            terms = hessian_times(tangents[8:14], tensors, *options)
            if any(V is not None for V in tangents[:6]):
                third = _third_derivative(direction, tangents[:6], tensors, *options)
                terms = tuple(added(*pair) for pair in zip(terms, third, strict=True))
            return terms

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int | None, ...]]:
        *tensors, objective, plan = args
        products = torch.vmap(lambda *tensors: _product(tensors, objective, plan), in_dims[:14])(*tensors)
        return with_dims(_in_place(products, objective, plan))


def hessian_times(direction: Tensors, tensors: Tensors, objective: Objective, plan: Plan) -> Tensors:
    return HessianProduct.apply(*tensors, *_whole(direction, tensors), objective, plan)


def _product(tensors: Tensors, objective: Objective, plan: Plan) -> list[Tensor]:
    """What there is of the Hessian's product, from the tensors that :class:`HessianProduct` takes."""
    direction = Direction(tensors[8], tensors[9], Parameters(*tensors[10:]))
    hX, hY, product = choice.hvp(*_values(tensors[:8]), direction, objective, plan)
    return [V for V in (hX, hY, *product) if V is not None]


def _third_derivative(first: Tensors, second: Tensors, tensors: Tensors, objective: Objective, plan: Plan) -> Tensors:
    """The derivative of the cost in two directions, with respect to the network: symmetric in the three."""
    places = _places(objective, plan)

    def product(*moving: Tensor) -> list[Tensor]:
        network = list(tensors[:6])
        for place, V in zip(places, moving, strict=True):
            network[place] = V
        return _product((*network, *tensors[6:], *_whole(first, tensors)), objective, plan)

    moving = [tensors[place] for place in places]
    along = [
        torch.zeros_like(V) if second[place] is None else second[place] for place, V in zip(places, moving, strict=True)
    ]
    return _in_place(torch.func.vjp(product, *moving)[1](along), objective, plan)


def _tensors(examples: Examples, parameters: Parameters) -> Tensors:
    return *examples[:2], *parameters, *examples[2:]


def _values(tensors: Tensors) -> tuple[Examples, Parameters]:
    return Examples(*tensors[:2], *tensors[6:]), Parameters(*tensors[2:6])


def _places(objective: Objective, plan: Plan) -> list[int]:
    """Where in ``(X, Y, W1, b1, W2, b2)`` that stands along which a derivative may be asked for."""
    return [place for place in range(6) if place > 1 or (plan.input_gradient, objective.task == PAIRING)[place]]


def _in_place(values: Iterable[Tensor], objective: Objective, plan: Plan) -> Tensors:
    """The values in those places, None in the others."""
    found = dict(zip(_places(objective, plan), values, strict=True))
    return tuple(found.get(place) for place in range(6))


def _whole(direction: Tensors, tensors: Tensors) -> Tensors:
    """A direction whose parameters are zero where they are None."""
    parameters = zip(direction[2:], tensors[2:6], strict=True)
    return *direction[:2], *(torch.zeros_like(V) if tV is None else tV for tV, V in parameters)


def with_dims(outputs: Tensors) -> tuple[Tensors, tuple[int | None, ...]]:
    return outputs, tuple(None if V is None else 0 for V in outputs)


def _refuse_targets(asked: Sequence[bool], objective: Objective) -> None:
    """Raises where a derivative would be asked for that the equations here do not have: :func:`loss` sees to it."""
    if (asked[1] and objective.task != PAIRING) or any(asked[6:8]):
        raise RuntimeError("targets and weights must not be given a derivative after the cost was computed in one pass")
