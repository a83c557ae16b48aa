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
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    StepLR,
)

from twolayer import context
from twolayer.equations import Parameters
from twolayer.kernels import cpu_steps
from twolayer.kernels.cpu_steps import Standard, Steps, Update
from twolayer.loading import Rows
from twolayer.tasks import Examples, Objective
from twolayer.training.conditions import OF_A_MODULE, overridden

OPTIONS = {
    SGD: {"lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize", "foreach", "differentiable", "fused"},
    Adam: {
        *("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "foreach", "capturable", "differentiable"),
        *("fused", "decoupled_weight_decay"),
    },
}
OPTIONS[AdamW] = OPTIONS[Adam]
"""All that the classes of optimizers take that the kernel knows."""
OF_A_GROUP = {
    cpu_steps.SGD: ("lr", "weight_decay", "momentum", "dampening", "nesterov"),
    cpu_steps.ADAM: ("lr", "weight_decay", "betas", "eps"),
}
"""The options of which the kernel is told as they stand in a group of parameters."""
NUMBERS = ("lr", "momentum", "dampening", "weight_decay", "eps")
OFF = ("maximize", "foreach", "capturable", "differentiable")


class Problem(NamedTuple):
    """What the kernel has to know of data and network, see :func:`twolayer.training.kernel_problem.problem`."""

    examples: Examples
    """All there are, of which a batch is some rows."""
    parameters: Parameters
    objective: Objective
    standard: Standard


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
        if method not in OF_A_MODULE:
            return f"{type(module).__name__} has a {method} of its own"
    return None


def updates(optimizer: Optimizer, parameters: Parameters) -> list[Update] | str:
    """How an optimizer changes each parameter; or why it goes step by step, for the first step at least."""
    cls = type(optimizer)
    if cls not in OPTIONS or not optimizer.defaults.keys() <= OPTIONS[cls]:
        return f"it knows SGD, Adam and AdamW, and the optimizer is {cls.__module__}.{cls.__name__}"
    groups = _groups(optimizer)
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
        if not all(is_state(T, () if T is update.step else V.shape) for T in update.state):
            return "the optimizer's state is no float32 like the parameters"
        found.append(update)
    return found


def rescheduled(changes: Sequence[Update], optimizer: Optimizer, parameters: Parameters) -> list[Update]:
    """Those of the next step, after schedulers that are :func:`foreseeable`, which change a group's numbers alone.

    To ask :func:`updates` again would take as long as the step of a small network.
    """
    groups = _groups(optimizer)
    return [
        update._replace(**{name: groups[V][name] for name in OF_A_GROUP[update.rule]})
        for V, update in zip(parameters, changes, strict=True)
    ]


def _groups(optimizer: Optimizer) -> dict[Tensor, dict[str, Any]]:
    """Of each parameter the group that it is in."""
    return {V: group for group in optimizer.param_groups for V in group["params"]}


BY_NUMBER = (
    *(ConstantLR, CosineAnnealingLR, CosineAnnealingWarmRestarts, ExponentialLR, LinearLR),
    *(MultiStepLR, OneCycleLR, PolynomialLR, StepLR),
)
"""Schedulers that look at nothing but the number of steps; in others a user's own function may look at anything."""


def foreseeable(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether what schedulers do after steps may as well come before, and is a change of numbers alone."""
    if "lr_scheduler_step" in overridden(module, L.LightningModule):
        return False
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    stops = any(group.get("base_momentum") == 0 for group in groups)  # then SGD leaves its buffer alone
    return all(type(scheduler) in BY_NUMBER for scheduler in schedulers) and not stops


NOT_BEGUN = "the optimizer makes its state in a first step"


def _of_sgd(group: dict[str, Any], state: dict[str, Any]) -> Update | str:
    momentum = group["momentum"]
    buffer = state.get("momentum_buffer") if momentum else None
    if momentum and buffer is None:
        return NOT_BEGUN
    return Update(cpu_steps.SGD, momentum_buffer=buffer, **{name: group[name] for name in OF_A_GROUP[cpu_steps.SGD]})


def _of_adam(group: dict[str, Any], state: dict[str, Any]) -> Update | str:
    names = ("step", "exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))
    if not state.keys() >= set(names):
        return NOT_BEGUN
    if not all(isinstance(beta, float | int) for beta in group["betas"]):
        return "the optimizer's options are no numbers"
    options = {name: group[name] for name in OF_A_GROUP[cpu_steps.ADAM]}
    decoupled = group["decoupled_weight_decay"]
    return Update(cpu_steps.ADAM, decoupled=decoupled, **options, **{name: state[name] for name in names})


def is_plain(V: Tensor) -> bool:
    """Whether what stands at its address are its numbers."""
    return V.is_cpu and V.layout is torch.strided and not V.is_neg() and not context.is_freed(V)


def is_state(V: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether the kernel may read and change it at its address, as float32 of that shape."""
    return type(V) is Tensor and is_plain(V) and V.dtype is torch.float32 and V.shape == shape and V.is_contiguous()


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
