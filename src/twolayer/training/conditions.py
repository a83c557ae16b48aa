"""When several optimiser steps in one call of ``training_step`` are the same training as one at a time.

Lightning takes such a block of batches for one batch: its hooks, and what counts batches, come between blocks. So all
that is known not to look in between is listed here, and everything else gets one batch at a time.
"""

from collections.abc import Iterator
from math import gcd
from typing import Any

import lightning as L
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
OF_A_MODULE = BETWEEN_EPOCHS | {"build_optimizer", "prepared", "after_steps"}
LOOK_ON: tuple[type, ...] = (
    *(EarlyStopping, ModelCheckpoint, ModelSummary, RichModelSummary, Timer),
    *(ProgressBar, RichProgressBar, TQDMProgressBar),
)
"""Callbacks of Lightning's that may as well come between blocks: checkpoints, where :func:`aligned_steps` makes these
end. Others say so themselves, see :func:`looks_on`."""
OF_A_BATCH = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def why_not_in_blocks(trainer: L.Trainer, module: L.LightningModule, base: type[L.LightningModule]) -> str | None:
    """What may ask for every single batch, in words; None if nothing does.

    Args:
        trainer: set up for a fit, with its callbacks, schedulers and DataModule.
        module: of the class ``base``, which knows blocks, or of a subclass, whose methods may not.
    """
    return next(_reasons(trainer, module, base), None)


def _reasons(trainer: L.Trainer, module: L.LightningModule, base: type[L.LightningModule]) -> Iterator[str]:
    if trainer.accumulate_grad_batches != 1:
        yield f"accumulate_grad_batches is {trainer.accumulate_grad_batches}"
    for name in ("limit_train_batches", "val_check_interval"):
        value = getattr(trainer, name, None)
        if value is None:  # Lightning keeps a time under another name
            yield f"{name} is a time, which may end at every batch"
        elif not (isinstance(value, float) and value == 1.0):
            yield f"{name} is {value}, which counts batches"
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
    for config in trainer.lr_scheduler_configs:
        if config.interval != "epoch" and (config.frequency != 1 or config.reduce_on_plateau):
            yield f"{type(config.scheduler).__name__} counts batches by itself"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        yield from _of_a_callback(callback)
    data = getattr(trainer, "datamodule", None)
    for method in OF_A_BATCH if data is not None else ():
        if is_overridden(method, data, L.LightningDataModule):
            yield f"{type(data).__name__} has a {method} of its own"
    for method in overridden(module, base):
        if method not in OF_A_MODULE:
            yield f"{type(module).__name__} has a {method} of its own"


def _of_a_callback(callback: Callback) -> Iterator[str]:
    if isinstance(callback, LearningRateMonitor) and callback.logging_interval == "epoch":
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


def overridden(thing: Any, base: type) -> list[str]:
    """The methods of ``base`` that a subclass, or the instance, has anew; not those that only say what it is like."""
    names = set(vars(thing)).union(*map(vars, type(thing).__mro__[: type(thing).__mro__.index(base)]))
    return sorted(
        name
        for name in names
        if not name.startswith(("_", "on_validation_", "on_test_", "on_predict_"))
        and callable(getattr(base, name, None))
        and getattr(thing, name) is not getattr(base, name)
    )


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
