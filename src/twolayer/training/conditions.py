"""When several optimiser steps in one call of ``training_step`` are the same training as one at a time.

Lightning takes such a block of batches for one batch: its hooks, and what counts batches, come between blocks.
"""

from math import gcd
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    Callback,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    Timer,
)
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

HOOKS_OF_A_STEP = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
)
"""What does not come between the steps of a block; ``on_before_optimizer_step`` and the clipping of gradients do."""
BEFORE_A_STEP = ("on_before_optimizer_step", "configure_gradient_clipping")
METHODS_OF_A_STEP = ("training_step", "backward", "optimizer_step", "optimizer_zero_grad", *HOOKS_OF_A_STEP)
ONLY_LOOK_ON = (ModelCheckpoint, ProgressBar, Timer)
"""Callbacks that may as well come between blocks; checkpoints, where :func:`aligned_steps` makes blocks end."""


def why_not_in_blocks(trainer: L.Trainer, module: L.LightningModule, base: type[L.LightningModule]) -> str | None:
    """What asks for every single batch, in words; None if nothing does.

    Args:
        trainer: with its callbacks.
        module: of the class ``base``, which knows blocks, or of a subclass, whose methods may not.
    """
    if trainer.accumulate_grad_batches != 1:
        return f"accumulate_grad_batches is {trainer.accumulate_grad_batches}"
    for name in ("limit_train_batches", "val_check_interval"):
        value = getattr(trainer, name)
        if value != 1.0 and (isinstance(value, int) or name == "limit_train_batches"):
            return f"{name} is {value}, which counts batches"
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        return "the precision scales gradients"
    strategy = trainer.strategy
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        return f"{type(strategy).__name__} deals with gradients in a way of its own"
    if getattr(strategy, "_ddp_comm_hook", None) is not None:
        return "the strategy has a communication hook"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler) and callback.going_to_accumulate_grad_batches():
            return f"{type(callback).__name__} changes accumulate_grad_batches"
        only_looks_on = isinstance(callback, ONLY_LOOK_ON) or (
            isinstance(callback, LearningRateMonitor) and callback.logging_interval == "epoch"
        )
        if not only_looks_on and (hook := _overridden(callback, Callback, HOOKS_OF_A_STEP)):
            return f"{type(callback).__name__} has {hook}"
    if method := _overridden(module, base, METHODS_OF_A_STEP):
        return f"{type(module).__name__} has a {method} of its own"
    return None


def aligned_steps(trainer: L.Trainer, most: int, steps: int) -> int:
    """The most steps a block may have for one to end wherever Lightning has to act on the count of steps.

    Args:
        trainer: with its ``max_steps``, and its checkpoints with their ``every_n_train_steps``.
        most: no more than that.
        steps: in an epoch, which ends a block as well.
    """
    checkpoints = [c._every_n_train_steps for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    ends = 0  # every number divides it
    for every in checkpoints:
        if every % steps:
            ends = gcd(ends, every, steps)
    if trainer.max_steps != -1:
        ends = gcd(ends, trainer.max_steps % steps)
    return max(size for size in range(1, most + 1) if ends % size == 0)


def only_the_optimizer_s(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether nothing stands between the gradients and the optimizer's step: no clipping, no hook, no scaling."""
    return (
        not trainer.gradient_clip_val
        and type(trainer.precision_plugin).optimizer_step is Precision.optimizer_step
        and not _overridden(module, L.LightningModule, BEFORE_A_STEP)
        and not any(_overridden(callback, Callback, BEFORE_A_STEP[:1]) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    )


def _overridden(thing: Any, base: type, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if is_overridden(name, thing, base)), None)
