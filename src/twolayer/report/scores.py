"""How good the network is: beside a baseline and a linear model, and by the metrics of its task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twolayer.data.report import answers, interval, simpler, truth
from twolayer.report import page
from twolayer.report.wording import PARTS, number, percent
from twolayer.training.metrics import Evaluation

if TYPE_CHECKING:
    from twolayer.report.run import Rows, Run

MEANINGS = {
    "accuracy": "share of the answers that are right",
    "accuracy_macro": "the same, each class counted alike, however many rows it has",
    "auroc": "of a row of each class, how often the right one gets the higher probability; 0.5 is guessing, 1 perfect",
    "f1": "how well the second class is found, missed ones and false alarms counted alike; 1 is perfect",
    "rmse": "root of the mean squared error, in units of the target",
    "r2": "share of the targets' spread that is explained; 0 is the mean, 1 perfect",
}


def section(run: Run, rows: Rows) -> str:
    """On the rows to judge by."""
    scores = compared(run, rows)
    score, said = ("RMSE", number) if run.model.net.task == "regression" else ("accuracy", percent)
    lines = [[name, *map(said, values)] for name, values in scores.items()]
    return page.section(
        "How good it is",
        page.paragraph(in_words(run, rows, scores)),
        page.table(["", score, "95 % from", "to"], lines),
        page.table(["metric", "value", "what it is"], measured(run, rows)),
    )


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


def in_words(run: Run, rows: Rows, scores: dict[str, tuple[float, float, float]]) -> str:
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
    known = run.sizes.get(rows.part, 0)
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
