"""When several optimiser steps in one call of ``training_step`` are the same training as one at a time.

Lightning takes such a block of batches for one batch: its hooks, and what counts batches, come between blocks. So all
that is known not to look in between is listed here, and everything else gets one batch at a time.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from math import gcd
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    EarlyStopping,
    LambdaCallback,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
    RichModelSummary,
    RichProgressBar,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from twolayer import context

BETWEEN_EPOCHS = {
    *("setup", "teardown", "prepare_data", "configure_model", "configure_callbacks", "configure_optimizers"),
    *("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader"),
    *("on_fit_start", "on_fit_end", "on_train_end", "on_train_epoch_start", "on_train_epoch_end"),
    *("on_sanity_check_start", "on_sanity_check_end", "on_exception"),
    *("forward", "validation_step", "test_step", "predict_step", "print", "extra_repr"),
    *("state_dict", "load_state_dict", "state_key", "on_load_checkpoint", "lr_scheduler_step"),
}
"""Methods that may do as they like, and ``on_validation_…``, ``on_test_…``, ``on_predict_…`` beside them."""
OF_A_CALLBACK = BETWEEN_EPOCHS | {"on_train_start", "on_save_checkpoint"}
OF_A_MODULE = BETWEEN_EPOCHS | {"build_optimizer"}
OF_A_BLOCK = {"batch_loss", "batch_gradients", "kernel_problem", "after_steps", "why_no_blocks"}
"""What a class that computes the gradients of a block itself has beside them."""
LOOK_ON: tuple[type, ...] = (
    *(EarlyStopping, ModelCheckpoint, ModelSummary, RichModelSummary, Timer),
    *(ProgressBar, RichProgressBar, TQDMProgressBar),
)
"""Callbacks of Lightning's that may as well come between blocks: checkpoints, where :func:`aligned_steps` makes these
end. Others say so themselves, see :func:`looks_on`."""
OF_A_BATCH = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def why_not_in_blocks(trainer: L.Trainer, module: L.LightningModule, begun: bool = False) -> str | None:
    """What may ask for every single batch, in words; None if nothing does.

    Args:
        trainer: set up for a fit, with its callbacks, schedulers and DataModule.
        module: of a class of this package, or of a subclass, whose hooks know nothing of blocks.
        begun: whether it trains, so that Lightning looks no more at what limits the batches of an epoch.
    """
    return next(chain(() if begun else _limits(trainer), _reasons(trainer, module)), None)


def _limits(trainer: L.Trainer) -> Iterator[str]:
    for name in ("limit_train_batches", "val_check_interval"):
        value = getattr(trainer, name, None)
        if value is None:  # Lightning keeps a time under another name
            yield f"{name} is a time, which may end at every batch"
        elif not (isinstance(value, float) and value == 1.0):
            yield f"{name} is {value}, which counts batches"


def _reasons(trainer: L.Trainer, module: L.LightningModule) -> Iterator[str]:
    if not module.automatic_optimization:
        yield "automatic_optimization is off"
    if torch.is_anomaly_enabled():
        yield "detect_anomaly looks at every backward pass"
    if trainer.accumulate_grad_batches != 1:
        yield f"accumulate_grad_batches is {trainer.accumulate_grad_batches}"
    if trainer.min_steps is not None:
        yield f"min_steps is {trainer.min_steps}, where a stop may come between batches"
    precision = trainer.precision_plugin
    if getattr(precision, "scaler", None) is not None:
        yield "the precision scales gradients"
    if type(precision) not in (Precision, DoublePrecision, HalfPrecision, MixedPrecision):
        yield f"{type(precision).__name__} may step in a way of its own"
    strategy = trainer.strategy
    if type(strategy) not in (SingleDeviceStrategy, DDPStrategy):
        yield f"{type(strategy).__name__} deals with gradients in a way of its own"
    if getattr(strategy, "_ddp_comm_hook", None) is not None:
        yield "the strategy has a communication hook"
    for optimizer in trainer.optimizers:
        if reason := context.hooks_of_optimizer(optimizer):
            yield f"the optimizer has {reason}"
    for name, V in module.named_parameters():
        if context.has_hook(V):
            yield f"{name} has a hook"
    for config in trainer.lr_scheduler_configs:
        if config.interval != "epoch" and (config.frequency != 1 or config.reduce_on_plateau):
            yield f"{type(config.scheduler).__name__} counts batches by itself"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        yield from _of_a_callback(callback)
    data = getattr(trainer, "datamodule", None)
    for method in OF_A_BATCH if data is not None else ():
        if is_overridden(method, data, L.LightningDataModule):
            yield f"{type(data).__name__} has a {method} of its own"
    cls = type(module)
    computes = next(base for base in cls.__mro__ if "batch_gradients" in vars(base))
    for method in overridden(module, package_class(module)):
        of_the_same = method not in vars(module) and getattr(cls, method) is getattr(computes, method)
        if method not in OF_A_MODULE and not (method in OF_A_BLOCK and of_the_same):
            yield f"{cls.__name__} has a {method} of its own"


def _of_a_callback(callback: Callback) -> Iterator[str]:
    if type(callback) is LearningRateMonitor and callback.logging_interval == "epoch":
        return
    if isinstance(callback, ModelCheckpoint) and callback._train_time_interval is not None:
        yield f"train_time_interval is {callback._train_time_interval}, which may end at every batch"
    known = next(filter(looks_on, type(callback).__mro__), Callback)
    if (
        known is Callback
        and type(callback).__module__.startswith("lightning.")
        and type(callback) is not LambdaCallback
    ):
        yield f"{type(callback).__name__} may look at every batch"
    for hook in overridden(callback, known):
        if hook not in OF_A_CALLBACK:
            yield f"{type(callback).__name__} has {hook}"


def looks_on(cls: type) -> bool:
    """Whether callbacks of a class may as well come between blocks: it says ``looks_between_blocks = True``.

    What a subclass of it does anew is not known to be so, unless that says it too.
    """
    return cls in LOOK_ON or vars(cls).get("looks_between_blocks") is True


def package_class(thing: Any) -> type:
    """The class of this package that something is of, or of a subclass of which; ``object`` if there is none."""
    package = __name__.partition(".")[0]
    return next((cls for cls in type(thing).__mro__ if cls.__module__.partition(".")[0] == package), object)


def overridden(thing: Any, base: type) -> list[str]:
    """The methods of ``base`` that a subclass, or the instance, has anew; not those that only say what it is like."""
    of_its_class = _by_classes(type(thing), base)  # type: ignore[arg-type]  # classes can be hashed
    return sorted({*of_its_class, *_methods(vars(thing), base)})


@lru_cache(256)  # asked at the start of every epoch
def _by_classes(cls: type, base: type) -> list[str]:
    return [name for one in cls.__mro__[: cls.__mro__.index(base)] for name in _methods(vars(one), base)]


def _methods(names: Iterable[str], base: type) -> list[str]:
    looks_on = ("_", "on_validation_", "on_test_", "on_predict_")
    return [name for name in names if not name.startswith(looks_on) and callable(getattr(base, name, None))]


def aligned_steps(trainer: L.Trainer, most: int, steps: int, before: int) -> int:
    """The most steps a block may have for one to end wherever Lightning has to act on the count of steps.

    Args:
        trainer: with its ``max_steps``, and its checkpoints with their ``every_n_train_steps``.
        most: no more than that.
        steps: in an epoch, which ends a block as well.
        before: ``global_step`` when the epoch began, which in a resumed run may have come in other epochs.
    """
    ends = 0  # every number divides it
    for callback in trainer.checkpoint_callbacks:
        every = callback._every_n_train_steps if isinstance(callback, ModelCheckpoint) else 0
        if every % steps or (every and before % steps):
            ends = gcd(ends, every, steps, before)
    if trainer.max_steps != -1:
        ends = gcd(ends, (trainer.max_steps - before) % steps)
    return max(size for size in range(1, most + 1) if ends % size == 0)


def tuner_of(trainer: L.Trainer) -> str | None:
    """The callback that runs trials before the fit, if there is one; while it does, the Trainer has no callbacks."""
    tuners = (BatchSizeFinder, LearningRateFinder)
    return next((type(one).__name__ for one in trainer.callbacks if isinstance(one, tuners)), None)  # type: ignore[attr-defined]


def only_the_optimizer_s(trainer: L.Trainer) -> bool:
    """Whether nothing stands between the gradients and the optimizer's step: no clipping, no scaling."""
    return not trainer.gradient_clip_val and type(trainer.precision_plugin).optimizer_step is Precision.optimizer_step
