"""What early stopping, the best checkpoint and plateaus watch, and when: ``Monitors``."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.model_helpers import is_overridden


class Monitors(Callback):
    """Lets what watches a metric of the validation look when there is a new one, and follow ``train_loss`` if none is.

    Lightning's early stopping looks at the end of an epoch, which may come without a validation where ``max_steps``
    ends it. This callback has to come before those that it looks after.

    >>> trainer = L.Trainer(callbacks=Monitors(), accelerator="cpu", logger=False)
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not hasattr(trainer, "val_check_interval"):  # a time; Lightning's EarlyStopping would look for it in vain
            trainer.val_check_interval = None  # type: ignore[assignment]
        if stage != "fit":
            return
        module: Any = pl_module
        validates = _validates(trainer, pl_module)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None and not validates:
                callback.monitor = _instead(callback.monitor)
            if isinstance(callback, EarlyStopping) and callback._check_on_train_epoch_end is None:
                callback._check_on_train_epoch_end = not callback.monitor.startswith("val_")
        if not validates:
            if hasattr(module, "scheduler_monitor"):
                module.scheduler_monitor = _instead(module.scheduler_monitor)
            rank_zero_info("There is no validation: early stopping, the best checkpoint and plateaus follow train_loss")


def _instead(monitor: str) -> str:
    if monitor.startswith("val_") and monitor != "val_loss":
        raise ValueError(f"monitor must be train_loss where there is no validation, got {monitor}")
    return "train_loss" if monitor == "val_loss" else monitor


def _validates(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether a fit with a DataModule, which is set up, will validate."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if trainer.limit_val_batches == 0 or not is_overridden("validation_step", module):
        return False
    if data is None or not is_overridden("val_dataloader", data):
        return data is None
    loaders = data.val_dataloader()
    return not (isinstance(loaders, list | tuple) and len(loaders) == 0)
