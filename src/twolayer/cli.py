"""The command line: ``twolayer fit|validate|test|predict --config …``, the same as ``python train.py …``."""

import csv
import logging
import os
import sys
import warnings
from inspect import signature
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

import twolayer.data  # noqa: F401  its DataModules can then be named without their path
from twolayer.training.module import LitTwoLayer
from twolayer.training.progress import RunProgressBar


class SaveFitConfig(SaveConfigCallback):
    """Saves the configuration of a fit beside its logs. Other commands read a run, and must not overwrite its own."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


class ResumedOptions(Callback):
    """Decides, once a resume has restored its state, between that and the options of this run, and says what it took.

    Args:
        given: options of the command line: they count. Others stay as restored.
        patience: of early stopping, which a resume would restore too.
    """

    def __init__(self, given: set[str], patience: int) -> None:
        self.given = {option.replace(".init_args.", ".") for option in given}
        self.patience = patience

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LitTwoLayer)
        for callback in trainer.early_stopping_callbacks:
            callback.patience = self.patience
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


class TwoLayerCLI(LightningCLI):
    """LightningCLI over :class:`LitTwoLayer` and any DataModule with ``in_features``, ``out_features`` and ``task``.

    Beside ``--ckpt_path``, what is given on the command line counts first, then what the checkpoint says of its
    network, then the configuration files.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in ("in_features", "out_features", "task"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(ModelCheckpoint, "last_checkpoint")  # save_last=True would copy the best one
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val_loss",
                "checkpoint.filename": "best",
                "last_checkpoint.filename": "last",
                "last_checkpoint.enable_version_counter": False,
                "early_stopping.monitor": "val_loss",
                "early_stopping.patience": 20,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        args = sys.argv[1:] if args is None else args
        self.given = {arg.partition("=")[0].removeprefix("--") for arg in args if arg.startswith("--")}
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Not Lightning's way to take hyperparameters from a checkpoint, which overrules the command line."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if self.subcommand != "fit":
            warnings.filterwarnings("ignore", message="The dirpath has changed")  # nothing is saved there
            if config.ckpt_path is None:
                self.parser.error(f"{self.subcommand} needs --ckpt_path: without it the network would be untrained")
        if config.ckpt_path is None:
            return
        if not Path(config.ckpt_path).is_file():  # "best", "last" and the like, which Lightning resolves
            return
        saved = torch.load(config.ckpt_path, map_location="cpu", weights_only=True).get("hyper_parameters", {})
        for name, value in saved.items():
            if name in config.model and config.model[name] != value:
                if f"model.{name}" in self.given or "model" in self.given:
                    rank_zero_info(f"model.{name}: {config.model[name]!r} as given (the checkpoint has {value!r})")
                else:
                    rank_zero_info(f"model.{name}: {value!r} from the checkpoint (configured: {config.model[name]!r})")
                    config.model[name] = value

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> L.Trainer:
        given = config.get("callbacks") or []
        others = given if isinstance(given, list) else [given]
        if config.get("enable_progress_bar") is not False and not any(isinstance(one, ProgressBar) for one in others):
            callbacks = [*callbacks, RunProgressBar()]
        return super()._instantiate_trainer(config, callbacks)

    def before_fit(self) -> None:
        rank_zero_info(f"{self.model.net}")
        config = self.config[self.subcommand]
        if config.ckpt_path is not None:
            callback = ResumedOptions(self.given, config.early_stopping.patience)
            self.trainer.callbacks.append(callback)  # type: ignore[attr-defined]

    def after_fit(self) -> None:
        """Tests the best checkpoint on the held-out rows, if there are any, and says where it lies."""
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if is_overridden("test_dataloader", self.datamodule) and self.datamodule.test_dataloader():
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best or None)
        else:
            found = sorted(self.trainer.callback_metrics.items())
            rank_zero_info("At the end: " + ", ".join(f"{name} {value:.4f}" for name, value in found))
        if best:
            rank_zero_info(f"Best checkpoint: {os.path.relpath(best)}")

    def predict(self, **kwargs: Any) -> None:
        """Predicts every row of the data and writes them to ``predictions.csv`` beside the logs."""
        if self.trainer.world_size > 1:
            raise ValueError(f"predict must run on one device, got {self.trainer.world_size}: add --trainer.devices 1")
        batches: Any = self.trainer.predict(**kwargs)
        path = Path(self.trainer.log_dir or ".") / "predictions.csv"
        write_predictions(path, torch.cat(batches), self.model.net.task)
        rank_zero_info(f"Predictions: {os.path.relpath(path)}")


def write_predictions(path: Path, predictions: Tensor, task: str) -> None:
    """Writes one line for each row, in order: the class and the probabilities, or the values.

    The file is written beside its place and renamed, so that it is either whole or not there.

    Args:
        path: of the CSV file.
        predictions: ``(m, n_y)``, what the network predicts.
        task: ``"binary"``, ``"multilabel"``, ``"multiclass"`` or ``"regression"``.
    """
    outputs = range(predictions.shape[1])
    rows = predictions.tolist()
    if task == "regression":
        header = [f"value_{k}" for k in outputs]
    else:
        header = [f"probability_{k}" for k in outputs]
        classes = predictions.argmax(-1, keepdim=True) if task == "multiclass" else (predictions >= 0.5).int()
        header = [f"class_{k}" if task == "multilabel" else "class" for k in range(classes.shape[1])] + header
        rows = [found + row for found, row in zip(classes.tolist(), rows, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with beside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    beside.replace(path)


def main(args: list[str] | None = None) -> TwoLayerCLI:
    """Runs one command, with the arguments of the process, or the ones given.

    Args:
        args: as on the command line: ``["fit", "--config", "configs/moons.yaml"]``.
    """
    # Lightning 2.6 under torch 2.13 warns of its own code, warns of a split that was set to nothing, and advertises.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated")
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # the rows are in memory
    warnings.filterwarnings("ignore", message=".*overriding `LightningModule.optimizer_")  # only for blocks
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_not_an_advertisement)
    return TwoLayerCLI(
        LitTwoLayer,
        L.LightningDataModule,
        subclass_mode_data=True,
        save_config_callback=SaveFitConfig,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"log_every_n_steps": 1},
        seed_everything_default=0,
        load_from_checkpoint_support=False,
        auto_configure_optimizers=False,
        args=args,
    )


def _not_an_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()
