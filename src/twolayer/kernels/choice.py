"""Who runs a pass: the one place that decides, for every mode and every function.

- What a transform maps over or differentiates, and what torch.compile or an export writes down, is computed by
  :mod:`~twolayer.kernels.plain`, all examples at once.
- What traces otherwise, such as the graph of a Function under torch.compile, meets each pass as one opaque operator of
  PyTorch's, see :mod:`~twolayer.kernels.operators`.
- Else a kernel runs, the fastest that can, or the one that is asked for by its name. None is swapped for another
  unseen: :func:`kernel_for` says which one a call takes, and one that is asked for runs or raises.
- ``"torch"`` is :mod:`~twolayer.kernels.chunked`, or ``plain`` where the examples fit one chunk.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from twolayer import context
from twolayer.activations import ACTIVATIONS
from twolayer.equations import Kept, Parameters
from twolayer.kernels import KERNELS, chunked, cpu, gpu, memory, plain
from twolayer.tasks import PAIRING, Direction, Examples, Objective, Plan

DEVICES = {"cpu": "cpu", "triton_descent": "cuda", **dict.fromkeys(gpu.KERNELS, "cuda")}
"""On which a kernel runs that is not PyTorch's operators."""
IN_TURN = KERNELS[1:]


def kernel_for(examples: Examples, parameters: Parameters, objective: Objective, plan: Plan) -> str:
    """The one of ``KERNELS`` that runs :func:`loss_and_grads` on these.

    Raises:
        RuntimeError: the one that is asked for cannot.
    """
    return _kernel_for(examples, parameters, objective, plan, memory.unreadable(examples, parameters))


def _kernel_for(
    examples: Examples, parameters: Parameters, objective: Objective, plan: Plan, unreadable: str | None = None
) -> str:
    if plan.kernel == "torch" or (plan.kernel is None and plan.chunk_size is not None):
        return "torch"
    for name in IN_TURN if plan.kernel is None else (plan.kernel,):
        reason = unreadable or _why_not(name, examples, parameters, objective)
        if reason is None:
            return name
    if plan.kernel is not None:
        raise RuntimeError(f"kernel {plan.kernel!r} cannot run: {reason}")
    return "torch"


def why_not(kernel: str, examples: Examples, parameters: Parameters, objective: Objective) -> str | None:
    """What keeps a kernel from these, or None."""
    return memory.unreadable(examples, parameters) or _why_not(kernel, examples, parameters, objective)


def _why_not(kernel: str, examples: Examples, parameters: Parameters, objective: Objective) -> str | None:
    device = DEVICES[kernel]
    if not (parameters.W1.is_cpu if device == "cpu" else parameters.W1.is_cuda):
        return f"it runs on {device.upper()}, and W1 is on {parameters.W1.device}"
    reason = memory.why_not(examples)
    if reason is not None:
        return reason
    if kernel == "cpu":
        return cpu.why_not(examples, parameters, objective)
    return gpu.why_not(kernel, examples, parameters, objective)


def _torch(X: Tensor, parameters: Parameters, plan: Plan) -> tuple[ModuleType, dict[str, Any]]:
    """What computes in PyTorch's operators, with how it is told the size of a chunk.

    Buffers gain nothing where the examples fit one chunk. Half precision gains the precision of the chunks.
    """
    m, most = X.shape[0], plan.chunk_size or chunked.FEWEST_ROWS  # len takes longer than shape
    if m > most and plan.chunk_size is None:
        most = chunked.default_rows(parameters)
    if m <= most and parameters.W1.dtype not in (torch.float16, torch.bfloat16):
        return plain, {}
    return chunked, {"chunk_size": plan.chunk_size}


def _all_at_once(*tensors: Tensor | None) -> bool:
    return context.written_down() or any(map(context.is_transformed, tensors)) or context.has_tangent(*tensors)


# Passes: each as a caller calls it, then what runs it where nothing looks on.


def logits(X: Tensor, parameters: Parameters, activation: str, plan: Plan) -> Tensor:
    """``Z2``, ``(m, n_y)``, in at least float32."""
    if context.at_rest(X, *parameters):
        return run_logits(X, parameters, activation, plan)
    if _all_at_once(X, *parameters):
        with context.no_autocast(X.device):
            return plain.logits(X, parameters, activation)
    if context.is_traced(X):
        (Z2,) = context.operator("logits")(X, *parameters, activation, plan.chunk_size, plan.kernel)
        return Z2
    return run_logits(X, parameters, activation, plan)


def run_logits(X: Tensor, parameters: Parameters, activation: str, plan: Plan) -> Tensor:
    if _forward_by_kernel(X, parameters, activation, plan):
        return cpu.forward(*memory.readable_network(X, parameters), activation)[0]
    by, options = _torch(X, parameters, plan)
    with torch.no_grad(), context.no_autocast(X.device):
        Z2: Tensor = by.logits(X, parameters, activation, **options)
        return Z2


def _forward_by_kernel(X: Tensor, parameters: Parameters, activation: str, plan: Plan) -> bool:
    """Whether the CPU kernel computes logits, and the gradients from what comes back to them: wherever it can, unless
    another kernel is asked for."""
    if plan.kernel not in (None, "cpu") or plan.chunk_size is not None or not parameters.W1.is_cpu:
        return False
    return memory.has_rows(X) and cpu.why_no_forward(X, parameters, activation) is None


def forward(X: Tensor, parameters: Parameters, activation: str, plan: Plan) -> Tensor:
    """``Z2`` alone, in the dtype of the parameters, where nothing looks on."""
    if _forward_by_kernel(X, parameters, activation, plan):
        return cpu.forward(*memory.readable_network(X, parameters), activation)[0]
    return plain.logits(X, parameters, activation)


def forward_and_kept(X: Tensor, parameters: Parameters, activation: str, plan: Plan) -> tuple[Tensor, Tensor]:
    """``Z2`` and ``A1``, where nothing looks on."""
    if _forward_by_kernel(X, parameters, activation, plan):
        return cpu.forward_and_kept(*memory.readable_network(X, parameters), activation, plan)
    Z2, kept = plain.forward(X, parameters, ACTIVATIONS[activation])
    return Z2, kept.A1


def backward_from_kept(
    kept: Sequence[Tensor], dZ2: Tensor, activation: str, plan: Plan, needs: tuple[bool, ...]
) -> plain.Tangents:
    """``dX, dW1, db1, dW2, db2``, each if it is needed, from ``X, W1, b1, W2, b2, A1``, where nothing looks on."""
    X, W1, b1, W2, b2, A1 = kept
    parameters = Parameters(W1, b1, W2, b2)
    # Since the forward pass, .data may have been given other memory, which operators find out and a kernel would not.
    as_it_was = A1.shape == (len(X), len(W1)) and dZ2.shape == (len(X), len(W2)) and W2.shape[1:] == A1.shape[1:]
    as_it_was = as_it_was and W1.shape[1:] == X.shape[1:]
    ordinary = as_it_was and dZ2.dtype == X.dtype and _forward_by_kernel(X, parameters, activation, plan)
    if all(needs[1:]) and ordinary:
        X, parameters = memory.readable_network(X, parameters)
        return cpu.backward_from_kept((X, *parameters, A1), dZ2.resolve_neg().contiguous(), activation, plan, needs)
    return plain.backward(Kept(X, W1, W2, A1), ACTIVATIONS[activation], dZ2, needs=needs)


def loss_and_grads(
    examples: Examples, parameters: Parameters, objective: Objective, plan: Plan
) -> tuple[Tensor, Tensor | None, Parameters]:
    """``J``, ``dX`` if the plan asks for it, and the gradients of the parameters; the reduction is a mean or a sum."""
    if context.at_rest(*examples, *parameters):
        return run_loss_and_grads(examples, parameters, objective, plan)
    if _all_at_once(*examples, *parameters):
        with context.no_autocast(examples.X.device):
            return plain.loss_and_grads(examples, parameters, objective, input_gradient=plan.input_gradient)
    if context.is_traced(examples.X):
        J, *grads = context.operator("loss_and_grads")(
            *examples, *parameters, *vars(objective).values(), *vars(plan).values()
        )
        return J, grads[4] if plan.input_gradient else None, Parameters(*grads[:4])
    return run_loss_and_grads(examples, parameters, objective, plan)


def run_loss_and_grads(
    examples: Examples, parameters: Parameters, objective: Objective, plan: Plan
) -> tuple[Tensor, Tensor | None, Parameters]:
    kernel = _kernel_for(examples, parameters, objective, plan)  # whoever calls has seen that nothing looks on
    if kernel != "torch":
        examples, parameters = memory.readable(examples, parameters)
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
        products = context.operator("hvp")(*examples, *parameters, tX, tY, *moving, *options)
        others = iter(products[4:])
        hX = next(others) if plan.input_gradient else None
        hY = next(others) if objective.task == PAIRING else None
        return Direction(hX, hY, Parameters(*products[:4]))
    return run_hvp(examples, parameters, direction, objective, plan)


def run_hvp(
    examples: Examples, parameters: Parameters, direction: Direction, objective: Objective, plan: Plan
) -> Direction:
    along_others = direction.X is not None or direction.Y is not None or plan.input_gradient
    if not along_others and objective.task != PAIRING and _by_cpu(examples, parameters, objective, plan):
        examples, parameters = memory.readable(examples, parameters)
        _, moving = memory.readable_network(examples.X, direction.parameters)
        product = cpu.hvp(examples, parameters, moving, objective)
        return Direction(None, None, product)
    by, options = _torch(examples.X, parameters, plan)
    with torch.no_grad(), context.no_autocast(examples.X.device):
        found: Direction = by.hvp(
            examples, parameters, direction, objective, input_gradient=plan.input_gradient, **options
        )
        return found


def _by_cpu(examples: Examples, parameters: Parameters, objective: Objective, plan: Plan) -> bool:
    """Whether the CPU kernel runs what no other kernel has: wherever it can, unless another one is asked for."""
    if plan.kernel not in (None, "cpu") or plan.chunk_size is not None:
        return False
    return _why_not("cpu", examples, parameters, objective) is None


def per_sample_grad_norms(examples: Examples, parameters: Parameters, objective: Objective, plan: Plan) -> Tensor:
    """The norm of each example's own gradient, ``(m,)``.

    Raises:
        RuntimeError: inside a transform or a graph.
    """
    if context.in_graph_or_transform() or context.is_exporting() or context.has_tangent(*examples, *parameters):
        raise RuntimeError(
            "per_sample_grad_norms goes in chunks, which torch.compile, torch.func, forward mode and traces do not go "
            "through"
        )
    if context.at_rest(*examples, *parameters) and _by_cpu(examples, parameters, objective, plan):
        return cpu.per_sample_grad_norms(*memory.readable(examples, parameters), objective)
    with context.no_autocast(examples.X.device):
        return chunked.per_sample_grad_norms(examples, parameters, objective, chunk_size=plan.chunk_size)
