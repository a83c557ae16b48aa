"""Who runs a pass: the one place that decides, for every mode and every function.

- What a transform maps over or differentiates, and what torch.compile or an export writes down, is computed by
  :mod:`~twolayer.kernels.plain`, all examples at once.
- What traces otherwise, such as the graph of a Function under torch.compile, meets each pass as one opaque operator of
  PyTorch's, ``torch.ops.twolayer``, and knows only the shapes that come out.
- Else a kernel runs, the fastest that can, or the one that is asked for by its name. None is swapped for another
  unseen: :func:`kernel_for` says which one a call takes, and one that is asked for runs or raises.
- ``"torch"`` is :mod:`~twolayer.kernels.chunked`, or ``plain`` where the examples fit one chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from twolayer import context
from twolayer.equations import Parameters
from twolayer.kernels import chunked, cpu, gpu, plain
from twolayer.tasks import PAIRING, Direction, Examples, Objective

KERNELS = ("torch", "cpu", *gpu.KERNELS)
DEVICES = {"cpu": "cpu", "triton_descent": "cuda", **dict.fromkeys(gpu.KERNELS, "cuda")}
"""On which a kernel runs that is not PyTorch's operators."""


@dataclass(frozen=True)
class Plan:
    """How a pass is to run, and whether it gives ``dX`` too."""

    chunk_size: int | None = None
    """Examples at a time in PyTorch's operators."""
    kernel: str | None = None
    """One of ``KERNELS``, or None for the fastest that can run."""
    input_gradient: bool = False


def kernel_for(examples: Examples, parameters: Parameters, objective: Objective, plan: Plan) -> str:
    """The one of ``KERNELS`` that runs :func:`loss_and_grads` on these.

    Raises:
        RuntimeError: the one that is asked for cannot.
    """
    if plan.kernel == "torch" or (plan.kernel is None and plan.chunk_size is not None):
        return "torch"
    for name in KERNELS[1:] if plan.kernel is None else [plan.kernel]:
        reason = why_not(name, examples, parameters, objective)
        if reason is None:
            return name
    if plan.kernel is not None:
        raise RuntimeError(f"kernel {plan.kernel!r} cannot run: {reason}")
    return "torch"


def why_not(kernel: str, examples: Examples, parameters: Parameters, objective: Objective) -> str | None:
    """What keeps a kernel from these, or None."""
    device = parameters.W1.device
    if device.type != DEVICES[kernel]:
        return f"it runs on {DEVICES[kernel].upper()}, and W1 is on {device}"
    reason = why_not_by_address(examples, parameters)
    if reason is not None:
        return reason
    if kernel == "cpu":
        return cpu.why_not(examples, parameters, objective)
    return gpu.why_not(kernel, examples, parameters, objective)


def why_not_by_address(examples: Examples, parameters: Parameters) -> str | None:
    """What keeps a kernel from reading tensors by their address, or None: a transform, a trace, or strides."""
    X, Y, W1 = examples.X, examples.Y, parameters.W1
    for name, V in (("X", X), ("W1", W1), ("Y", Y)):
        if context.is_transformed(V):
            return f"it reads memory, and {name} has none of its own inside a transform"
        if context.is_traced(V):
            return f"it reads memory, and inside a trace {name} may have none"
    for name, V in (("X", X), ("Y", Y)):
        if V.ndim == 2 and V.shape[1] > 1 and V.stride(1) != 1:
            return f"it reads rows, and {name} has strides {V.stride()}"
    return None


def _torch(X: Tensor, parameters: Parameters, plan: Plan) -> tuple[ModuleType, dict[str, Any]]:
    """What computes in PyTorch's operators, with how it is told the size of a chunk.

    Buffers gain nothing where the examples fit one chunk. Half precision gains the precision of the chunks.
    """
    W1 = parameters.W1
    whole = len(X) <= (plan.chunk_size or chunked.default_rows(parameters))
    if whole and W1.dtype not in (torch.float16, torch.bfloat16):
        return plain, {}
    return chunked, {"chunk_size": plan.chunk_size}


def _all_at_once(*tensors: Tensor | None) -> bool:
    return context.written_down() or any(map(context.is_transformed, tensors))


# Passes: each as a caller calls it, then as an operator, tensors and numbers one after the other.


def logits(X: Tensor, parameters: Parameters, activation: str, plan: Plan) -> Tensor:
    """``Z2``, ``(m, n_y)``, in at least float32."""
    if _all_at_once(X, *parameters):
        with context.no_autocast(X.device):
            return plain.logits(X, parameters, activation)
    if context.is_traced(X):
        return OPERATORS["logits"](X, *parameters, activation, plan.chunk_size)
    return _logits(X, parameters, activation, plan)


def _logits(X: Tensor, parameters: Parameters, activation: str, plan: Plan) -> Tensor:
    by, options = _torch(X, parameters, plan)
    with torch.no_grad(), context.no_autocast(X.device):
        Z2: Tensor = by.logits(X, parameters, activation, **options)
        return Z2


def loss_and_grads(
    examples: Examples, parameters: Parameters, objective: Objective, plan: Plan
) -> tuple[Tensor, Tensor | None, Parameters]:
    """``J``, ``dX`` if the plan asks for it, and the gradients of the parameters; the reduction is a mean or a sum."""
    if _all_at_once(*examples, *parameters):
        with context.no_autocast(examples.X.device):
            return plain.loss_and_grads(examples, parameters, objective, input_gradient=plan.input_gradient)
    if context.is_traced(examples.X):
        J, *grads = OPERATORS["loss_and_grads"](*examples, *parameters, *vars(objective).values(), *vars(plan).values())
        return J, grads[4] if plan.input_gradient else None, Parameters(*grads[:4])
    return _loss_and_grads(examples, parameters, objective, plan)


def _loss_and_grads(
    examples: Examples, parameters: Parameters, objective: Objective, plan: Plan
) -> tuple[Tensor, Tensor | None, Parameters]:
    kernel = kernel_for(examples, parameters, objective, plan)
    if kernel == "cpu":
        return cpu.loss_and_grads(examples, parameters, objective, input_gradient=plan.input_gradient)
    by, options = _torch(examples.X, parameters, plan) if kernel == "torch" else (gpu.module(kernel), {})
    with torch.no_grad(), context.no_autocast(examples.X.device):
        found: tuple[Tensor, Tensor | None, Parameters] = by.loss_and_grads(
            examples, parameters, objective, input_gradient=plan.input_gradient, **options
        )
        return found


def hvp(
    examples: Examples, parameters: Parameters, direction: Direction, objective: Objective, plan: Plan
) -> Direction:
    """The Hessian of the cost times a direction, along ``X`` if the plan asks for it, and ``Y`` for ``PAIRING``."""
    tX, tY, moving = direction
    if _all_at_once(*examples, *parameters, tX, tY, *moving):
        with context.no_autocast(examples.X.device):
            return plain.hvp(examples, parameters, direction, objective, input_gradient=plan.input_gradient)
    if context.is_traced(examples.X):
        options = (*vars(objective).values(), *vars(plan).values())
        products = OPERATORS["hvp"](*examples, *parameters, tX, tY, *moving, *options)
        others = iter(products[4:])
        hX = next(others) if plan.input_gradient else None
        hY = next(others) if objective.task == PAIRING else None
        return Direction(hX, hY, Parameters(*products[:4]))
    return _hvp(examples, parameters, direction, objective, plan)


def _hvp(
    examples: Examples, parameters: Parameters, direction: Direction, objective: Objective, plan: Plan
) -> Direction:
    by, options = _torch(examples.X, parameters, plan)
    with torch.no_grad(), context.no_autocast(examples.X.device):
        product: Direction = by.hvp(
            examples, parameters, direction, objective, input_gradient=plan.input_gradient, **options
        )
        return product


def per_sample_grad_norms(examples: Examples, parameters: Parameters, objective: Objective, plan: Plan) -> Tensor:
    """The norm of each example's own gradient, ``(m,)``.

    Raises:
        RuntimeError: inside a transform or a graph.
    """
    if context.in_graph_or_transform():
        raise RuntimeError("per_sample_grad_norms goes in chunks, which torch.compile and torch.func do not go through")
    with context.no_autocast(examples.X.device):
        return chunked.per_sample_grad_norms(examples, parameters, objective, chunk_size=plan.chunk_size)


EXAMPLES = "Tensor X, Tensor Y, Tensor? sample_weight, Tensor? class_weight"
PARAMETERS = "Tensor W1, Tensor b1, Tensor W2, Tensor b2"
DIRECTION = "Tensor? tX, Tensor? tY, Tensor tW1, Tensor tb1, Tensor tW2, Tensor tb2"
OPTIONS = (
    "str activation, str task, float label_smoothing, str reduction, int? chunk_size, str? kernel, bool input_gradient"
)


def _flat_logits(*arguments: Any) -> Tensor:
    X, *others, activation, chunk_size = arguments
    return _logits(X, Parameters(*others), activation, Plan(chunk_size))


def _flat_loss_and_grads(*arguments: Any) -> list[Tensor]:
    *tensors, objective, plan = _values(arguments)
    J, dX, grads = _loss_and_grads(Examples(*tensors[:4]), Parameters(*tensors[4:]), objective, plan)
    return [J, *grads, *([] if dX is None else [dX])]


def _flat_hvp(*arguments: Any) -> list[Tensor]:
    *tensors, objective, plan = _values(arguments)
    direction = Direction(tensors[8], tensors[9], Parameters(*tensors[10:]))
    hX, hY, product = _hvp(Examples(*tensors[:4]), Parameters(*tensors[4:8]), direction, objective, plan)
    return [*product, *(V for V in (hX, hY) if V is not None)]


def _shape_of_logits(X: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, *_: Any) -> Tensor:
    return _like(W1, X.shape[0], W2.shape[0])


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


def _operator(name: str, schema: str, function: Callable[..., Any], shapes: Callable[..., Any]) -> Callable[..., Any]:
    operator = torch.library.custom_op(f"twolayer::{name}", function, mutates_args=(), schema=schema)
    operator.register_fake(shapes)
    return operator


OPERATORS = {
    "logits": _operator(
        "logits", f"(Tensor X, {PARAMETERS}, str activation, int? chunk_size) -> Tensor", _flat_logits, _shape_of_logits
    ),
    "loss_and_grads": _operator(
        "loss_and_grads",
        f"({EXAMPLES}, {PARAMETERS}, {OPTIONS}) -> Tensor[]",
        _flat_loss_and_grads,
        _shapes_of_loss_and_grads,
    ),
    "hvp": _operator(
        "hvp", f"({EXAMPLES}, {PARAMETERS}, {DIRECTION}, {OPTIONS}) -> Tensor[]", _flat_hvp, _shapes_of_hvp
    ),
}
