"""The command line: ``twolayer fit|validate|test|predict --config …``, the same as ``python train.py …``."""

import logging
import os
import re
import shlex
import sys
import warnings
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch

from twolayer.extras import missing

try:
    import lightning as L
except ModuleNotFoundError as error:
    raise missing(error) from None

from lightning.pytorch.callbacks import BatchSizeFinder, Callback, EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden

import twolayer.data  # noqa: F401  its DataModules can then be named without their path
from twolayer import table_commands
from twolayer.answers import Answer, Begun, Misuse, answering, told
from twolayer.arguments import one_of
from twolayer.data import Table
from twolayer.data.writing import write_predictions
from twolayer.limits import check_environment, check_limits, check_optimizer
from twolayer.network import TwoLayerNet
from twolayer.parsing import BESIDE, Parser
from twolayer.resuming import ResumedOptions, SaveFitConfig
from twolayer.sealing import read_checkpoint
from twolayer.tasks import TASKS
from twolayer.training.checkpoints import network_options
from twolayer.training.ending import why_it_ended
from twolayer.training.environment import RecordEnvironment
from twolayer.training.logs import remove_what_was_killed, with_one_table
from twolayer.training.module import LitTwoLayer
from twolayer.training.monitors import Monitors
from twolayer.training.progress import RunProgressBar
from twolayer.training.signals import SaveOnSignal, Signals, command, program
from twolayer.training.unit_monitor import UnitMonitor

OF_THE_DATA = ("in_features", "out_features", "task")
REFUSALS = (TypeError, ValueError, MisconfigurationException)
"""By which constructors refuse their arguments."""
PLATEAU = re.compile(r"^(--model\.lr_scheduler(?:\.class_path)?=|)(ReduceLROnPlateau)$")
DESCRIPTION = "Train a two-layer network, and use it. Also: " + " ".join(
    f"twolayer {name} --help: {words}" for name, words in BESIDE.items()
)


class TwoLayerCLI(LightningCLI):
    """LightningCLI over :class:`LitTwoLayer` and any DataModule with ``in_features``, ``out_features`` and ``task``.

    Beside ``--ckpt_path``, what is given on the command line counts first, then what the checkpoint says of its
    network, then the configuration files.
    """

    def __init__(self, signals: Signals, *args: Any, **kwargs: Any) -> None:
        self.signals = signals
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in OF_THE_DATA:
            of = partial(self._of_the_data, name)
            parser.link_arguments("data", f"model.{name}", compute_fn=of, apply_on="instantiate")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(ModelCheckpoint, "last_checkpoint")  # save_last=True would copy the best one
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(UnitMonitor, "unit_monitor")
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

    def _of_the_data(self, name: str, data: L.LightningDataModule) -> Any:
        """Of a trained network, what the checkpoint says: other rows may show fewer classes."""
        trained = self.subcommand != "fit" and name in self.saved
        if trained and (name != "in_features" or isinstance(data, Table)):  # a table reads rows as the checkpoint says
            return self.saved[name]
        try:
            found = getattr(data, name)
            if name == "task":
                one_of("task", found, TASKS)
        except Exception as error:
            if trained:
                return self.saved[name]
            raise Answer(f"{type(data).__name__}: {told(error)}", status=1) from error
        if name == "in_features" and self.saved.get(name, found) != found:
            checkpoint = self.config[self.subcommand].ckpt_path
            line = f"must be {self.saved[name]}, as for the network in {checkpoint}, got {found}"
            raise Answer(f"{type(data).__name__}: in_features {line}", status=1)
        return found

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        args = sys.argv[1:] if args is None else args
        if isinstance(args, list):  # Lightning's CLI has a class of that name too, which makes the short one ambiguous
            args = [PLATEAU.sub(r"\1torch.optim.lr_scheduler.\2", arg) for arg in args]
        self.given = {arg.partition("=")[0].removeprefix("--") for arg in args if arg.startswith("--")}
        self.config = parser.parse_args(args)
        for name in OF_THE_DATA:
            if name in self.config[self.config.subcommand].model:  # of a file; there, nobody else looks
                raise Misuse(f"--model.{name} cannot be given: it follows from data")
        followed = table_commands.by_the_optimizer(self.config[self.config.subcommand], args)
        for name, (value, configured) in followed.items():
            rank_zero_info(f"{name}: {value:.3g}, for this optimizer (configured: {configured:.3g})")
        check_environment()
        check_limits(self.config[self.config.subcommand].as_dict())

    def _parse_ckpt_path(self) -> None:
        """Not Lightning's way to take hyperparameters from a checkpoint, which overrules the command line."""

    def before_instantiate_classes(self) -> None:
        self.saved: dict[str, Any] = {}
        self.resumed_at: int | None = None
        config = self.config[self.subcommand]
        if self.subcommand != "fit" and config.ckpt_path is None:
            self.parser.error(f"{self.subcommand} needs --ckpt_path: without it the network would be untrained")
        if config.ckpt_path in (None, "last", "hpc"):  # which Lightning resolves
            return
        if not Path(config.ckpt_path).is_file():
            what = "a folder" if Path(config.ckpt_path).is_dir() else "no such file"
            raise Answer(f"--ckpt_path must be a file of this machine, or last, got {config.ckpt_path}: {what}")
        checkpoint = read_checkpoint(config.ckpt_path, map_location="cpu")
        self.saved = network_options(checkpoint, config.ckpt_path, TwoLayerNet)
        self.resumed_at = checkpoint.get("global_step")
        for name, value in self.saved.items():
            if name in config.model and config.model[name] != value:
                if f"model.{name}" in self.given or "model" in self.given:
                    rank_zero_info(f"model.{name}: {config.model[name]!r} as given (the checkpoint has {value!r})")
                else:
                    rank_zero_info(f"model.{name}: {value!r} from the checkpoint (configured: {config.model[name]!r})")
                    config.model[name] = value

    def instantiate_classes(self) -> None:
        self.parser.add_instantiator(self._build, object)
        super().instantiate_classes()

    def _build(self, cls: type, *args: Any, **kwargs: Any) -> Any:
        """Makes an instance of a class; what it does not take is named as the option that it is."""
        try:
            return cls(*args, **kwargs)
        except Answer:
            raise
        except Exception as error:
            line = str(error) if isinstance(error, ValueError) and str(error) else told(error)
            if issubclass(cls, LitTwoLayer) and line.startswith(OF_THE_DATA):
                raise Answer(f"the data: {line}", status=1) from error
            sections = {LitTwoLayer: "--model", L.LightningDataModule: "--data"}
            section = next((name for base, name in sections.items() if issubclass(cls, base)), "")
            of_an_option = section and re.match(r"[a-z]\w* (?:must|[+] )", line)
            text = f"{section}.{line}" if of_an_option else f"{section} {cls.__name__}: {line}".strip()
            raise Answer(text, status=2 if isinstance(error, REFUSALS) else 1) from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> L.Trainer:
        given = config.get("callbacks") or []
        others = given if isinstance(given, list) else [given]
        barebones = config.get("barebones") is True
        off = barebones or any(isinstance(one, UnitMonitor) for one in others)
        callbacks = [one for one in callbacks if not (off and isinstance(one, UnitMonitor))]
        if barebones:
            rank_zero_info("barebones: no logger, no checkpoints, no early stopping, no progress bar")
            config = {**config, "logger": None, "log_every_n_steps": None}
            callbacks = [one for one in callbacks if not isinstance(one, ModelCheckpoint | EarlyStopping)]
        elif config.get("enable_progress_bar") is not False and not any(isinstance(one, ProgressBar) for one in others):
            callbacks = [*callbacks, RunProgressBar()]
        if config.get("enable_checkpointing") is False:
            callbacks = [one for one in callbacks if not isinstance(one, ModelCheckpoint)]
        if not barebones:
            callbacks = [*callbacks, RecordEnvironment()]
            config = {**config, "logger": with_one_table(config.get("logger"), self._resumed(), str(self.subcommand))}
        if not barebones and config.get("enable_checkpointing") is not False:
            callbacks = [*callbacks, SaveOnSignal(self.signals)]
        begun = Begun(self.config[self.subcommand].ckpt_path)
        try:
            trainer = super()._instantiate_trainer({**config, "callbacks": [begun, Monitors(), *others]}, callbacks)
        except REFUSALS as error:
            line = told(error)
            named = [name for name in config if re.search(rf"\b{name}\b", line)]
            named += [name for name, value in config.items() if isinstance(value, str) and repr(value) in line]
            name = next((name for name in named if config[name] is not None), None)
            raise Answer(f"--trainer{f'.{name} {config[name]}' if name else ''}: {line}") from error
        remove_what_was_killed(trainer, self._resumed())
        return trainer

    def _resumed(self) -> tuple[str, int] | None:
        """The checkpoint that this command begins with, and its step."""
        return None if self.resumed_at is None else (self.config[self.subcommand].ckpt_path, self.resumed_at)

    def before_fit(self) -> None:
        check_optimizer(self.model)
        options = table_commands.by_the_rows(self.datamodule, self.given, self.config[self.subcommand])
        for name, (value, configured) in options.items():
            batches = f"an epoch of the table has {self.datamodule.batches} batches"
            rank_zero_info(f"{name}: {value:.3g}, since {batches} (configured: {configured:.3g})")
            if name == "max_epochs":
                self.trainer.fit_loop.max_epochs = int(value)
            else:
                self.model.optimizer = partial(self.model.optimizer, **{name: value})
        rank_zero_info(f"{self.model.net}")
        self.untrained = deepcopy(self.model)
        if self.config[self.subcommand].ckpt_path is not None:
            self.trainer.callbacks.append(ResumedOptions(self.given))  # type: ignore[attr-defined]

    def after_fit(self) -> None:
        """Says why the fit ended, tests the best checkpoint on the held-out rows, if there are any, and says where
        it lies.

        The file is tested, in a network of its own, as ``test --ckpt_path`` would: what averages or prunes weights
        has others in memory, and a batch size finder would search once more.
        """
        trainer = self.trainer
        rank_zero_info(why_it_ended(trainer))
        at_the_end = sorted(trainer.callback_metrics.items())
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        found: Any = []
        if is_overridden("test_dataloader", self.datamodule):
            callbacks = trainer.callbacks  # type: ignore[attr-defined]
            if best:
                trainer.callbacks = [  # type: ignore[attr-defined]
                    one
                    for one in callbacks
                    if not (isinstance(one, BatchSizeFinder) or is_overridden("on_load_checkpoint", one, Callback))
                ]
            model = self.untrained if best else self.model
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks")
                found = trainer.test(model, datamodule=self.datamodule, ckpt_path=best or None)
            trainer.callbacks = callbacks  # type: ignore[attr-defined]
            if found:
                self.model = model
        if not found:
            rank_zero_info("At the end: " + ", ".join(f"{name} {value:.4f}" for name, value in at_the_end))
        if best:
            rank_zero_info(f"Best checkpoint: {os.path.relpath(best)}")

    def predict(self, **kwargs: Any) -> None:
        """Predicts every row of the data and writes them to ``predictions.csv`` beside the logs."""
        if self.trainer.world_size > 1:
            raise ValueError(f"predict must run on one device, got {self.trainer.world_size}: add --trainer.devices 1")
        batches: Any = self.trainer.predict(**kwargs)
        if not batches:
            raise ValueError(f"limit_predict_batches must leave rows, got {self.trainer.limit_predict_batches}")
        path = Path(self.trainer.log_dir or ".") / "predictions.csv"
        write_predictions(path, torch.cat(batches), self.model.net.task)
        rank_zero_info(f"Predictions: {os.path.relpath(path)}")


@answering
def main(args: list[str] | None = None) -> TwoLayerCLI | None:
    """Runs one command, with the arguments of the process, or the ones given.

    In a process, whatever goes wrong ends in one line and an exit status, 2 for wrong use and 1 for all else; with
    ``--traceback``, it is shown where. Given ``args``, errors are raised.

    Args:
        args: as on the command line: ``["fit", "--config", "configs/moons.yaml"]``.

    Returns:
        What ran, with its ``model``, ``datamodule`` and ``trainer``, if ``args`` are given. None otherwise: what a
        console script returns is its exit status.
    """
    # Lightning 2.6 under torch 2.13 warns of its own code, warns of a split that was set to nothing, and advertises.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated")
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", message="The dirpath has changed")  # the best checkpoint is found, or it is said
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # the rows are in memory
    warnings.filterwarnings("ignore", message=".*overriding `LightningModule.optimizer_")  # only for blocks
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_not_an_advertisement)
    with Signals(command(args), to_the_end=args is None) as signals:
        given = sys.argv[1:] if args is None else args
        if table_commands.predicts_a_table(given):
            table_commands.predict(given[1:])
            return None
        if given[:1] == ["export"]:
            table_commands.export(given[1:])
            return None
        if given[:1] == ["plot"]:
            _report().plot(given[1:])
            return None
        given, members = table_commands.members_of(given)
        given, plots = table_commands.plots_of(given)
        if plots:
            _report()  # what is missing for it is said before the fit
        ran = _run(signals, table_commands.with_defaults(given))
        if ran.subcommand == "fit":
            if isinstance(ran.datamodule, Table):
                _finish_table(ran, given, members)
            _show(ran, plots, program(args))
    return None if args is None else ran


def _report() -> Any:
    """The module that writes reports, which takes an extra."""
    try:
        from twolayer import report
    except ModuleNotFoundError as error:
        raise Answer(str(missing(error)), status=1) from error
    return report


def _show(ran: TwoLayerCLI, plots: bool, program: list[str]) -> None:
    """Writes the report of a fit, or says how to get it."""
    best = getattr(ran.trainer.checkpoint_callback, "best_model_path", "")
    if not ran.trainer.is_global_zero or not best:
        if plots and not best:
            raise Answer("--plots needs checkpoints, got a run without")
    elif plots:
        _report().write(best, data=ran.datamodule)
    else:
        print(f"To see it: {shlex.join([*program, 'plot', '--ckpt_path', os.path.relpath(best)])}")


def _finish_table(ran: TwoLayerCLI, given: list[str], members: int) -> None:
    """Trains the other members of an ensemble, and says how good it is on the held-out rows."""
    checkpoint: Any = ran.trainer.checkpoint_callback
    best = getattr(checkpoint, "best_model_path", "")
    if not best:
        if members > 1:
            raise ValueError("members needs checkpoints, got a run without")
        return
    folder = Path(ran.trainer.log_dir or Path(best).parent)
    others = []
    for k in range(1, members):
        rank_zero_info(f"Member {k + 1} of {members}")
        other: Any = _run(ran.signals, table_commands.with_defaults(table_commands.of_member(given, k, folder.name)))
        others.append(other.trainer.checkpoint_callback.best_model_path)
    if ran.trainer.is_global_zero:
        if others:
            best = table_commands.gather([best, *others])
        print("\n".join(table_commands.report(ran.datamodule, best, folder)))


def _run(signals: Signals, args: list[str]) -> TwoLayerCLI:
    return TwoLayerCLI(
        signals,
        LitTwoLayer,
        L.LightningDataModule,
        subclass_mode_data=True,
        save_config_callback=SaveFitConfig,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"log_every_n_steps": 1},
        seed_everything_default=0,
        load_from_checkpoint_support=False,
        auto_configure_optimizers=False,
        parser_class=Parser,
        parser_kwargs={"description": DESCRIPTION},
        args=args,
    )


def _not_an_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()


if __name__ == "__main__":
    main()
