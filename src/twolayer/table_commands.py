"""What the command line does for tables: the defaults of a fit, its report, an ensemble, predictions."""

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml

from twolayer.answers import Answer, Options
from twolayer.data.reading import read
from twolayer.data.report import held_out, held_out_rows, rows_of
from twolayer.data.table import Table
from twolayer.data.writing import checked_ending, prediction_columns, write_columns
from twolayer.files import written_whole
from twolayer.sealing import read_checkpoint, sealed
from twolayer.tables import onnx
from twolayer.tables.predictor import Predictor, load
from twolayer.training.checkpoints import run_folder

PRESET = Path(__file__).parent / "data/table.yaml"
ADAMW, ONE_CYCLE = "torch.optim.AdamW", "torch.optim.lr_scheduler.OneCycleLR"
OF_A_CLASS = re.compile(r"--data(\.class_path)?(=.*)?")
TABLES = re.compile(r"(twolayer\.data\.)?(Streamed)?Table")


def value_of(args: Sequence[str], option: str) -> str | None:
    """What an option was given, as ``--option value`` or ``--option=value``; None if it was not.

    >>> value_of(["fit", "--data.path", "a.csv", "--members=3"], "--members")
    '3'
    """
    found = None
    for i, arg in enumerate(args):
        if arg == option and i + 1 < len(args):
            found = args[i + 1]
        elif arg.startswith(option + "="):
            found = arg.partition("=")[2]
    return found


def with_defaults(args: Sequence[str]) -> list[str]:
    """The arguments, and before them what a path alone means: :class:`~twolayer.data.Table`, and sound defaults.

    >>> with_defaults(["fit", "--data.path", "folder/my.csv"])[-3:]
    ['--trainer.logger.init_args.name=my', '--data.path', 'folder/my.csv']
    """
    path = value_of(args, "--data.path")
    if not args or args[0] not in ("fit", "validate", "test") or path is None or _other_class(args):
        return list(args)
    name = "table" if path.startswith("[") else re.sub(r"[^\w.-]", "_", Path(path).stem) or "table"
    return [args[0], "--config", str(PRESET), f"--trainer.logger.init_args.name={name}", *args[1:]]


def _other_class(args: Sequence[str]) -> bool:
    """Whether the data are to be something else than a table."""
    given = value_of(args, "--data") or value_of(args, "--data.class_path")
    if given is None:
        return any(map(OF_A_CLASS.fullmatch, args))
    return TABLES.fullmatch(given) is None


def by_the_optimizer(options: Any, args: Sequence[str]) -> dict[str, tuple[float, float]]:
    """What a fit with the defaults takes otherwise where the optimizer is not theirs, ``max_lr``, since the schedule
    sets the rate, and ``weight_decay``, since theirs is for AdamW: each with what is configured, and written into
    ``options``.

    Args:
        options: all there are, with those of the configuration files.
        args: the command line. What it says of either counts before that, and what a configuration file says.
    """
    files = [str(one) for one in options.get("config") or ()]
    model = options.get("model")
    if str(PRESET) not in files or model is None:
        return {}
    said = " ".join([*args, *(Path(file).read_text() for file in files if file != str(PRESET))])
    optimizer, scheduler = model.get("optimizer"), model.get("lr_scheduler")
    found: dict[str, tuple[float, float]] = {}
    follows = scheduler is not None and scheduler.class_path == ONE_CYCLE and "max_lr" not in said
    if follows and "lr" in optimizer.init_args:
        found["max_lr"] = optimizer.init_args.lr, scheduler.init_args.max_lr
        scheduler.init_args.max_lr = optimizer.init_args.lr
    if optimizer.class_path != ADAMW and "weight_decay" not in said and "weight_decay" in optimizer.init_args:
        found["weight_decay"] = 0.0, optimizer.init_args.weight_decay
        optimizer.init_args.weight_decay = 0.0
    return {name: (value, configured) for name, (value, configured) in found.items() if value != configured}


def by_the_rows(data: Any, given: Collection[str], options: Any) -> dict[str, tuple[float, float]]:
    """What a fit with the defaults takes otherwise where an epoch of a table has many batches, ``max_epochs`` and
    ``weight_decay``: each with what is configured.

    Args:
        data: the DataModule.
        given: names of options of the command line, which count before that.
        options: all there are, with those of the configuration files.
    """
    if not isinstance(data, Table) or [str(one) for one in options.get("config") or ()] != [str(PRESET)]:
        return {}
    found: dict[str, tuple[float, float]] = {}
    most = options.trainer.max_epochs
    if "trainer.max_epochs" not in given and most is not None and data.epochs < most:
        found["max_epochs"] = data.epochs, most
    of_the_optimizer = {name for name in given if name == "model" or name.startswith("model.optimizer")}
    if data.weight_decay_factor < 1 and of_the_optimizer <= {"model.optimizer.lr", "model.optimizer.init_args.lr"}:
        decay = options.model.optimizer.init_args.weight_decay
        found["weight_decay"] = decay * data.weight_decay_factor, decay
    return found


def predicts_a_table(args: Sequence[str]) -> bool:
    """Whether it is ``predict`` with nothing but a checkpoint and a table, which needs no configuration."""
    if not args or args[0] != "predict" or value_of(args, "--config") is not None or value_of(args, "-c") is not None:
        return False
    of_data = [arg for arg in args if arg.startswith("--data")]
    alone = value_of(args, "--ckpt_path") is not None and not of_data  # which is then asked for
    return alone or (value_of(args, "--data.path") is not None and not any(map(OF_A_CLASS.fullmatch, of_data)))


def predict(args: Sequence[str]) -> Path:
    """Predicts each row of a table and writes a file; returns its path.

    Args:
        args: what stands behind ``twolayer predict``.

    Raises:
        ValueError, FileNotFoundError: the message says in one line what is wrong with the checkpoint or the table.
    """
    parser = Options("twolayer predict", "Predict each row of a table.")
    parser.add_argument("--ckpt_path", required=True, help="checkpoint of a fit with a table")
    parser.add_argument("--data.path", dest="path", required=True, help="CSV, TSV or Parquet file, or a folder")
    parser.add_argument("--data.id", dest="id", action="append", help="column to carry along (default: as in the fit)")
    parser.add_argument("--output", help="CSV or Parquet file (default: predictions.csv beside the run's logs)")
    options = parser.parse_args(args)
    predictor = _predictor(options.ckpt_path)
    if not predictor.columns:
        raise ValueError(f"ckpt_path must be of a fit with a table, got {options.ckpt_path}: add its --config")
    output = checked_ending(
        Path(options.output) if options.output else run_folder(options.ckpt_path) / "predictions.csv"
    )
    frame = read(_listed(options.path), "data.path")
    ids = [one for given in options.id for one in _listed(given)] if options.id else predictor.id
    ids = [name for name in ids if options.id or name in frame.names]
    write_columns(output, prediction_columns(predictor, frame, ids))
    first = predictor.members[0].encoding
    assert first is not None
    for line in first.unread(frame.__getitem__):
        print(line)
    print(f"{len(frame)} predictions: {os.path.relpath(output)}")
    return output


def export(args: Sequence[str]) -> Path:
    """Writes an ONNX file of a checkpoint; returns its path.

    Args:
        args: what stands behind ``twolayer export``.

    Raises:
        ValueError, FileNotFoundError: the message says in one line what is wrong with the checkpoint.
    """
    parser = Options("twolayer export", "Write an ONNX file.")
    parser.add_argument("--ckpt_path", required=True, help="checkpoint of a fit with a table")
    parser.add_argument("--output", help="ONNX file (default: model.onnx beside the run's logs)")
    options = parser.parse_args(args)
    output = Path(options.output) if options.output else run_folder(options.ckpt_path) / "model.onnx"
    if output.suffix != ".onnx":
        raise ValueError(f"output must end with .onnx, got {output}")
    path = onnx.export(_predictor(options.ckpt_path), output)
    print(f"ONNX: {os.path.relpath(path)}")
    return path


def _listed(given: str) -> list[str]:
    """What an option names, as ``one`` or ``[one,another]``, which is how lists come in a fit.

    >>> _listed("a.csv"), _listed("[a.csv, 'b c.csv']")
    (['a.csv'], ['a.csv', 'b c.csv'])
    """
    several = yaml.safe_load(given) if given.startswith("[") and given.endswith("]") else None
    return list(map(str, several)) if several else [given]


def _predictor(checkpoint: str) -> Predictor:
    if not Path(checkpoint).is_file():
        what = "a folder" if Path(checkpoint).is_dir() else "no such file"
        raise Answer(f"--ckpt_path must be a checkpoint of this machine, got {checkpoint}: {what}")
    return load(checkpoint)


def report(data: Table, checkpoint: str, folder: Path) -> list[str]:
    """The last lines of a fit; the held-out rows' predictions are written to its folder.

    Args:
        data: what was trained on.
        checkpoint: the best one, of one network or several.
        folder: of the run.
    """
    predictor = load(checkpoint)
    lines = list(held_out(data, predictor))
    part, rows = held_out_rows(data)
    if len(rows):
        columns = prediction_columns(predictor, rows_of(data, rows), data.id)
        path = folder / f"predictions_{part}.csv"
        write_columns(path, columns)
        lines.append(f"Predictions of the rows of {part}: {os.path.relpath(path)}")
    lines.append(f"To predict: twolayer predict --ckpt_path {os.path.relpath(checkpoint)} --data.path new.csv")
    return lines


def gather(checkpoints: Sequence[str]) -> str:
    """Puts the networks of several checkpoints into the first one, whose predictions are then their mean.

    Returns:
        its path.
    """
    first, *others = (read_checkpoint(path, "cpu") for path in checkpoints)
    kept = ("hyper_parameters", "state_dict")
    first["members"] = [
        {key: value for key, value in one.items() if key in kept or (isinstance(value, dict) and "encoding" in value)}
        for one in others
    ]
    with written_whole(checkpoints[0], "wb") as file:
        file.write(sealed(first))
    return checkpoints[0]


def taken_out(args: Sequence[str], option: str) -> tuple[list[str], str | None]:
    """The arguments without an option of the command line's own, and what that was given; None if it was not.

    >>> taken_out(["fit", "--members", "3", "--data.path=a.csv"], "--members")
    (['fit', '--data.path=a.csv'], '3')
    """
    rest, skip = [], False
    for arg in args:
        if skip or arg.startswith(option + "="):
            skip = False
        elif arg == option:
            skip = True
        else:
            rest.append(arg)
    return rest, "" if skip else value_of(args, option)


def members_of(args: Sequence[str]) -> tuple[list[str], int]:
    """The arguments without ``--members``, and how many it asks for.

    Raises:
        Answer: it is no number of at least one, or this is no fit with a table.
    """
    rest, given = taken_out(args, "--members")
    if given is None:
        return rest, 1
    if not given.isdecimal() or int(given) < 1:
        raise Answer(f"--members must be an integer of at least 1, got {given!r}")
    if args[0] != "fit" or value_of(args, "--data.path") is None:
        raise Answer("--members is for fit --data.path, which trains on a table")
    return rest, int(given)


def plots_of(args: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments without ``--plots``, and whether it asks for a report at the end of a fit.

    Raises:
        Answer: it is neither true nor false, or this is no fit.
    """
    rest, given = taken_out(args, "--plots")
    if given not in (None, "true", "false"):
        raise Answer(f"--plots must be true or false, got {given!r}")
    if given is not None and args[0] != "fit":
        raise Answer(f"--plots is for fit, got {args[0]}: the report of a run is written by twolayer plot")
    return rest, given == "true"


def of_member(args: Sequence[str], k: int, version: str) -> list[str]:
    """The arguments for the ``k``-th network: a seed, validation rows and a folder of its own."""
    seed = int(value_of(args, "--seed_everything") or 0)
    own = [f"--seed_everything={seed + k}", f"--data.member={k}"]
    return [*args, *own, f"--trainer.logger.init_args.version={version}/member_{k}"]
