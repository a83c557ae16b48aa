"""Mode ``"streamed"``: nothing of size ``m × n_h`` is kept, or exists at any time, for first and second derivatives.

The logits keep nothing but inputs. What comes back along them, any ``dZ2``, is taken for the targets of the cost
``Σ Z2 ⊙ dZ2``, whose gradients are those wanted, so that this too has its Hessian.
"""

from typing import Any

import torch
from torch import Tensor

from twolayer.backward import gradients
from twolayer.backward.function import LightFunction, keep, whole_in_graphs
from twolayer.backward.gradients import Gradients, Tensors, at_least_float32
from twolayer.context import autocast_dtype, may_move, saved_for_jvp
from twolayer.equations import Parameters
from twolayer.kernels import choice
from twolayer.tasks import PAIRING, Examples, Objective, Plan


@whole_in_graphs
def logits(X: Tensor, parameters: Parameters, activation: str, plan: Plan) -> Tensor:
    """``Z2``, ``(m, n_y)``. Autocast converts only what comes out."""
    Z2: Tensor = Logits.apply(*at_least_float32(X, *parameters), activation, plan)
    return Z2.to(autocast_dtype(parameters.W1))


@whole_in_graphs
def loss(examples: Examples, parameters: Parameters, objective: Objective, plan: Plan) -> Tensor:
    """``J``, or the loss of each example."""
    return gradients.loss(examples, parameters, objective, plan, _logits_in_full)


def _logits_in_full(X: Tensor, parameters: Parameters, activation: str, plan: Plan) -> Tensor:
    """Not rounded to half precision on their way to the cost."""
    return Logits.apply(*at_least_float32(X, *parameters), activation, plan)


def _pairing(activation: str) -> Objective:
    return Objective(activation, PAIRING, reduction="sum")


class Logits(LightFunction):
    """``(X, W1, b1, W2, b2) → Z2``."""

    @staticmethod
    def forward(X: Tensor, *others: Any) -> Tensor:
        *parameters, activation, plan = others
        return choice.logits(X, Parameters(*parameters), activation, plan)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *network, ctx.activation, ctx.plan = inputs
        keep(ctx, *network)

    @staticmethod
    def backward(ctx: Any, dZ2: Tensor | None) -> Tensors:
        if dZ2 is None:
            return (None,) * 7
        X, *parameters = ctx.saved_tensors
        plan = Plan(ctx.plan.chunk_size, ctx.plan.kernel, input_gradient=ctx.needs_input_grad[0] or may_move(X))
        _, dX, *grads = Gradients.apply(X, dZ2, *parameters, None, None, _pairing(ctx.activation), plan)
        return dX, *grads, None, None

    @staticmethod
    def jvp(ctx: Any, tX: Tensor | None, *others: Tensor | None) -> Tensor:
        with saved_for_jvp(ctx) as (X, *parameters):
            # The gradient of Σ Z2 ⊙ Y along Y is Z2, for any Y: how it changes is the tangent of Z2.
            Y = parameters[3].new_zeros(X.shape[0], parameters[3].shape[0])
            plan = Plan(ctx.plan.chunk_size, input_gradient=tX is not None)
            tensors, direction = (X, Y, *parameters, None, None), (tX, None, *others[:4])
            return gradients.hessian_times(direction, tensors, _pairing(ctx.activation), plan)[1]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        *network, activation, plan = args

        def at_once(X: Tensor, *parameters: Tensor) -> Tensor:
            return choice.logits(X, Parameters(*parameters), activation, plan)

        return torch.vmap(at_once, in_dims[:5])(*network), 0
