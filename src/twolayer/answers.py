"""What a command says when it cannot go on: one line, and an exit status."""

import logging
import sys
import traceback
import warnings
from argparse import ArgumentParser
from collections.abc import Iterator
from functools import wraps
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

from twolayer.extras import missing

try:
    import lightning as L
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.utilities.exceptions import MisconfigurationException
except ModuleNotFoundError as error:
    raise missing(error) from None

Result = TypeVar("Result", covariant=True)

DELIBERATE = (ValueError, TypeError, RuntimeError, ArithmeticError, OSError, ImportError, MisconfigurationException)
"""What packages raise to say something, and say it in words."""
SPEAKING = ("twolayer", "lightning", "torch", "sklearn")
"""Packages that explain themselves, where they raise by a statement: a built-in of Python's may fail in them, too."""
LONGEST = 400
LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric", "py.warnings")


class Answer(ValueError):
    """The line that a command ends with.

    Args:
        line: names the option, what came, what is expected.
        status: 2 if the command was not used as it has to be, 1 for all else.
    """

    def __init__(self, line: str, status: int = 2) -> None:
        super().__init__(_shortened(line))
        self.status = status


class Misuse(Answer):
    """Arguments that could not be parsed."""


class Options(ArgumentParser):
    """Parses the arguments of a command with few options.

    Raises:
        Misuse: an option is missing, unknown, or has no value; the message is one line.
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise Misuse(message)


def told(error: BaseException) -> str:
    """An error in one line; with its type, and how to find where it was raised, if it does not explain itself.

    >>> told(KeyError("epoch"))
    "KeyError: 'epoch' (run again with --traceback to see where)"
    """
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    message = _shortened(str(error))
    frames = traceback.extract_tb(error.__traceback__)
    package = next((part for part in Path(frames[-1].filename).parts if part in SPEAKING), None) if frames else None
    if message and package and isinstance(error, DELIBERATE) and (frames[-1].line or "").startswith("raise "):
        return message
    return f"{type(error).__name__}{': ' if message else ''}{message} (run again with --traceback to see where)"


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


class Held:
    """Keeps back what is logged and warned of until a run begins, so that a refusal is the only line."""

    def __init__(self) -> None:
        self.handlers: list[tuple[logging.Logger, logging.Handler, MemoryHandler]] = []

    def hold(self) -> None:
        logging.captureWarnings(True)
        warnings.formatwarning = lambda message, *_, **__: f"warning: {_shortened(str(message))}"
        if not logging.getLogger("py.warnings").handlers:
            logging.getLogger("py.warnings").addHandler(logging.StreamHandler())
        for logger in map(logging.getLogger, LOGGERS):
            for handler in list(logger.handlers):
                memory = MemoryHandler(sys.maxsize, flushLevel=sys.maxsize, target=handler)
                logger.removeHandler(handler)
                logger.addHandler(memory)
                self.handlers.append((logger, handler, memory))

    def release(self, drop: bool = False) -> None:
        """Lets everything out, in order, or drops it, and keeps nothing back from here on."""
        records = [] if drop else [(r, one) for _, one, m in self.handlers for r in m.buffer]
        for record, handler in sorted(records, key=lambda pair: pair[0].created):
            handler.handle(record)
        for logger, handler, memory in self.handlers:
            memory.buffer.clear()
            logger.removeHandler(memory)
            logger.addHandler(handler)
        self.handlers = []


HELD = Held()


class Begun(Callback):
    """Lets out what was logged while a command was set up, unless there is no checkpoint to begin from."""

    def __init__(self, ckpt_path: str | None) -> None:
        self.ckpt_path = ckpt_path

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.ckpt_path is None:  # otherwise, its states are restored after this
            self._begin(trainer, pl_module)

    def _begin(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.ckpt_path is not None and trainer.ckpt_path is None:
            raise Answer(f"--ckpt_path {self.ckpt_path}: there is none where this run keeps its checkpoints")
        self.ckpt_path = None  # a fit tests its best one afterwards
        HELD.release()

    on_train_start = on_validation_start = on_test_start = on_predict_start = _begin

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Names the checkpoint where its states are those of something else."""
        if isinstance(exception, Exception) and self.ckpt_path is not None and self.ckpt_path not in str(exception):
            files = {Path(frame.filename).name for frame in traceback.extract_tb(exception.__traceback__)}
            if "checkpoint_connector.py" in files:  # where Lightning restores them
                line = f"the checkpoint {self.ckpt_path} does not fit this run: {told(exception)}"
                raise Answer(line, status=1) from exception


class Command(Protocol[Result]):
    """Runs with the arguments of the process, or the ones given."""

    def __call__(self, args: list[str] | None = None) -> Result: ...


def answering(command: Command[Result]) -> Command[Result]:
    """Lets a command end in one line on stderr and an exit status, whatever it is given.

    ``--traceback``, anywhere among the arguments, shows where the error was raised as well. Where ``args`` are given,
    from Python, errors are raised, except that arguments which cannot be parsed end as in a process.
    """

    @wraps(command)
    def answered(args: list[str] | None = None) -> Result:
        given = [*sys.argv[1:]] if args is None else [*args]
        traced = "--traceback" in given
        given = [one for one in given if one != "--traceback"]
        if args is not None:
            try:
                return command(given)
            except Misuse as error:
                _end(error, traced)
        sys.argv[1:] = given
        formatted = warnings.formatwarning
        HELD.hold()
        failed = False
        try:
            return command(None)
        except Exception as error:
            failed = True
            HELD.release(drop=not traced)
            _end(error, traced)
        finally:
            if not failed:
                HELD.release()
            logging.captureWarnings(False)
            warnings.formatwarning = formatted

    return answered


def _end(error: Exception, traced: bool) -> NoReturn:
    answer = next((one for one in causes(error) if isinstance(one, Answer)), None) or Answer(told(error), status=1)
    if traced:
        traceback.print_exception(error)
    print(f"{Path(sys.argv[0]).name}: error: {answer}", file=sys.stderr)
    raise SystemExit(answer.status) from None
