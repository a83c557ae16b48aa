"""A progress bar for many short steps: ``RunProgressBar``."""

import math
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from twolayer.loading import TensorLoader

SECONDS_BETWEEN = 0.1


class RunProgressBar(RichProgressBar):
    """One bar for a whole fit, that counts optimiser steps, whatever these come in: batches, blocks or epochs.

    Lightning's own starts anew in each epoch, draws a second one for each validation, and reads the metrics after each
    batch, which makes a GPU wait; with epochs of some milliseconds nobody can read that, and it takes longer than they
    do. This one is drawn ten times a second.

    >>> trainer = L.Trainer(callbacks=RunProgressBar(), accelerator="cpu", logger=False)
    """

    looks_between_blocks = True
    _drawn = -math.inf

    @property
    def total_train_batches(self) -> int | float:
        """Steps in the whole run."""
        trainer = self.trainer
        batches, loader = trainer.num_training_batches, trainer.train_dataloader
        if isinstance(loader, TensorLoader) and batches == len(loader):
            batches = loader.steps
        epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
        steps = math.inf if trainer.max_steps == -1 else trainer.max_steps
        if batches == math.inf:  # of a stream, whose end nobody knows
            return steps
        return min(steps, math.ceil(batches / trainer.accumulate_grad_batches) * epochs)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.train_progress_bar_id is None:
            self._draw(trainer, pl_module)
        elif self.progress is not None:
            description = self._get_train_description(trainer.current_epoch)
            self.progress.update(self.train_progress_bar_id, description=description)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if time.monotonic() - self._drawn > SECONDS_BETWEEN:
            self._draw(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_train_batch_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._draw(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._drawn = time.monotonic()
        if self.train_progress_bar_id is None and not self.is_disabled:  # resumed within an epoch
            self._initialize_train_progress_bar_id()
        self._update_metrics(trainer, pl_module)
        self._update(self.train_progress_bar_id, trainer.global_step)

    # No bar of its own for a validation within a fit.

    def on_validation_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.state.fn != "fit":
            super().on_validation_batch_start(trainer, *args, **kwargs)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            super().on_validation_end(trainer, pl_module)
