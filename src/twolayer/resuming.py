"""A fit that goes on from a checkpoint: which options count, the run's or those now given, and when the
configuration in its folder is written."""

from inspect import signature
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info

from twolayer.training.ending import restore_best
from twolayer.training.module import LitTwoLayer


class SaveFitConfig(SaveConfigCallback):
    """Saves the configuration of a fit beside its logs. Other commands read a run, and must not overwrite its own.

    Nor must a fit that cannot go on from its checkpoint: there, it is saved when the training begins.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and self.config.get("ckpt_path") is None:
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().setup(trainer, pl_module, "fit")  # once


class ResumedOptions(Callback):
    """Decides, once a resume has restored its state, between that and the options of this run, and says what it took.

    Args:
        given: options of the command line: they count. Others stay as restored.
    """

    def __init__(self, given: set[str]) -> None:
        self.given = {option.replace(".init_args.", ".") for option in given}
        self.callbacks: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.patience = [callback.patience for callback in trainer.early_stopping_callbacks]

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.callbacks = checkpoint.get("callbacks", {})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LitTwoLayer)
        for early_stopping, patience in zip(trainer.early_stopping_callbacks, self.patience, strict=True):
            early_stopping.patience = patience
        for callback in trainer.checkpoint_callbacks:
            state = self.callbacks.get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and callback.monitor is not None and state is not None:
                restore_best(callback, state, Path(str(trainer.ckpt_path)))
        optimizer, scheduler = pl_module.build_optimizer()
        for group in trainer.optimizers[0].param_groups:
            for option, configured in optimizer.defaults.items():
                # A scheduler that keeps where "lr" started computes it from there.
                if option == "lr" and "initial_lr" in group:
                    start = group["initial_lr"]
                    if start != configured and "model.optimizer.lr" in self.given:
                        raise ValueError(
                            f"--model.optimizer.lr must be {start}, as in the checkpoint, got {configured}: "
                            "with a scheduler, the rate follows from its state"
                        )
                else:
                    self._decide("model.optimizer", group, option, configured)
        if scheduler is not None:
            restored = vars(trainer.lr_scheduler_configs[0].scheduler)
            for option in signature(type(scheduler)).parameters:
                if option != "optimizer" and option in restored:
                    self._decide("model.lr_scheduler", restored, option, vars(scheduler)[option])

    def _decide(self, name: str, restored: dict[str, Any], option: str, configured: Any) -> None:
        if restored[option] == configured:
            return
        if f"{name}.{option}" in self.given:
            rank_zero_info(f"{name}.{option}: {configured!r} as given (the checkpoint has {restored[option]!r})")
            restored[option] = configured
        else:
            rank_zero_info(f"{name}.{option}: {restored[option]!r} from the checkpoint (configured: {configured!r})")
