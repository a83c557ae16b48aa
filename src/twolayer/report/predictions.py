"""What the network answers, beside what is true: confusion matrix and calibration, or residuals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from twolayer import plots
from twolayer.data.report import answers, truth
from twolayer.report import page
from twolayer.report.asked import Asked
from twolayer.report.drawing import drawn
from twolayer.report.wording import PARTS, counted, in_a_picture, number, percent

if TYPE_CHECKING:
    from twolayer.report.run import Rows, Run

MOST_CLASSES = 30
"""Beyond, the numbers in a confusion matrix cannot be read."""
POINTS = 1000
"""Of a picture, at most."""


def figures(run: Run, rows: Rows) -> Iterator[str]:
    """Those of the task."""
    task, classes = run.model.net.task, run.predictor.classes
    if task == "regression":
        yield _residuals(run, rows.few(POINTS))
        return
    A2 = run.outputs(rows)
    asked = Asked(run.model.net, lambda X: A2)  # the answers for these rows: a table's do not follow from X
    if task != "multilabel" and len(classes) <= MOST_CLASSES:
        names, height = [in_a_picture(name) for name in classes], min(8.0, 3.2 + 0.12 * len(classes))
        svg = drawn(lambda ax: plots.confusion_matrix(asked, rows.X, rows.Y, class_names=names, ax=ax), height=height)
        shown = (
            f"Confusion matrix of {counted(len(rows.X), 'row')}: a row for each of {len(classes)} true classes, a "
            "column for each answer."
        )
        yield page.figure(svg, shown, _confused(task, classes, answers(task, A2), truth(task, rows.Y)))
    svg = drawn(lambda ax: plots.calibration(asked, rows.X, rows.Y, ax=ax), height=4.0)
    what = {"binary": f"“{classes[-1]}” is true", "multiclass": "the answer is true"}.get(task, "a label holds")
    shown = (
        f"Calibration: how often {what}, against the probability that the network gives it, in groups of the "
        f"{counted(len(rows.X), 'row')}. A diagonal is drawn from 0 to 1."
    )
    yield page.figure(svg, shown, _calibrated(task, A2, rows.Y))


def _confused(task: str, classes: list[str], found: Tensor, Y: Tensor) -> str:
    counts = torch.zeros(len(classes), len(classes), dtype=torch.long)
    counts.index_put_((Y, found), torch.ones(len(Y), dtype=torch.long), accumulate=True)
    text = f"What is right is on the diagonal: {int(counts.diagonal().sum()):,} of {counted(len(Y), 'row')}."
    wrong = counts - counts.diagonal().diag()
    if not wrong.any():
        return f"{text} There is no mistake."
    of, taken = divmod(int(wrong.argmax()), len(classes))
    times = counted(int(wrong.max()), "time")
    return f"{text} The most common mistake, {times}: “{classes[of]}” taken for “{classes[taken]}”."


def _calibrated(task: str, A2: Tensor, Y: Tensor) -> str:
    sure = A2.amax(1) if task == "multiclass" else torch.maximum(A2, 1 - A2).reshape(-1)
    right = (answers(task, A2) == truth(task, Y)).double().mean().item()
    gap = sure.mean().item() - right
    verdict = "about as sure as it may be" if abs(gap) < 0.02 else "too sure" if gap > 0 else "less sure than it may be"
    return (
        f"Where points lie on the diagonal, the probability can be believed. On the whole the network is "
        f"{percent(sure.mean().item())} sure and right in {percent(right)}: {verdict}."
    )


def _residuals(run: Run, rows: Rows) -> str:
    A2 = run.outputs(rows)
    svg = drawn(lambda ax: plots.residuals(Asked(run.model.net, lambda X: A2), rows.X, rows.Y, ax=ax))
    shown = (
        f"Residuals: target minus answer, against the answer, for {counted(len(rows.X), 'row')} as dots, and a line "
        "where nothing is missed."
    )
    return page.figure(svg, shown, _missed(rows, A2))


def _missed(rows: Rows, A2: Tensor) -> str:
    errors = (rows.Y.reshape(A2.shape).double() - A2).reshape(-1)
    greatest = errors[errors.abs().argmax()].item()
    return (
        f"Half of the {PARTS[rows.part]} are missed by less than {number(errors.abs().median().item())}, one by "
        f"{number(abs(greatest))}, where the answer is too {'low' if greatest > 0 else 'high'}. "
        f"On the mean the answers are {number(abs(errors.mean().item()))} too {'low' if errors.mean() > 0 else 'high'}."
    )
