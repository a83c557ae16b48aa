"""What the steps of a block in one call of the CPU kernel start from: a network, the rows, and what standardises them.

All that the kernel knows to read as PyTorch does is listed here. How it takes the steps is
:mod:`twolayer.training.kernel_steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Parameter

from twolayer import arguments, context
from twolayer.equations import Parameters
from twolayer.kernels import choice
from twolayer.kernels.cpu_steps import Standard
from twolayer.tasks import Examples
from twolayer.training.conditions import overridden, package_class
from twolayer.training.kernel_steps import Problem, is_plain, is_state
from twolayer.training.standardization import Standardize

if TYPE_CHECKING:
    from twolayer.network import TwoLayerNet


def problem(
    net: TwoLayerNet, tensors: Sequence[Tensor] | None, inputs: Standardize, targets: Standardize | None
) -> Problem | str:
    """That of a network on rows of these tensors, which modules standardise; or why the kernel has no part in it."""
    named = dict(net.named_parameters())
    if named.keys() != set(Parameters._fields) or not all(V.requires_grad for V in named.values()):
        return "it changes all four parameters, and no others"
    parameters = Parameters(**named)
    if net.backward == "autograd":
        return "mode 'autograd' goes by PyTorch"
    if reason := _why_not_called(net, inputs, targets):
        return reason
    if net.kernel not in (None, "cpu") or net.chunk_size is not None:
        return "the network asks for a kernel or chunk_size"
    if tensors is None or len(tensors) not in (2, 3):
        return "batches do not come as rows of X, Y and weights that are in memory"
    if not all(V is None or V.is_cpu for V in (*parameters, *tensors)):
        return "it runs on CPU, and the network or the rows are elsewhere"
    if context.autocast_enabled(parameters.W1.device):
        return "autocast is on"
    X, Y, *weights = tensors
    w = weights[0] if weights else None
    objective = arguments.objective(net.activation, net.task, net.label_smoothing)
    examples = Examples(X, Y, w, net.class_weight)
    if not all(type(V) is Parameter and V.is_contiguous() for V in parameters):
        return "it changes plain, contiguous parameters"
    if not context.at_rest(*examples) or not all(V is None or is_plain(V) for V in (*examples, *parameters)):
        return "it reads plain tensors in memory"
    reason = choice.why_not("cpu", examples, parameters, objective)
    if reason is not None:
        return reason
    if not _fit(examples, parameters, net.task):
        return "rows, targets or weights have another shape or dtype than batches for it"
    standard = Standard(inputs.mean, inputs.std, *((targets.mean, targets.std) if targets is not None else ()))
    for V, width in zip(standard, (X.shape[1],) * 2 + (len(parameters.b2),) * 2, strict=True):
        if V is not None and not is_state(V, (width,)):
            return "the statistics are no float32"
    return Problem(examples, parameters, objective, standard)


def _why_not_called(net: TwoLayerNet, inputs: Standardize, targets: Standardize | None) -> str | None:
    """What has a say in the batch or in the gradients, beside the equations."""
    for module in (net, inputs, targets):
        if module is not None:
            if type(module) is not (cls := package_class(module)) or overridden(module, cls):
                return f"{type(module).__name__} has methods of its own"
            if reason := context.hooks_of(module):
                return f"{type(module).__name__} has {reason}"
    return None


def _fit(examples: Examples, parameters: Parameters, task: str) -> bool:
    """Whether shapes and dtypes are those of the door, :func:`twolayer.arguments.call`, on the CPU."""
    X, Y, w, class_weight = examples
    m, n_y = len(X), len(parameters.b2)
    if X.ndim != 2 or X.shape[1] != parameters.W1.shape[1] or m == 0:
        return False
    if w is not None and w.shape != (m,):
        return False
    if class_weight is not None and len(class_weight) != (2 if task == "binary" else n_y):
        return False
    if task == "multiclass" and not Y.is_floating_point():
        return Y.shape == (m,) and Y.dtype is not torch.bool
    if (task == "regression" and Y.dtype is not torch.float32) or (task == "binary" and n_y != 1):
        return False
    return Y.shape == (m, n_y) or (n_y == 1 and Y.shape == (m,) and task != "multiclass")
