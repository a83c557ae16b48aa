"""The mode ``"streamed"`` under autograd: :class:`torch.autograd.Function` over passes in constant memory.

Nothing of size ``m × n_h`` is kept, or exists at any time, for first and second derivatives, backwards and forwards:

- The cost comes together with its gradients, in one pass, and they are outputs that can be differentiated. Its backward
  pass scales them. What comes back along the gradients themselves, as with ``create_graph=True``, is answered by the
  Hessian's product (:func:`twolayer.streaming.hvp`), and so are forward derivatives.
- The logits alone keep nothing but inputs. What comes back along them, any ``dZ2``, is taken for the targets of the
  cost ``Σ Z2 ⊙ dZ2``, whose gradients are those wanted, so that this too has its Hessian.

A third derivative, and torch.vmap, take all examples at once (:mod:`twolayer.at_once`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from twolayer import at_once, operators
from twolayer.autograd import Cost, LightFunction, added, saved_for_jvp
from twolayer.operators import Options
from twolayer.tasks import PAIRING

Tensors = tuple[Any, ...]
"""Tensors, and None where there is none."""


def logits(
    X: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    activation: str,
    chunk_size: int | None,
    kernel: str | None,
) -> Tensor:
    """``Z2``, ``(m, n_y)``, in at least float32."""
    return Logits.apply(*_at_least_float32(X, W1, b1, W2, b2), activation, chunk_size, kernel)


def loss(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    activation: str,
    task: str,
    label_smoothing: float,
    reduction: str,
    chunk_size: int | None,
    kernel: str | None,
) -> Tensor:
    """``J``, in one pass together with its gradients where these are what is wanted.

    Where no derivative is, or one along targets or weights, and for the loss of each example, it goes by the logits.
    """
    network, targets = (X, W1, b1, W2, b2), (Y, sample_weight, class_weight)
    if reduction == "none" or not _any_moves(*network) or _any_moves(*targets):
        return at_once.cost(
            logits(*network, activation, chunk_size, kernel),
            Y,
            task=task,
            sample_weight=sample_weight,
            class_weight=class_weight,
            label_smoothing=label_smoothing,
            reduction=reduction,
            loss=lambda Z2, Y: Cost.apply(Z2, Y, task),
        )
    options = Options(activation, task, label_smoothing, reduction, chunk_size, _any_moves(X), kernel)
    X, *parameters = _at_least_float32(*network)
    return Gradients.apply(X, Y, *parameters, sample_weight, class_weight, options)[0]


def hvp(
    X: Tensor,
    Y: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    tW1: Tensor,
    tb1: Tensor,
    tW2: Tensor,
    tb2: Tensor,
    activation: str,
    task: str,
    label_smoothing: float,
    chunk_size: int | None,
) -> tuple[Tensor, ...]:
    """The Hessian of the mean cost with respect to the parameters, times a direction."""
    options = Options(activation, task, label_smoothing, "mean", chunk_size)
    inputs = (X, Y, W1, b1, W2, b2, sample_weight, class_weight)
    return HessianProduct.apply(*inputs, None, None, tW1, tb1, tW2, tb2, options)[2:]


def _any_moves(*tensors: Tensor | None) -> bool:
    """Whether a derivative along one of the tensors may be asked for, in any of the ways that PyTorch has."""
    along_tangents, along_gradients = forward_ad._current_level >= 0, torch.is_grad_enabled()
    return any(
        (along_gradients and V.requires_grad)
        or (along_tangents and V.is_floating_point())
        or torch._C._functorch.is_functorch_wrapped_tensor(V)
        for V in tensors
        if V is not None
    )


def _at_least_float32(X: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    """So that what comes in from behind scales gradients that are not yet rounded. ``X`` waits for its chunks."""
    dtype = torch.promote_types(parameters[0].dtype, torch.float32)
    rows = X.to(dtype) if X.dtype != dtype and _any_moves(X) else X
    return rows, *(V if V.dtype == dtype else V.to(dtype) for V in parameters)


class Logits(LightFunction):
    """``(X, W1, b1, W2, b2) → Z2``."""

    @staticmethod
    def forward(X: Tensor, *others: Any) -> Tensor:
        return operators.logits(X, *others[:-1])[0]  # the kernel is one of the backward pass

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *network, ctx.activation, ctx.chunk_size, ctx.kernel = inputs
        ctx.save_for_backward(*network)
        ctx.save_for_forward(*network)

    @staticmethod
    def backward(ctx: Any, dZ2: Tensor) -> Tensors:
        X, *parameters = ctx.saved_tensors
        input_gradient = ctx.needs_input_grad[0] or _any_moves(X)
        options = Options(ctx.activation, chunk_size=ctx.chunk_size, input_gradient=input_gradient, kernel=ctx.kernel)
        _, *gradients = Gradients.apply(X, dZ2, *parameters, None, None, options)
        return *gradients, None, None, None

    @staticmethod
    def jvp(ctx: Any, tX: Tensor | None, *others: Tensor | None) -> Tensor:
        with saved_for_jvp(ctx) as (X, *parameters):
            # The gradient of Σ Z2 ⊙ Y along Y is Z2, for any Y: how it changes is the tangent of Z2.
            Y = parameters[3].new_zeros(X.shape[0], parameters[3].shape[0])
            options = Options(ctx.activation, chunk_size=ctx.chunk_size, input_gradient=tX is not None)
            return _hessian_times((tX, None, *others[:4]), (X, Y, *parameters, None, None), options)[1]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        (Z2,) = _mapped(operators.logits, in_dims, args[:5], args[5:7])
        return Z2, 0


class Gradients(LightFunction):
    """``(X, Y, W1, b1, W2, b2, sample_weight, class_weight) → (J, dX or None, dW1, db1, dW2, db2)``.

    All can be differentiated with respect to ``X`` and the parameters. Of the cost ``PAIRING``, the gradients can be
    with respect to ``Y`` too, and ``J`` cannot.
    """

    @staticmethod
    def forward(X: Tensor, *others: Any) -> Tensors:
        *tensors, options = others
        J, *grads = operators.loss_and_grads(X, *tensors, *options)
        return J, *([] if options.input_gradient else [None]), *grads

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors, *output[1:])
        ctx.save_for_forward(*tensors, *output[1:])
        ctx.set_materialize_grads(False)
        if ctx.options.task == PAIRING:
            ctx.mark_non_differentiable(output[0])

    @staticmethod
    def backward(ctx: Any, dJ: Tensor | None, *incoming: Tensor | None) -> Tensors:
        options, saved = ctx.options, ctx.saved_tensors  # unpacked once: a checkpoint refuses a second time
        tensors, (dX, *grads) = saved[:8], saved[8:]
        _refuse_targets(ctx.needs_input_grad, options)
        scale = None if options.task == PAIRING else dJ
        terms = [None if scale is None or dV is None else scale * dV for dV in (dX, None, *grads)]
        if any(V is not None for V in incoming):
            product = _hessian_times((incoming[0], None, *incoming[1:]), tensors, options)
            terms = [added(*pair) for pair in zip(terms, product, strict=True)]
        return *terms, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensors:
        _refuse_targets([V is not None for V in tangents], ctx.options)
        with saved_for_jvp(ctx) as saved:
            tensors, (dX, *grads) = saved[:8], saved[8:]
            pairs = zip((dX, None, *grads), tangents[:6], strict=True)
            tJ = added(*((dV * tV).sum() for dV, tV in pairs if dV is not None and tV is not None))
            tdX, _, *moved = _hessian_times(tangents[:6], tensors, ctx.options)
            return None if ctx.options.task == PAIRING else tJ, tdX, *moved

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int | None, ...]]:
        J, *grads = _mapped(operators.loss_and_grads, in_dims, args[:8], args[8])
        return _with_dims((J, *([] if args[-1].input_gradient else [None]), *grads))


class HessianProduct(LightFunction):
    """``(X, Y, W1, b1, W2, b2, sample_weight, class_weight, tX, tY, tW1, …, tb2) → (hX, hY, hW1, hb1, hW2, hb2)``.

    The Hessian times the direction ``t…``, of which ``tX`` and ``tY`` may be None. ``hX`` is None unless options ask
    for it, and ``hY`` but for the cost ``PAIRING``.
    """

    @staticmethod
    def forward(X: Tensor, *others: Any) -> Tensors:
        *tensors, options = others
        return _in_place(operators.hvp(X, *tensors, *options), options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor | None) -> Tensors:
        options, saved = ctx.options, ctx.saved_tensors
        tensors, direction = saved[:8], saved[8:]
        _refuse_targets(ctx.needs_input_grad, options)
        along: Tensors = (None,) * 6
        back = along
        if any(ctx.needs_input_grad[:6]):
            along = _third_derivative(direction, incoming, tensors, options)
        if any(ctx.needs_input_grad[8:]):
            product = _hessian_times(incoming, tensors, options)  # it is symmetric
            back = tuple(None if tV is None else hV for hV, tV in zip(product, direction, strict=True))
        return *along, None, None, *back, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensors:
        _refuse_targets([V is not None for V in tangents], ctx.options)
        with saved_for_jvp(ctx) as saved:
            tensors, direction = saved[:8], saved[8:]
            terms = _hessian_times(tangents[8:14], tensors, ctx.options)
            if any(V is not None for V in tangents[:6]):
                third = _third_derivative(direction, tangents[:6], tensors, ctx.options)
                terms = tuple(added(*pair) for pair in zip(terms, third, strict=True))
            return terms

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int | None, ...]]:
        return _with_dims(_in_place(_mapped(operators.hvp, in_dims, args[:14], args[14]), args[14]))


def _hessian_times(direction: Tensors, tensors: Tensors, options: Options) -> Tensors:
    return HessianProduct.apply(*tensors, *_whole(direction, tensors), options)


def _third_derivative(first: Tensors, second: Tensors, tensors: Tensors, options: Options) -> Tensors:
    """The derivative of the cost in two directions, with respect to the network: symmetric in the three."""
    places = _places(options)

    def product(*moving: Tensor) -> list[Tensor]:
        network = list(tensors[:6])
        for place, V in zip(places, moving, strict=True):
            network[place] = V
        return operators.hvp.at_once(*network, *tensors[6:], *_whole(first, tensors), *options)

    moving = [tensors[place] for place in places]
    along = [
        torch.zeros_like(V) if second[place] is None else second[place] for place, V in zip(places, moving, strict=True)
    ]
    return _in_place(torch.func.vjp(product, *moving)[1](along), options)


def _places(options: Options) -> list[int]:
    """Where in ``(X, Y, W1, b1, W2, b2)`` that stands along which a derivative may be asked for."""
    return [place for place in range(6) if place > 1 or (options.input_gradient, options.task == PAIRING)[place]]


def _in_place(values: Iterable[Tensor], options: Options) -> Tensors:
    """The values in those places, None in the others."""
    found = dict(zip(_places(options), values, strict=True))
    return tuple(found.get(place) for place in range(6))


def _whole(direction: Tensors, tensors: Tensors) -> Tensors:
    """A direction whose parameters are zero where they are None."""
    parameters = zip(direction[2:], tensors[2:6], strict=True)
    return *direction[:2], *(torch.zeros_like(V) if tV is None else tV for tV, V in parameters)


def _mapped(
    function: operators.Pass, in_dims: tuple[Any, ...], tensors: Tensors, options: tuple[Any, ...]
) -> list[Tensor]:
    return torch.vmap(lambda *tensors: function.at_once(*tensors, *options), in_dims[: len(tensors)])(*tensors)


def _with_dims(outputs: Tensors) -> tuple[Tensors, tuple[int | None, ...]]:
    return outputs, tuple(None if V is None else 0 for V in outputs)


def _refuse_targets(asked: Sequence[bool], options: Options) -> None:
    """Raises where a derivative would be asked for that the equations here do not have: :func:`loss` sees to it."""
    if (asked[1] and options.task != PAIRING) or any(asked[6:8]):
        raise RuntimeError("targets and weights must not be given a derivative after the streamed cost was computed")
