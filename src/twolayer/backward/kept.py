"""Both layers under autograd, from what the forward pass kept: the Functions of mode ``"manual"``.

What comes back to the logits goes through the network by the notes' equations, from the ``X`` and ``A1`` that stand
ready: :class:`Network` with every derivative, :class:`Logits` where one is likely to be all, at less cost.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twolayer.activations import ACTIVATIONS
from twolayer.backward.function import LightFunction, keep, whole_in_graphs
from twolayer.context import at_rest, saved_for_jvp
from twolayer.equations import Kept, Parameters
from twolayer.kernels import plain
from twolayer.tasks import Plan


class How(NamedTuple):
    """What computes ``Z2`` and ``A1``, and from what comes back to ``Z2`` the gradients; and what both are told."""

    forward_and_kept: Callable[..., tuple[Tensor, Tensor]]
    backward_from_kept: Callable[..., tuple[Tensor | None, ...]]
    activation: str
    plan: Plan


class Logits(LightFunction):
    """``(X, W1, b1, W2, b2) → Z2``: :class:`Network`, where nothing but a first derivative is likely to follow. For a
    second one, the forward pass runs once more, under autograd."""

    @staticmethod
    def forward(ctx: Any, how: How, X: Tensor, *parameters: Tensor) -> Tensor:
        ctx.how = how
        Z2, A1 = how.forward_and_kept(X, Parameters(*parameters), how.activation, how.plan)
        ctx.save_for_backward(X, *parameters, A1)
        return Z2

    @staticmethod
    def backward(ctx: Any, dZ2: Tensor) -> tuple[Tensor | None, ...]:
        how: How = ctx.how
        kept, needs = ctx.saved_tensors, ctx.needs_input_grad[1:]
        if not torch.is_grad_enabled() and at_rest(dZ2):
            return None, *how.backward_from_kept(kept, dZ2, how.activation, how.plan, needs)
        X, W1, b1, W2, b2, A1 = kept
        if torch.is_grad_enabled():
            _, A1 = Network.apply(X, W1, b1, W2, b2, how.activation)
        return None, *plain.backward(Kept(X, W1, W2, A1), ACTIVATIONS[how.activation], dZ2, needs=needs)


@whole_in_graphs
class Network(LightFunction):
    """``(X, W1, b1, W2, b2) → (Z2, A1)``.

    ``A1`` is an output rather than only kept, because the backward pass depends on it: a second derivative follows
    that dependence through inputs and outputs and nothing else. What comes back along it, ``dA1``, joins ``dZ2 W2``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(X: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        *parameters, activation = others
        Z2, kept = plain.forward(X, Parameters(*parameters), ACTIVATIONS[activation])
        return Z2, kept.A1

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        X, W1, _, W2, _, ctx.activation = inputs
        keep(ctx, *Kept(X, W1, W2, output[1]))

    @staticmethod
    def backward(ctx: Any, dZ2: Tensor | None, dA1: Tensor | None) -> tuple[Tensor | None, ...]:
        kept, g = Kept(*ctx.saved_tensors), ACTIVATIONS[ctx.activation]
        return *plain.backward(kept, g, dZ2, dA1, ctx.needs_input_grad[:5]), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, Tensor]:
        with saved_for_jvp(ctx) as saved:
            kept = Kept(*saved)
            _, tA1, tZ2 = plain.along(kept, ACTIVATIONS[ctx.activation], tangents[:5])
            # Zeros, since PyTorch does not take None for the tangent of an output.
            return tZ2, torch.zeros_like(kept.A1) if tA1 is None else tA1
