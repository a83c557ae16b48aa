"""A run that SIGTERM or SIGINT ends loses nothing: :class:`Signals` and :class:`SaveOnSignal`."""

import math
import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info


class Signals:
    """What SIGTERM and SIGINT do while it is entered: they end the process with status 143 or 130, after one line.

    Where a :class:`SaveOnSignal` watches over a training, that saves it first. A second signal changes nothing.

    Args:
        command: what the process was started with; the line says with which command it goes on.
        to_the_end: whether the process ends once this is left. After a signal, another one may come until then.
    """

    def __init__(self, command: Sequence[str], to_the_end: bool = False) -> None:
        self.command = list(command)
        self.to_the_end = to_the_end
        self.received: int | None = None
        self.training = False
        self.checkpoint: str | None = None
        """From where it goes on; None where no step was taken."""

    def __enter__(self) -> "Signals":
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # no other thread may ask for signals
            self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
            self.listen()
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            ignored = self.to_the_end and self.received is not None
            signal.signal(number, signal.SIG_IGN if ignored else handler)

    def listen(self) -> None:
        """Takes the signals, which Lightning takes as well when a fit begins."""
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            if not self.training:
                self.end()

    def end(self, when: str = "") -> None:
        """Raises SystemExit, after the line, which says when."""
        assert self.received is not None
        name = signal.Signals(self.received).name
        rank_zero_info(f"Ended by {name}{when}; this goes on: {shlex.join(self.command_that_goes_on())}")
        raise SystemExit(128 + self.received)

    def command_that_goes_on(self) -> list[str]:
        """The command, with the checkpoint in the place of the one it had.

        >>> signals = Signals(["twolayer", "fit", "--ckpt_path", "old.ckpt", "--trainer.max_epochs=9"])
        >>> signals.checkpoint = "last.ckpt"
        >>> signals.command_that_goes_on()
        ['twolayer', 'fit', '--trainer.max_epochs=9', '--ckpt_path', 'last.ckpt']
        """
        if self.checkpoint is None:
            return self.command
        pairs = zip(["", *self.command], self.command, strict=False)
        others = [arg for before, arg in pairs if before != "--ckpt_path" and arg.partition("=")[0] != "--ckpt_path"]
        return [*others, "--ckpt_path", self.checkpoint]


class SaveOnSignal(Checkpoint):
    """Saves ``last.ckpt`` beside the other checkpoints after the batch at hand, or the block, and ends the run.

    Args:
        signals: that were entered.

    >>> with Signals(["python", "mine.py"]) as signals:
    ...     trainer = L.Trainer(callbacks=[SaveOnSignal(signals)], accelerator="cpu", logger=False)
    """

    looks_between_blocks = True

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self._saved_at: int | None = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._saved_at = trainer.global_step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.listen()  # in the place of Lightning's handler, which ends a run without a checkpoint
        self.signals.training = True

    # Where a validation or the end of an epoch is due, it comes first: a run that is resumed does not make up for it.

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        accumulated = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if accumulated and not trainer.is_last_batch and not _validates_next(trainer, batch_idx):
            self._end_if_received(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.signals.training and not trainer.is_last_batch:
            self._end_if_received(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._received(trainer):
            self._save(trainer)
            trainer.should_stop = True  # not at once: the metrics of the epoch have still to be logged

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.training = False
        if self._received(trainer):
            self._save(trainer)  # at the end of an epoch once more: plateaus have looked since
            self.signals.end(f" after step {trainer.global_step}, which is saved")
        last = self._path(trainer)
        if trainer.strategy.broadcast(last.is_file() and self._saved_at != trainer.global_step):
            self._save(trainer)  # the last validation, which saves, came before the last steps
        if last.is_file():
            self.signals.checkpoint = os.path.relpath(last)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.signals.training = False

    def _received(self, trainer: L.Trainer) -> bool:
        """Whether one of the processes got a signal."""
        received = self.signals.received is not None
        if trainer.world_size > 1:
            received = trainer.strategy.reduce_boolean_decision(received, all=False)
        if received and self.signals.received is None:
            self.signals.received = signal.SIGTERM
        return received

    def _end_if_received(self, trainer: L.Trainer) -> None:
        if trainer.world_size == 1 and self._received(trainer):  # several agree at the end of an epoch
            self._save(trainer)
            self.signals.end(f" after step {trainer.global_step}, which is saved")

    def _save(self, trainer: L.Trainer) -> None:
        path = self._path(trainer)
        trainer.save_checkpoint(path)
        self.signals.checkpoint = os.path.relpath(path)

    def _path(self, trainer: L.Trainer) -> Path:
        folders = [one.dirpath for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
        folder = next((found for found in folders if found), trainer.log_dir or trainer.default_root_dir)
        return Path(folder) / "last.ckpt"


def _validates_next(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether a validation is due after this batch, within an epoch."""
    every = trainer.val_check_batch
    if not trainer.enable_validation or not isinstance(every, int | float) or not math.isfinite(every):
        return False
    batches = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return (batches + 1) % every == 0


def command(args: list[str] | None) -> list[str]:
    """What a person types to run it."""
    return [*program(args), *(sys.argv[1:] if args is None else args)]


def program(args: list[str] | None) -> list[str]:
    """What a person types before the command."""
    if args is not None:
        return ["twolayer"]
    script = sys.argv[0]
    return ["python", script] if script.endswith(".py") else [Path(script).name]
