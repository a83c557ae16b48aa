"""What each picture of a report says in this case, in words and numbers."""

import torch
from torch import Tensor

from twolayer.data.report import answers, truth
from twolayer.plots.given import hidden_outputs, trace
from twolayer.report.asked import Plane
from twolayer.report.run import PARTS, Rows, Run
from twolayer.report.words import counted, number, percent
from twolayer.units import unit_faults


def boundary(run: Run, found: Plane) -> str:
    """Of the decision boundary."""
    task = run.model.net.task
    rows = found.rows
    right = (answers(task, found.asked(rows.X)) == truth(task, rows.Y)).double()
    on_it = "is ½" if task == "binary" else "of two classes is the same"
    return (
        f"The plane of {found.names[0]} and {found.names[1]}; each of the {counted(len(right), 'point')} "
        f"is one of the {PARTS[rows.part]}. "
        "The shade is the class that the network answers there, the stronger the surer it is; on the black line the "
        f"probability {on_it}. {percent(right.mean().item())} of the points are on their side: {int(right.sum()):,}."
    )


def confused(run: Run, rows: Rows, A2: Tensor) -> str:
    """Of the confusion matrix."""
    task, classes = run.model.net.task, run.predictor.classes
    found, Y = answers(task, A2), truth(task, rows.Y)
    counts = torch.zeros(len(classes), len(classes), dtype=torch.long)
    counts.index_put_((Y, found), torch.ones(len(Y), dtype=torch.long), accumulate=True)
    right = int(counts.diagonal().sum())
    text = "A row for each true class, a column for each answer; what is right is on the diagonal: "
    text += f"{right:,} of {counted(len(Y), 'row')}."
    wrong = counts - counts.diagonal().diag()
    if not wrong.any():
        return f"{text} There is no mistake."
    of, taken = divmod(int(wrong.argmax()), len(classes))
    times = counted(int(wrong.max()), "time")
    return f"{text} The most common mistake, {times}: “{classes[of]}” taken for “{classes[taken]}”."


def calibrated(run: Run, rows: Rows, A2: Tensor) -> str:
    """Of the calibration."""
    task = run.model.net.task
    sure = A2.amax(1) if task == "multiclass" else torch.maximum(A2, 1 - A2).reshape(-1)
    right = (answers(task, A2) == truth(task, rows.Y)).double().mean().item()
    gap = sure.mean().item() - right
    verdict = "about as sure as it may be" if abs(gap) < 0.02 else "too sure" if gap > 0 else "less sure than it may be"
    return (
        "How often an answer comes true, against the probability that the network gives it: on the diagonal, the "
        f"probability can be believed. On the whole it is {percent(sure.mean().item())} sure and right in "
        f"{percent(right)}: {verdict}."
    )


def missed(rows: Rows, A2: Tensor) -> str:
    """Of the residuals."""
    errors = (rows.Y.reshape(A2.shape).double() - A2).reshape(-1)
    greatest = errors[errors.abs().argmax()].item()
    return (
        "Target minus answer, against the answer; on the line, nothing is missed. "
        f"Half of the {PARTS[rows.part]} are missed by less than {number(errors.abs().median().item())}, one by "
        f"{number(abs(greatest))}, where the answer is too {'low' if greatest > 0 else 'high'}. "
        f"On the mean the answers are {number(abs(errors.mean().item()))} too {'low' if errors.mean() > 0 else 'high'}."
    )


def units(run: Run, rows: Rows) -> str:
    """Of the hidden units."""
    net = run.model.net
    faults = unit_faults(hidden_outputs(run.model, rows.X), net.activation)
    meanings = {
        "dead": (faults.dead, "zero for every row, so that no gradient reaches them"),
        "saturated": (faults.saturated, "where the activation is flat for nearly all rows, so that they hardly learn"),
        "twins": (faults.twin & ~faults.dead, "alike in every row, so that they count as one"),
    }
    text = (
        f"What each of the {counted(net.hidden_features, 'hidden unit')} answers over {counted(len(rows.X), 'row')}: a "
        "column for each unit, and the brighter a place in it, the more rows have that output."
    )
    found = [(int(mask.sum()), name, meaning) for name, (mask, meaning) in meanings.items() if mask.any()]
    if not found:
        return f"{text} None is dead, saturated or the twin of another."
    return text + "".join(
        f" {count} {'is' if count == 1 else 'are'} {name}: {meaning}." for count, name, meaning in found
    )


def flows(run: Run, rows: Rows) -> str:
    """Of the gradient's flow."""
    X, t = trace(run.model, rows.X, rows.Y)
    m = len(X)
    error, first = m * t.dZ2.norm(dim=1), m * t.dZ1.norm(dim=1) * X.norm(dim=1)
    left = (t.dZ1.norm() / t.dA1.norm()).item() if t.dA1.any() else 0.0
    middle, worst, single, step = (
        number(value.item()) for value in (error.median(), error.max(), first.mean(), t.dW1.norm())
    )
    return (
        f"How large the quantities of the backward pass are for {counted(m, 'row')}, from the output on the left back "
        f"to the first weights. The error dZ2 is {middle} for the middle row, {worst} for the worst. Of what reaches "
        f"the hidden units (dA1), {percent(left)} comes through their slopes (dZ1). On the mean a single row would "
        f"move the first weights by {single} (dW1); all together, which partly cancel, by {step}."
    )


def backwards(run: Run, rows: Rows) -> str:
    """Of the backward pass in numbers."""
    return (
        f"The same, number by number: {counted(len(rows.X), 'row')} from top to bottom, sorted by their error, and "
        f"{counted(run.model.net.hidden_features, 'hidden unit')} from left to right. The error dZ2 goes back through "
        "the weights (dA1), and through the slope g' of each unit; where the slope is dark, the error stops (dZ1)."
    )
