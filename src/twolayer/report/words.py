"""A run in plain words: what was trained on what, and how good it is beside what is simpler."""

import csv
import inspect
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from twolayer.data.report import answers, interval, simpler, truth
from twolayer.data.table import Table
from twolayer.data.tabular import TabularDataModule
from twolayer.report.run import PARTS, Rows, Run
from twolayer.training.metrics import Evaluation

MOST_NAMES = 6
MEANINGS = {
    "accuracy": "share of the answers that are right",
    "accuracy_macro": "the same, each class counted alike, however many rows it has",
    "auroc": "of a row of each class, how often the right one gets the higher probability; 0.5 is guessing, 1 perfect",
    "f1": "how well the second class is found, missed ones and false alarms counted alike; 1 is perfect",
    "rmse": "root of the mean squared error, in units of the target",
    "r2": "share of the targets' spread that is explained; 0 is the mean, 1 perfect",
}


def number(value: float) -> str:
    """With three digits that count, and without powers of ten where people use none.

    >>> number(30342.02), number(0.03560), number(float("nan")), number(9.4e-7)
    ('30,342', '0.0356', '–', '9.4e-07')
    """
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def percent(share: float) -> str:
    """
    >>> percent(0.98824)
    '98.8 %'
    """
    return f"{100 * share:.1f} %"


def counted(count: int, thing: str) -> str:
    """
    >>> counted(1, "hidden unit"), counted(1250, "row")
    ('1 hidden unit', '1,250 rows')
    """
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def named(names: Sequence[str]) -> str:
    """A few names, in quotation marks, and how many more there are.

    >>> named(["no", "yes"]), named([str(k) for k in range(9)])
    ('“no” and “yes”', '“0”, “1”, “2”, “3”, “4”, “5” and 3 more')
    """
    quoted = [f"“{name}”" for name in names[:MOST_NAMES]]
    if len(names) > MOST_NAMES:
        return f"{', '.join(quoted)} and {len(names) - MOST_NAMES} more"
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def title(run: Run) -> str:
    """The data and the network, in a few words."""
    data = run.data
    name = type(data).__name__ if data is not None else run.folder.parent.name
    if isinstance(data, Table) and not data.path.startswith("["):
        name = Path(data.path).name
    return f"{name}: what {counted(run.model.net.hidden_features, 'hidden unit')} learnt"


def what_was_trained(run: Run) -> str:
    """Two or three sentences."""
    net = run.model.net
    several = len(run.predictor.members)
    who = f"{several} networks, each with" if several > 1 else "A network with"
    sizes = f"{counted(net.in_features, 'input')}, {counted(net.hidden_features, 'hidden unit')} ({net.activation})"
    learnt = f"{who} {sizes} and {counted(net.out_features, 'output')} learnt {_task(run)}."
    if several > 1:
        learnt += " The answer is the mean of theirs; what is inside is shown of the first."
    if run.trained is None:
        return learnt
    return f"{learnt} The data are {_data(run)}."


def _task(run: Run) -> str:
    net, classes = run.model.net, run.predictor.classes
    if net.task == "binary":
        return f"to tell {named(classes)} apart"
    if net.task == "multiclass":
        return f"to tell {len(classes)} classes apart: {named(classes)}"
    if net.task == "multilabel":
        return f"to say of {counted(net.out_features, 'label')} whether they hold"
    target = run.predictor.target
    return f"to predict “{target.name}”" if target else f"to predict {counted(net.out_features, 'number')}"


def _data(run: Run) -> str:
    data = run.data
    if isinstance(data, Table):
        return f"{data.path}, with the target in its column “{data.target.name}”"
    name, text = type(data).__name__, (inspect.getdoc(type(data)) or "").partition("\n")[0]
    text = re.sub(r",? see :\w+:`.*", "", text).strip().rstrip(".")
    return f"{name} ({text[:1].lower()}{text[1:]})" if text else name


def settings(run: Run) -> dict[str, str]:
    """Names and values, as far as they are known; what is not is empty."""
    net, saved = run.model.net, run.settings
    weights = sum(V.numel() for V in net.parameters())
    model = saved.get("model") or {}
    environment = run.environment
    packages = environment.get("packages") or {}
    step, epoch = run.contents.get("global_step"), run.contents.get("epoch")
    known = isinstance(step, int) and isinstance(epoch, int)
    shown = f": the weights after step {step:,}, in epoch {epoch:,}, counted from 0" if known else ""
    return {
        "Rows": ", ".join(f"{size:,} {PARTS[part]}" for part, size in sizes(run).items() if size),
        "Network": f"{net.in_features} → {net.hidden_features} ({net.activation}) → {net.out_features}, "
        f"{counted(weights, 'weight')}",
        "Initial weights": str(model.get("init") or ""),
        "Optimizer": _called(model.get("optimizer")),
        "Schedule of the rate": _called(model.get("lr_scheduler")),
        "Seed": str(saved.get("seed_everything", "")),
        "Shown": run.checkpoint.name + shown,
        "Computed with": ", ".join(f"{name} {found}" for name, found in list(packages.items())[:2]),
    }


def sizes(run: Run) -> dict[str, int]:
    """How many rows each part of the data has, as far as that is known."""
    data = run.data
    if isinstance(data, Table):
        return data.rows_in
    return {part: len(rows) for part, rows in data.splits.items()} if isinstance(data, TabularDataModule) else {}


def _called(given: Any) -> str:
    """A class with its options: those that are numbers, and other than they are by default."""
    if not isinstance(given, dict) or not given.get("class_path"):
        return ""
    name = str(given["class_path"]).rpartition(".")[2]
    cls = getattr(torch.optim, name, getattr(torch.optim.lr_scheduler, name, None))
    usual = {} if cls is None else {key: option.default for key, option in inspect.signature(cls).parameters.items()}
    options = {key: value for key, value in (given.get("init_args") or {}).items() if type(value) in (int, float)}
    kept = {key: value for key, value in options.items() if key == "lr" or value != usual.get(key)}
    names = {"lr": "learning rate", "max_lr": "greatest rate"}
    return ", ".join([name, *(f"{names.get(key, key)} {value:g}" for key, value in kept.items())])


def compared(run: Run, rows: Rows) -> dict[str, tuple[float, float, float]]:
    """Accuracy or RMSE with its 95 % interval, of the network, a baseline and a linear model, by their names."""
    task = run.model.net.task
    several = len(run.predictor.members)
    found = {f"{several} networks" if several > 1 else "network": answers(task, run.outputs(rows))}
    if run.trained is not None:
        train = [one for one in (run.trained.Y, run.trained.weights) if one is not None]
        found |= simpler(task, (run.inputs_of_a_linear_model(run.trained), *train), run.inputs_of_a_linear_model(rows))
    Y = truth(task, rows.Y)
    Y = Y.reshape(len(Y), -1) if task == "regression" else Y
    return {name: interval(answer, Y, rows.weights) for name, answer in found.items()}


def how_good(run: Run, rows: Rows, scores: dict[str, tuple[float, float, float]]) -> str:
    """The scores in words."""
    (network, (value, low, high)), *others = scores.items()
    regression = run.model.net.task == "regression"
    said = number if regression else percent
    seen = {
        "train": "No rows were held out, so this is how well it fits the rows it learnt from, not new ones.",
        "val": "They chose the checkpoint and when to stop, so new rows may be answered a little worse.",
        "test": "It never saw them while it learnt.",
    }
    are = "are" if "networks" in network else "is"
    does = "off by" if regression else "right in"
    known = sizes(run).get(rows.part, 0)
    of = f"{len(rows.X):,} of the {known:,}" if known > len(rows.X) else f"the {len(rows.X):,}"
    text = f"On {of} {PARTS[rows.part]}, the {network} {are} {does} {said(value)} "
    text += f"(95 % interval {said(low)} to {said(high)}). {seen[rows.part]}"
    for (name, (simple, least, most)), who in zip(
        others, ("Whoever always answers the {} is", "A {} is"), strict=False
    ):
        above, below = least > high, most < low
        worse, better = (above, below) if regression else (below, above)
        apart = "clearly worse" if worse else "clearly better" if better else "no clear difference"
        text += f" {who.format(name)} {does} {said(simple)}, which is {apart}."
    return text


def measured(run: Run, rows: Rows) -> list[tuple[str, str, str]]:
    """Each metric of the task: its name, its value, what it means."""
    net = run.model.net
    evaluation = Evaluation("", net.task, net.out_features)
    Y = rows.Y.reshape(len(rows.Y), -1) if net.task == "regression" else rows.Y
    evaluation.update(run.outputs(rows).float(), Y, sample_weight=rows.weights)
    return [(name, number(value.item()), MEANINGS[name]) for name, value in sorted(evaluation.compute().items())]


def course(run: Run) -> str | None:
    """How the cost went, from the run's ``metrics.csv``; None without."""
    lines = []
    for name, called in (("train_loss", "training"), ("val_loss", "validation")):
        if found := costs(run, name):
            epochs, values = zip(*found, strict=True)
            least = min(range(len(values)), key=values.__getitem__)
            text = f"from {number(values[0])} in epoch {epochs[0]} to {number(values[-1])} in epoch {epochs[-1]}"
            lowest = (
                f", the lowest {number(values[least])} in epoch {epochs[least]}" if 0 < least < len(values) - 1 else ""
            )
            lines.append(f"the cost on the {called} rows went {text}{lowest}")
    if not lines:
        return None
    text = "; ".join(lines)
    return text[:1].upper() + text[1:] + "."


def costs(run: Run, name: str) -> list[tuple[int, float]]:
    """A column of ``metrics.csv`` with the epoch of each value."""
    path = run.folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [(int(row["epoch"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]


def footer(run: Run) -> str:
    """Where it comes from."""
    return f"Written by twolayer plot from {run.checkpoint.name}. This page needs nothing beside itself."
