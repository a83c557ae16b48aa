"""Which values options of Lightning and PyTorch may have, where these look too late or not at all."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from twolayer.answers import Answer, told
from twolayer.sealing import local_path
from twolayer.training.module import LitTwoLayer

Limit = tuple[Callable[[Any], bool], str]


def _least(least: float, otherwise: str = "") -> Limit:
    """At least that; with ``otherwise``, or -1, which means what that says."""
    if otherwise:
        return lambda value: value == -1 or value >= least, f"at least {least}, or -1 for {otherwise}"
    return lambda value: value >= least, f"at least {least}"


def _share(name: str, least: bool = False) -> tuple[str, Limit]:
    def fits(value: Any) -> bool:
        return (value > 0 if least else value >= 0) and (isinstance(value, int) or value <= 1)

    return name, (fits, f"a count of batches, or a share in {'(' if least else '['}0, 1]")


def _is_a_folder(path: Any) -> bool:
    try:
        local_path(path)
    except ValueError:
        return False
    return True


_FOLDER: Limit = (_is_a_folder, "a folder of this machine")
_COMMANDS: Limit = (
    lambda value: not str(value).startswith(("ddp_spawn", "ddp_fork", "ddp_notebook", "spawn", "fork")),
    "one whose processes run the command, such as ddp",
)
_MODE: Limit = (lambda value: value in ("min", "max"), "min or max")
CHECKPOINT: dict[str, Limit] = {
    "save_top_k": _least(0, "all"),
    "every_n_epochs": _least(0),
    "every_n_train_steps": _least(0),
    "mode": _MODE,
    "dirpath": _FOLDER,
}
LIMITS: dict[str, Limit] = {
    "seed_everything": (lambda seed: isinstance(seed, bool) or 0 <= seed < 2**32, "an integer from 0 to 4294967295"),
    "trainer.default_root_dir": _FOLDER,
    "trainer.strategy": _COMMANDS,
    "trainer.strategy.start_method": _COMMANDS,
    "trainer.logger.flush_logs_every_n_steps": _least(1),
    "trainer.max_epochs": _least(1, "no end"),
    "trainer.min_epochs": _least(0),
    "trainer.max_steps": _least(1, "no end"),
    "trainer.min_steps": _least(0),
    "trainer.num_nodes": _least(1),
    "trainer.accumulate_grad_batches": _least(1),
    "trainer.gradient_clip_val": _least(0),
    "trainer.gradient_clip_algorithm": (lambda value: value in ("norm", "value"), "norm or value"),
    "trainer.check_val_every_n_epoch": _least(1),
    "trainer.log_every_n_steps": _least(0),
    "trainer.num_sanity_val_steps": _least(0, "all"),
    "trainer.reload_dataloaders_every_n_epochs": _least(0),
    "trainer.overfit_batches": _share("")[1],
    **dict(_share(f"trainer.limit_{part}_batches") for part in ("val", "test", "predict")),
    **dict(_share(f"trainer.{name}", least=True) for name in ("limit_train_batches", "val_check_interval")),
    **{f"checkpoint.{name}": limit for name, limit in CHECKPOINT.items()},
    **{f"last_checkpoint.{name}": limit for name, limit in CHECKPOINT.items()},
    "early_stopping.patience": _least(0),
    "early_stopping.min_delta": _least(0),
    "early_stopping.mode": _MODE,
    "unit_monitor.every_n_steps": _least(1),
    "unit_monitor.rows": _least(1),
    "model.hidden_features": (lambda units: units < 2**31, "less than 2147483648"),
    "model.optimizer.lr": _least(0),
    "model.lr_scheduler.step_size": _least(1),
    "model.lr_scheduler.T_max": _least(1),
    "model.lr_scheduler.max_lr": _least(0),
    "model.lr_scheduler.patience": _least(0),
    "model.lr_scheduler.cooldown": _least(0),
}
FINITE = ("trainer.", "model.", "checkpoint.", "last_checkpoint.", "early_stopping.")
MAY_BE_INFINITE = ("early_stopping.stopping_threshold", "early_stopping.divergence_threshold")


ENVIRONMENT = (
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"),
    *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "PL_GLOBAL_SEED"),
)


def check_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Looks at the variables by which the processes of a run find each other.

    Raises:
        Answer: one of them is no integer.

    >>> check_environment({"WORLD_SIZE": "two"})
    Traceback (most recent call last):
    ...
    twolayer.answers.Answer: the environment variable WORLD_SIZE must be an integer, got 'two'
    """
    for name in ENVIRONMENT:
        value = environment.get(name, "0").strip()
        if not value.removeprefix("-").isdecimal():
            raise Answer(f"the environment variable {name} must be an integer, got {environment[name]!r}", status=1)


def check_limits(options: dict[str, Any]) -> None:
    """Looks at the options of a command.

    Args:
        options: nested, as parsed.

    Raises:
        Answer: a value is out of range; the message names the option.
    """
    found = dict(_leaves(options))
    for name, value in found.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        if name.startswith(FINITE) and not name.startswith("model.class_weight"):
            for number in numbers:
                infinite = isinstance(number, float) and not math.isfinite(number)
                if infinite and (math.isnan(number) or name not in MAY_BE_INFINITE):
                    raise Answer(f"--{name} must be finite, got {value}")
        if name in LIMITS and value is not None and not (name == "trainer.val_check_interval" and _is_time(value)):
            fits, expected = LIMITS[name]
            if not fits(value):
                raise Answer(f"--{name} must be {expected}, got {value}")
    files = [
        [found.get(f"{one}.{part}") for part in ("dirpath", "filename")] for one in ("checkpoint", "last_checkpoint")
    ]
    if files[0] == files[1] and files[0][1] is not None:
        raise Answer(f"--checkpoint.filename must be another than last_checkpoint's, got {files[0][1]} for both")
    least, most = found.get("trainer.min_epochs"), found.get("trainer.max_epochs")
    if least and most not in (None, -1) and least > most:
        raise Answer(f"--trainer.min_epochs must be at most max_epochs, {most}, got {least}")


def check_optimizer(model: LitTwoLayer) -> None:
    """Whether the optimizer and its scheduler take their options: they are made long after all else is set up.

    Raises:
        Answer: one of them does not.
    """
    option = "optimizer"
    try:
        optimizer = model.optimizer([torch.nn.Parameter(torch.zeros(1))])
        option = "lr_scheduler"
        if model.lr_scheduler is not None:
            model.lr_scheduler(optimizer)
    except (TypeError, ValueError, ArithmeticError) as error:
        if "total_steps" not in str(error):  # of OneCycleLR, filled in later
            raise Answer(f"--model.{option}: {told(error)}") from error


def _is_time(value: Any) -> bool:
    return not isinstance(value, int | float | str) or (isinstance(value, str) and ":" in value)


def _leaves(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        path = prefix if name in ("init_args", "dict_kwargs") else f"{prefix}.{name}" if prefix else name
        if isinstance(value, dict):
            yield from _leaves(value, path)
        else:
            yield path, value
