"""What was trained on what: the title of a report, and its first part."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from twolayer.data.table import Table
from twolayer.report import page
from twolayer.report.wording import PARTS, counted, named

if TYPE_CHECKING:
    from twolayer.report.run import Run


def section(run: Run) -> str:
    """The network, the data, and what else is known of the run."""
    remarks = [page.paragraph(remark, "remark") for remark in run.remarks]
    return page.section("What was trained on what", page.paragraph(in_words(run)), *remarks, page.facts(settings(run)))


def title(run: Run) -> str:
    """The data and the network, in a few words."""
    data = run.data
    name = type(data).__name__ if data is not None else run.folder.parent.name
    if isinstance(data, Table) and not data.path.startswith("["):
        name = Path(data.path).name
    return f"{name}: what {counted(run.model.net.hidden_features, 'hidden unit')} learnt"


def in_words(run: Run) -> str:
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
        "Rows": ", ".join(f"{size:,} {PARTS[part]}" for part, size in run.sizes.items() if size),
        "Network": f"{net.in_features} → {net.hidden_features} ({net.activation}) → {net.out_features}, "
        f"{counted(weights, 'weight')}",
        "Initial weights": str(model.get("init") or ""),
        "Optimizer": _called(model.get("optimizer")),
        "Schedule of the rate": _called(model.get("lr_scheduler")),
        "Seed": str(saved.get("seed_everything", "")),
        "Shown": run.checkpoint.name + shown,
        "Computed with": ", ".join(f"{name} {found}" for name, found in list(packages.items())[:2]),
    }


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
