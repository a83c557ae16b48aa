"""The steps of a block in one call of the CPU kernel: where that is the same training, and what the kernel is told.

The kernel gathers the rows of each batch and standardises them, computes cost and gradients, and changes parameters and
the optimizer's own state as :mod:`torch.optim` does. All that it is known to do so for is listed here; anything else
goes step by step.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from twolayer import arguments, context
from twolayer.equations import Parameters
from twolayer.kernels import choice, cpu_steps
from twolayer.kernels.cpu_steps import Standard, Steps, Update
from twolayer.loading import Rows
from twolayer.network import TwoLayerNet
from twolayer.tasks import Examples, Objective
from twolayer.training.conditions import OF_A_MODULE, overridden
from twolayer.training.standardization import Standardize

OPTIONS = {
    SGD: {"lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize", "foreach", "differentiable", "fused"},
    Adam: {
        *("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "foreach", "capturable", "differentiable"),
        *("fused", "decoupled_weight_decay"),
    },
}
OPTIONS[AdamW] = OPTIONS[Adam]
"""All that the classes of optimizers take that the kernel knows."""
NUMBERS = ("lr", "momentum", "dampening", "weight_decay", "eps")
OFF = ("maximize", "foreach", "capturable", "differentiable")
MAY_BE_ITS_OWN = OF_A_MODULE - {"prepared"}


class Problem(NamedTuple):
    """What the kernel has to know of data and network."""

    examples: Examples
    """All there are, of which a batch is some rows."""
    parameters: Parameters
    objective: Objective
    standard: Standard


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
    if not context.at_rest(*examples) or not all(V is None or _is_plain(V) for V in (*examples, *parameters)):
        return "it reads plain tensors in memory"
    reason = choice.why_not("cpu", examples, parameters, objective)
    if reason is not None:
        return reason
    if not _fit(examples, parameters, net.task):
        return "rows, targets or weights have another shape or dtype than batches for it"
    standard = Standard(inputs.mean, inputs.std, *((targets.mean, targets.std) if targets is not None else ()))
    for V, width in zip(standard, (X.shape[1],) * 2 + (len(parameters.b2),) * 2, strict=True):
        if V is not None and not _is_state(V, (width,)):
            return "the statistics are no float32"
    return Problem(examples, parameters, objective, standard)


def _why_not_called(net: TwoLayerNet, inputs: Standardize, targets: Standardize | None) -> str | None:
    """What has a say in the batch or in the gradients, beside the equations."""
    for module, cls in ((net, TwoLayerNet), (inputs, Standardize), (targets, Standardize)):
        if module is not None:
            if type(module) is not cls or overridden(module, cls):
                return f"{type(module).__name__} has methods of its own"
            if reason := context.hooks_of(module):
                return f"{type(module).__name__} has {reason}"
    return None


def _fit(examples: Examples, parameters: Parameters, task: str) -> bool:
    """Whether shapes and dtypes are those of the door, :func:`twolayer.arguments.examples`, on the CPU."""
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


def why_not(trainer: L.Trainer, module: L.LightningModule, base: type[L.LightningModule]) -> str | None:
    """What of the trainer and the module, of the class ``base`` or a subclass, asks for every step, or None."""
    if trainer.world_size != 1:
        return "gradients are averaged over processes"
    if type(trainer.precision_plugin) is not Precision:
        return f"it computes in float32, and the precision is {trainer.precision}"
    clip, algorithm = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
    if clip and not (algorithm in (None, "norm") and 0 < clip < math.inf):
        return (
            f"it clips gradients to a finite norm, and gradient_clip_val is {clip}, by {algorithm and algorithm.value}"
        )
    for method in overridden(module, base):
        if method not in MAY_BE_ITS_OWN:
            return f"{type(module).__name__} has a {method} of its own"
    return None


def updates(optimizer: Optimizer, parameters: Parameters) -> list[Update] | str:
    """How an optimizer changes each parameter; or why it goes step by step, for the first step at least."""
    cls = type(optimizer)
    if cls not in OPTIONS or not optimizer.defaults.keys() <= OPTIONS[cls]:
        return f"it knows SGD, Adam and AdamW, and the optimizer is {cls.__module__}.{cls.__name__}"
    if reason := context.hooks_of_optimizer(optimizer):
        return f"the optimizer has {reason}"
    groups = {V: group for group in optimizer.param_groups for V in group["params"]}
    if groups.keys() != set(parameters):
        return "the optimizer has not all four parameters, or others"
    found = []
    for V in parameters:
        group, state = groups[V], optimizer.state.get(V, {})
        if not group["fused"] or any(group.get(name) for name in OFF):
            return f"the optimizer is told otherwise than {cls.__name__}(fused=True)"
        if not all(isinstance(group.get(name, 0.0), float | int) for name in NUMBERS):
            return "the optimizer's options are no numbers"
        update = _of_sgd(group, state) if cls is SGD else _of_adam(group, state)
        if isinstance(update, str):
            return update
        if not all(_is_state(T, () if T is update.step else V.shape) for T in update.state):
            return "the optimizer's state is no float32 like the parameters"
        found.append(update)
    return found


def foreseeable(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether what schedulers do after steps may as well come before: PyTorch's own look at their number alone."""
    return "lr_scheduler_step" not in overridden(module, L.LightningModule) and all(
        type(config.scheduler).__module__ == "torch.optim.lr_scheduler" for config in trainer.lr_scheduler_configs
    )


NOT_BEGUN = "the optimizer makes its state in a first step"


def _of_sgd(group: dict[str, Any], state: dict[str, Any]) -> Update | str:
    momentum = group["momentum"]
    buffer = state.get("momentum_buffer") if momentum else None
    if momentum and buffer is None:
        return NOT_BEGUN
    options = {name: group[name] for name in ("lr", "weight_decay", "momentum", "dampening", "nesterov")}
    return Update(cpu_steps.SGD, momentum_buffer=buffer, **options)


def _of_adam(group: dict[str, Any], state: dict[str, Any]) -> Update | str:
    names = ("step", "exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))
    if not state.keys() >= set(names):
        return NOT_BEGUN
    if not all(isinstance(beta, float | int) for beta in group["betas"]):
        return "the optimizer's options are no numbers"
    options = {name: group[name] for name in ("lr", "weight_decay", "betas", "eps")}
    decoupled = group["decoupled_weight_decay"]
    return Update(cpu_steps.ADAM, decoupled=decoupled, **options, **{name: state[name] for name in names})


def _is_plain(V: Tensor) -> bool:
    """Whether what stands at its address are its numbers."""
    return V.is_cpu and V.layout is torch.strided and not V.is_neg() and not context.is_freed(V)


def _is_state(V: Tensor, shape: tuple[int, ...]) -> bool:
    return type(V) is Tensor and _is_plain(V) and V.dtype is torch.float32 and V.shape == shape and V.is_contiguous()


def in_a_call(of: Problem, rows: Sequence[Rows]) -> Sequence[Rows]:
    """The first of those batches, as many as one call takes."""
    return rows[: cpu_steps.in_a_call(list(map(_size, rows)), of.parameters)]


def _size(batch: Rows) -> int:
    return batch.stop - batch.start if isinstance(batch, slice) else len(batch)


def take(
    of: Problem, optimizer: Optimizer, changes: list[Update], rows: Sequence[Rows], most_norm: float
) -> list[tuple[Tensor, int]]:
    """Steps on batches of these rows: the cost before each, and its rows.

    ``changes`` are one for each parameter, or four for each step. The steps are fewer where the next one is refused,
    which step by step raises what there is to be raised. ``.grad`` is what the last step went by. For the optimizer,
    and for who counts its calls, all of them are one.
    """
    batches = [
        torch.arange(batch.start, batch.stop, device="cpu") if isinstance(batch, slice) else batch for batch in rows
    ]
    steps = Steps(changes, batches, standard=of.standard, most_norm=most_norm)

    def closure() -> tuple[Tensor, Parameters]:
        for V in of.parameters:
            V.grad = None  # with which the optimizer's own step changes nothing more
        return cpu_steps.take(of.examples, of.parameters, of.objective, steps)

    step: Any = optimizer.step  # PyTorch's annotation asks a closure for a float, and passes on what it returns
    costs, gradients = step(closure)
    for V, dV in zip(of.parameters, gradients, strict=True):
        V.grad = dV if len(costs) else None
    return list(zip(costs.unbind(), map(_size, rows), strict=False))
